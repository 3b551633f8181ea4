"""DDIM where the best noise prediction is known in closed form; guidance as arithmetic."""

import pytest
import torch

from lib.noise import SampleNoise
from lib.sampler import ddim, guided
from lib.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule()
MEAN, STD = 0.7, 0.5


def exact(x, t):
    """E[eps | x_t] when x_0 ~ N(MEAN, STD^2)."""
    a = SCHEDULE.alpha_bar[t].item()
    variance = a * STD**2 + 1 - a
    return (1 - a) ** 0.5 * (x - a**0.5 * MEAN) / variance


def last(steps):
    *_, step = steps
    return step


def test_gaussian_data_come_back_with_their_mean_and_deviation():
    timesteps = SCHEDULE.ddim_timesteps(250)
    a = SCHEDULE.alpha_bar[timesteps[-1]].item()
    x = a**0.5 * MEAN + (a * STD**2 + 1 - a) ** 0.5 * SampleNoise([0]).normal((20_000,))
    x_0 = last(ddim(exact, x, SCHEDULE, timesteps)).x
    assert x_0.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert x_0.std().item() == pytest.approx(STD, abs=0.02)


def test_fresh_noise_samples_the_same_distribution():
    noise = SampleNoise([1])
    x = noise.normal((20_000,))
    x_0 = last(ddim(exact, x, SCHEDULE, SCHEDULE.ddim_timesteps(250), eta=1.0, noise=noise)).x
    assert x_0.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert x_0.std().item() == pytest.approx(STD, abs=0.03)


def test_a_perfect_prediction_lands_on_the_data_in_any_number_of_steps():
    x_0 = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def knows(x, t):
        a = SCHEDULE.alpha_bar[t].item()
        return (x - a**0.5 * x_0) / (1 - a) ** 0.5

    for steps in (1, 4, 25):
        timesteps = SCHEDULE.ddim_timesteps(steps)
        start = SCHEDULE.add_noise(x_0, timesteps[-1], noise)
        path = list(ddim(knows, start, SCHEDULE, timesteps))
        assert len(path) == len(timesteps)
        assert torch.allclose(path[-1].x0, x_0)
        # the last step stops at alpha_bar[0], not at 1
        a = SCHEDULE.alpha_bar[0].item()
        assert torch.allclose(path[-1].x, a**0.5 * x_0 + (1 - a) ** 0.5 * path[-1].eps)


def test_steps_are_yielded_noisiest_first_and_can_be_stopped():
    seen = []
    for step in ddim(exact, torch.zeros(1, 2), SCHEDULE, [1, 201, 401]):
        seen.append((step.i, step.t))
        if step.i == 1:
            break
    assert seen == [(0, 401), (1, 201)]


@pytest.mark.parametrize(
    ("eta", "message"), [(-0.1, "choose 0"), (1.5, "choose 0"), (0.5, "noise=")]
)
def test_impossible_eta(eta, message):
    with pytest.raises(ValueError, match=message):
        next(ddim(exact, torch.zeros(1, 2), SCHEDULE, [1], eta=eta))


def test_guidance_extrapolates_and_skips_what_cancels():
    calls = []

    def predict(name, value):
        def eps(x, t):
            calls.append(name)
            return torch.full_like(x, value)

        return eps

    x = torch.zeros(1)
    cond, null = predict("cond", 3.0), predict("null", 1.0)
    assert guided(cond, null, 7.5)(x, 1).item() == 1 + 7.5 * 2
    calls.clear()
    assert guided(cond, null, 1)(x, 1).item() == 3.0
    assert guided(cond, null, 0)(x, 1).item() == 1.0
    assert calls == ["cond", "null"]
