"""How figures look, and how they are kept: one palette, one set of marks, one way to save.

Figures must be readable in print and by the colour-blind: colours are Okabe and Ito's, and every
series also has a marker and a line style of its own, so that nothing depends on colour. Figures are
plain objects, no pyplot: nothing global is left behind, and a notebook shows one that ends a cell.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from analysis.results.outputs import OUT, slug
from analysis.results.result import html_picture
from lib.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

# Okabe and Ito, "Color Universal Design" (2008), without yellow, which paper swallows
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
HEAT = "cividis"
"""Colour map of heat maps: lightness grows with the value, in grey and for the colour-blind too."""

STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#d0d0d0",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
}
FOLDER = "figures"
DPI = 150
SCREEN = 100
"""Dots an inch of saved figures, and of those that a notebook shows."""


class Chart(Figure):
    """A figure that notebooks show by themselves, with what its axes say as words for it."""

    def _repr_html_(self) -> str:
        parts = [self.get_suptitle()]
        for axes in self.axes:
            ends = " over ".join(filter(None, (axes.get_ylabel(), axes.get_xlabel())))
            parts += [": ".join(filter(None, (axes.get_title(), ends)))]
        words = "; ".join(dict.fromkeys(filter(None, parts)))
        shown = Image.open(io.BytesIO(rendered(self, "png", dpi=SCREEN)))
        return html_picture(shown, " ".join(f"Figure: {words}".split()))


styled = matplotlib.rc_context(STYLE)
"""Decorator of functions that draw: matplotlib's settings are ours inside, the caller's after."""


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Chart, np.ndarray]:
    """An empty figure and its axes, (rows, columns); sizes in inches."""
    figure = Chart(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def series_style(i: int) -> dict[str, object]:
    """Colour, marker and line style of series i: no two of seven share any of them."""
    k = i % len(COLORS)
    return {"color": COLORS[k], "marker": MARKERS[k], "linestyle": LINES[k]}


def draw_series(axes: Axes, x: Sequence[float], y: Tensor, i: int, label: str) -> None:
    """One line; of a batch, its mean, and a band from the smallest to the largest.

    Args:
        axes: to draw on.
        x: (S,).
        y: (S,) or (S, B).
        i: number of the series.
        label: for the legend.
    """
    assert len(y) == len(x), (y.shape, len(x))
    batch = y.cpu().double().reshape(len(x), -1).numpy()
    every = max(1, len(x) // 8)
    axes.plot(list(x), batch.mean(axis=1), label=label, markevery=every, **series_style(i))
    if batch.shape[1] > 1:
        low, high = batch.min(axis=1), batch.max(axis=1)
        axes.fill_between(list(x), low, high, color=COLORS[i % len(COLORS)], alpha=0.15, lw=0)


def over_time(axes: Axes, ylabel: str, total: int = 1000) -> None:
    """An axis of timesteps that runs the way sampling does: from noise, left, to picture, right."""
    axes.set_xlim(total, 0)
    axes.set_xlabel("timestep t (noise on the left, result on the right)")
    axes.set_ylabel(ylabel)


def rendered(figure: Figure, kind: str, dpi: int = DPI) -> bytes:
    """A figure as the bytes of a PNG or SVG; the same figure always gives the same bytes."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "figure"}):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def save_figure(figure: Figure, name: str, out: str | Path = OUT) -> tuple[Path, Path]:
    """Write `out/figures/<name>.png` and `.svg`.

    Unlike results, figures have stable names, so that a text can show them: one of that name is
    *replaced*, in one move, so that nobody ever reads half a figure.

    Args:
        figure: to save.
        name: of a-z, 0-9 and hyphens.
        out: the folder of all results.

    Returns:
        The paths of the PNG and of the SVG.

    Raises:
        ValueError: the name is not of that form.
    """
    if slug(name, longest=max(40, len(name))) != name:
        raise ValueError(f"A figure cannot be called {name!r}: use a-z, 0-9 and hyphens.")
    png, svg = (Path(out) / FOLDER / f"{name}.{kind}" for kind in ("png", "svg"))
    with replacing() as temporary:
        for path in (png, svg):
            temporary(path).write_bytes(rendered(figure, path.suffix[1:]))
    return png, svg
