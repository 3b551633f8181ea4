"""Samplers: small functions that turn a noise prediction into a sample, one step at a time.

A sampler is a generator of steps and knows nothing of guidance, modality or files. Progress bars,
film strips, early stops are loops around it:

    for step in ddim(eps, x_T, schedule, schedule.timesteps(50)):
        ...
    x_0 = step.x

All of `SAMPLERS` are called alike: arguments are explained at `ddim`, and the others refuse an
eta and need no noise. They visit the same subsequence of timesteps, noisiest first, down to
`alpha_bar[0]`:

| | order | predictions a step | |
|---|---|---|---|
| `ddim` | 1 | 1 | with eta, the only one that can draw fresh noise |
| `euler` | 1 | 1 | `ddim` at eta 0, by the name it has as a solver of an ODE |
| `dpmpp_2m` | 2 | 1 | remembers one step: the best use of few predictions |
| `unipc` | 2 | 1 | as `dpmpp_2m`, then corrected with the next prediction: order 3 but at the end |
| `heun` | 2 | 2 | remembers nothing, so nothing is lost where it starts or the field bends |

`ddim_inversion` goes the other way, from a clean latent to the noise it comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib.noise import SampleNoise
from lib.schedule import NoiseSchedule

Eps = Callable[[Tensor, int], Tensor]
"""Noise prediction: (x_t, t) -> eps, like x_t."""


@dataclass(frozen=True)
class Step:
    """One denoising step.

    Attributes:
        i: how many steps were done before this one (0 is the noisiest).
        t: timestep that the step started from.
        x: latent after the step.
        x0: estimate of the clean latent at this step.
        eps: predicted noise at this step.
    """

    i: int
    t: int
    x: Tensor
    x0: Tensor
    eps: Tensor


@torch.no_grad()
def ddim(
    eps: Eps,
    x: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    eta: float = 0.0,
    noise: SampleNoise | None = None,
) -> Iterator[Step]:
    """DDIM (Song et al. 2021, equation 12): deterministic at eta 0, ancestral at eta 1.

    With `a = alpha_bar[t]`, `a' = alpha_bar` of the timestep before it in the subsequence:

        x0     = (x - sqrt(1 - a) eps) / sqrt(a)
        sigma  = eta sqrt((1 - a') / (1 - a)) sqrt(1 - a / a')
        x_prev = sqrt(a') x0 + sqrt(1 - a' - sigma^2) eps + sigma z

    Args:
        eps: noise prediction (x_t, t) -> like x_t.
        x: (B, ...) latent at the last timestep of the subsequence.
        schedule: where alpha_bar comes from.
        timesteps: ascending subsequence (`NoiseSchedule.timesteps`), visited from its end.
        eta: 0 ... 1, share of fresh noise.
        noise: where fresh noise comes from; needed for eta > 0.

    Yields:
        One `Step` a timestep, noisiest first.

    Raises:
        ValueError: eta outside 0 ... 1, or eta > 0 without noise.
    """
    check_eta("ddim", eta)
    if eta > 0 and noise is None:
        raise ValueError(f"eta is {eta}, which needs fresh noise at every step: pass noise=.")
    alphas, alphas_prev = schedule.ddim_alphas(list(timesteps))
    for i, k in enumerate(reversed(range(len(timesteps)))):
        t, a, a_prev = timesteps[k], alphas[k].item(), alphas_prev[k].item()
        e = eps(x, t)
        x0 = (x - (1 - a) ** 0.5 * e) / a**0.5
        sigma = eta * ((1 - a_prev) / (1 - a)) ** 0.5 * (1 - a / a_prev) ** 0.5
        x = a_prev**0.5 * x0 + (1 - a_prev - sigma**2) ** 0.5 * e
        if sigma > 0:
            x = x + sigma * noise.normal(x.shape[1:]).to(x)
        yield Step(i, t, x, x0, e)


def euler(
    eps: Eps,
    x: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    eta: float = 0.0,
    noise: SampleNoise | None = None,
) -> Iterator[Step]:
    """Euler's method on the ODE of DDIM (see `heun`): on the same timesteps it *is* DDIM at eta 0.

    It stands here by this name because other programs have one. Where theirs gives other pictures,
    they visit other timesteps, or go on from `alpha_bar[0]` to no noise at all.

    Raises:
        ValueError: eta is not 0.
    """
    check_eta("euler", eta)
    yield from ddim(eps, x, schedule, timesteps)


@torch.no_grad()
def dpmpp_2m(
    eps: Eps,
    x: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    eta: float = 0.0,
    noise: SampleNoise | None = None,
) -> Iterator[Step]:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order from one prediction a step.

    With `alpha = sqrt(alpha_bar)`, `sigma = sqrt(1 - alpha_bar)`, `lambda = log(alpha / sigma)`,
    from s to t in a step of `h = lambda_t - lambda_s`, after one of h':

        D   = x0_s + r / 2 (x0_s - x0_before),  r = h / h'    (first step: D = x0_s, as in DDIM)
        x_t = sigma_t / sigma_s x_s - alpha_t (exp(-h) - 1) D

    r is at most 1 here. The subsequence's last but one step, from about t = 20 to 1, is many times
    longer in lambda than the one before; extrapolating so far would cost most of what the second
    order gains. Where steps are even, r tends to 1 by itself and the order stays.

    The steps' x0 is the plain estimate, not D.

    Raises:
        ValueError: eta is not 0.
    """
    check_eta("dpmpp_2m", eta)
    levels, h_before, x0_before = _levels(schedule, timesteps), 0.0, None
    for i, (t, _, a, a_next) in enumerate(levels):
        e = eps(x, t)
        x0 = (x - (1 - a) ** 0.5 * e) / a**0.5
        h = _log_snr(a_next) - _log_snr(a)
        d = x0 if x0_before is None else x0 + min(h / h_before, 1) / 2 * (x0 - x0_before)
        x = ((1 - a_next) / (1 - a)) ** 0.5 * x - a_next**0.5 * math.expm1(-h) * d
        h_before, x0_before = h, x0
        yield Step(i, t, x, x0, e)


@torch.no_grad()
def unipc(
    eps: Eps,
    x: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    eta: float = 0.0,
    noise: SampleNoise | None = None,
) -> Iterator[Step]:
    """UniPC of order 2 (Zhao et al. 2023, B(h) = e^h - 1): every step predicted, then corrected.

    With the symbols of `dpmpp_2m`, a step from s to t and the one before it from r:

        base      = sigma_t / sigma_s x_s - alpha_t phi x0_s,   phi = exp(-h) - 1
        D         = (x0_s - x0_r) h / h'                        (first and last step: D = 0)
        predicted = base - alpha_t phi D / 2
        corrected = base - alpha_t phi (c_1 D + c_2 (x0_t - x0_s)),   x0_t from eps(predicted, t)

    c_1 and c_2 make the correction exact where x0 is a parabola in lambda; after the first step,
    without D, c_2 = 1 / 2. The next step starts at `corrected`, which costs no prediction.

    The steps' x is `predicted`; eps and x0 are predictions there, before it is corrected.

    Raises:
        ValueError: eta is not 0.
    """
    check_eta("unipc", eta)
    levels = list(_levels(schedule, timesteps))
    base = gain = slope = x0_before = h = h_before = None  # of the step before
    for i, (t, _, a, a_next) in enumerate(levels):
        e = eps(x, t)
        x0 = (x - (1 - a) ** 0.5 * e) / a**0.5
        if i > 0:
            change = x0 - x0_before
            c_1, c_2 = (0, 0.5) if i == 1 else _corrector(h, h_before)
            x = base - gain * (c_1 * slope + c_2 * change)
            h_before = h
        h = _log_snr(a_next) - _log_snr(a)
        gain = a_next**0.5 * math.expm1(-h)
        base = ((1 - a_next) / (1 - a)) ** 0.5 * x - gain * x0
        slope = torch.zeros_like(x) if i == 0 or i == len(levels) - 1 else change * (h / h_before)
        x = base - gain * slope / 2
        x0_before = x0
        yield Step(i, t, x, x0, e)


@torch.no_grad()
def heun(
    eps: Eps,
    x: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    eta: float = 0.0,
    noise: SampleNoise | None = None,
) -> Iterator[Step]:
    """Heun's method on the ODE of DDIM: second order, no memory, two predictions a step.

    With `y = x / sqrt(alpha_bar)` and `s = sqrt((1 - alpha_bar) / alpha_bar)` that ODE is
    `dy / ds = eps`. DDIM is an Euler step on it; Heun's repeats the step with the mean of the
    predictions at both ends, each of them a timestep that the model was trained on.

    The steps' x0 and eps are those of the first prediction.

    Raises:
        ValueError: eta is not 0.

    Source: Karras et al. 2022, algorithm 1, in DDIM's variables (Song et al. 2021, equation 14).
    """
    check_eta("heun", eta)
    for i, (t, t_next, a, a_next) in enumerate(_levels(schedule, timesteps)):
        e = eps(x, t)
        euler = _moved(x, e, a, a_next)
        mean = e if t == t_next else (e + eps(euler, t_next)) / 2
        x0 = (x - (1 - a) ** 0.5 * e) / a**0.5
        x = _moved(x, mean, a, a_next)
        yield Step(i, t, x, x0, e)


SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {
    "ddim": ddim,
    "euler": euler,
    "dpmpp_2m": dpmpp_2m,
    "unipc": unipc,
    "heun": heun,
}
"""Name -> (eps, x, schedule, timesteps, eta=0.0, noise=None) -> steps."""


@torch.no_grad()
def ddim_inversion(
    eps: Eps,
    x: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    iterations: int = 4,
) -> Iterator[Step]:
    """From a clean latent to the noise from which `ddim`, at eta 0, makes it again.

    A step of DDIM from t down to s uses the prediction at its noisy end, which is what is looked
    for here: `x_t = move(x_s, eps(x_t, t))`. It is found by repeating that equation, starting with
    `x_t = x_s` on its right hand side. The plain inversion (Song et al. 2021) stops after the first
    time; every further one brings it closer to the exact inverse where eps changes slowly with x.

    Args:
        eps: noise prediction (x_t, t) -> like x_t, the one `ddim` is going to use.
        x: (B, ...) clean latent, taken to lie at `alpha_bar[0]`, where `ddim` ends.
        schedule, timesteps: as in `ddim`; visited from the start.
        iterations: predictions a step, from 1 on.

    Yields:
        One `Step` a timestep, cleanest first: x is the latent *at* t, eps what leads there, so that
        DDIM with this very eps goes back exactly.

    Raises:
        ValueError: iterations below 1.

    Source: Pan et al. 2023, "Effective real image editing with accelerated iterative diffusion
    inversion", section 3.
    """
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}: choose a whole number from 1 on.")
    levels = list(_levels(schedule, timesteps))
    for i, (t, _, a, a_clean) in enumerate(reversed(levels)):
        there = x
        for _ in range(iterations):
            e = eps(there, t)
            there = _moved(x, e, a_clean, a)
        x = there
        yield Step(i, t, x, (x - (1 - a) ** 0.5 * e) / a**0.5, e)


def check_eta(sampler: str, eta: float) -> None:
    """ValueError unless that sampler can draw that share of fresh noise."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}: choose 0 (deterministic) to 1 (ancestral).")
    if eta > 0 and sampler != "ddim":
        raise ValueError(f"eta is {eta}, but {sampler} is deterministic: choose ddim, or eta 0.")


def _levels(
    schedule: NoiseSchedule, timesteps: Sequence[int]
) -> Iterator[tuple[int, int, float, float]]:
    """Noisiest first: timestep, the one the step leads to, alpha_bar of both."""
    alphas, alphas_next = schedule.ddim_alphas(list(timesteps))
    for k in reversed(range(len(timesteps))):
        t_next = timesteps[k - 1] if k else 0
        yield timesteps[k], t_next, alphas[k].item(), alphas_next[k].item()


def _moved(x: Tensor, e: Tensor, a: float, a_to: float) -> Tensor:
    """DDIM at eta 0, from one noise level to another, either way, along the noise e."""
    x0 = (x - (1 - a) ** 0.5 * e) / a**0.5
    return a_to**0.5 * x0 + (1 - a_to) ** 0.5 * e


def _log_snr(a: float) -> float:
    """`lambda = log(sqrt(a) / sqrt(1 - a))`."""
    return 0.5 * math.log(a / (1 - a))


def _corrector(h: float, h_before: float) -> tuple[float, float]:
    """UniPC's c_1, c_2: they integrate x0 = lambda and x0 = lambda^2 over a step of h exactly."""
    phi = math.expm1(-h)
    b_1 = -1 / h - 1 / phi
    b_2 = -2 * b_1 / h - 1 / phi
    c_1 = (b_1 - b_2) / (1 + h_before / h)
    return c_1, b_1 - c_1
