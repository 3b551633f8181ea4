"""Guidance: a function around a noise prediction, which samplers need not know of."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lib.sampler import Eps

Halves = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(x_t, t) -> predictions without and with the condition."""


def guided(
    cond: Eps,
    null: Eps,
    scale: float,
    interval: tuple[float, float] | None = None,
    halves: Halves | None = None,
) -> Eps:
    """Classifier-free guidance: `eps = eps_null + scale (eps_cond - eps_null)`.

    At scale 1 the null branch cancels and is not run; at 0 only the null branch is.

    Args:
        cond: prediction under the condition.
        null: prediction without it.
        scale: s, 0 or more.
        interval: (low, high): guide at low <= t <= high, elsewhere scale is 1; None: guide at
            every timestep. Guidance at the noisiest steps costs variety, at the last ones it does
            nothing.
        halves: both predictions at once, where that is cheaper; None asks null, then cond.

    Source: Ho and Salimans 2022, equation 6 (their w is scale - 1); Kynkaanniemi et al. 2024 for
    the interval.
    """
    if scale == 1:
        return cond
    if scale == 0 and interval is None:
        return null

    def eps(x: Tensor, t: int) -> Tensor:
        if interval is not None and not interval[0] <= t <= interval[1]:
            return cond(x, t)
        if scale == 0:
            return null(x, t)
        base, there = halves(x, t) if halves else (null(x, t), cond(x, t))
        return base + scale * (there - base)

    return eps
