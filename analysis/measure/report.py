"""Measured numbers as JSON, as a table for the terminal, and as Markdown.

Measures are nested dicts with `Estimate`s as leaves; nothing here knows what they mean, so a new
measure needs no new line. The sections named in `COMPARED` are laid out as comparisons.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from analysis.measure import processes
from analysis.metrics.statistics import Estimate
from lib.files import replacing, write_atomic

Report = dict[str, Any]
"""{"protocol": ..., "measures": nested dicts with `Estimate`s, "left_out": number -> why}."""

COMPARED = {
    "sweep": ("guidance scales", "scale"),
    "sweep_steps": ("steps of each sampler", "sampler, steps"),
    "sweep_fidelity": ("fidelity to the input", "fidelity"),
}
"""Sections {flow: {run: measures}} -> what is compared, and head of the column of runs."""
_UNITS = {"share": "%", "points": "points"}
_HEAD = ("measure", "value", "95 % interval", "n")


def numbers(section: Mapping[str, Any], path: str = "") -> tuple[dict[str, Any], dict[str, str]]:
    """What was measured, and apart from it, why some of it has no number.

    Args:
        section: nested dicts; leaves are `Estimate`s, or sentences in their place.
        path: of the section in the report.

    Returns:
        The same without the sentences and what is empty without them, and {path: sentence}.
    """
    kept: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name, value in section.items():
        here = f"{path} / {_label(name)}" if path else _label(name)
        if isinstance(value, str):
            left_out[here] = value
            continue
        if isinstance(value, Mapping):
            value, reasons = numbers(value, here)
            left_out |= reasons
            if reasons and not value:
                continue
        kept[name] = value
    return kept, left_out


def to_json(measures: Any) -> Any:
    """Nested dicts with every `Estimate` as a dict of plain types."""
    if isinstance(measures, Estimate):
        return measures.to_dict()
    if isinstance(measures, Mapping):
        return {str(name): to_json(value) for name, value in measures.items()}
    return measures


def dumps(report: Mapping[str, Any]) -> str:
    """A report as strict JSON (no NaN), with a final line end."""
    return json.dumps(to_json(report), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def keep(
    made: Report,
    folder: Path,
    sheets: Mapping[str, tuple[str, Image.Image]] | None = None,
    figures: bool = True,
) -> None:
    """Write a report's files into its run's folder: `report.json`, `report.md`, and figures.

    Of several processes one writes; all wait until it has.

    Args:
        made: the report.
        folder: of the run.
        sheets: contact sheets, as `Suite.sheets` gives them.
        figures: whether to draw any.
    """
    if processes.rank() == 0:
        write_atomic(folder / "report.json", dumps(made))
        links = {}
        if figures:
            from analysis.measure.report_figures import draw  # matplotlib is slow to import

            drawn = draw(made["measures"], folder)
            for title, (name, sheet) in (sheets or {}).items():
                drawn[title] = folder / "figures" / f"{name}.png"
                with replacing() as temporary:
                    sheet.save(temporary(drawn[title]), "PNG")
            links = {title: path.relative_to(folder).as_posix() for title, path in drawn.items()}
        write_atomic(folder / "report.md", to_markdown(made, links))
    processes.wait()


def value_text(estimate: Estimate) -> str:
    """The number, in a form that suits its kind: "93.2 %", "31.42 dB", "0.87", "-"."""
    return _with_unit(_digits(estimate, estimate.value), estimate)


def interval_text(estimate: Estimate) -> str:
    """The interval, "90.7 - 95.1 %", or nothing."""
    if estimate.low is None:
        return ""
    between = " to " if estimate.kind == "points" else " - "  # a minus sign may follow
    ends = between.join(_digits(estimate, end) for end in (estimate.low, estimate.high))
    return _with_unit(ends, estimate)


def _digits(estimate: Estimate, value: float | None) -> str:
    if value is None:
        return "-"
    if estimate.kind == "share":
        return f"{100 * value:.1f}"
    if estimate.kind == "points":
        return f"{100 * value:+.1f}"
    if estimate.kind == "count":
        return f"{value:.0f}"
    if estimate.unit:
        return f"{value:.2f}"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.3f}"


def _with_unit(text: str, estimate: Estimate) -> str:
    unit = _UNITS.get(estimate.kind, estimate.unit)
    return f"{text} {unit}" if unit and text != "-" else text


def cells(estimate: Estimate) -> tuple[str, str, str]:
    """Value, interval and n, as tables show them."""
    return value_text(estimate), interval_text(estimate), str(estimate.n)


def leaves(measures: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Estimate]]:
    """(path, estimate) of all leaves in order; a path reads "test / attributes / color1"."""
    for name, value in measures.items():
        here = f"{path} / {_label(name)}" if path else _label(name)
        if isinstance(value, Estimate):
            yield here, value
        else:
            yield from leaves(value, here)


def _label(name: object) -> str:
    return str(name).replace("_", " ")


def tables(made: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """(title, rows of cells, the head first) of each section of a report."""
    for title, section in made["measures"].items():
        if title in COMPARED:
            compared, head = COMPARED[title]
            for flow, runs in section.items():
                yield f"{flow}: {compared}", comparison(runs, head)
        else:
            yield title, [_HEAD, *((path, *cells(e)) for path, e in leaves(section))]
    if made.get("left_out"):
        yield "left out", [("number", "why"), *made["left_out"].items()]


def comparison(runs: Mapping[str, Mapping[str, Estimate]], head: str) -> list[tuple[str, ...]]:
    """One row a run, one column a measure; a run may lack a measure."""
    names = list(dict.fromkeys(name for run in runs.values() for name in run))
    rows = [(head, *map(_label, names), "n")]
    for run_name, run in runs.items():
        row = []
        for e in map(run.get, names):
            interval = interval_text(e) if e else ""
            row.append((value_text(e) if e else "") + (f" ({interval})" if interval else ""))
        rows.append((run_name, *row, str(max(e.n for e in run.values()))))
    return rows


def to_text(made: Mapping[str, Any]) -> str:
    """Aligned tables for a terminal."""
    parts = []
    for title, rows in tables(made):
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [title, "-" * (sum(widths) + 2 * len(widths) - 2)]
        for first, *rest in rows:
            padded = [first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]
            lines.append("  ".join(padded).rstrip())
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def to_markdown(made: Mapping[str, Any], figures: Mapping[str, str] | None = None) -> str:
    """A whole report: what was measured, figures, every number, and the protocol.

    Args:
        made: as `keep` takes it.
        figures: title -> where the picture is, from the report's folder.
    """
    protocol = made["protocol"]
    lines = [f"# Evaluation `{protocol['run']}`", ""]
    lines += [
        f"{_sentence(protocol)} Intervals are of 95 %: Wilson's for shares, the normal "
        "approximation for means, the delta method for ratios, Bonett and Price's for differences "
        "of shares of the same inputs.",
        "",
    ]
    for title, path in (figures or {}).items():
        lines += [f"![{title}]({path})", ""]
    for title, (head, *body) in tables(made):
        lines += [f"## {title}", "", *table(head, body, right=1), ""]
    protocol_json = json.dumps(to_json(protocol), indent=2, ensure_ascii=False)
    lines += ["## Protocol", "", "```json", protocol_json, "```", ""]
    return "\n".join(lines)


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], right: int | None = None
) -> list[str]:
    """Lines of a Markdown table; columns from number `right` on are aligned to the right."""
    right = len(head) if right is None else right
    rule = ["---" if i < right else "---:" for i in range(len(head))]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]


def _sentence(protocol: Mapping[str, Any]) -> str:
    s, model, sides = protocol["settings"], protocol["model"], protocol["resolution"]
    return (
        f"{model['name']} ({model['dtype']}, {model['device']}) on the suite {s['suite']}: "
        f"n = {s['n']} a flow and split, seed {s['seed']}, {s['sampler']}, {s['steps']} "
        f"steps, guidance {s['scale_text']:g} for texts and {s['scale_image']:g} for pictures; "
        f"pictures of {sides['generated']}x{sides['generated']} pixels, read by the model's CLIP "
        f"at {sides['clip']}x{sides['clip']}; "
        f"finished {protocol['finished']} after {protocol['seconds']:.0f} s."
    )
