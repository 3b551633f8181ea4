"""Figures of an evaluation's report: shares of each attribute, sweeps, search and captions.

Drawn from the measures alone, so any suite whose sections have the same form gets the same figures,
and what a report lacks is left out. Shares are in percent, bars and bands are 95 % intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from analysis.metrics.statistics import Estimate
from analysis.results.figures import COLORS, Chart, new_figure, save_figure, series_style, styled

Runs = Mapping[str, Mapping[str, Estimate]]
"""Name of a run, or title of a panel -> measure -> number."""

OVERALL = {
    "text to image": ("t2i", "test", "all"),
    "  never-seen pairs": ("t2i", "heldout", "all"),
    "image variation": ("i2i", "semantics_kept", "all"),
    "  of never-seen pairs": ("i2i", "heldout", "semantics_kept", "all"),
    "image to text": ("i2t", "exact_scene"),
    "  on never-seen pairs": ("i2t", "heldout", "exact_scene"),
    "  best of several": ("caption", "exact_scene"),
    "text variation": ("t2t", "same_scene"),
    "  about never-seen pairs": ("t2t", "heldout", "same_scene"),
    "text VAE": ("reconstruction", "text", "exact_match"),
}
ATTRIBUTES = {
    "text to image": ("t2i", "test", "attributes"),
    "never-seen pairs": ("t2i", "heldout", "attributes"),
    "image variation": ("i2i", "semantics_kept", "attributes"),
    "image to text (readable)": ("i2t", "attributes_where_readable"),
    "text variation (readable)": ("t2t", "attributes_where_readable"),
}
COST = "network_evaluations"
_MEASURED = ("share", "mean", "ratio", "number")
_ASKED = {"text_to_image": "asked by a caption", "image_to_image": "asked by another picture"}
_HATCHES = ("//", "\\\\", "..", "xx", "--", "++", "oo")


def draw(measures: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Draw all figures that measures give rise to.

    Args:
        measures: of a report, `Estimate`s as leaves.
        folder: they go to `folder/figures/`, as PNG and SVG.

    Returns:
        Title -> path of the PNG.
    """
    charts: dict[str, tuple[str, Chart]] = {}
    overall = _those(measures, OVERALL)
    if overall:
        charts["Everything right, by flow"] = "overall", shares({"everything right": overall})
    attributes = _those(measures, ATTRIBUTES)
    if attributes:
        charts["Share right of each attribute"] = "attributes", shares(attributes)
    for flow, runs in measures.get("sweep", {}).items():
        charts[f"Guidance scale, {flow}"] = f"sweep-scale-{flow}", curves(runs, "guidance scale")
    for flow, runs in measures.get("sweep_steps", {}).items():
        charts[f"Steps of each sampler, {flow}"] = f"sweep-steps-{flow}", samplers(runs)
    for flow, runs in measures.get("sweep_fidelity", {}).items():
        chart = curves(runs, "fidelity to the input")
        charts[f"Fidelity to the input, {flow}"] = f"sweep-fidelity-{flow}", chart
    asked = {
        _ASKED.get(name, name.replace("_", " ")): part
        for name, part in measures.get("search", {}).items()
    }
    if asked:
        charts["Search: whether the picture is found"] = "search", shares(asked)
    return {
        title: save_figure(chart, name, out=folder)[0] for title, (name, chart) in charts.items()
    }


@styled
def shares(panels: Runs) -> Chart:
    """Shares as bars with their intervals, one panel a group; what was never seen has no bar.

    Args:
        panels: title -> name -> share.
    """
    longest = max(len(part) for part in panels.values())
    width = 1.6 + 2.1 * len(panels)
    figure, (row,) = new_figure(1, len(panels), max(4.5, width), 1.1 + 0.27 * longest)
    before: list[str] = []
    for i, (axes, (title, part)) in enumerate(zip(row, panels.items(), strict=True)):
        names = [_words(name) for name in part]
        color, hatch = COLORS[i % len(COLORS)], _HATCHES[i % len(_HATCHES)]
        for place, e in enumerate(part.values()):
            if e.value is None:
                continue
            bar = {"color": "white", "edgecolor": color, "hatch": hatch}
            axes.barh(place, 100 * e.value, height=0.7, **bar)
            if e.low is not None:
                ends = [[100 * (e.value - e.low)], [100 * (e.high - e.value)]]
                axes.errorbar(100 * e.value, place, xerr=ends, color="black", capsize=2, lw=1)
        same = names == before  # neighbours that share their names need them once
        axes.set_yticks(range(len(names)), [] if same else names)
        axes.set(xlim=(0, 103), ylim=(len(names) - 0.4, -0.6), xlabel="%", title=title)
        axes.grid(False, axis="y")
        axes.set_axisbelow(True)
        before = names
    return figure


@styled
def curves(runs: Runs, xlabel: str) -> Chart:
    """Measures over the runs of a sweep, each run named by a number; bands are intervals.

    All shares are in the first panel; measures of other kinds have a panel each.
    """
    x = [float(name) for name in runs]
    together = _names(runs, ("share",))
    panels = [together] if together else []
    panels += [[name] for name in _names(runs, _MEASURED) if name not in together]
    figure, places = _panels(len(panels))
    series = 0
    for axes, part in zip(places, panels, strict=True):
        for name in part:
            line(axes, x, [run.get(name) for run in runs.values()], series, _words(name))
            series += 1
        _frame(axes, xlabel, "%" if part is together else _words(part[0]), part is together)
        if part is together:
            axes.legend()
    return figure


@styled
def samplers(runs: Runs) -> Chart:
    """Each measure over the steps of each sampler; runs are named "ddim, 50".

    Where the cost of the runs is known, the first measure is shown over that, too.
    """
    by_sampler: dict[str, dict[int, Mapping[str, Estimate]]] = {}
    for name, run in runs.items():
        sampler, steps = name.rsplit(", ", 1)
        by_sampler.setdefault(sampler, {})[int(steps)] = run
    names = _names(runs, _MEASURED)
    panels: list[tuple[str, str | None]] = [(name, None) for name in names]
    if all(COST in run for run in runs.values()):
        panels.insert(1, (names[0], COST))
    figure, places = _panels(len(panels))
    for axes, (name, cost) in zip(places, panels, strict=True):
        for i, (sampler, made) in enumerate(by_sampler.items()):
            steps = sorted(made)
            x = steps if cost is None else [made[k][cost].value for k in steps]
            line(axes, x, [made[k].get(name) for k in steps], i, sampler)
        share = name in _names(runs, ("share",))
        unit = ", %" if share else ""
        _frame(axes, "steps" if cost is None else _words(cost), f"{_words(name)}{unit}", share)
        axes.legend()
    return figure


def line(
    axes: Axes, x: Sequence[float], estimates: Sequence[Estimate | None], i: int, label: str
) -> None:
    """One measure over x with the band of its intervals; shares become percent.

    Args:
        axes: to draw on.
        x: where the estimates are.
        estimates: None leaves a gap, and so does an estimate without a value.
        i: number of the series, which chooses its colour, marker and line.
        label: for the legend.
    """
    factor = 100 if any(e is not None and e.kind == "share" for e in estimates) else 1
    value, low, high = (
        factor * np.array([getattr(e, end, None) for e in estimates], dtype=float)
        for end in ("value", "low", "high")
    )
    axes.plot(x, value, label=label, **series_style(i))
    if np.isfinite(low).any():
        axes.fill_between(x, low, high, color=COLORS[i % len(COLORS)], alpha=0.15, lw=0)


def _panels(count: int) -> tuple[Chart, list[Axes]]:
    """A figure with so many panels, up to four in a row."""
    columns = min(count, 4)
    rows = -(-count // columns)
    figure, grid = new_figure(rows, columns, max(5.0, 0.4 + 3.0 * columns), 2.8 * rows)
    places = list(grid.flat)
    for axes in places[count:]:
        axes.remove()
    return figure, places[:count]


def _names(runs: Runs, kinds: Sequence[str]) -> list[str]:
    """Measures of those kinds, in order; a run may lack some."""
    return list(
        dict.fromkeys(name for run in runs.values() for name, e in run.items() if e.kind in kinds)
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _frame(axes: Axes, xlabel: str, ylabel: str, percent: bool) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel)
    low, high = axes.get_xlim()
    axes.set_xlim(min(0, low), high)
    if percent:
        axes.set_ylim(0, 103)


def _those(measures: Mapping[str, Any], paths: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Parts of a report by their titles, without those that it lacks."""
    parts = {}
    for title, path in paths.items():
        node: Any = measures
        for name in path:
            node = node.get(name) if isinstance(node, Mapping) else None
        if node is not None:
            parts[title] = node
    return parts
