"""What suites sum up alike: features that are compared, texts beside references.

A number that is not defined on what was measured is a sentence instead, which says why; a report
lists these apart (`report.numbers`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from analysis.measure.rows import Row, Rows, unpack
from analysis.metrics.distances import (
    cmmd,
    diversity,
    frechet_distance,
    kernel_distance,
    recall,
)
from analysis.metrics.statistics import Estimate, paired_difference, share
from analysis.metrics.text_metrics import bleu, cider_d, rouge_l, words

Section = dict[str, Any]
"""Nested; leaves are `Estimate`s, or sentences that say why there is no number."""
RANKS = (1, 5, 10)
"""k of the recall@k of search."""


def share_of(rows: Rows, holds: Callable[[Row], Any]) -> Estimate:
    """Share of rows for which something holds."""
    return share(bool(holds(row)) for row in rows)


def gain(after: Sequence[bool], before: Sequence[bool]) -> Estimate:
    """Share of inputs that are so after, less that before, with the interval of pairs."""
    pairs = [(bool(a), bool(b)) for a, b in zip(after, before, strict=True)]
    return paired_difference(pairs.count((True, False)), pairs.count((False, True)), len(pairs))


# ---------------------------------------------------------------------- features


def labels(rows: Rows) -> Iterator[str]:
    """Names of the feature functions that rows have vectors of."""
    return iter(rows[0].get("features", {}) if rows else ())


def features(rows: Rows, name: str, label: str | None = None) -> np.ndarray | None:
    """(N, D) features of one name, or None if there are none.

    Args:
        rows: all have them, or none.
        name: of what they are of, such as "generated".
        label: of the feature function; None is the first one.
    """
    label = next(labels(rows), None) if label is None else label
    if not rows or name not in rows[0].get("features", {}).get(label, {}):
        return None
    return np.stack([unpack(row["features"][label][name]) for row in rows])


def distances(real: np.ndarray, made: np.ndarray, clip: bool = True) -> Section:
    """Distances of two sets of pictures.

    Args:
        real: (N, D).
        made: (N, D).
        clip: whether the feature function is a CLIP, on which CMMD is defined.
    """
    metrics = {"frechet_distance": frechet_distance, "kernel_distance": kernel_distance}
    metrics |= {"cmmd": cmmd} if clip else {}
    return {name: from_two(len(made), metric, real, made) for name, metric in metrics.items()}


def samples_differ(a: np.ndarray, b: np.ndarray) -> Estimate:
    """Mean cosine distance of two samples of one input."""
    return diversity(np.stack([a, b], axis=1))


def recalls(
    queries: np.ndarray,
    gallery: np.ndarray,
    labels: Sequence[Hashable] | None = None,
    ks: Sequence[int] = RANKS,
) -> Section:
    """recall@k by cosine, the n of each share being how many are searched.

    Among k or fewer, whoever looks at the first k finds everything, so there it is left out.
    """
    n = len(queries)
    sides = (np.asarray(x, dtype=np.float64) for x in (queries, gallery))  # ties stay ties
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12) for x in sides]
    section: Section = recall(*unit, labels, ks) if n > 1 else {}
    few = {
        f"recall@{k}": f"the first {k} of {n} are all that there are: search among {k + 1} or more"
        for k in ks
        if k >= n
    }
    return section | few


def from_two(n: int, metric: Callable[..., Estimate], *values: Any) -> Estimate | str:
    """What a metric makes of n samples, or why it makes nothing of them."""
    return metric(*values) if n > 1 else f"not defined on {n} input: measure 2 or more"


# ---------------------------------------------------------------------- texts


def against(texts: Sequence[str], references: Sequence[Sequence[str]], suffix: str = "") -> Section:
    """How close texts are to their references; `suffix` ends the names."""
    long = any(len(words(text)) >= 4 for several in references for text in several)
    four = "not defined where no reference has 4 words: see the other numbers"
    return {
        f"bleu4{suffix}": bleu(texts, references) if long else four,
        f"rouge_l{suffix}": rouge_l(texts, references),
        f"cider_d{suffix}": from_two(len(texts), cider_d, texts, references),
    }
