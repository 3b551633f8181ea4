"""The suite `scenes`, second half: from rows to shares and distances with their intervals.

Pure functions of rows (`analysis.measure.scene_tasks` makes them), so a report can be made again from what
is on disk. Leaves of the returned dicts are `Estimate`s.

Intervals take inputs as independent draws from the split (which repeats some scenes). Where an
input has two samples, only the first one counts towards shares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from analysis.measure.rows import Row, unpack
from analysis.metrics.accumulators import Mean, Proportion, Ratio
from analysis.metrics.metrics import (
    CMMD,
    FrechetDistance,
    KernelDistance,
    PairScore,
    PairwiseDiversity,
    RecallAtK,
)
from analysis.metrics.retrieval import retrieval
from analysis.metrics.statistics import Estimate, paired_difference, wilson
from analysis.metrics.text_metrics import Bleu, CaptionStatistics, CiderD, RougeL
from data.scenes.judge import MIN_ACCURACY
from data.scenes.world import ATTRIBUTES, Scene

Section = dict[str, Any]  # nested; leaves are Estimates
RANKS = (1, 5, 10)
"""k of the recall@k of search."""


def licence(rows: Mapping[str, Sequence[Row]]) -> Section:
    """How well the judge reads real renders, by split.

    Raises:
        ValueError: less than `MIN_ACCURACY` on an attribute: such a judge judges nothing.
    """
    found = {name: _attributes(row["right"] for row in part) for name, part in rows.items()}
    poor = [
        f"{attribute} {share.value:.2%} ({name})"
        for name, shares in found.items()
        for attribute, share in shares.items()
        if share.value is not None and share.value < MIN_ACCURACY
    ]
    if poor:
        raise ValueError(
            f"The judge misreads real renders: {', '.join(poor)}; {MIN_ACCURACY:.1%} is needed of "
            "every attribute, so nothing was judged. Train it longer (`python -m training judge`)."
        )
    return found


def t2i(rows: Sequence[Row]) -> Section:
    """Share of pictures that show what was asked for."""
    return _pictures(rows, [row["right"] for row in rows])


def heldout_objects(rows: Sequence[Row]) -> Section:
    """The things of never-seen colour and shape by themselves, wherever in the picture they are."""
    shares = {name: Proportion() for name in ("color_and_shape", "color", "shape", "size")}
    for row in rows:
        scene = Scene.from_attributes(row["scene"])
        for i, thing in enumerate(scene.canonical().things, 1):
            if not thing.held_out:
                continue
            right = {name: row["right"][f"{name}{i}"] for name in ("color", "shape", "size")}
            for name, value in right.items():
                shares[name].update(value)
            shares["color_and_shape"].update(right["color"] and right["shape"])
    return _computed(shares)


def t2i_features(rows: Sequence[Row]) -> Section:
    """Distances and scores in feature space, each beside what real renders get.

    The `..._of_renders` are the floor (two draws of real renders) or the ceiling (real pictures
    with their captions).
    """
    real, made = _features(rows, "real"), _features(rows, "generated")
    if real is None or len(rows) < 2:
        return {}
    again, text = _features(rows, "again"), _features(rows, "text")
    found: Section = {}
    measures = {
        "frechet_distance": FrechetDistance,
        "kernel_distance": KernelDistance,
        "cmmd": CMMD,
    }
    for name, metric in measures.items():
        found[name] = metric().update(real=real, generated=made).compute()
        found[f"{name}_of_renders"] = metric().update(real=real, generated=again).compute()
    if text is not None:
        labels = [Scene.from_attributes(row["scene"]).key() for row in rows]
        for name, pictures in (("", made), ("_of_renders", real)):
            found[f"clip_score{name}"] = PairScore().update(text, pictures).compute()
            recall = RecallAtK((1,)).update(text, pictures, labels).compute()
            found[f"caption_finds_picture{name}"] = recall[1]
    return found


def i2i(rows: Sequence[Row]) -> Section:
    """What variations keep (the scene), and how much of the rest they vary.

    Diversity is a ratio of means: between two samples of one input, over between two real
    re-renders of its scene. 1 is as varied as the world itself. Errors look like diversity, so
    `diversity_where_kept` takes only inputs of which both samples keep the scene.
    `difference_to_input` likewise compares with the picture that was given: near 0 is a copy.
    """
    found = {"semantics_kept": _pictures(rows, [row["samples"][0]["right"] for row in rows])}
    kept = [row for row in rows if all(sample["right"]["all"] for sample in row["samples"])]
    found["semantics_kept"]["both_samples"] = wilson(len(kept), len(rows))
    parts = {
        "diversity": ("between", rows),
        "diversity_where_kept": ("between", kept),
        "difference_to_input": ("to_input", rows),
    }
    for name, (key, part) in parts.items():
        found[name] = {
            f"{measure}_ratio": _ratio(part, key, measure)
            for measure in ("pixels", "position", "size")
        }
        for side in ("generated", "real"):
            distances = Mean().update([row[key][side]["pixels"] for row in part])
            found[name][f"pixels_{side}"] = distances.compute()
    given, made = _features(rows, "given"), _features(rows, "generated")
    if given is not None:
        real, again = _features(rows, "real"), _features(rows, "again")
        pairs = PairwiseDiversity("cosine").update(np.stack([made, again], axis=1))
        found["features"] = {
            "clip_score_to_input": PairScore().update(given, made).compute(),
            "clip_score_to_input_of_renders": PairScore().update(given, real).compute(),
            "clip_distance_between_samples": pairs.compute(),
        }
        if len(rows) > 1:
            distance = FrechetDistance().update(real=real, generated=made)
            found["features"]["frechet_distance"] = distance.compute()
    return found


def i2t(rows: Sequence[Row]) -> Section:
    """Share of captions that say exactly what the picture shows, and what they look like."""
    found = _captions(rows)
    found["text"] = _text_measures([row["text"] for row in rows])
    references = [row["references"] for row in rows]
    for name, metric in (("bleu4", Bleu()), ("rouge_l", RougeL()), ("cider_d", CiderD())):
        scored = metric.update([row["text"] for row in rows], references)
        found["text"][f"{name}_to_references"] = scored.compute()
    given, text = _features(rows, "given"), _features(rows, "text")
    if given is not None and text is not None:
        found["features"] = {"clip_score": PairScore().update(text, given).compute()}
    return found


def t2t(rows: Sequence[Row]) -> Section:
    """Share of variations that say the same in other words."""
    found = _captions(rows, exact="same_scene")
    shares = {
        "reworded": _share(rows, lambda row: row["reworded"]),
        "same_scene_and_reworded": _share(rows, lambda row: row["exact"] and row["reworded"]),
    }
    pairs = [row for row in rows if "second" in row]
    second = {
        "worded_differently": _share(pairs, lambda row: row["second"]["differs"]),
        "both_same_scene": _share(pairs, lambda row: row["exact"] and row["second"]["exact"]),
        "both_same_scene_and_worded_differently": _share(
            pairs, lambda row: row["exact"] and row["second"]["exact"] and row["second"]["differs"]
        ),
    }
    text = _text_measures([row["text"] for row in rows])
    inputs = [[row["caption"]] for row in rows]
    text["bleu4_to_input"] = Bleu().update([row["text"] for row in rows], inputs).compute()
    return {
        "same_scene": found.pop("same_scene"),
        **shares,
        **found,
        "two_samples_of_one_input": second,
        "text": text,
    }


def reconstruction(images: Sequence[Row], texts: Sequence[Row]) -> Section:
    """How much of a picture or a caption its autoencoder gives back."""
    errors = np.array([row["mse"] for row in images])
    of_mean = -10 * np.log10(errors.mean())
    return {
        "image": {
            "psnr": Mean("dB").update(-10 * np.log10(errors)).compute(),
            "psnr_of_mean_error": Estimate(float(of_mean), None, None, len(errors), unit="dB"),
        },
        "text": {
            "exact_match": _share(texts, lambda row: row["match"]),
            "same_scene": _share(texts, lambda row: row["exact"]),
        },
    }


def sweep(flow: str, rows: Sequence[Row]) -> Section:
    """The few numbers that are compared over guidance scales, or over steps."""
    if flow == "i2t":
        found = _captions(rows)
        return {name: found[name] for name in ("exact_scene", "parsed")}
    found = {"all": t2i(rows)["all"]}
    features = t2i_features(rows)
    return found | {k: features[k] for k in ("frechet_distance", "clip_score") if k in features}


def fidelity(rows: Sequence[Row]) -> Section:
    """What is compared over fidelities: what is kept, and how far a variation is from its input.

    At fidelity 1 nothing is sampled: what is left of the distance is that of the image VAE.
    """
    kept = _share(rows, lambda row: row["samples"][0]["right"]["all"])
    distances = Mean().update([row["to_input"]["generated"]["pixels"] for row in rows])
    found: Section = {"all_kept": kept, "pixels_to_input": distances.compute()}
    given, made = _features(rows, "given"), _features(rows, "generated")
    if given is not None:
        pairs = PairwiseDiversity("cosine").update(np.stack([given, made], axis=1))
        found["clip_distance_to_input"] = pairs.compute()
    return found


def search(rows: Sequence[Row]) -> Section:
    """How often search finds a scene's picture among all: asked by its caption, by another render.

    The numbers of pictures that are searched is the n of every share.
    """
    features = {name: _features(rows, name) for name in ("text", "picture", "again")}
    return retrieval(features["text"], features["picture"], features["again"], ks=RANKS)


def captioning(rows: Sequence[Row]) -> Section:
    """Captions chosen by CLIP among candidates, beside what choice could win.

    `of_first` is what one candidate alone would give, `any_exact_scene` what a perfect choice
    would; `best_minus_first` is of the same pictures, so its interval is that of pairs.
    """
    best, first = ([row[name]["exact"] for row in rows] for name in ("best", "first"))
    gained = sum(b and not f for b, f in zip(best, first, strict=True))
    lost = sum(f and not b for b, f in zip(best, first, strict=True))
    return {
        "exact_scene": Proportion().update(best).compute(),
        "parsed": _share(rows, lambda row: row["best"]["parsed"]),
        "of_first": {
            "exact_scene": Proportion().update(first).compute(),
            "parsed": _share(rows, lambda row: row["first"]["parsed"]),
        },
        "best_minus_first": paired_difference(gained, lost, len(rows)),
        "any_exact_scene": _share(rows, lambda row: any(row["exact"])),
    }


# ---------------------------------------------------------------------- parts


def _share(rows: Iterable[Row], holds: Callable[[Row], bool]) -> Estimate:
    return Proportion().update([bool(holds(row)) for row in rows]).compute()


def _computed(metrics: Mapping[str, Proportion]) -> dict[str, Estimate]:
    return {name: metric.compute() for name, metric in metrics.items()}


def _attributes(rights: Iterable[Mapping[str, bool]]) -> dict[str, Estimate]:
    """Share right of each attribute, over the scenes that have it."""
    shares = {name: Proportion() for name in ATTRIBUTES}
    for right in rights:
        for name, share in shares.items():
            if name in right:
                share.update(right[name])
    return _computed(shares)


def _by_count(rows: Sequence[Row], holds: Sequence[bool]) -> dict[str, Estimate]:
    """A share over the scenes of one and of two objects."""
    shares = {1: Proportion(), 2: Proportion()}
    for row, value in zip(rows, holds, strict=True):
        shares[row["scene"]["count"]].update(value)
    return {"one_object": shares[1].compute(), "two_objects": shares[2].compute()}


def _pictures(rows: Sequence[Row], rights: Sequence[Mapping[str, bool]]) -> Section:
    """All attributes right: overall, by number of objects, and each attribute."""
    whole = [right["all"] for right in rights]
    found: Section = {"all": Proportion().update(whole).compute()}
    return found | _by_count(rows, whole) | {"attributes": _attributes(rights)}


def _captions(rows: Sequence[Row], exact: str = "exact_scene") -> Section:
    """What captions say: exactly the scene, a scene at all, each attribute where readable."""
    hits = [row["exact"] for row in rows]
    readable = [row["right"] for row in rows if row["right"] is not None]
    return {
        exact: Proportion().update(hits).compute(),
        **_by_count(rows, hits),
        "parsed": _share(rows, lambda row: row["parsed"]),
        "readable": _share(rows, lambda row: row["right"] is not None),
        "attributes_where_readable": _attributes(readable),
    }


def _text_measures(texts: Sequence[str]) -> dict[str, Estimate]:
    return CaptionStatistics().update(texts).compute()


def _ratio(rows: Sequence[Row], key: str, measure: str) -> Estimate:
    """Mean distance of generated pictures over that of real ones, where both can be measured."""
    ratio = Ratio()
    for row in rows:
        a, b = (row[key][side][measure] for side in ("generated", "real"))
        if a is not None and b is not None:
            ratio.update(a, b)
    return ratio.compute()


def _features(rows: Sequence[Row], name: str) -> np.ndarray | None:
    """(N, D) features of one name, or None if there are none."""
    if not rows or name not in rows[0].get("features", {}):
        return None
    return np.stack([unpack(row["features"][name]) for row in rows])
