"""How sure a measured number is: 95 % intervals of shares, means, ratios and differences."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

Z95 = 1.959963984540054
"""The 97.5th percentile of the standard normal distribution."""


@dataclass(frozen=True)
class Estimate:
    """A measured number with its 95 % interval.

    Attributes:
        value: None where nothing was counted (or a ratio's denominator is zero).
        low, high: ends of the interval; None where there is none.
        n: how many independent observations it stands on.
        kind: "share" (in [0, 1], Wilson), "mean" (normal), "ratio" (of two means, delta method),
            "points" (difference of two shares, Bonett and Price), "count" (a whole number that was
            not drawn), "number" (no interval, such as a distance between two sets).
        unit: what it is counted in, for tables.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    kind: str = "number"
    unit: str = ""

    def to_dict(self) -> dict[str, float | int | str | None]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> Estimate:
        """The inverse of `to_dict`."""
        return cls(**values)


def number(value: float | None, n: int, unit: str = "") -> Estimate:
    """A number without an interval."""
    return Estimate(None if value is None else float(value), None, None, n, "number", unit)


def wilson(hits: int, n: int) -> Estimate:
    """Share `p = hits / n` with Wilson's score interval, which holds near 0 and 1 and for small n.

        (p + z^2 / 2n  +-  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    Args:
        hits: how often it was so.
        n: how often it was looked.

    Raises:
        ValueError: not 0 <= hits <= n.

    Source: Wilson 1927; Brown, Cai and DasGupta 2001 compare it with the others.
    """
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} hits of {n}: give 0 <= hits <= n.")
    if n == 0:
        return Estimate(None, None, None, 0, "share")
    p, z2 = hits / n, Z95**2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # at the ends the exact result is p itself, rounding must not leave it outside
    low = 0.0 if hits == 0 else middle - half
    high = 1.0 if hits == n else middle + half
    return Estimate(p, low, high, n, "share")


def normal_mean(mean: float, variance: float, n: int, unit: str = "") -> Estimate:
    """Mean with the interval of the central limit theorem, `mean +- z sqrt(variance / n)`.

    Args:
        mean: of the observations.
        variance: of the observations, unbiased.
        n: number of observations; below 2 there is no interval.
        unit: for tables.
    """
    if n == 0:
        return Estimate(None, None, None, 0, "mean", unit)
    if n == 1:
        return Estimate(mean, None, None, 1, "mean", unit)
    half = Z95 * math.sqrt(max(variance, 0.0) / n)
    return Estimate(mean, mean - half, mean + half, n, "mean", unit)


def ratio_of_means(
    means: tuple[float, float], covariance: tuple[tuple[float, float], ...], n: int
) -> Estimate:
    """`r = a / b` of two means of paired observations, with the interval of the delta method:

        var(r) = (var(a) - 2 r cov(a, b) + r^2 var(b)) / (n b^2)

    Args:
        means: (a, b).
        covariance: of the pairs, 2 x 2, unbiased.
        n: number of pairs.

    Returns:
        A ratio whose value is None if b is 0.
    """
    a, b = means
    if n == 0 or b == 0:
        return Estimate(None, None, None, n, "ratio")
    r = a / b
    if n == 1:
        return Estimate(r, None, None, 1, "ratio")
    (aa, ab), (_, bb) = covariance
    half = Z95 * math.sqrt(max(aa - 2 * r * ab + r * r * bb, 0.0) / n) / abs(b)
    return Estimate(r, r - half, r + half, n, "ratio")


def paired_difference(gained: int, lost: int, n: int) -> Estimate:
    """Difference of two shares of the *same* n inputs, `(gained - lost) / n`.

    What both get right, or both wrong, cancels; so far fewer inputs tell two settings apart than
    two independent samples would need. The interval is Wald's after one more of each kind,

        d +- z sqrt((p + q - d^2) / (n + 2)),  p = (gained + 1) / (n + 2), q likewise, d = p - q,

    which holds for small n and does not shrink to a point where no input differs.

    Args:
        gained: inputs that the first one gets right and the second wrong.
        lost: the other way round.
        n: inputs in all.

    Raises:
        ValueError: counts below 0, or more than n together.

    Source: Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data".
    """
    if gained < 0 or lost < 0 or gained + lost > n:
        raise ValueError(f"{gained} gained and {lost} lost of {n}: give counts of n inputs.")
    if n == 0:
        return Estimate(None, None, None, 0, "points")
    p, q = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = Z95 * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    low, high = max(-1.0, p - q - half), min(1.0, p - q + half)
    return Estimate((gained - lost) / n, low, high, n, "points")
