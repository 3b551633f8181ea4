"""What every measure is made of: accumulators of shares, means, ratios and moments.

    update(...)     take in a batch; returns the accumulator
    merge(other)    take in what another one saw (another process, another chunk)
    compute()       the number with its interval

Whatever the batches and whoever merged them, the number is that of a single pass. Sums are float64.
Accumulators hold plain numpy, so they can be pickled and sent between processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

from analysis.metrics.statistics import Estimate, normal_mean, ratio_of_means, wilson

Features = Tensor | np.ndarray
"""What a feature function, such as `vd.image_features`, makes of pictures: (B, D)."""


def as_matrix(features: Features, width: int | None = None) -> np.ndarray:
    """Features as a float64 matrix.

    Args:
        features: (B, D).
        width: the D that is expected, if one is.

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    if isinstance(features, Tensor):
        features = features.detach().double().cpu().numpy()
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or (width is not None and x.shape[1] != width):
        wanted = "D" if width is None else width
        raise ValueError(f"Features have shape {x.shape}: give (batch, {wanted}).")
    if not np.isfinite(x).all():
        raise ValueError("Features hold NaN or infinity: look for the picture that made them.")
    return x


class Proportion:
    """Share of things that are so, with Wilson's 95 % interval."""

    def __init__(self) -> None:
        self.hits, self.n = 0, 0

    def update(self, values: bool | Iterable[bool]) -> Proportion:
        """Take in one or many yes/no observations."""
        array = np.atleast_1d(np.asarray(list(values) if isinstance(values, Iterable) else values))
        if array.size and array.dtype != bool:
            raise ValueError(f"a proportion counts booleans, not {array.dtype}.")
        self.hits += int(array.sum())
        self.n += array.size
        return self

    def merge(self, other: Proportion) -> Proportion:
        """Take in another's counts."""
        self.hits += other.hits
        self.n += other.n
        return self

    def compute(self) -> Estimate:
        """hits / n; without observations its value is None."""
        return wilson(self.hits, self.n)


class Moments:
    """Mean and covariance of vectors: n, mean, and `M2 = sum (x - mean)(x - mean)^T`.

    Two of them merge by `M2 = M2_a + M2_b + d d^T n_a n_b / n`, d the difference of the means
    (Chan, Golub and LeVeque 1979), which does not lose digits as plain sums of squares would.
    """

    def __init__(self) -> None:
        self.n = 0
        self.mean: np.ndarray | None = None
        self.m2: np.ndarray | None = None

    def update(self, x: Features) -> Moments:
        """Take in (B, D)."""
        x = as_matrix(x, None if self.mean is None else len(self.mean))
        if not len(x):
            return self
        part = Moments()
        part.n, part.mean = len(x), x.mean(axis=0)
        part.m2 = (x - part.mean).T @ (x - part.mean)
        return self.merge(part)

    def merge(self, other: Moments) -> Moments:
        """Take in another's moments."""
        if other.n == 0:
            return self
        if self.n == 0:
            self.n, self.mean, self.m2 = other.n, other.mean.copy(), other.m2.copy()
            return self
        n, d = self.n + other.n, other.mean - self.mean
        self.m2 = self.m2 + other.m2 + np.outer(d, d) * (self.n * other.n / n)
        self.mean = self.mean + d * (other.n / n)
        self.n = n
        return self

    @property
    def covariance(self) -> np.ndarray:
        """(D, D), unbiased.

        Raises:
            ValueError: fewer than two vectors.
        """
        if self.n < 2:
            raise ValueError(f"a covariance needs 2 samples or more, not {self.n}.")
        return self.m2 / (self.n - 1)


class Mean:
    """Mean of numbers, with the 95 % interval of the central limit theorem."""

    def __init__(self, unit: str = "") -> None:
        self.unit = unit
        self.moments = Moments()

    def update(self, values: float | Sequence[float] | Features) -> Mean:
        """Take in one or many numbers."""
        if isinstance(values, Tensor):
            values = values.detach().double().cpu().numpy()
        self.moments.update(np.asarray(values, dtype=np.float64).reshape(-1, 1))
        return self

    def merge(self, other: Mean) -> Mean:
        """Take in another's numbers."""
        self.moments.merge(other.moments)
        return self

    def compute(self) -> Estimate:
        """The mean; without observations its value is None."""
        m = self.moments
        if m.n < 2:
            return normal_mean(float(m.mean[0]) if m.n else 0.0, 0.0, m.n, self.unit)
        return normal_mean(float(m.mean[0]), float(m.covariance[0, 0]), m.n, self.unit)


class Ratio:
    """Ratio of the means of paired numbers, `mean(a) / mean(b)`, by the delta method."""

    def __init__(self) -> None:
        self.moments = Moments()

    def update(self, a: Sequence[float] | float, b: Sequence[float] | float) -> Ratio:
        """Take in one or many pairs."""
        pairs = np.stack([np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in (a, b)], axis=1)
        self.moments.update(pairs)
        return self

    def merge(self, other: Ratio) -> Ratio:
        """Take in another's pairs."""
        self.moments.merge(other.moments)
        return self

    def compute(self) -> Estimate:
        """The ratio; its value is None without observations or if mean(b) is 0."""
        m = self.moments
        means = tuple(map(float, m.mean)) if m.n else (0.0, 0.0)
        covariance = m.covariance.tolist() if m.n > 1 else ((0.0, 0.0), (0.0, 0.0))
        return ratio_of_means(means, covariance, m.n)
