"""The suite `scenes`, summed up: from rows to shares and distances with their intervals.

Pure functions of rows (`analysis.measure.scenes` makes them), so a report can be made again from
what is on disk.

Intervals take inputs as independent draws from the split (which repeats some scenes). Where an
input has two samples, only the first one counts towards shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from analysis.measure.numbers import (
    Section,
    against,
    distances,
    features,
    from_two,
    gain,
    recalls,
    samples_differ,
    share_of,
)
from analysis.measure.rows import Row, Rows
from analysis.measure.scene_inputs import attributes
from analysis.metrics.distances import frechet_distance, paired_cosine
from analysis.metrics.statistics import Estimate, mean, number, ratio, share, wilson
from analysis.metrics.text_metrics import bleu, caption_statistics
from data.scenes.world import Scene


def t2i(rows: Rows) -> Section:
    """Share of pictures that show what was asked for."""
    return _pictures(rows, [row["right"] for row in rows])


def heldout_objects(rows: Rows) -> Section:
    """The things of never-seen colour and shape by themselves, wherever in the scene they are.

    Of a text that makes no sense nothing is right. Of two samples of an input the first counts.
    """
    seen: dict[str, list[bool]] = {n: [] for n in ("color_and_shape", "color", "shape", "size")}
    for row in rows:
        rights = (row["samples"][0] if "samples" in row else row)["right"] or {}
        for i, thing in enumerate(Scene.from_attributes(row["scene"]).canonical().things, 1):
            if not thing.held_out:
                continue
            right = {name: rights.get(f"{name}{i}", False) for name in ("color", "shape", "size")}
            right["color_and_shape"] = right["color"] and right["shape"]
            for name, value in right.items():
                seen[name].append(value)
    return {name: share(values) for name, values in seen.items()}


def t2i_features(rows: Rows) -> Section:
    """Distances and scores in feature space, each beside what real renders get.

    The `..._of_renders` are the floor (two draws of real renders) or the ceiling (real pictures
    with their captions).
    """
    real, made = features(rows, "real"), features(rows, "generated")
    if real is None:
        return {}
    again, text = features(rows, "again"), features(rows, "text")
    section: Section = {}
    floor = distances(real, again, clip=text is not None)
    for name, value in distances(real, made, clip=text is not None).items():
        section |= {name: value, f"{name}_of_renders": floor[name]}
    if text is not None:
        labels = [Scene.from_attributes(row["scene"]).key() for row in rows]
        for name, pictures in (("", made), ("_of_renders", real)):
            section[f"clip_score{name}"] = paired_cosine(text, pictures)
            first = recalls(text, pictures, labels, (1,))["recall@1"]
            section[f"caption_finds_picture{name}"] = first
    return section


def i2i(rows: Rows) -> Section:
    """What variations keep (the scene), and how much of the rest they vary.

    Diversity is a ratio of means: between two samples of one input, over between two real
    re-renders of its scene. 1 is as varied as the world itself. Errors look like diversity, so
    `diversity_where_kept` takes only inputs of which both samples keep the scene.
    `difference_to_input` likewise compares with the picture that was given: near 0 is a copy.
    """
    section = {"semantics_kept": _pictures(rows, [row["samples"][0]["right"] for row in rows])}
    kept = [row for row in rows if all(sample["right"]["all"] for sample in row["samples"])]
    section["semantics_kept"]["both_samples"] = wilson(len(kept), len(rows))
    parts = {
        "diversity": ("between", rows),
        "diversity_where_kept": ("between", kept),
        "difference_to_input": ("to_input", rows),
    }
    for name, (key, part) in parts.items():
        section[name] = {
            f"{measure}_ratio": _ratio(part, key, measure)
            for measure in ("pixels", "position", "size")
        }
        for side in ("generated", "real"):
            section[name][f"pixels_{side}"] = mean([row[key][side]["pixels"] for row in part])
    given, made = features(rows, "given"), features(rows, "generated")
    if given is not None:
        real, again = features(rows, "real"), features(rows, "again")
        section["features"] = {
            "clip_score_to_input": paired_cosine(given, made),
            "clip_score_to_input_of_renders": paired_cosine(given, real),
            "clip_distance_between_samples": samples_differ(made, again),
            "frechet_distance": from_two(len(rows), frechet_distance, real, made),
        }
    return section


def i2t(rows: Rows) -> Section:
    """Share of captions that say exactly what the picture shows, and what they look like."""
    texts, references = [row["text"] for row in rows], [row["references"] for row in rows]
    section = _captions(rows)
    section["text"] = caption_statistics(texts) | against(texts, references, "_to_references")
    given, text = features(rows, "given"), features(rows, "text")
    if given is not None and text is not None:
        section["features"] = {"clip_score": paired_cosine(text, given)}
    return section


def t2t(rows: Rows) -> Section:
    """Share of variations that say the same in other words."""
    captions = _captions(rows, exact="same_scene")
    texts, pairs = [row["text"] for row in rows], [row for row in rows if "second" in row]

    def both(row: Row) -> bool:
        return row["exact"] and row["second"]["exact"]

    return {
        "same_scene": captions.pop("same_scene"),
        "reworded": share_of(rows, lambda row: row["reworded"]),
        "same_scene_and_reworded": share_of(rows, lambda row: row["exact"] and row["reworded"]),
        **captions,
        "two_samples_of_one_input": {
            "worded_differently": share_of(pairs, lambda row: row["second"]["differs"]),
            "both_same_scene": share_of(pairs, both),
            "both_same_scene_and_worded_differently": share_of(
                pairs, lambda row: both(row) and row["second"]["differs"]
            ),
        },
        "text": caption_statistics(texts)
        | {"bleu4_to_input": bleu(texts, [[row["caption"]] for row in rows])},
    }


def reconstruction(images: Rows, texts: Rows) -> Section:
    """How much of a picture or a caption its autoencoder gives back."""
    errors = np.array([row["mse"] for row in images])
    return {
        "image": {
            "psnr": mean(-10 * np.log10(errors), "dB"),
            "psnr_of_mean_error": number(-10 * np.log10(errors.mean()), len(errors), "dB"),
        },
        "text": {
            "exact_match": share_of(texts, lambda row: row["match"]),
            "same_scene": share_of(texts, lambda row: row["exact"]),
        },
    }


def sweep(flow: str, rows: Rows) -> Section:
    """The few numbers that are compared over guidance scales, or over steps."""
    if flow == "i2t":
        captions = _captions(rows)
        return {name: captions[name] for name in ("exact_scene", "parsed")}
    compared = t2i_features(rows)
    kept = {k: compared[k] for k in ("frechet_distance", "clip_score") if k in compared}
    return {"all": share_of(rows, lambda row: row["right"]["all"])} | kept


def fidelity(rows: Rows) -> Section:
    """What is compared over fidelities: what is kept, and how far a variation is from its input.

    At fidelity 1 nothing is sampled: what is left of the distance is that of the image VAE.
    """
    section: Section = {
        "all_kept": share_of(rows, lambda row: row["samples"][0]["right"]["all"]),
        "pixels_to_input": mean([row["to_input"]["generated"]["pixels"] for row in rows]),
    }
    given, made = features(rows, "given"), features(rows, "generated")
    if given is not None:
        section["clip_distance_to_input"] = samples_differ(given, made)
    return section


def search(rows: Rows) -> Section:
    """How often search finds a scene's picture among all: asked by its caption, by another render.

    How many pictures are searched is the n of every share.
    """
    text, picture, again = (features(rows, name) for name in ("text", "picture", "again"))
    return {"text_to_image": recalls(text, picture), "image_to_image": recalls(again, picture)}


def captioning(rows: Rows) -> Section:
    """Captions chosen by CLIP among candidates, beside what choice could win.

    `of_first` is what one candidate alone would give, `any_exact_scene` what a perfect choice
    would; `best_minus_first` is of the same pictures, so its interval is that of pairs.
    """

    def of(which: str) -> Section:
        return {
            "exact_scene": share_of(rows, lambda row: row[which]["exact"]),
            "parsed": share_of(rows, lambda row: row[which]["parsed"]),
        }

    best, first = ([row[which]["exact"] for row in rows] for which in ("best", "first"))
    return of("best") | {
        "of_first": of("first"),
        "best_minus_first": gain(best, first),
        "any_exact_scene": share_of(rows, lambda row: any(row["exact"])),
    }


# ---------------------------------------------------------------------- parts


def _by_count(rows: Rows, holds: Sequence[bool]) -> dict[str, Estimate]:
    """A share over the scenes of one and of two objects."""
    pairs = list(zip(rows, holds, strict=True))
    return {
        name: share(value for row, value in pairs if row["scene"]["count"] == count)
        for count, name in enumerate(("one_object", "two_objects"), 1)
    }


def _pictures(rows: Rows, rights: Sequence[Mapping[str, bool]]) -> Section:
    """All attributes right: overall, by number of objects, and each attribute."""
    whole = [right["all"] for right in rights]
    return {"all": share(whole), **_by_count(rows, whole), "attributes": attributes(rights)}


def _captions(rows: Rows, exact: str = "exact_scene") -> Section:
    """What captions say: exactly the scene, a scene at all, each attribute where readable."""
    hits = [row["exact"] for row in rows]
    return {
        exact: share(hits),
        **_by_count(rows, hits),
        "parsed": share_of(rows, lambda row: row["parsed"]),
        "readable": share_of(rows, lambda row: row["right"] is not None),
        "attributes_where_readable": attributes(
            [row["right"] for row in rows if row["right"] is not None]
        ),
    }


def _ratio(rows: Rows, key: str, measure: str) -> Estimate:
    """Mean distance of generated pictures over that of real ones, where both can be measured."""
    pairs = [[row[key][side][measure] for side in ("generated", "real")] for row in rows]
    pairs = [pair for pair in pairs if None not in pair]
    return ratio([a for a, _ in pairs], [b for _, b in pairs])
