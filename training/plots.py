"""Pictures of a training log."""

from __future__ import annotations

import json
from pathlib import Path

from lib.files import replacing


def plot_losses(log: Path, out: Path) -> None:
    """Draw every number of a `log.jsonl` over the steps, one panel each, into a PNG.

    One that is newer than the log stays.
    """
    if out.exists() and out.stat().st_mtime >= log.stat().st_mtime:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in Path(log).read_text().splitlines()]
    names = [key for key in lines[0] if key not in ("step", "seconds")]
    figure = Figure(figsize=(4 * len(names), 3), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        values = [line[name] for line in lines]
        axes.plot([line["step"] for line in lines], values, linewidth=1)
        axes.set(title=name, xlabel="step")
        if name != "lr" and min(values) > 0:
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
    with replacing() as temporary:
        figure.savefig(temporary(out), dpi=120, format="png")
