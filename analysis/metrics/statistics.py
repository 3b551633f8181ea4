"""How sure a measured number is: 95 % intervals of shares, means, ratios and differences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

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


def share(values: Iterable[bool]) -> Estimate:
    """Share of observations that are true, with Wilson's interval; of none, the value is None.

    Args:
        values: one an observation.

    Raises:
        ValueError: a value that is no boolean.
    """
    values = np.asarray(list(values))
    if values.size and values.dtype != bool:
        raise ValueError(f"a share counts booleans, not {values.dtype}.")
    return wilson(int(values.sum()), values.size)


def mean(values: Sequence[float] | np.ndarray, unit: str = "") -> Estimate:
    """Mean with the interval of the central limit theorem, `mean +- z sqrt(variance / n)`.

    Args:
        values: observations; of none the value is None, of a single one there is no interval.
        unit: for tables.

    Raises:
        ValueError: NaN or infinity among them.
    """
    x = _finite(values)
    n = len(x)
    if n < 2:
        return Estimate(float(x[0]) if n else None, None, None, n, "mean", unit)
    middle, half = float(x.mean()), Z95 * math.sqrt(float(x.var(ddof=1)) / n)
    return Estimate(middle, middle - half, middle + half, n, "mean", unit)


def ratio(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> Estimate:
    """`r = mean(a) / mean(b)` of paired observations, with the interval of the delta method:

        var(r) = (var(a) - 2 r cov(a, b) + r^2 var(b)) / (n mean(b)^2)

    Args:
        a, b: equally many; without any, or where mean(b) is 0, the value is None.

    Raises:
        ValueError: another number of a than of b, or NaN or infinity among them.
    """
    a, b = _finite(a), _finite(b)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} observations: give pairs.")
    n = len(a)
    if n == 0 or b.mean() == 0:
        return Estimate(None, None, None, n, "ratio")
    r = float(a.mean() / b.mean())
    if n == 1:
        return Estimate(r, None, None, 1, "ratio")
    # var(a - r b) is the numerator above, and never below 0
    half = Z95 * float(np.std(a - r * b, ddof=1)) / math.sqrt(n) / abs(float(b.mean()))
    return Estimate(r, r - half, r + half, n, "ratio")


def _finite(values: Sequence[float] | np.ndarray) -> np.ndarray:
    x = np.asarray(values, dtype=np.float64).reshape(-1)
    if not np.isfinite(x).all():
        raise ValueError("Observations hold NaN or infinity: look for what was measured there.")
    return x


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
