"""Pictures of a training log."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

from lib.checks import number, parse_json
from lib.files import replacing


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a `log.jsonl`, each with its step; what is damaged is passed over."""
    rows = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with suppress(ValueError, AttributeError):
            row = parse_json(line)
            for key, value in row.items():
                number(key, value, -math.inf)
            rows += [row] if "step" in row else []
    return rows


def plot_losses(log: Path, out: Path) -> None:
    """Draw every number of a `log.jsonl` over the steps, one panel each, into a PNG.

    One that is newer than the log stays.
    """
    lines = read_log(log)
    names = [name for name in lines[0] if name not in ("step", "seconds")] if lines else []
    if not names or (out.exists() and out.stat().st_mtime >= log.stat().st_mtime):
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(names), 3), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        values = [line.get(name, math.nan) for line in lines]
        axes.plot([line["step"] for line in lines], values, linewidth=1)
        axes.set(title=name, xlabel="step")
        if name != "lr" and min(values) > 0:
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
    with replacing() as temporary:
        figure.savefig(temporary(out), dpi=120, format="png")
