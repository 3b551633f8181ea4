"""The schedule against the facts of the released model and closed forms."""

from itertools import pairwise

import pytest
import torch

from lib.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule()


def test_betas_are_linear_in_their_square_root():
    root = SCHEDULE.betas.sqrt()
    assert root[0].item() == pytest.approx(8.5e-4**0.5, rel=1e-12)
    assert root[-1].item() == pytest.approx(1.2e-2**0.5, rel=1e-12)
    steps = root.diff()
    assert torch.allclose(steps, steps[0].expand(999), rtol=1e-9)


def test_alpha_bar_is_the_running_product():
    product = 1.0
    for t in range(5):
        product *= 1 - SCHEDULE.betas[t].item()
        assert SCHEDULE.alpha_bar[t].item() == pytest.approx(product, rel=1e-14)


def test_subsequences():
    assert SCHEDULE.timesteps(50) == list(range(1, 1000, 20))
    assert SCHEDULE.timesteps(1) == SCHEDULE.timesteps(1, "released") == [1]
    assert SCHEDULE.timesteps(3) == [1, 334, 667]
    assert SCHEDULE.timesteps(3, "released") == [1, 334, 667]  # 1000 is past the table


@pytest.mark.parametrize("steps", [*range(1, 60), 100, 125, 333, 499, 500, 501, 750, 999])
def test_exact_spacing_gives_the_steps_asked_for(steps):
    timesteps = SCHEDULE.timesteps(steps)
    assert len(timesteps) == steps
    gaps = {b - a for a, b in pairwise([*timesteps, 1001])}
    assert gaps <= {1000 // steps, 1000 // steps + 1}  # even, up to rounding
    assert timesteps[0] == 1 and timesteps[-1] <= 999
    if 1000 % steps == 0:
        assert timesteps == SCHEDULE.timesteps(steps, "released")


def test_released_spacing_may_give_more():
    assert len(SCHEDULE.timesteps(30, "released")) == 31
    assert SCHEDULE.timesteps(30, "released") == [t + 1 for t in range(0, 1000, 33) if t + 1 < 1000]
    assert SCHEDULE.timesteps(500, "released")[-1] == 999


@pytest.mark.parametrize(
    ("steps", "spacing", "last"),
    [(0, "exact", 999), (-1, "exact", 999), (1000, "exact", 999), (501, "released", 500)],
)
def test_impossible_numbers_of_steps(steps, spacing, last):
    with pytest.raises(ValueError, match=f"steps is {steps}: choose 1 to {last}"):
        SCHEDULE.timesteps(steps, spacing)
    with pytest.raises(ValueError, match="spacing is 'cosine': choose exact or released"):
        SCHEDULE.timesteps(10, "cosine")


def test_the_step_before_the_first_is_alpha_bar_0():
    timesteps = SCHEDULE.timesteps(5)
    alphas, before = SCHEDULE.ddim_alphas(timesteps)
    assert alphas.tolist() == [SCHEDULE.alpha_bar[t].item() for t in timesteps]
    assert before.tolist() == [SCHEDULE.alpha_bar[0].item(), *alphas[:-1].tolist()]


def test_noising_keeps_variance():
    generator = torch.Generator().manual_seed(0)
    x, eps = torch.randn(2, 4, 20_000, generator=generator).unbind(0)
    noised = SCHEDULE.add_noise(x, torch.tensor([0, 100, 500, 999]), eps)
    assert torch.allclose(noised.var(dim=1), torch.ones(4), atol=0.05)
    assert torch.equal(
        SCHEDULE.add_noise(x[:1], 100, eps[:1])[0], SCHEDULE.add_noise(x, 100, eps)[0]
    )


def test_impossible_betas():
    with pytest.raises(ValueError, match="need 0 < beta_start <= beta_end < 1"):
        NoiseSchedule(beta_start=0.5, beta_end=0.1)
