"""DDIM where the best noise prediction is known in closed form; guidance as arithmetic."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from lib.guidance import guided
from lib.noise import SampleNoise
from lib.sampler import SAMPLERS, ddim, ddim_inversion, dpmpp_2m, euler, heun, unipc
from lib.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule()
MEAN, STD = 0.7, 0.5


def exact(x, t, schedule=SCHEDULE):
    """E[eps | x_t] when x_0 ~ N(MEAN, STD^2)."""
    a = schedule.alpha_bar[t].item()
    variance = a * STD**2 + 1 - a
    return (1 - a) ** 0.5 * (x - a**0.5 * MEAN) / variance


def last(steps):
    *_, step = steps
    return step


def test_gaussian_data_come_back_with_their_mean_and_deviation():
    timesteps = SCHEDULE.timesteps(250)
    a = SCHEDULE.alpha_bar[timesteps[-1]].item()
    x = a**0.5 * MEAN + (a * STD**2 + 1 - a) ** 0.5 * SampleNoise([0]).normal((20_000,))
    x_0 = last(ddim(exact, x, SCHEDULE, timesteps)).x
    assert x_0.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert x_0.std().item() == pytest.approx(STD, abs=0.02)


def test_fresh_noise_samples_the_same_distribution():
    noise = SampleNoise([1])
    x = noise.normal((20_000,))
    x_0 = last(ddim(exact, x, SCHEDULE, SCHEDULE.timesteps(250), eta=1.0, noise=noise)).x
    assert x_0.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert x_0.std().item() == pytest.approx(STD, abs=0.03)


def test_a_perfect_prediction_lands_on_the_data_in_any_number_of_steps():
    x_0 = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def knows(x, t):
        a = SCHEDULE.alpha_bar[t].item()
        return (x - a**0.5 * x_0) / (1 - a) ** 0.5

    for steps in (1, 4, 25):
        timesteps = SCHEDULE.timesteps(steps)
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


# ------------------------------------------------------------------ second order


def solution(x, t, schedule=SCHEDULE):
    """Where the ODE takes x from timestep t to 0: probability mass stays in its place."""
    a, b = (schedule.alpha_bar[k].item() for k in (t, 0))
    spread = [(c * STD**2 + 1 - c) ** 0.5 for c in (a, b)]
    return b**0.5 * MEAN + spread[1] / spread[0] * (x - a**0.5 * MEAN)


def error(sampler, steps, top=800):
    timesteps = [t for t in SCHEDULE.timesteps(steps) if t <= top + 1]
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    return (last(sampler(exact, x, SCHEDULE, timesteps)).x - solution(x, timesteps[-1])).abs().max()


@pytest.mark.parametrize("steps", [10, 20, 50, 100])
@pytest.mark.parametrize("sampler", [dpmpp_2m, unipc, heun])
def test_second_order_is_closer_to_the_exact_solution(sampler, steps):
    assert error(sampler, steps) < (0.7 if sampler is unipc else 0.5) * error(ddim, steps)


def test_heun_is_closer_with_half_the_steps():
    for steps in (20, 50, 100):
        assert error(heun, steps // 2) < error(ddim, steps)


def errors_on_even_steps(sampler):
    even = NoiseSchedule(321)
    even.alpha_bar = torch.sigmoid(2 * torch.linspace(3.5, -2.5, 321, dtype=torch.float64))
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    for stride in (8, 4, 2, 1):
        timesteps = list(range(stride, 321, stride))
        x_0 = last(sampler(partial(exact, schedule=even), x, even, timesteps)).x
        yield (x_0 - solution(x, 320, even)).abs().max()


@pytest.mark.parametrize(("sampler", "order"), [(ddim, 1), (dpmpp_2m, 2), (heun, 2)])
def test_order_of_convergence(sampler, order):
    """On a table that is even in log-SNR, twice as many steps leave a half or a quarter of the
    error."""
    for more, fewer in pairwise(errors_on_even_steps(sampler)):
        assert torch.log2(more / fewer).item() == pytest.approx(order, abs=0.15)


def test_correcting_a_step_pays():
    plain, corrected = (list(errors_on_even_steps(sampler)) for sampler in (dpmpp_2m, unipc))
    assert all(b < a / 5 for a, b in zip(plain, corrected, strict=True))


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_is_that_of_diffusers(eta):
    theirs = DDIMScheduler(
        trained_betas=SCHEDULE.betas.numpy(),
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    theirs.set_timesteps(20)
    timesteps = SCHEDULE.timesteps(20)
    assert theirs.timesteps.tolist() == timesteps[::-1]
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, noise = x.clone(), SampleNoise([1, 2])
    for step in ddim(exact, x, SCHEDULE, timesteps, eta, SampleNoise([1, 2])):
        z = noise.normal((3,)).double() if eta else None
        y = theirs.step(exact(y, step.t), step.t, y, eta=eta, variance_noise=z).prev_sample
        assert torch.allclose(step.x, y, atol=1e-5)


def test_heun_is_that_of_diffusers():
    """But for the last step: theirs goes to noise level 0 then, ours to alpha_bar[0].

    They predict from y = x / sqrt(alpha_bar), and twice a step but for the last one.
    """
    theirs = HeunDiscreteScheduler(
        trained_betas=SCHEDULE.betas.numpy(), timestep_spacing="leading", steps_offset=1
    )
    theirs.set_timesteps(20)
    timesteps = SCHEDULE.timesteps(20)
    assert theirs.timesteps[::2].tolist() == timesteps[::-1]
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, calls = x / SCHEDULE.alpha_bar[timesteps[-1]].sqrt(), iter(theirs.timesteps)
    for step, t_next in zip(heun(exact, x, SCHEDULE, timesteps), timesteps[-2::-1], strict=False):
        for t in (step.t, t_next):
            assert next(calls) == t
            y = theirs.step(exact(y * SCHEDULE.alpha_bar[t].sqrt(), t), t, y).prev_sample
        assert torch.allclose(step.x, y * SCHEDULE.alpha_bar[t_next].sqrt(), atol=1e-4)


@pytest.mark.parametrize("steps", [3, 8])
def test_dpmpp_2m_is_that_of_diffusers(steps):
    """On steps that shrink in log-SNR, where ours does not limit the extrapolation."""
    table = 0.5 * torch.log(SCHEDULE.alpha_bar / (1 - SCHEDULE.alpha_bar))
    share = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    wanted = table[0] + (table[999] - table[0]) * share**1.4
    timesteps = [int((table - value).abs().argmin()) for value in wanted]
    assert timesteps == sorted(set(timesteps))
    theirs = DPMSolverMultistepScheduler(
        trained_betas=SCHEDULE.betas.numpy(),
        algorithm_type="dpmsolver++",
        solver_order=2,
        lower_order_final=False,
        final_sigmas_type="sigma_min",
    )
    theirs.set_timesteps(timesteps=timesteps[::-1])
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = x.clone()
    for step, t in zip(dpmpp_2m(exact, x, SCHEDULE, timesteps), theirs.timesteps, strict=True):
        assert step.t == t
        y = theirs.step(exact(y, int(t)), t, y).prev_sample
        assert torch.allclose(step.x, y, atol=1e-4)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_every_sampler_is_called_alike(name):
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    path = list(SAMPLERS[name](exact, x, SCHEDULE, [0, 1, 400], eta=0.0, noise=SampleNoise([1, 2])))
    assert [(step.i, step.t) for step in path] == [(0, 400), (1, 1), (2, 0)]
    assert torch.allclose(path[0].eps, exact(x, 400))
    # a step from alpha_bar[0] to alpha_bar[0] goes nowhere; but unipc corrects the one before
    assert torch.allclose(path[1].x, path[2].x, atol=5e-3 if name == "unipc" else 1e-6)
    assert list(SAMPLERS[name](exact, x, SCHEDULE, [])) == []


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 30])
def test_euler_is_that_of_diffusers(steps):
    """They go from y = x / sqrt(alpha_bar) at noise level s to `y + (s' - s) eps`."""
    theirs = EulerDiscreteScheduler(
        trained_betas=SCHEDULE.betas.numpy(), final_sigmas_type="sigma_min"
    )
    timesteps = SCHEDULE.timesteps(steps)
    theirs.set_timesteps(timesteps=timesteps[::-1])
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    y = x / SCHEDULE.alpha_bar[timesteps[-1]].sqrt().float()
    path = list(euler(exact, x, SCHEDULE, timesteps))
    for step, t, t_next in zip(path, theirs.timesteps, [*timesteps[-2::-1], 0], strict=True):
        assert step.t == t
        scaled = theirs.scale_model_input(y, t)  # x again, as ours has it
        y = theirs.step(exact(scaled, int(t)), t, y).prev_sample
        assert torch.allclose(step.x, y * SCHEDULE.alpha_bar[t_next].sqrt().float(), atol=1e-4)
    assert torch.equal(path[-1].x, last(ddim(exact, x, SCHEDULE, timesteps)).x)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 30])
def test_unipc_is_that_of_diffusers(steps):
    theirs = UniPCMultistepScheduler(
        trained_betas=SCHEDULE.betas.numpy(), solver_type="bh2", final_sigmas_type="sigma_min"
    )
    timesteps = SCHEDULE.timesteps(steps)
    theirs.set_timesteps(steps)
    # the same timesteps: they choose others
    levels = SCHEDULE.alpha_bar[[*timesteps[::-1], 0]]
    theirs.timesteps = torch.tensor(timesteps[::-1])
    theirs.sigmas = ((1 - levels) / levels).sqrt().float()
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    y = x.clone()
    for step, t in zip(unipc(exact, x, SCHEDULE, timesteps), theirs.timesteps, strict=True):
        assert step.t == t
        y = theirs.step(exact(y, int(t)), t, y).prev_sample
        assert torch.allclose(step.x, y, atol=1e-4)


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "unipc", "heun"])
def test_deterministic_samplers_refuse_fresh_noise(name):
    with pytest.raises(ValueError, match=f"{name} is deterministic: choose ddim"):
        next(SAMPLERS[name](exact, torch.zeros(1, 2), SCHEDULE, [1], eta=0.5))


def test_inversion_comes_closer_with_every_iteration():
    timesteps = SCHEDULE.timesteps(10)
    x = torch.linspace(-1, 2, 9, dtype=torch.float64)[:, None]
    errors = []
    for iterations in (1, 4, 60):
        path = list(ddim_inversion(exact, x, SCHEDULE, timesteps, iterations))
        assert [step.t for step in path] == timesteps
        errors.append((last(ddim(exact, path[-1].x, SCHEDULE, timesteps)).x - x).abs().max())
    assert errors[0] > 2 * errors[1] > 1e-3 > 1e-6 > errors[2]
    with pytest.raises(ValueError, match="iterations is 0"):
        next(ddim_inversion(exact, x, SCHEDULE, timesteps, 0))


def test_inversion_with_its_own_noise_is_undone_exactly():
    timesteps = SCHEDULE.timesteps(10)
    x = torch.linspace(-1, 2, 9, dtype=torch.float64)[:, None]
    path = list(ddim_inversion(exact, x, SCHEDULE, timesteps, 1))
    led = {step.t: step.eps for step in path}
    back = last(ddim(lambda x, t: led[t], path[-1].x, SCHEDULE, timesteps)).x
    assert torch.allclose(back, x, atol=1e-12)


def test_guidance_only_in_its_interval():
    def cond(x, t):
        return torch.full_like(x, 3.0)

    def null(x, t):
        return torch.full_like(x, 1.0)

    x = torch.zeros(1)
    eps = guided(cond, null, 2, (100, 500))
    assert [eps(x, t).item() for t in (99, 100, 500, 501)] == [3, 5, 5, 3]
    eps = guided(cond, null, 0, (100, 500))
    assert [eps(x, t).item() for t in (99, 300)] == [3, 1]
