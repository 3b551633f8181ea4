"""Figures of what `analysis.inside.walkthrough`, `analysis.inside.trace` and the sampler show.

Every function takes numbers and gives a figure; `analysis.results.figures.save_figure` keeps it.
Time runs from left to right as sampling does, from noise (t = 1000) to the result (t = 0).

    shown = guidance_vectors(vd, [(vd.text_context(["a red circle"]), 1.0)], "image", 3.0, x_T)
    save_figure(guidance_over_time(shown), "guidance-over-time")
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from PIL import Image
from torch import Tensor

from analysis.inside.readability import Readability
from analysis.inside.trace import Trace
from analysis.inside.twins import Twin, count_text
from analysis.inside.walkthrough import plan_of
from analysis.results.figures import (
    COLORS,
    HEAT,
    LINES,
    Chart,
    draw_series,
    new_figure,
    over_time,
    series_style,
    styled,
)
from lib.config import FLOWS
from lib.images import to_pil, to_rgb
from lib.model import VersatileDiffusion
from lib.sampler import Step

_THINGS = {"1": ("first thing", "-"), "2": ("second thing", "--")}


# ---------------------------------------------------------------------- the model


@styled
def four_flows(vd: VersatileDiffusion) -> Chart:
    """The idea in one figure: two context columns, two data columns, four flows between them.

    Counts are those of `analysis.inside.walkthrough.plan_of`, which checks them against a run.
    """
    plans = {flow: plan_of(vd, flow) for flow in FLOWS}
    counts = {name: n for plan in plans.values() for name, n in plan.parameters.items()}
    figure, ((axes,),) = new_figure(1, 1, 7.5, 4.2)
    axes.set(xlim=(0, 10), ylim=(0, 6), title=f"{vd.spec.name}: one network, four flows")
    axes.axis("off")
    rows = {"image": 3.4, "text": 1.1}
    for kind, y in rows.items():
        _box(axes, 0.1, y, f"{kind} context", counts[f"{kind}_context"], COLORS[6])
        _box(axes, 7.5, y, f"{kind} data", counts[f"{kind}_data"], COLORS[5])
    _box(axes, 3.8, 4.75, "time embedding, shared", counts["time_embed"], COLORS[3])
    for i, (flow, (data, context)) in enumerate(FLOWS.items()):
        style = series_style(i)
        start, end = rows[context] + 0.5, rows[data] + 0.5
        axes.annotate(
            "",
            xy=(7.45, end),
            xytext=(2.6, start),
            arrowprops={
                "arrowstyle": "-|>",
                "color": style["color"],
                "linestyle": style["linestyle"],
                "linewidth": 2,
            },
        )
        along = 0.5 if start == end else 0.25  # slanted arrows cross in the middle
        axes.text(
            2.6 + along * 4.85,
            start + along * (end - start),
            f"{flow}  {count_text(plans[flow].total)}",
            color=style["color"],
            ha="center",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )
    axes.text(1.3, 0.45, "what conditions", ha="center", style="italic")
    axes.text(8.7, 0.45, "what is generated", ha="center", style="italic")
    return figure


def _box(axes: Axes, x: float, y: float, name: str, count: int, color: str) -> None:
    shape = FancyBboxPatch((x, y), 2.4, 1.0, "round,pad=0,rounding_size=0.12", fc="white", ec=color)
    shape.set_linewidth(2)
    axes.add_patch(shape)
    axes.text(x + 1.2, y + 0.5, f"{name}\n{count_text(count)}", ha="center", va="center")


@styled
def noise_schedule(table: Twin) -> Chart:
    """Factors of signal and noise, their ratio, and the timesteps visited, of `schedule_table`."""
    figure, ((left, right),) = new_figure(1, 2, 8, 3)
    t = list(range(len(table.beta)))
    for i, (name, values) in enumerate(
        {
            r"signal $\sqrt{\bar\alpha_t}$": table.signal,
            r"noise $\sqrt{1-\bar\alpha_t}$": table.noise,
        }.items()
    ):
        draw_series(left, t, values, i, name)
    over_time(left, "factor in $x_t$", len(t))
    left.legend()
    right.plot(t, table.log_snr.numpy(), color=COLORS[0], label="all timesteps")
    visited = table.timesteps
    right.plot(
        visited,
        table.log_snr[visited].numpy(),
        linestyle="none",
        marker="o",
        color=COLORS[1],
        label=f"{len(visited)} visited",
    )
    over_time(right, "log signal-to-noise ratio", len(t))
    right.legend()
    return figure


# ---------------------------------------------------------------------- over time


@styled
def guidance_over_time(shown: Twin) -> Chart:
    """Lengths and angles of noise predictions, of `guidance_vectors`; bands span the batch."""
    figure, ((left, right),) = new_figure(1, 2, 8, 3)
    lengths = {
        "conditional": shown.cond,
        "null": shown.null,
        "difference": shown.difference,
        f"guided, scale {shown.scale:g}": shown.guided,
    }
    for i, (name, values) in enumerate(lengths.items()):
        draw_series(left, shown.t, values, i, name)
    over_time(left, "norm / root of dimension")
    left.legend()
    draw_series(right, shown.t, shown.angle, 0, "conditional to null")
    draw_series(right, shown.t, shown.turn, 3, "conditional to guided")
    over_time(right, "angle in degrees")
    right.legend()
    return figure


@styled
def latent_norms(steps: Sequence[Step]) -> Chart:
    """How long the latent, the estimate of x_0 and the predicted noise are over time."""
    figure, ((axes,),) = new_figure(1, 1, 5, 3)
    t = [step.t for step in steps]
    for i, (name, label) in enumerate(
        {"x": "latent after the step", "x0": "estimate of $x_0$", "eps": "predicted noise"}.items()
    ):
        rows = [getattr(step, name).cpu().double().flatten(1) for step in steps]
        norms = torch.stack([row.norm(dim=1) / row.shape[1] ** 0.5 for row in rows])
        draw_series(axes, t, norms, i, label)
    over_time(axes, "norm / root of dimension")
    axes.legend()
    return figure


@styled
def film_strip(
    vd: VersatileDiffusion, steps: Sequence[Step], count: int = 8, samples: Sequence[int] = (0,)
) -> Chart:
    """The estimates of x_0, decoded: how a picture comes out of noise.

    Args:
        vd: decodes.
        steps: what the sampler yielded, for image latents.
        count: pictures a row, evenly spread, the first and the last step included.
        samples: numbers in the batch, a row each.

    Raises:
        ValueError: nothing to show.
    """
    if not steps or count < 1 or not samples:
        raise ValueError(f"{len(steps)} steps, {count} pictures: give at least one of each.")
    chosen = np.linspace(0, len(steps) - 1, min(count, len(steps))).round().astype(int)
    figure, grid = new_figure(
        len(samples), len(chosen), 1.2 * len(chosen), 1.2 * len(samples) + 0.3
    )
    for column, k in enumerate(chosen):
        x0 = torch.stack([steps[k].x0[sample] for sample in samples])
        for row, picture in enumerate(to_pil(vd.decode_image(x0))):
            _picture(grid[row, column], picture, f"t = {steps[k].t}" if row == 0 else "")
    return figure


@styled
def readability_over_time(result: Readability) -> Chart:
    """Which share of scenes has each attribute readable; legends say when half have it for good.

    Left: the whole picture; right: the two things, told apart by line style.
    """
    figure, ((left, right),) = new_figure(1, 2, 9, 4.2)
    whole = [name for name in result.right if name[-1] not in _THINGS]
    kinds = list(dict.fromkeys(name[:-1] for name in result.right if name[-1] in _THINGS))
    every = max(1, len(result.t) // 8)
    for name in result.right:
        median = result.median(name)
        when = "never" if median is None else f"t = {median}"
        if name in whole:
            axes, style, label = left, series_style(whole.index(name)), name
        else:
            thing, line = _THINGS[name[-1]]
            style = {**series_style(kinds.index(name[:-1])), "linestyle": line}
            axes, label = right, f"{name[:-1]}, {thing}"
        share = result.share(name).numpy()
        axes.plot(result.t, share, label=f"{label} ({when})", markevery=every, **style)
    for axes, title in ((left, "the picture"), (right, "the things in it")):
        over_time(axes, "share of scenes read right", result.num_timesteps)
        axes.set(ylim=(0, 1.02), title=title)
        if axes.get_lines():
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=8)
    return figure


@styled
def activations_over_time(recording: Trace, branch: str = "cond") -> Chart:
    """How large what every block gives is over time: root mean square, a panel a column of layers.

    Blocks are numbered in running order, from the top. A block whose row is dark and stays so has
    little to say; a row that changes from left to right does different things early and late.

    Args:
        recording: of a generation.
        branch: "cond" or "null".

    Raises:
        ValueError: nothing of that branch was recorded.
    """
    chosen = [a for a in recording.activations if a.branch == branch and "." in a.block]
    if not chosen:
        raise ValueError(f"No activations of the branch {branch!r} were recorded.")
    columns = list(dict.fromkeys(a.block.partition(".")[0] for a in chosen))
    figure, (row,) = new_figure(1, len(columns), 4 * len(columns), 3)
    for axes, name in zip(row, columns, strict=True):
        part = [a for a in chosen if a.block.partition(".")[0] == name]
        blocks = sorted({int(a.block.partition(".")[2]) for a in part})
        times = sorted({a.t for a in part}, reverse=True)
        size = np.full((len(blocks), len(times)), np.nan)
        for a in part:
            place = blocks.index(int(a.block.partition(".")[2])), times.index(a.t)
            size[place] = math.hypot(a.mean, a.std)
        shown = axes.imshow(size, cmap=HEAT, norm="log", aspect="auto", interpolation="nearest")
        ticks = np.linspace(0, len(times) - 1, min(5, len(times))).round().astype(int)
        axes.set_xticks(ticks, [times[k] for k in ticks])
        axes.set(xlabel="timestep t", ylabel="block", title=name.replace("_", " "))
        axes.grid(False)
        figure.colorbar(shown, ax=axes, label="root mean square")
    return figure


# ---------------------------------------------------------------------- maps and spectra


@styled
def attention_heatmaps(picture: Image.Image, maps: Mapping[str, Tensor]) -> Chart:
    """A picture, and for each word where the model looked at it.

    Each map has its own scale, from 0 to its largest value, which stands above it: words get very
    different shares of attention.

    Args:
        picture: what was generated.
        maps: word -> (H, W), from `analysis.inside.heatmaps.heat_maps`.

    Raises:
        ValueError: no words.
    """
    if not maps:
        raise ValueError("There are no maps: give at least one word.")
    picture = to_rgb(picture)
    extent = (0, picture.width, picture.height, 0)
    figure, (row,) = new_figure(1, 1 + len(maps), 1.7 * (1 + len(maps)), 2.1)
    _picture(row[0], picture, "picture")
    for axes, (word, values) in zip(row[1:], maps.items(), strict=True):
        array = values.float().cpu().numpy()
        _picture(axes, picture.convert("L"), f"{word}\n(up to {array.max():.2g})")
        axes.imshow(array, cmap=HEAT, alpha=0.7, extent=extent, vmin=0, vmax=array.max() or 1)
    return figure


@styled
def focus_spectrum(shown: Twin) -> Chart:
    """Variance and gain of each component, norms of bands, of `focus_decomposition`."""
    figure, ((left, right),) = new_figure(1, 2, 8, 3)
    index = list(range(len(shown.gain)))
    draw_series(left, index, shown.share.T, 0, "share of variance")
    left.set(xlabel="principal component", ylabel="share of variance", yscale="log")
    left.set_ylim(bottom=shown.share.clamp(min=1e-5).min().item() / 2)
    gain = left.twinx()
    gain.grid(False)
    gain.step(index, shown.gain.numpy(), where="mid", color=COLORS[1], ls=LINES[1], label="gain")
    gain.set(ylabel=f"gain at focus {shown.level:g}", ylim=(-0.03, 1.05))
    gain.spines["right"].set_visible(True)
    handles = [*left.get_lines(), *gain.get_lines()]
    left.legend(handles, [line.get_label() for line in handles])
    norms = [band.flatten(1).norm(dim=1).mean().item() for band in shown.bands.values()]
    right.bar(list(shown.bands), norms, color="white", edgecolor=COLORS[0], hatch="//")
    right.set(xlabel="band (numbers of components)", ylabel="norm, mean over the batch")
    right.grid(False, axis="x")
    return figure


def _picture(axes: Axes, picture: Image.Image, title: str) -> None:
    axes.imshow(np.asarray(picture), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_title(title)
    axes.axis("off")
