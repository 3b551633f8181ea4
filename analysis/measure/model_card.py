"""What is said in public about a model of this project, as Markdown, from its files alone.

Pure functions of what lies in a model's folder: its spec, the sizes of its files, `training.json`
and an evaluation's report. No number is written by hand, here or in what these functions return;
`analysis.measure.publish` puts the texts where they belong.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.measure.protocol import Settings
from analysis.measure.report import interval_text, value_text
from analysis.metrics.statistics import Estimate
from data.scenes.world import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLORS,
    HELD_OUT,
    RELATIONS,
    SHAPES,
    SIZES,
    STYLES,
)
from lib.config import ModelSpec

Report = Mapping[str, Any]
"""A report.json, read."""

HEADLINES = (
    ("text to image", "every attribute right", ("t2i", "test", "all")),
    ("", "of scenes with one object", ("t2i", "test", "one_object")),
    ("", "of scenes with two objects", ("t2i", "test", "two_objects")),
    ("", "of never-seen colour-shape pairs", ("t2i", "heldout", "all")),
    ("image variation", "every attribute kept", ("i2i", "semantics_kept", "all")),
    ("", "variety, 1 = real renders", ("i2i", "diversity_where_kept", "pixels_ratio")),
    ("image to text", "exactly the scene", ("i2t", "exact_scene")),
    ("", "a scene at all", ("i2t", "parsed")),
    ("text variation", "the same scene", ("t2t", "same_scene")),
    ("", "in other words than the input", ("t2t", "reworded")),
    ("image VAE", "reconstruction (PSNR)", ("reconstruction", "image", "psnr")),
    ("text VAE", "captions returned word for word", ("reconstruction", "text", "exact_match")),
)
"""Flow, measure, and where the report has it."""

_STEPS, _FEWER = ("sweep_steps", "t2i"), "all_minus_ddim_50"
EXTRAS = (
    ("fewer steps", "20 of dpmpp_2m minus 50 of ddim", (*_STEPS, "dpmpp_2m, 20", _FEWER)),
    ("", "20 of heun minus 50 of ddim", (*_STEPS, "heun, 20", _FEWER)),
    ("visual search", "a caption finds its picture first", ("search", "text_to_image", "recall@1")),
    ("", "among the first 5", ("search", "text_to_image", "recall@5")),
    ("", "among the first 10", ("search", "text_to_image", "recall@10")),
    ("", "a picture finds another of its scene", ("search", "image_to_image", "recall@1")),
    ("", "among the first 5", ("search", "image_to_image", "recall@5")),
    ("", "among the first 10", ("search", "image_to_image", "recall@10")),
    ("captions", "exactly the scene, best of several", ("caption", "exact_scene")),
    ("", "the first of them", ("caption", "of_first", "exact_scene")),
    ("", "best minus first", ("caption", "best_minus_first")),
)
"""The same, of what an evaluation may have left out. A "" in front takes the name before it."""

_EXTRA = {path for _, _, path in EXTRAS}

_BY_ATTRIBUTE = {
    "text to image": ("t2i", "test", "attributes"),
    "never-seen pairs": ("t2i", "heldout", "attributes"),
    "image variation": ("i2i", "semantics_kept", "attributes"),
    "image to text, where readable": ("i2t", "attributes_where_readable"),
}


def estimate(report: Report, path: Sequence[str]) -> Estimate:
    """One measured number of a report.

    Raises:
        ValueError: the report lacks it.
    """
    node = report["measures"]
    try:
        for name in path:
            node = node[name]
        return Estimate.from_dict(node)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"The report lacks {' / '.join(path)}: evaluate all flows (leave --flows out)."
        ) from error


def has(report: Report, path: Sequence[str]) -> bool:
    """Whether a report has that number."""
    try:
        estimate(report, path)
    except ValueError:
        return False
    return True


def command(report: Report, spec: ModelSpec) -> str:
    """The command line that makes a report again; options that are defaults are left out."""
    settings, usual = report["protocol"]["settings"], Settings()
    words = ["python", "-m", "analysis", "evaluate", "--model", spec.name]
    if settings.get("suite", usual.suite) != usual.suite:
        words += ["--suite", settings["suite"]]
    words += ["--n", str(settings["n"]), "--seed", str(settings["seed"])]
    defaults = {
        "steps": spec.steps,
        "sampler": usual.sampler,
        "scale_text": spec.scale_text,
        "scale_image": spec.scale_image,
    }
    for name, default in defaults.items():
        if settings[name] != default:
            words += [f"--{name.replace('_', '-')}", f"{settings[name]}"]
    for name in (f"sweep_{kind}" for kind in ("scale", "steps", "sampler", "fidelity")):
        values = settings.get(name, [])  # older reports know fewer sweeps
        if values and tuple(values) != getattr(usual, name):
            told = (value if isinstance(value, str) else f"{value:g}" for value in values)
            words += [f"--{name.replace('_', '-')}", ",".join(told)]
    for name in ("sweep_n", "search_n", "caption_n", "caption_candidates"):
        if settings.get(name, getattr(usual, name)) != getattr(usual, name):
            words += [f"--{name.replace('_', '-')}", f"{settings[name]}"]
    if "search_n" in settings and tuple(settings["flows"]) != usual.flows:
        words += ["--flows", ",".join(settings["flows"])]
    return shlex.join(words)


def measured(report: Report, spec: ModelSpec) -> str:
    """The headline numbers, how they were measured, and the command that does it again."""
    s, run = report["protocol"]["settings"], report["protocol"]["run"]
    rows = _lines(report)
    how = (
        f"`{spec.name}` on scenes that training never saw, up to n = {s['n']} a measure, seed "
        f"{s['seed']}, {s['sampler']}, {s['steps']} steps, guidance {s['scale_text']:g} for texts "
        f"and {s['scale_image']:g} for pictures. What a picture shows is read by a classifier that "
        f"gets at least {_worst_of_judge(report)} of each attribute of real renders right; what a "
        "caption says, by a parser."
    )
    lines = table(("", "measured", "value", "95 % interval", "n"), rows, right=2)
    again = f"Run `{run}`, made again by\n`{command(report, spec)}`."
    return "\n".join([_wrapped(how), "", *lines, "", again])


def _lines(report: Report) -> list[tuple[str, ...]]:
    """Rows of the table of headlines: all of `HEADLINES`, and those `EXTRAS` that were measured.

    Raises:
        ValueError: the report lacks one of `HEADLINES`.
    """
    rows: list[tuple[str, ...]] = []
    flow = told = ""
    for name, what, path in (*HEADLINES, *EXTRAS):
        flow = name or flow
        if path in _EXTRA and not has(report, path):
            continue
        e = estimate(report, path)
        first, told = "" if flow == told else flow, flow  # each name once
        rows.append((first, what, value_text(e), interval_text(e), str(e.n)))
    return rows


def effects(report: Report, spec: ModelSpec) -> str:
    """What the applications do to scenes: every criterion, its number, and whether it holds.

    Args:
        report: of the suite `applications`.
        spec: the model it is about.

    Raises:
        ValueError: the report has no criteria.
    """
    rows, held = [], 0
    for application, asked in report["measures"].get("criteria", {}).items():
        for k, (claim, judged) in enumerate(asked.items()):
            (verdict, number), *_ = judged.items()
            e = Estimate.from_dict(number)
            held += verdict == "pass"
            shown = ("" if k else application, claim, value_text(e), interval_text(e), str(e.n))
            rows.append((*shown, verdict))
    if not rows:
        raise ValueError("The report has no criteria: give one of `--suite applications`.")
    s, run = report["protocol"]["settings"], report["protocol"]["run"]
    how = (
        f"What each application does to scenes that training never saw, n = {s['n']}, seed "
        f"{s['seed']}, {s['sampler']}, {s['steps']} steps. Each claim is a criterion on a 95 % "
        f"interval, which can fail: {held} of {len(rows)} hold."
    )
    lines = table(("", "claim", "value", "95 % interval", "n", ""), rows, right=2)
    again = f"Run `{run}`, made again by\n`{command(report, spec)}`."
    return "\n".join([_wrapped(how), "", *lines, "", again])


def trained(training: Mapping[str, Any]) -> str:
    """What each stage took, and what it measured at its end."""
    rows = []
    for stage, entry in training.items():
        recipe, found = entry["recipe"], entry["measured"]
        told = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in found.items())
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
    sizes: Mapping[str, tuple[int, int]],
    training: Mapping[str, Any],
    report: Report,
    applied: Report | None = None,
) -> str:
    """The whole model card.

    Args:
        spec: the model.
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
    side = spec.image_size
    return f"""\
# {spec.name}

Written by `python -m analysis.measure.publish` from the files in this folder. Change those, not this text.

## What it is

A Versatile Diffusion (Xu et al., arXiv 2211.08332) of {sum(counts) / 1e6:.1f} M parameters: one
diffuser for text-to-image, image-variation, image-to-text and text-variation, with its own image
VAE, text VAE and CLIP. It was trained from nothing by `training/`, on a world of drawn scenes, so
that the code can be run, tested and studied without the released model's gigabytes.

| | |
|---|---|
| pictures | {side} x {side} RGB, latents {" x ".join(map(str, image))} |
| texts | up to {spec.text_vae.max_output} tokens, latents of {text[0]} numbers |
| contexts | {spec.clip.text.positions} text tokens or {spec.clip.vision.tokens} image tokens, \
{spec.unet.context_dim} wide |
| default sampling | {spec.steps} steps; guidance {spec.scale_text:g} (text), \
{spec.scale_image:g} (picture) |
| load | `lib.checkpoints.weights.load("{spec.name}")` |

## Sizes

{_joined(table(("component", "parameters", "on disk"), rows, right=1))}

## Trained on what, and how long

Renders and captions of random scenes, made by `scenes/` while training: no photographs, no texts
from elsewhere, no personal data.

| a scene has | |
|---|---|
| a background | {_listed(BACKGROUNDS)} |
| a style | {_listed(STYLES)} |
| one or two objects, each of a size, | {_listed(SIZES)} |
| a colour | {_listed(COLORS)} |
| and a shape | {_listed(SHAPES)} |
| a relation of the two | {_listed(RELATIONS)} |
| **never in training** | test and validation scenes; {_listed([" ".join(p) for p in HELD_OUT])} |

(The judge, which is no part of the model, has seen the pairs of the last line, but no test scene.)

{trained(training)}

## Measured quality

{measured(report, spec)}

Share right of each attribute, over the scenes that have it:

{_joined(_by_attribute(report))}

All numbers, with their intervals and the protocol: `evaluation.json`.
{"" if applied is None else _section("Measured effect of the applications", effects(applied, spec))}
## Limits

- It knows nothing but these scenes. A photograph, a drawing of anything else, or a word outside the
  captions' vocabulary gives a scene all the same, and one that means nothing.
- One or two objects, {side} x {side} pixels, English in the grammar of `scenes/captions.py`.
- The numbers above are about scenes, and about what this project's own classifier and parser read.
  They say nothing about the released model or about pictures of the real world.

## Not for

It was never trained for, and must not be used for: pictures or descriptions of people or of the
real world, decisions about anybody or anything, comparisons of Versatile Diffusion with other
models.

## Licence

MIT, as the code.
"""


def _section(title: str, text: str) -> str:
    return f"\n## {title}\n\n{text}\n\nAll of it: `applications.json`.\n"


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], right: int | None = None
) -> list[str]:
    """Lines of a Markdown table; columns from number `right` on are aligned to the right."""
    right = len(head) if right is None else right
    rule = ["---" if i < right else "---:" for i in range(len(head))]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def megabytes(size: int) -> str:
    """A number of bytes, in MB of a million each."""
    return f"{size / 1e6:.1f} MB"


def _by_attribute(report: Report) -> list[str]:
    rows = []
    for name in ATTRIBUTES:
        shares = [value_text(estimate(report, (*path, name))) for path in _BY_ATTRIBUTE.values()]
        rows.append((name, *shares))
    return table(("attribute", *_BY_ATTRIBUTE), rows, right=1)


def _worst_of_judge(report: Report) -> str:
    """The lowest share of an attribute that the judge reads right on real renders."""
    splits = report["measures"].get("judge", {})
    shares = [estimate(report, ("judge", s, a)) for s in splits for a in splits[s]]
    if not shares:
        raise ValueError("The report lacks judge: evaluate all flows (leave --flows out).")
    return value_text(min((e for e in shares if e.n), key=lambda e: e.value))


def _wrapped(text: str) -> str:
    text = text.replace(" %", "\u00a0%")  # a number keeps its unit
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(lines)


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words)
