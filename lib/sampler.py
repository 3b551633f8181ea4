"""Samplers: small functions that turn a noise prediction into a sample, one step at a time.

A sampler is a generator of steps and knows nothing of guidance, modality or files. Progress bars,
film strips, early stops are loops around it:

    for step in ddim(eps, x_T, schedule, schedule.ddim_timesteps(50)):
        ...
    x_0 = step.x
"""

from __future__ import annotations

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
        timesteps: ascending subsequence; visited from its end.
        eta: 0 ... 1, share of fresh noise.
        noise: where fresh noise comes from; needed for eta > 0.

    Yields:
        One `Step` a timestep, noisiest first.

    Raises:
        ValueError: eta outside 0 ... 1, or eta > 0 without noise.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}: choose 0 (deterministic) to 1 (ancestral).")
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


def guided(cond: Eps, null: Eps, scale: float) -> Eps:
    """Classifier-free guidance: `eps = eps_null + scale (eps_cond - eps_null)`.

    At scale 1 the null branch cancels and is not run; at 0 only the null branch is.

    Source: Ho and Salimans 2022, equation 6 (their w is scale - 1).
    """
    if scale == 1:
        return cond
    if scale == 0:
        return null

    def eps(x: Tensor, t: int) -> Tensor:
        base = null(x, t)
        return base + scale * (cond(x, t) - base)

    return eps
