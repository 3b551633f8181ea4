"""The suite `applications`, summed up: from rows to effects, and whether they are as claimed.

Pure functions of rows (`analysis.measure.applications` makes them): each returns its section of the
report, and the criteria. Inputs are the independent observations: what one input shows at the
values of a strip, and in its several attributes, becomes one number an input before any interval is
taken.

Of anything that is slid, y_i(v) being the share of input i's attributes that are so at value v:

    at v         mean_i y_i(v)
    slope        mean_i [ sum_v (v - v') (y_i(v) - y_i') / sum_v (v - v')^2 ],  ' is a mean over v
    worst step   min over neighbours v < w of mean_i d (y_i(w) - y_i(v)),  d = +1 where it should
                 rise and -1 where it should fall

A slope on the right side of 0 says that there is an effect, and a worst step whose interval reaches
0 that it nowhere goes back by more than noise: together, monotone within noise. (The worst of
several steps was chosen for being the worst, which makes its test a strict one.)

Every criterion is about a 95 % interval, not about the number alone. Below `LEAST` inputs none is
passed: so few may all be alike, and an interval from them says little.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.measure.numbers import Section, gain, share_of
from analysis.measure.rows import Row, Rows
from analysis.metrics.statistics import Estimate, mean, share

FIDELITIES = LEVELS = STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
FRAMES = 5
POSITIONS = tuple(k / (FRAMES - 1) for k in range(FRAMES))
EDITED = ("background", "style", "size", "color", "shape")
"""Kinds of attributes that an edit changes, each as often."""
STYLE = ("background", "style")
"""What a scene looks like: of the whole picture, whatever it shows."""
CONTENT = ("count", "relation", "size", "color", "shape")
"""What a scene shows."""
KINDS = (*STYLE, *CONTENT)

LEAST = 20  # inputs that can pass anything
CHANGED, KEPT = 0.70, 0.80  # wanted of an edit
HIDDEN = 0.05  # of masked things may still be seen
INVERSION_ERROR = 0.10  # of the latents' norm
SAME = 1 / 255  # mean difference of two pictures that are equal up to rounding

_RELATIONS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "above": ("low", operator.gt),
    "below": ("high", operator.lt),
    "at least": ("low", operator.ge),
    "at most": ("high", operator.le),
    "not below": ("high", operator.ge),
}


@dataclass(frozen=True)
class Criterion:
    """What a number has to be.

    Attributes:
        claim: what is shown if it holds.
        estimate: the number.
        relation: "above", "below", "at least", "at most": on which side of the bound the whole
            interval has to be; "not below": where at least its upper end has to be.
        bound: see there.
    """

    claim: str
    estimate: Estimate
    relation: str
    bound: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether it holds; never without an interval, nor for fewer than `LEAST` inputs."""
        end, holds = _RELATIONS[self.relation]
        value = getattr(self.estimate, end)
        return value is not None and self.estimate.n >= LEAST and holds(value, self.bound)

    def section(self) -> Iterator[tuple[str, Section]]:
        """The number under its criterion and the verdict, as reports lay it out."""
        percent = self.estimate.kind == "share"
        bound = f"{100 * self.bound:g} %" if percent else f"{self.bound:.3g}"
        verdict = {"pass" if self.passed else "fail": self.estimate}
        yield f"{self.claim} (interval {self.relation} {bound})", verdict


Summary = tuple[Section, list[Criterion]]


# ---------------------------------------------------------------------- sliders


def fidelity(rows: Rows) -> Summary:
    """Whether more fidelity is less distance: in the mean, in ranks, and input by input."""
    y = np.array([row["distance"] for row in rows])
    section: Section = {
        "distance": followed(FIDELITIES, y, -1),
        "rank_correlation": mean(_rank_correlations(FIDELITIES, y)),
        "inputs_in_order": share(bool((np.diff(line) < 0).all()) for line in y),
    }
    return section, [
        Criterion("distance falls: rank correlation", section["rank_correlation"], "below"),
        Criterion("most inputs are in strict order", section["inputs_in_order"], "above", 0.5),
    ]


def focus(rows: Rows) -> Summary:
    """Share of the input's style and content that is kept, from content (0) to style (1)."""
    style, content = (kept(rows, "first", kinds) for kinds in (STYLE, CONTENT))
    section: Section = {
        "style_kept": followed(LEVELS, style, 1),
        "content_kept": followed(LEVELS, content, -1),
        "style_less_content": followed(LEVELS, style - content, 1),
        "attributes": {
            kind: followed(LEVELS, kept(rows, "first", (kind,)), 1 if kind in STYLE else -1)
            for kind in KINDS
        },
    }
    return section, [
        *_monotone(section["style_kept"], "style is kept", "style never falls", "above"),
        *_monotone(section["content_kept"], "content is freed", "content never returns", "below"),
        Criterion("style gains on content: slope", section["style_less_content"]["slope"], "above"),
    ]


def moved(rows: Rows, values: Sequence[float]) -> Summary:
    """Share of attributes that are those of the first and of the second scene, along a strip."""
    section: Section = {
        "of_second": followed(values, kept(rows, "second", KINDS), 1),
        "of_first": followed(values, kept(rows, "first", KINDS), -1),
        "attributes": {
            kind: {
                f"slope_of_{key}": followed(values, kept(rows, key, (kind,)), 1)["slope"]
                for key in ("second", "first")
            }
            for kind in KINDS
            if kind != "count"  # the one thing that both scenes share
        },
    }
    return section, [
        *_monotone(section["of_second"], "the second comes", "it never leaves", "above"),
        *_monotone(section["of_first"], "the first goes", "it never returns", "below"),
    ]


def dual(rows: Rows) -> Summary:
    """From the picture's scene (first) to the text's (second), over the text's strength."""
    return moved(rows, STRENGTHS)


def describe(rows: Rows) -> Summary:
    """As `dual`, for texts; what cannot be read is of neither scene."""
    section, criteria = moved(rows, STRENGTHS)
    section["readable"] = {
        _at(value): share(row["seen"][v] is not None for row in rows)
        for v, value in enumerate(STRENGTHS)
    }
    return section, criteria


def interpolate(rows: Rows) -> Summary:
    """As `dual`, over positions of a film, and how far its ends are from what A and B give."""
    section, criteria = moved(rows, POSITIONS)
    ends = {name: mean([row["ends"][k] for row in rows]) for k, name in enumerate(("A", "B"))}
    section["difference_of_ends_to_pure"] = ends
    return section, criteria + [
        Criterion(f"the end is that of {name} alone", end, "at most", SAME)
        for name, end in ends.items()
    ]


# ---------------------------------------------------------------------- masks and edits


def blend(rows: Rows) -> Summary:
    """How often the masked thing, and the other one, are seen; as pairs of colour and shape.

    How many things the judge counts is not asked: it learnt from things that stand alone in the
    middle, and sees a second one beside a thing that stands alone at the side.
    """
    seen = {
        (which, picture): [_shows(row, row["hidden"] ^ other, picture) for row in rows]
        for which, other in (("hidden", 0), ("other", 1))
        for picture in ("plain", "masked")
    }
    section: Section = {
        f"{which}_thing_seen": {
            "without_mask": share(seen[which, "plain"]),
            "with_mask": share(seen[which, "masked"]),
            "lost_by_mask": gain(seen[which, "plain"], seen[which, "masked"]),
        }
        for which in ("hidden", "other")
    }
    pairs = zip(seen["hidden", "plain"], seen["hidden", "masked"], strict=True)
    section["hidden_thing_gone_where_seen_without_mask"] = share(not m for p, m in pairs if p)
    hidden, other = section["hidden_thing_seen"], section["other_thing_seen"]
    return section, [
        Criterion("the masked thing does not appear", hidden["with_mask"], "at most", HIDDEN),
        Criterion("that is the mask's doing: loss by it", hidden["lost_by_mask"], "above"),
        Criterion("the other thing stays", other["with_mask"], "at least", KEPT),
    ]


def edit(rows: Rows) -> Summary:
    """Edits by inversion (`edited`), and how exact the inversion is."""
    section, criteria = edited(rows)
    error = section["inversion_error"] = mean([row["inversion_error"] for row in rows])
    return section, [*criteria, Criterion("inversion error", error, "at most", INVERSION_ERROR)]


def latent_edit(rows: Rows) -> Summary:
    """Edits by words (`edited`), and what the caption said before and after them."""
    section, criteria = edited(rows)
    before = [row | {"seen": row["said"]["caption"], "wanted": row["first"]} for row in rows]
    captions = [row | {"seen": row["said"]["edited_caption"]} for row in rows]
    section["captions"] = {
        "attributes_right_before": mean([np.mean(list(_rights(row).values())) for row in before]),
        **_named_and_others(captions),
    }
    return section, criteria


def edited(rows: Rows) -> Summary:
    """Whether the attribute that was named is the new one, and the others are the old ones.

    `others_kept` is the mean share of an input's other attributes, `all_others_kept` the share of
    inputs that keep every one; `of_<kind>` are the edits that named such an attribute.
    """
    named = _named_and_others(rows)
    section: Section = {
        "named_changed": named["named_changed"],
        "named_left_as_it_was": share_of(
            rows, lambda row: row["seen"][row["named"]] == row["first"][row["named"]]
        ),
        "others_kept": named["others_kept"],
        "all_others_kept": share_of(rows, lambda row: all(_others(row))),
        "both": share_of(rows, lambda row: all(_rights(row).values())),
    }
    for kind in EDITED:
        section[f"of_{kind}"] = _named_and_others([r for r in rows if _kind(r["named"]) == kind])
    return section, [
        Criterion("the named attribute changes", section["named_changed"], "at least", CHANGED),
        Criterion("the others are kept", section["others_kept"], "at least", KEPT),
    ]


# ---------------------------------------------------------------------- parts


def followed(values: Sequence[float], y: np.ndarray, direction: int) -> Section:
    """Means at each value, slope, and worst step, as the module says.

    Args:
        values: (V,) ascending.
        y: (n, V); rows of NaN (inputs without such an attribute) do not count.
        direction: 1 where y should rise, -1 where it should fall.
    """
    y = y[~np.isnan(y).any(axis=1)]
    v = np.asarray(values) - np.mean(values)
    steps = [mean(direction * step) for step in np.diff(y, axis=1).T]
    return {
        **{_at(value): mean(column) for value, column in zip(values, y.T, strict=True)},
        "slope": mean((y - y.mean(axis=1, keepdims=True)) @ v / (v @ v)),
        "worst_step": min(steps, key=lambda step: np.inf if step.value is None else step.value),
    }


def kept(rows: Rows, key: str, kinds: Sequence[str]) -> np.ndarray:
    """(n, V) share of the attributes of scene `key` that are seen at each value of the strip.

    Of two scenes only what tells them apart is asked; an input without such attributes is NaN. What
    could not be read at all shows nothing.
    """
    table = np.full((len(rows), len(rows[0]["seen"])), np.nan)
    for row, line in zip(rows, table, strict=True):
        second = row.get("second")
        wanted = {
            name: value
            for name, value in row[key].items()
            if _kind(name) in kinds
            and value is not None
            and (second is None or row["first"][name] != second[name])
        }
        if wanted:
            line[:] = [
                np.mean([(seen or {}).get(name) == value for name, value in wanted.items()])
                for seen in row["seen"]
            ]
    return table


def _monotone(part: Section, effect: str, never: str, relation: str) -> Iterator[Criterion]:
    """That there is an effect in a direction, and nowhere a step back."""
    yield Criterion(f"{effect}: slope", part["slope"], relation)
    yield Criterion(f"{never}: worst step", part["worst_step"], "not below")


def _rank_correlations(values: Sequence[float], y: np.ndarray) -> list[float]:
    """Spearman's correlation of each input's line with the values; 0 for a line that is flat."""
    from scipy.stats import spearmanr

    return [0.0 if np.ptp(line) == 0 else float(spearmanr(values, line)[0]) for line in y]


def _named_and_others(rows: Rows) -> Section:
    return {
        "named_changed": share_of(rows, lambda row: _rights(row)[row["named"]]),
        "others_kept": mean([np.mean(_others(row)) for row in rows]),
    }


def _rights(row: Row) -> dict[str, bool]:
    """Which of the wanted attributes are seen."""
    seen = row["seen"] or {}
    return {n: seen.get(n) == value for n, value in row["wanted"].items() if value is not None}


def _others(row: Row) -> list[bool]:
    return [right for name, right in _rights(row).items() if name != row["named"]]


def _shows(row: Row, thing: int, picture: str) -> bool:
    """Whether a thing (0 or 1) of the first scene is seen anywhere, by its colour and shape."""
    wanted = [row["first"][f"{name}{thing + 1}"] for name in ("color", "shape")]
    return any([row[picture][f"color{i}"], row[picture][f"shape{i}"]] == wanted for i in (1, 2))


def _kind(name: str) -> str:
    return name.rstrip("12")


def _at(value: float) -> str:
    return f"at {value:g}"
