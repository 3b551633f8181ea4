"""The suite `emoji`, summed up: from rows to shares and distances with their intervals.

Pure functions of rows, which `analysis.measure.emoji` makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from analysis.measure.numbers import Section, features, from_two, gain, recalls, share_of
from analysis.measure.rows import Row, Rows
from analysis.metrics.distances import kernel_distance
from analysis.metrics.statistics import mean, ratio
from analysis.metrics.text_metrics import caption_statistics

READINGS: dict[str, Callable[[Row], bool]] = {
    "concept": lambda row: row["rank"] == 0,
    "concept_top5": lambda row: row["rank"] < 5,
    "artist": lambda row: row["artist"],
    "ground": lambda row: row["ground"],
}
"""What is read off a picture -> whether it is as it should be."""


def shown(rows: Rows) -> Section:
    """Share of pictures that show the thing (first, or among the first five), hand and ground."""
    return {name: share_of(rows, holds) for name, holds in READINGS.items()}


def pictures(rows: Rows, real: Rows) -> Section:
    """What made pictures show, its ratio to what real drawings of the same inputs show, and KID."""
    of_real = {
        name: ratio([holds(row) for row in rows], [holds(row) for row in real])
        for name, holds in READINGS.items()
    }
    return {"shown": shown(rows), "of_real": of_real} | apart(real, rows)


def apart(real: Rows, rows: Rows) -> Section:
    """KID of two sets of pictures on the judge's features."""
    a, b = features(real, "picture"), features(rows, "picture")
    return {"kernel_distance": from_two(len(rows), kernel_distance, a, b)}


def nearness(made: Rows, real: Rows, seen: Rows) -> Section:
    """How far pictures are from the nearest training drawing: made ones beside real held-out ones.

    A model that copies is nearer than drawings that it never saw. `nearer_than_real` is the share
    of made pictures that are nearer than all but 5 % of the real held-out ones.
    """
    parts = {"made": made, "made_of_seen_pairs": seen, "real_heldout": real}
    distances = {n: [row["nearest"]["distance"] for row in rows] for n, rows in parts.items()}
    border = float(np.quantile(distances["real_heldout"], 0.05))
    section: Section = {f"distance_{name}": mean(values) for name, values in distances.items()}
    for name in ("made", "made_of_seen_pairs"):
        holds = [value < border for value in distances[name]]
        section[f"nearer_than_real_{name}"] = share_of(holds, bool)
    return section


def focus(rows: Rows, levels: Sequence[float]) -> Section:
    """What variations keep of their input at each level from content to style.

    `thing_lost` and `hand_lost` compare the way to style with no turn (the middle level) by pairs:
    a turn to style that works loses the thing and keeps the hand.
    """
    section = _levels(rows, levels, ("concept_top5", "artist"))
    middle = len(levels) // 2
    for name, lost in (("concept_top5", "thing_lost"), ("artist", "hand_lost")):
        holds = READINGS[name]
        whole, turned = (
            [holds(row["levels"][k]) for row in rows] for k in (middle, len(levels) - 1)
        )
        section[lost] = gain(whole, turned)
    return section


def dual(rows: Rows, levels: Sequence[float]) -> Section:
    """What pictures keep of the drawing, and what they take from the text, at each strength."""
    section = _levels(rows, levels, ("concept_top5", "artist"))
    for k, level in enumerate(levels):
        other = share_of(rows, lambda row, k=k: row["other"][k] < 5)
        section[f"{level:g}"]["asked_concept_top5"] = other
    both = [
        [row["other"][k] < 5 and row["levels"][k]["artist"] for row in rows]
        for k in range(len(levels))
    ]
    for level, holds in zip(levels, both, strict=True):
        section[f"{level:g}"]["asked_concept_top5_in_the_same_hand"] = share_of(holds, bool)
    middle = len(levels) // 2
    for end, name in ((0, "drawing"), (-1, "text")):
        section[f"both_in_the_middle_more_than_by_{name}_alone"] = gain(both[middle], both[end])
    return section


def _levels(rows: Rows, levels: Sequence[float], names: Sequence[str]) -> Section:
    return {
        f"{level:g}": {
            name: share_of(rows, lambda row, k=k, name=name: READINGS[name](row["levels"][k]))
            for name in names
        }
        for k, level in enumerate(levels)
    }


# ---------------------------------------------------------------------- texts


def i2t(rows: Rows) -> Section:
    """Share of texts that name the thing, the hand and the ground, and what texts look like."""
    section = _parts(rows) | {"names_a_thing": share_of(rows, lambda row: row["named"])}
    return section | {"text": caption_statistics([row["text"] for row in rows])}


def french(rows: Rows) -> Section:
    """The same where French was asked for."""
    return {"in_french": share_of(rows, lambda row: row["language"] == "french")} | _parts(rows)


def caption(rows: Rows) -> Section:
    """The best of several texts by CLIP, beside what the first of them says."""
    best, first = ([row["concept"] for row in part] for part in (rows, _firsts(rows)))
    return _parts(rows) | {"of_first": _parts(_firsts(rows)), "best_minus_first": gain(best, first)}


def _firsts(rows: Rows) -> Rows:
    return [row["first"] for row in rows]


def t2t(rows: Rows) -> Section:
    """Share of variations that say the same, in other words, and in the language asked for.

    `translated` are those that were asked for in the other language: the same thing, named in it.
    """
    across = [row for row in rows if row["from"] != row["asked"]]

    def right(row: Row) -> bool:
        return row["concept"] and row["language"] == row["asked"]

    return _parts(rows) | {
        "reworded": share_of(rows, lambda row: row["reworded"]),
        "same_thing_reworded": share_of(rows, lambda row: row["concept"] and row["reworded"]),
        "language": share_of(rows, lambda row: row["language"] == row["asked"]),
        "translated": {
            "all": share_of(across, right),
            **{
                f"into_{language}": share_of([r for r in across if r["asked"] == language], right)
                for language in ("english", "french")
            },
        },
    }


def _parts(rows: Rows) -> Section:
    names = ("concept", "artist", "ground")
    section = {name: share_of(rows, lambda row, name=name: row[name]) for name in names}
    return section | {"everything": share_of(rows, lambda row: all(row[n] for n in names))}


def reconstruction(rows: Rows) -> Section:
    """How much of a drawing or a caption its autoencoder gives back."""
    errors = np.array([row["mse"] for row in rows])
    return {
        "image": {"psnr": mean(-10 * np.log10(errors), "dB")},
        "text": {"exact_match": share_of(rows, lambda row: row["match"])},
    }


def search(rows: Rows) -> Section:
    """How often a caption finds a drawing of its thing, and its own, among all."""
    text, picture = features(rows, "text"), features(rows, "picture")
    things = [row["concept"] for row in rows]
    return {"same_thing": recalls(text, picture, things), "own": recalls(text, picture)}
