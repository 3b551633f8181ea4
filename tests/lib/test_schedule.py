"""The schedule against the facts of the released model and closed forms."""

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
    assert SCHEDULE.ddim_timesteps(50) == list(range(1, 1000, 20))
    assert len(SCHEDULE.ddim_timesteps(30)) == 31  # 30 does not divide 1000: one more than asked
    assert SCHEDULE.ddim_timesteps(1) == [1]
    assert SCHEDULE.ddim_timesteps(500)[-1] == 999


@pytest.mark.parametrize("steps", [0, -1, 501, 1000])
def test_impossible_numbers_of_steps(steps):
    with pytest.raises(ValueError, match=f"steps is {steps}: choose 1 to 500"):
        SCHEDULE.ddim_timesteps(steps)


def test_the_step_before_the_first_is_alpha_bar_0():
    timesteps = SCHEDULE.ddim_timesteps(5)
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
