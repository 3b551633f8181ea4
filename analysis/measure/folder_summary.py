"""The suite `folder`, second half: from rows to distances and scores.

Pure functions of the rows that `analysis.measure.folder_tasks` makes. Leaves of the returned dicts are
`Estimate`s. Features are unpacked and taken in block by block; recall alone needs all at once.

Frechet distances fall with the number of pictures, whatever the model: compare at equal n. Scores
have their `..._of_real` beside them: the real picture with its own caption.

Recall falls with the number of pictures, too: the n of a share is how many are searched. Each
picture takes part with one caption, the prompt, so image to text is harder than where any of a
picture's five captions counts, as in numbers published on COCO.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from analysis.measure.rows import Row, unpack
from analysis.measure.scene_summary import RANKS
from analysis.metrics.accumulators import Proportion
from analysis.metrics.metrics import (
    CMMD,
    FrechetDistance,
    KernelDistance,
    PairScore,
    PairwiseDiversity,
)
from analysis.metrics.retrieval import recall
from analysis.metrics.text_metrics import Bleu, CaptionStatistics, CiderD, RougeL

Section = dict[str, Any]  # nested; leaves are Estimates

_BLOCK = 1024
_COMPARED = {
    "t2i": ("frechet_distance", "kernel_distance", "cmmd", "clip_score"),
    "i2i": ("frechet_distance", "kernel_distance", "cmmd", "likeness_to_input"),
    "i2t": ("bleu4", "rouge_l", "cider_d", "clip_score"),
}
"""What sweeps show."""


def flow(name: str, real: Sequence[Row], rows: Sequence[Row]) -> Section:
    """All measures of a flow.

    Args:
        name: of the flow.
        real: rows of the task `real`; those of the first inputs may be enough.
        rows: of the flow's task.
    """
    return _FLOWS[name](real[: len(rows)], rows)


def real(rows: Sequence[Row]) -> Section:
    """How often real pictures and captions find each other: what generated ones can be held to.

    Args:
        rows: of the task `real`.

    Returns:
        {"retrieval": ...}, or nothing where no feature function has texts.
    """

    def of(label: str) -> Section:
        if not has(rows, label, "text"):
            return {}
        return retrieval(rows, rows, "text", rows, "picture", label)

    found = _with_features(rows, of)
    return {"retrieval": found} if found else {}


def sweep(name: str, real: Sequence[Row], rows: Sequence[Row]) -> Section:
    """The few numbers of a flow that are compared over settings, in one level."""
    found = flow(name, real, rows)
    parts = dict(found["features"]) if "features" in found else {}
    flat: Section = {
        key: value for key, value in found.get("text", {}).items() if key in _COMPARED[name]
    }
    for label, section in parts.items():
        kept = {k: v for k, v in section.items() if k in _COMPARED[name]}
        flat |= kept if len(parts) == 1 else {f"{k} ({label})": v for k, v in kept.items()}
    return flat


def _t2i(real: Sequence[Row], rows: Sequence[Row]) -> Section:
    """How close generated pictures are to real ones, and to what they were asked to show."""

    def of(label: str) -> Section:
        found = distances(real, rows, label)
        if has(real, label, "text"):
            found["clip_score"] = score(rows, "generated", real, "text", label)
            found["clip_score_of_real"] = score(real, "picture", real, "text", label)
            found["retrieval"] = retrieval(real, real, "text", rows, "generated", label)
        return found | _diversity(rows, label)

    return _with_features(rows, of) | {"prompts_cut": _share(real, "cut")}


def _i2i(real: Sequence[Row], rows: Sequence[Row]) -> Section:
    """How close variations are to their input and to real pictures, and how they differ."""

    def of(label: str) -> Section:
        found = {"likeness_to_input": score(rows, "generated", real, "picture", label)}
        return found | distances(real, rows, label) | _diversity(rows, label)

    return _with_features(rows, of)


def _i2t(real: Sequence[Row], rows: Sequence[Row]) -> Section:
    """How close texts are to people's captions, and to the picture."""
    texts = [row["text"] for row in rows]
    references = [row["captions"] for row in real]
    text: Section = {}
    for name, metric in (("bleu4", Bleu()), ("rouge_l", RougeL()), ("cider_d", CiderD())):
        text[name] = metric.update(texts, references).compute()
    text |= _wording(rows)
    captions = CaptionStatistics().update([row["prompt"] for row in real]).compute()
    text |= {f"{name}_of_captions": value for name, value in captions.items()}
    return {"text": text} | _with_features(rows, lambda label: _of_texts(real, rows, label))


def _t2t(real: Sequence[Row], rows: Sequence[Row]) -> Section:
    """How close variations of a caption are to it, and to the picture it is of."""
    texts, inputs = [row["text"] for row in rows], [[row["prompt"]] for row in real]
    text = {"reworded": _share(rows, "reworded")}
    text["bleu4_to_input"] = Bleu().update(texts, inputs).compute()

    def of(label: str) -> Section:
        found = _of_texts(real, rows, label)
        if found:
            found["likeness_to_input"] = score(rows, "text", real, "text", label)
        return found

    return {"text": text | _wording(rows), "prompts_cut": _share(real, "cut")} | _with_features(
        rows, of
    )


_FLOWS: dict[str, Callable[[Sequence[Row], Sequence[Row]], Section]] = {
    "t2i": _t2i,
    "i2i": _i2i,
    "i2t": _i2t,
    "t2t": _t2t,
}


# ---------------------------------------------------------------------- parts


def distances(real: Sequence[Row], rows: Sequence[Row], label: str) -> Section:
    """Distances of generated pictures from real ones; CMMD where the function is a CLIP."""
    if len(rows) < 2:
        return {}
    metrics = {"frechet_distance": FrechetDistance(), "kernel_distance": KernelDistance()}
    metrics |= {"cmmd": CMMD()} if has(real, label, "text") else {}
    blocks = zip(features(real, label, "picture"), features(rows, label, "generated"), strict=True)
    for a, b in blocks:
        for metric in metrics.values():
            metric.update(real=a, generated=b)
    return {name: metric.compute() for name, metric in metrics.items()}


def score(a: Sequence[Row], of_a: str, b: Sequence[Row], of_b: str, label: str) -> Any:
    """Mean cosine of two features of the same inputs."""
    metric = PairScore()
    for x, y in zip(features(a, label, of_a), features(b, label, of_b), strict=True):
        metric.update(x, y)
    return metric.compute()


def retrieval(
    real: Sequence[Row],
    texts: Sequence[Row],
    of_texts: str,
    pictures: Sequence[Row],
    of_pictures: str,
    label: str,
) -> Section:
    """Recall from texts to pictures and back, by cosine; a constant text finds nothing.

    Inputs with the same prompt may stand for each other: nobody could tell them apart.
    """
    sides = []
    for rows, name in ((texts, of_texts), (pictures, of_pictures)):
        x = np.concatenate(list(features(rows, label, name))).astype(np.float64)
        sides.append(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))
    asked, shown = sides
    prompts = [row["prompt"] for row in real]
    return {
        "text_to_image": recall(asked, shown, prompts, RANKS),
        "image_to_text": recall(shown, asked, prompts, RANKS),
    }


def has(rows: Sequence[Row], label: str, name: str) -> bool:
    """Whether rows hold that feature of that function."""
    return bool(rows) and name in rows[0].get("features", {}).get(label, {})


def features(rows: Sequence[Row], label: str, name: str) -> Iterator[np.ndarray]:
    """(B, D) features in blocks."""
    for i in range(0, len(rows), _BLOCK):
        block = rows[i : i + _BLOCK]
        yield np.stack([unpack(row["features"][label][name]) for row in block])


def _diversity(rows: Sequence[Row], label: str) -> Section:
    """Mean cosine distance of two samples of one input."""
    pairs = [row for row in rows if has([row], label, "again")]
    if not pairs:
        return {}
    metric = PairwiseDiversity("cosine")
    sides = (features(pairs, label, name) for name in ("generated", "again"))
    for a, b in zip(*sides, strict=True):
        metric.update(np.stack([a, b], axis=1))
    return {"diversity": metric.compute()}


def _of_texts(real: Sequence[Row], rows: Sequence[Row], label: str) -> Section:
    if not has(rows, label, "text"):
        return {}
    return {
        "clip_score": score(rows, "text", real, "picture", label),
        "clip_score_of_real": score(real, "text", real, "picture", label),
        "retrieval": retrieval(real, rows, "text", real, "picture", label),
    }


def _wording(rows: Sequence[Row]) -> Section:
    pairs = [row for row in rows if "differs" in row]
    found = CaptionStatistics().update([row["text"] for row in rows]).compute()
    return found | ({"worded_differently": _share(pairs, "differs")} if pairs else {})


def _with_features(rows: Sequence[Row], of: Callable[[str], Section]) -> Section:
    """What a function of a feature function's name finds, for each name; without empty ones."""
    labels: Mapping[str, Any] = rows[0].get("features", {}) if rows else {}
    found = {label: section for label in labels if (section := of(label))}
    return {"features": found} if found else {}


def _share(rows: Sequence[Row], name: str) -> Any:
    return Proportion().update([bool(row[name]) for row in rows]).compute()
