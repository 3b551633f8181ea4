"""What is said in public about a model of this project, as Markdown, from its files alone.

Pure functions of what lies in a model's folder: its spec, the sizes of its files, `training.json`
and an evaluation's reports; and of what its suite says about itself (`Card`). No number is written
by hand, here or in what these functions return; `analysis.measure.publish` puts the texts where
they belong.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from analysis.measure.protocol import Settings
from analysis.measure.report import cells, interval_text, table, value_text
from analysis.metrics.statistics import Estimate
from lib.config import ModelSpec

Report = Mapping[str, Any]
"""A report.json, read."""
Place = tuple[str, ...]
"""Where a report has a number: names of sections, then its own."""


@dataclass(frozen=True)
class Card:
    """What a suite says of itself and of what a model of its world has learnt.

    Attributes:
        headlines: flow ("" is that before it), measure, where the report has it. All are published.
        extras: the same, of what a report may lack: then the row is left out. A row stands behind
            the headline of the same flow, or at the end.
        inputs: "on ... that training never saw".
        readers: by whom results are read; "{judge}" is the worst share that the judge gets right.
        breakdown: a sentence, and the columns (title -> where the report has the shares) of a table
            of them.
        origin, world, limits, not_for, licence: parts of the card, Markdown; "{side}" in the
            limits is that of pictures.
        judge: folder whose training is listed, too.
    """

    headlines: tuple[tuple[str, str, Place], ...]
    extras: tuple[tuple[str, str, Place], ...]
    inputs: str
    readers: str
    breakdown: tuple[str, Mapping[str, Place]]
    origin: str
    world: str
    limits: str
    not_for: str
    licence: str
    judge: Path | None = None

    def rows(self) -> list[tuple[str, str, Place]]:
        """Headlines, and behind those of each flow its extras; every row with its flow."""
        rows: list[tuple[str, str, Place]] = []
        for part in (self.headlines, self.extras):
            flow = ""
            for name, what, path in part:
                flow = name or flow
                places = [i for i, (known, _, _) in enumerate(rows, 1) if known == flow]
                rows.insert(places[-1] if places else len(rows), (flow, what, path))
        return rows


def part_of(report: Report, path: Sequence[str], optional: bool = False) -> Any:
    """What a report has at a place: a section, or a number as a dict.

    Raises:
        ValueError: the report lacks it; `optional`: then it is None.
    """
    node: Any = report["measures"]
    for name in path:
        node = node.get(name) if isinstance(node, Mapping) else None
    if node is None and not optional:
        raise ValueError(
            f"The report lacks {' / '.join(path)}: evaluate all flows (leave --flows out)."
        )
    return node


def command(report: Report, spec: ModelSpec) -> str:
    """The command line that makes a report again; options that are defaults are left out."""
    settings = report["protocol"]["settings"]
    words = ["python", "-m", "analysis", "evaluate", "--model", spec.name]
    usual = {field.name: field.default for field in fields(Settings)}
    usual |= {name: getattr(spec, name) for name in ("steps", "scale_text", "scale_image")}
    order = ("suite", "n", "seed", "steps", "sampler", "scale_text", "scale_image")
    order += tuple(f"sweep_{kind}" for kind in ("scale", "steps", "sampler", "fidelity"))
    order += ("sweep_n", "search_n", "caption_n", "caption_candidates", "flows")
    for name in order:
        value = settings.get(name, usual[name])  # older reports know fewer settings
        value = tuple(value) if isinstance(value, list) else value
        if name == "flows" and "search_n" not in settings:  # all that there were then
            continue
        if value == usual[name] and name not in ("n", "seed"):
            continue
        if isinstance(value, tuple):
            value = ",".join(v if isinstance(v, str) else f"{v:g}" for v in value)
        if value != "":
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def measured(report: Report, spec: ModelSpec, about: Card) -> str:
    """The headline numbers, how they were measured, and the command that does it again.

    Raises:
        ValueError: the report lacks one of them.
    """
    s = report["protocol"]["settings"]
    how = (
        f"`{spec.name}` on {about.inputs}, up to n = {s['n']} a measure, seed "
        f"{s['seed']}, {s['sampler']}, {s['steps']} steps, guidance {s['scale_text']:g} for texts "
        f"and {s['scale_image']:g} for pictures. "
    )
    worst = _worst_of_judge(report) if "{judge}" in about.readers else ""
    how += about.readers.format(judge=worst)
    rows: list[tuple[str, ...]] = []
    optional = {path for _, _, path in about.extras}
    told = ""
    for flow, what, path in about.rows():
        number = part_of(report, path, path in optional)
        if number is not None:
            first, told = "" if flow == told else flow, flow  # each name once
            rows.append((first, what, *cells(Estimate.from_dict(number))))
    return _numbers(how, ("", "measured"), rows, (), report, spec)


def headline(report: Report, spec: ModelSpec, about: Card) -> str:
    """The first number of the first three flows, for the README; the card has all of them.

    Raises:
        ValueError: the report lacks one of them.
    """
    told = []
    for flow, what, path in [row for row in about.headlines if row[0]][:3]:
        number = Estimate.from_dict(part_of(report, path))
        told.append(f"{flow}, {what}: **{value_text(number)}** ({interval_text(number)})")
    n = report["protocol"]["settings"]["n"]
    text = f"`{spec.name}` on {about.inputs}, n = {n}, 95 % intervals: {'; '.join(told)}."
    link = f"pretrained/{spec.name}/MODEL_CARD.md#measured-quality"
    return f"{_wrapped(text)}\n[All numbers, and the command that makes them]({link})."


def effects(report: Report, spec: ModelSpec) -> str:
    """What the applications do to scenes: every criterion, its number, and whether it holds.

    Args:
        report: of the suite `applications`.
        spec: the model it is about.

    Raises:
        ValueError: the report has no criteria.
    """
    rows = []
    for application, asked in report["measures"].get("criteria", {}).items():
        for k, (claim, judged) in enumerate(asked.items()):
            ((verdict, number),) = judged.items()
            first = "" if k else application
            rows.append((first, claim, *cells(Estimate.from_dict(number)), verdict))
    if not rows:
        raise ValueError("The report has no criteria: give one of `--suite applications`.")
    s = report["protocol"]["settings"]
    held = sum(row[-1] == "pass" for row in rows)
    how = (
        f"What each application does to scenes that training never saw, n = {s['n']}, seed "
        f"{s['seed']}, {s['sampler']}, {s['steps']} steps. Each claim is a criterion on a 95 % "
        f"interval, which can fail: {held} of {len(rows)} hold."
    )
    return _numbers(how, ("", "claim"), rows, ("",), report, spec)


def _numbers(
    how: str,
    first: tuple[str, ...],
    rows: Sequence[Sequence[str]],
    last: tuple[str, ...],
    report: Report,
    spec: ModelSpec,
) -> str:
    """How it was measured, a table of numbers, and the command that makes it again."""
    lines = table((*first, "value", "95 % interval", "n", *last), rows, right=2)
    run = report["protocol"]["run"]
    again = f"Run `{run}`, made again by\n`{command(report, spec)}`."
    return "\n".join([_wrapped(how), "", *lines, "", again])


def trained(training: Mapping[str, Any]) -> str:
    """What each stage took, and what it measured at its end."""
    rows = []
    for stage, entry in training.items():
        recipe, numbers = entry["recipe"], entry["measured"]
        told = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in numbers.items())
        size = f"{recipe['steps']:,} x {recipe['batch'] * entry.get('processes', 1)}"
        rows.append((stage, size, f"{entry['minutes']:.0f}", _speed(stage, entry), told))
    hours = sum(entry["minutes"] for entry in training.values()) / 60
    together = (
        f"Together {hours:.1f} hours by the clock, as recorded in `training.json` beside the "
        "weights. Stages may have run at the same time. A run that a later one went on from is "
        "listed, too."
    )
    head = ("stage", "steps x batch", "minutes", "samples a second", "measured at its end")
    return "\n".join([*table(head, rows), "", _wrapped(together)])


def _speed(stage: str, entry: Mapping[str, Any]) -> str:
    """Samples a second over a whole run, "" where their number was not recorded.

    A step of the flows has several samples for each of its batch; of other stages it has the batch.
    """
    recipe, samples = entry["recipe"], entry.get("samples")
    if samples is None and not stage.startswith("flows"):
        samples = recipe["batch"] * entry.get("processes", 1)
    if samples is None or not entry["minutes"]:
        return ""
    return f"{recipe['steps'] * samples / (60 * entry['minutes']):.0f}"


def card(
    spec: ModelSpec,
    about: Card,
    sizes: Mapping[str, tuple[int, int]],
    training: Mapping[str, Any],
    report: Report,
    applied: Report | None = None,
) -> str:
    """The whole model card.

    Args:
        spec: the model.
        about: what its suite says.
        sizes: component -> (parameters, bytes on disk).
        training: stage -> what `training.json` says of it.
        report: an evaluation of all flows.
        applied: one of the applications, if there is one.

    Raises:
        ValueError: a report lacks a number.
    """
    counts, stored = zip(*sizes.values(), strict=True)
    rows = [(f"`{name}`", f"{count:,}", megabytes(size)) for name, (count, size) in sizes.items()]
    rows.append(("**all**", f"**{sum(counts):,}**", f"**{megabytes(sum(stored))}**"))
    image, text = spec.latent_shape("image"), spec.latent_shape("text")
    side, newline = spec.image_size, "\n"
    sentence, columns = about.breakdown
    return f"""\
# {spec.name}

Written by `python -m analysis publish` from the files in this folder. Change those, not this text.

## What it is

A Versatile Diffusion (Xu et al., arXiv 2211.08332) of {sum(counts) / 1e6:.1f} M parameters: one
diffuser for text-to-image, image-variation, image-to-text and text-variation, with its own image
VAE, text VAE and CLIP. {about.origin}

| | |
|---|---|
| pictures | {side} x {side} RGB, latents {" x ".join(map(str, image))} |
| texts | up to {spec.text_vae.max_output} tokens, latents of {text[0]} numbers |
| contexts | {spec.clip.text.positions} text tokens or {spec.clip.vision.tokens} image tokens, \
{spec.unet.context_dim} wide |
| default sampling | {spec.steps} steps; guidance {spec.scale_text:g} (text), \
{spec.scale_image:g} (picture) |
| load | `analysis.load("{spec.name}")` |

## Sizes

{newline.join(table(("component", "parameters", "on disk"), rows, right=1))}

## Trained on what, and how long

{about.world}

{trained(training)}

## Measured quality

{measured(report, spec, about)}

{sentence}

{newline.join(_broken_down(report, columns))}

All numbers, with their intervals and the protocol: `evaluation.json`.
{"" if applied is None else _section("Measured effect of the applications", effects(applied, spec))}
## Limits

{about.limits.format(side=side)}

## Not for

{about.not_for}

## Licence

{about.licence}
"""


def _section(title: str, text: str) -> str:
    return f"\n## {title}\n\n{text}\n\nAll of it: `applications.json`.\n"


def megabytes(size: int) -> str:
    """A number of bytes, in MB of a million each."""
    return f"{size / 1e6:.1f} MB"


def _broken_down(report: Report, columns: Mapping[str, Place]) -> list[str]:
    """A table of shares by attribute, a column for each part of the report."""
    parts = [part_of(report, path) for path in columns.values()]
    rows = [
        (name, *(value_text(Estimate.from_dict(part[name])) for part in parts)) for name in parts[0]
    ]
    return table(("attribute", *columns), rows, right=1)


def _worst_of_judge(report: Report) -> str:
    """The lowest share of an attribute that the judge reads right on real renders."""
    splits = part_of(report, ("judge",)).values()
    shares = [Estimate.from_dict(number) for split in splits for number in split.values()]
    return value_text(min((e for e in shares if e.n), key=lambda e: e.value))


def _wrapped(text: str) -> str:
    text = text.replace(" %", "\u00a0%")  # a number keeps its unit
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)
