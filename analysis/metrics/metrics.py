"""Measures of generated pictures by their features, as accumulators (`analysis.metrics.accumulators`).

Counts, means and centred outer products where they suffice; the features themselves where every
pair matters (kernels, retrieval). Features are what a feature function, such as
`vd.image_features`, makes of pictures. Which one was used belongs beside every distance: distances
are comparable within one feature function, one number of samples and one way of resizing only.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from torch import Tensor

from analysis.metrics.accumulators import Features, Mean, Moments, Proportion, Ratio, as_matrix
from analysis.metrics.statistics import Estimate, number

__all__ = [
    "CMMD",
    "DISTANCES",
    "FrechetDistance",
    "KernelDistance",
    "Mean",
    "Moments",
    "PairScore",
    "PairwiseDiversity",
    "Proportion",
    "Ratio",
    "RecallAtK",
]

_BLOCK = 2048  # rows of a kernel matrix held at once


class FrechetDistance:
    """Distance of two sets of features as if both were Gaussian (FID, with Inception's features).

        |m_r - m_g|^2 + tr(C_r + C_g - 2 (C_r C_g)^(1/2))

    Biased upwards for few samples: compare at equal n only.

    Source: Dowson and Landau 1982; Heusel et al. 2017.
    """

    def __init__(self) -> None:
        self.real, self.generated = Moments(), Moments()

    def update(
        self, real: Features | None = None, generated: Features | None = None
    ) -> FrechetDistance:
        """Take in (B, D) features of either set or both."""
        for moments, features in ((self.real, real), (self.generated, generated)):
            if features is not None:
                moments.update(features)
        return self

    def merge(self, other: FrechetDistance) -> FrechetDistance:
        """Take in another's sets."""
        self.real.merge(other.real)
        self.generated.merge(other.generated)
        return self

    def compute(self) -> Estimate:
        """The squared distance (as FID is reported).

        Raises:
            ValueError: fewer than two samples in a set, or features of different widths.
        """
        a, b = self.real, self.generated
        cov_a, cov_b = a.covariance, b.covariance
        if cov_a.shape != cov_b.shape:
            raise ValueError(f"features are {len(cov_a)} and {len(cov_b)} wide; use one function.")
        # tr((A B)^1/2) = tr((A^1/2 B A^1/2)^1/2): symmetric, so no complex square root is needed
        root = _symmetric_root(cov_a)
        shared = np.linalg.eigvalsh(root @ cov_b @ root).clip(min=0)
        gap = a.mean - b.mean
        value = gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(shared).sum()
        return number(max(float(value), 0.0), min(a.n, b.n))


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


class _TwoSets:
    """Keeps the features of two sets: what is computed of every pair needs them all."""

    def __init__(self) -> None:
        self.parts: dict[str, list[np.ndarray]] = {"real": [], "generated": []}

    def update(self, real: Features | None = None, generated: Features | None = None) -> _TwoSets:
        """Take in (B, D) features of either set or both."""
        for name, features in (("real", real), ("generated", generated)):
            if features is not None:
                parts = self.parts[name]
                parts.append(as_matrix(features, parts[0].shape[1] if parts else None))
        return self

    def merge(self, other: _TwoSets) -> _TwoSets:
        """Take in another's sets."""
        for name, parts in self.parts.items():
            parts += other.parts[name]
        return self

    def both(self) -> tuple[np.ndarray, np.ndarray]:
        """(N, D) real and (M, D) generated features.

        Raises:
            ValueError: fewer than two samples in a set, or features of different widths.
        """
        sets = [np.concatenate(p) if p else np.empty((0, 0)) for p in self.parts.values()]
        if min(map(len, sets)) < 2:
            raise ValueError(f"{len(sets[0])} real, {len(sets[1])} generated samples: give 2 each.")
        if sets[0].shape[1] != sets[1].shape[1]:
            widths = f"{sets[0].shape[1]} and {sets[1].shape[1]}"
            raise ValueError(f"features are {widths} wide; use one function.")
        return sets[0], sets[1]


class KernelDistance(_TwoSets):
    """Unbiased squared MMD with the cubic kernel `(x . y / D + 1)^3` (KID).

        mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean k(x_i, y_j)

    Over all samples at once rather than averaged over random subsets. Being unbiased it can be
    slightly negative, and it may be compared across numbers of samples.

    Source: Binkowski et al. 2018.
    """

    def compute(self) -> Estimate:
        """The squared distance."""
        x, y = self.both()

        def total(a: np.ndarray, b: np.ndarray) -> float:
            return sum(_cubic(a[i : i + _BLOCK], b).sum() for i in range(0, len(a), _BLOCK))

        def within(a: np.ndarray) -> float:
            own = ((a * a).sum(axis=1) / a.shape[1] + 1) ** 3
            return (total(a, a) - own.sum()) / (len(a) * (len(a) - 1))

        value = within(x) + within(y) - 2 * total(x, y) / (len(x) * len(y))
        return number(value, min(len(x), len(y)))


def _cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


class CMMD(_TwoSets):
    """1000 x squared MMD of unit-length CLIP features with a Gaussian kernel of sigma = 10.

        k(x, y) = exp(-|x - y|^2 / (2 sigma^2))

    All pairs are averaged, also of a sample with itself, as in the published code (biased, but of
    smallest variance). Features are scaled to unit length here.

    Source: Jayasumana et al. 2024, "Rethinking FID".
    """

    SIGMA, SCALE = 10.0, 1000.0

    def compute(self) -> Estimate:
        """The scaled squared distance; 0 for equal sets."""
        x, y = (s / np.linalg.norm(s, axis=1, keepdims=True).clip(min=1e-12) for s in self.both())

        def mean(a: np.ndarray, b: np.ndarray) -> float:
            # 1 - k, exactly: k is so close to 1 that averaging k itself would lose digits
            total = 0.0
            for i in range(0, len(a), _BLOCK):
                squared = (2 - 2 * a[i : i + _BLOCK] @ b.T).clip(min=0)
                total += np.expm1(-squared / (2 * self.SIGMA**2)).sum()
            return total / (len(a) * len(b))

        value = self.SCALE * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
        return number(max(value, 0.0), min(len(x), len(y)))


class PairScore:
    """Mean cosine of paired features: CLIP score, text-image or image-image (not scaled by 100)."""

    def __init__(self) -> None:
        self.mean = Mean()

    def update(self, a: Features, b: Features) -> PairScore:
        """Take in (B, D) and (B, D): row i belongs to row i."""
        a = as_matrix(a)
        b = as_matrix(b, a.shape[1])
        if len(a) != len(b):
            raise ValueError(f"{len(a)} and {len(b)} features: give pairs.")
        self.mean.update(1 - cosine_distance(a, b))
        return self

    def merge(self, other: PairScore) -> PairScore:
        """Take in another's pairs."""
        self.mean.merge(other.mean)
        return self

    def compute(self) -> Estimate:
        """Mean cosine."""
        return self.mean.compute()


class RecallAtK:
    """How often one of the k gallery items most like a query belongs to it.

    Row i of both sides belong together; with labels, everything of the query's label is right
    (sets that hold the same thing twice would otherwise blame the retriever). Ties count against
    it.
    """

    def __init__(self, ks: Sequence[int] = (1, 5, 10)) -> None:
        if not ks or min(ks) < 1:
            raise ValueError(f"ks is {tuple(ks)}: give ranks from 1.")
        self.ks = tuple(ks)
        self.parts: list[tuple[np.ndarray, np.ndarray, list[Hashable] | None]] = []

    def update(
        self, queries: Features, gallery: Features, labels: Sequence[Hashable] | None = None
    ) -> RecallAtK:
        """Take in (B, D) queries, their (B, D) gallery items, and B labels."""
        queries = as_matrix(queries)
        gallery = as_matrix(gallery, queries.shape[1])
        if len(queries) != len(gallery) or (labels is not None and len(labels) != len(queries)):
            told = "no" if labels is None else len(labels)
            raise ValueError(
                f"{len(queries)} queries, {len(gallery)} gallery items, {told} labels: give "
                "equally many."
            )
        self.parts.append((queries, gallery, None if labels is None else list(labels)))
        return self

    def merge(self, other: RecallAtK) -> RecallAtK:
        """Take in another's queries and gallery."""
        self.parts += other.parts
        return self

    def compute(self) -> dict[int, Estimate]:
        """k -> share of queries that find theirs among the first k.

        Raises:
            ValueError: without any query.
        """
        if not self.parts:
            raise ValueError("recall@k of nothing: update first.")
        queries, gallery = (np.concatenate([part[i] for part in self.parts]) for i in (0, 1))
        labels: list[Hashable] = []
        for part, _, given in self.parts:
            labels += (
                [(None, len(labels) + i) for i in range(len(part))] if given is None else given
            )
        codes = {label: i for i, label in enumerate(dict.fromkeys(labels))}
        code = np.array([codes[label] for label in labels])
        shares = {k: Proportion() for k in self.ks}
        for i in range(0, len(queries), _BLOCK):
            likeness = queries[i : i + _BLOCK] @ gallery.T
            right = code[i : i + _BLOCK, None] == code[None]
            best = np.where(right, likeness, -np.inf).max(axis=1, keepdims=True)
            before = ((likeness >= best) & ~right).sum(axis=1)
            for k, share in shares.items():
                share.update(before < k)
        return {k: share.compute() for k, share in shares.items()}


def cosine_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`1 - cos(a, b)` along the last axis."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return 1 - (a * b).sum(axis=-1) / np.maximum(norms, 1e-12)


def euclidean_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`|a - b|` along the last axis."""
    return np.linalg.norm(a - b, axis=-1)


def absolute_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean of `|a - b|` along the last axis: of pixels in [0, 1], how far two pictures are."""
    return np.abs(a - b).mean(axis=-1)


DISTANCES = {
    "cosine": cosine_distance,
    "euclidean": euclidean_distance,
    "absolute": absolute_distance,
}


class PairwiseDiversity:
    """How much the samples of one input differ: mean over inputs of their mean pairwise distance.

    Args:
        distance: one of `DISTANCES`.
    """

    def __init__(self, distance: str = "cosine") -> None:
        if distance not in DISTANCES:
            raise ValueError(f"distance is {distance!r}: choose from {', '.join(DISTANCES)}.")
        self.distance = distance
        self.mean = Mean()

    def update(self, samples: Features) -> PairwiseDiversity:
        """Take in (B, n, D): n >= 2 samples of each of B inputs."""
        if isinstance(samples, Tensor):
            samples = samples.detach().double().cpu().numpy()
        x = np.asarray(samples, dtype=np.float64)
        if x.ndim != 3 or x.shape[1] < 2:
            raise ValueError(f"samples have shape {x.shape}: give (inputs, 2 or more, D).")
        i, j = np.triu_indices(x.shape[1], k=1)
        self.mean.update(DISTANCES[self.distance](x[:, i], x[:, j]).mean(axis=1))
        return self

    def merge(self, other: PairwiseDiversity) -> PairwiseDiversity:
        """Take in another's inputs."""
        self.mean.merge(other.mean)
        return self

    def compute(self) -> Estimate:
        """Mean distance, its interval over inputs."""
        return self.mean.compute()
