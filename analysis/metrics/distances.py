"""Measures of pictures and texts by their features: distances of sets, scores of pairs, recall.

Features are what a feature function, such as `vd.image_features`, makes of pictures: (B, D). Which
function was used belongs beside every number: distances compare within one feature function, one
number of samples and one way of resizing only. All sums are float64.

| measure | compares | needs |
|---|---|---|
| `frechet_distance` (FID) | two sets, as Gaussians | many samples: biased upwards for few |
| `kernel_distance` (KID) | two sets, by all their pairs | few samples will do: unbiased |
| `cmmd` | two sets of CLIP features | few samples will do |
| `paired_cosine` (CLIP score) | rows that belong together | |
| `diversity` | samples of one input | 2 or more of each |
| `recall` | queries with what they should find | 2 or more |
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from torch import Tensor

from analysis.metrics.statistics import Estimate, mean, number, share

Features = Tensor | np.ndarray
"""(B, D) vectors, a row a picture or text."""

_BLOCK = 2048  # rows of a kernel matrix held at once


# ---------------------------------------------------------------------- two sets


def frechet_distance(real: Features, generated: Features) -> Estimate:
    """Distance of two sets of features as if both were Gaussian (FID, with Inception's features).

        |m_r - m_g|^2 + tr(C_r + C_g - 2 (C_r C_g)^(1/2))

    m are the means, C the unbiased covariances. This is the squared distance, as FID is reported.
    Biased upwards for few samples: compare at equal n only, or take `kernel_distance`.

    Args:
        real: (N, D).
        generated: (M, D).

    Raises:
        ValueError: fewer than two samples in a set, or features of different widths.

    Source: Dowson and Landau 1982; Heusel et al. 2017.
    """
    a, b = _two_sets(real, generated)
    cov_a, cov_b = (np.cov(x, rowvar=False).reshape(x.shape[1], -1) for x in (a, b))
    # tr((A B)^1/2) = tr((A^1/2 B A^1/2)^1/2): symmetric, so no complex square root is needed
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(min=0)).sum()
    gap = a.mean(axis=0) - b.mean(axis=0)
    value = gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * shared
    return number(max(float(value), 0.0), min(len(a), len(b)))


def kernel_distance(real: Features, generated: Features) -> Estimate:
    """Unbiased squared MMD with the cubic kernel k(x, y) = (x . y / D + 1)^3 (KID).

        mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean k(x_i, y_j)

    Over all samples at once rather than averaged over random subsets. Being unbiased it can be
    slightly negative, and it may be compared across numbers of samples.

    Args:
        real: (N, D).
        generated: (M, D).

    Raises:
        ValueError: as `frechet_distance`.

    Source: Binkowski et al. 2018.
    """
    x, y = _two_sets(real, generated)

    def cubic(products: np.ndarray) -> np.ndarray:
        return (products / x.shape[1] + 1) ** 3

    def within(a: np.ndarray) -> float:
        own = cubic((a * a).sum(axis=1)).sum()
        return (_total(cubic, a, a) - own) / (len(a) * (len(a) - 1))

    value = within(x) + within(y) - 2 * _total(cubic, x, y) / (len(x) * len(y))
    return number(value, min(len(x), len(y)))


def cmmd(real: Features, generated: Features, sigma: float = 10.0) -> Estimate:
    """1000 x squared MMD of unit-length CLIP features with a Gaussian kernel; 0 for equal sets.

        k(x, y) = exp(-|x - y|^2 / (2 sigma^2))

    All pairs are averaged, also of a sample with itself, as in the published code (biased, but of
    smallest variance). Features are scaled to unit length here.

    Args:
        real: (N, D).
        generated: (M, D).
        sigma: width of the kernel.

    Raises:
        ValueError: as `frechet_distance`.

    Source: Jayasumana et al. 2024, "Rethinking FID".
    """
    x, y = (_unit(a) for a in _two_sets(real, generated))

    def below(products: np.ndarray) -> np.ndarray:
        # k - 1, exactly: k is so close to 1 that averaging k itself would lose digits
        return np.expm1(-(2 - 2 * products).clip(min=0) / (2 * sigma**2))

    xx, yy, xy = (_total(below, a, b) / (len(a) * len(b)) for a, b in ((x, x), (y, y), (x, y)))
    return number(max(1000 * (xx + yy - 2 * xy), 0.0), min(len(x), len(y)))


def _total(kernel: Callable[[np.ndarray], np.ndarray], a: np.ndarray, b: np.ndarray) -> float:
    """Sum of a kernel of the inner products of all pairs, a block of rows at a time."""
    return sum(kernel(a[i : i + _BLOCK] @ b.T).sum() for i in range(0, len(a), _BLOCK))


# ---------------------------------------------------------------------- pairs and samples


def paired_cosine(a: Features, b: Features) -> Estimate:
    """Mean cosine of paired features: CLIP score, text-image or image-image (not scaled by 100).

    Args:
        a, b: (B, D) each: row i belongs to row i.

    Raises:
        ValueError: another number or width of a than of b.
    """
    a = as_matrix(a)
    b = as_matrix(b, a.shape[1])
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} features: give pairs.")
    return mean((_unit(a) * _unit(b)).sum(axis=-1))


def diversity(samples: Features) -> Estimate:
    """How much the samples of one input differ: mean over inputs of their mean pairwise 1 - cosine.

    Args:
        samples: (B, n, D): n >= 2 samples of each of B inputs.

    Returns:
        From 0 (all alike) to 2; its interval is over inputs.

    Raises:
        ValueError: another shape.
    """
    x = _array(samples)
    if x.ndim != 3 or x.shape[1] < 2:
        raise ValueError(f"samples have shape {x.shape}: give (inputs, 2 or more, D).")
    i, j = np.triu_indices(x.shape[1], k=1)
    unit = _unit(x)
    return mean((1 - (unit[:, i] * unit[:, j]).sum(axis=-1)).mean(axis=1))


def recall(
    queries: Features,
    gallery: Features,
    labels: Sequence[Hashable] | None = None,
    ks: Sequence[int] = (1, 5),
) -> dict[str, Estimate]:
    """How often one of the k gallery items most like a query (by inner product) belongs to it.

    Row i of both sides belong together; with labels, everything of the query's label is right
    (sets that hold the same thing twice would otherwise blame the retriever). Ties count against
    it.

    Args:
        queries, gallery: (n, D) each.
        labels: n of them; None if nothing but row i belongs to row i.
        ks: ranks from 1.

    Returns:
        {"recall@1": ..., "recall@5": ...}.

    Raises:
        ValueError: fewer than two queries: whoever searches among one item finds it, so a recall
            would be 1 whatever the features; or shapes, labels or ranks that do not fit.
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"ks is {tuple(ks)}: give ranks from 1.")
    queries = as_matrix(queries)
    gallery = as_matrix(gallery, queries.shape[1])
    labels = range(len(queries)) if labels is None else labels
    if not len(queries) == len(gallery) == len(labels):
        raise ValueError(
            f"{len(queries)} queries, {len(gallery)} gallery items, {len(labels)} labels: give "
            "equally many."
        )
    if len(queries) < 2:
        raise ValueError(f"recall@k among {len(queries)} is not defined: give 2 samples or more.")
    codes = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    code = np.array([codes[label] for label in labels])
    before = []  # wrong items that are at least as like the query as the best right one
    for i in range(0, len(queries), _BLOCK):
        likeness = queries[i : i + _BLOCK] @ gallery.T
        right = code[i : i + _BLOCK, None] == code[None]
        best = np.where(right, likeness, -np.inf).max(axis=1, keepdims=True)
        before.append(((likeness >= best) & ~right).sum(axis=1))
    ranks = np.concatenate(before)
    return {f"recall@{k}": share(ranks < k) for k in ks}


# ---------------------------------------------------------------------- shapes


def as_matrix(features: Features, width: int | None = None) -> np.ndarray:
    """Features as a float64 matrix.

    Args:
        features: (B, D).
        width: the D that is expected; None for any.

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    x = _array(features)
    if x.ndim != 2 or (width is not None and x.shape[1] != width):
        wanted = "D" if width is None else width
        raise ValueError(f"Features have shape {x.shape}: give (batch, {wanted}).")
    return x


def _array(features: Features) -> np.ndarray:
    if isinstance(features, Tensor):
        features = features.detach().double().cpu().numpy()
    x = np.asarray(features, dtype=np.float64)
    if not np.isfinite(x).all():
        raise ValueError("Features hold NaN or infinity: look for the picture that made them.")
    return x


def _two_sets(real: Features, generated: Features) -> tuple[np.ndarray, np.ndarray]:
    a, b = as_matrix(real), as_matrix(generated)
    if min(len(a), len(b)) < 2:
        raise ValueError(
            f"{len(a)} real, {len(b)} generated samples: give 2 samples or more of each."
        )
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features are {a.shape[1]} and {b.shape[1]} wide; use one function.")
    return a, b


def _unit(x: np.ndarray) -> np.ndarray:
    """Vectors along the last axis, scaled to length 1 (those of length 0 stay 0)."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True).clip(min=1e-12)
