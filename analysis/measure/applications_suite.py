"""The suite `applications`: what each application does to scenes, measured.

    python -m analysis evaluate --suite applications --model vd-mini --n 200 --seed 7

| application | what should be so |
|---|---|
| fidelity | more of it is less distance to the input |
| focus | towards style, the picture's style is kept and its content freed, monotonically |
| dual, describe | the text's strength moves attributes from the picture's scene to the text's |
| interpolate | so does the position in a film, whose ends are what either text gives alone |
| blend | a masked thing does not appear, and the other one stays |
| edit, latent-edit | the named attribute changes, the others are kept |

`analysis.measure.applications_tasks` says what is made, `analysis.measure.applications_summary` what is counted.
Each claim is a criterion on a 95 % interval: the report's first section has every number with its
criterion and "pass" or "fail", the others have what it stands on. A model that cannot show an
effect fails; so may a method, which is what the numbers are for.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from analysis.measure import applications_summary as summary
from analysis.measure import report, scene_summary
from analysis.measure.applications_tasks import PARTS, ApplicationBench
from analysis.measure.protocol import PARTS as FLOW_PARTS
from analysis.measure.protocol import Settings, claim, identity, run_name
from analysis.measure.rows import Measured
from analysis.measure.rows import run as run_task
from analysis.measure.scene_tasks import Reader
from analysis.modes.edit import edit, latent_edit
from analysis.modes.generate import image_variation, text_to_image
from analysis.modes.interpolate import interpolate
from analysis.modes.mix import blend, describe, dual_guided
from analysis.modes.variation import focused
from data.scenes.judge import load_judge
from lib.checkpoints.weights import load
from lib.model import VersatileDiffusion

MODES = SimpleNamespace(
    image_variation=image_variation,
    text_to_image=text_to_image,
    focused=focused,
    dual_guided=dual_guided,
    describe=describe,
    interpolate=interpolate,
    blend=blend,
    edit=edit,
    latent_edit=latent_edit,
)
"""The applications, as users call them."""

_NEEDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "fidelity": (("i2i",), ("image_encoder",)),
    "focus": (("i2i",), ()),
    "dual": (("t2i", "i2i"), ()),
    "describe": (("t2t", "i2t"), ()),
    "interpolate": (("t2i",), ()),
    "blend": (("i2i",), ()),
    "edit": (("t2i",), ("image_encoder",)),
    "latent-edit": (("i2t", "t2i", "i2i"), ("text_encoder",)),
}
"""Application -> flows and further components."""


def evaluate(args: argparse.Namespace, settings: Settings, out: Path) -> report.Report:
    """Measure as the command line asks (`analysis.measure.evaluate`): load model and judge, and measure."""
    parts = parts_of(getattr(args, "applications", None), settings)
    judge = load_judge(args.judge) if needs_judge(parts) else None
    flows, components = ({name for part in parts for name in _NEEDS[part][k]} for k in (0, 1))
    vd = load(
        args.model,
        flows=sorted(flows),
        components=sorted(components),
        encoders=False,
        device=args.device,
        dtype=None if args.dtype is None else getattr(torch, args.dtype),
    )
    if judge is not None:
        judge = judge.to(vd.device)
    return evaluate_applications(vd, judge, settings, parts=parts, out=out, progress=not args.quiet)


def evaluate_applications(
    vd: VersatileDiffusion,
    judge: Reader | None,
    settings: Settings,
    modes: Any = MODES,
    *,
    parts: Sequence[str] = PARTS,
    out: str | Path = "output/evaluation",
    progress: bool = True,
) -> report.Report:
    """Measure what applications do to scenes, and write the report.

    Args:
        vd: the model, with the components that the parts need.
        judge: what reads pictures; None if only texts are made.
        settings: n inputs an application, seed, steps, scales, sampler (not of `edit`), batch.
        modes: where the applications come from, by the names in `MODES`.
        parts: which of `analysis.measure.applications_tasks.PARTS`.
        out: the run's folder is made in it.
        progress: bars on stderr.

    Returns:
        {"protocol": ..., "measures": {"criteria": ..., one section an application, "judge"}}.
        A criterion reads {application: {what should be so: {"pass" or "fail": `Estimate`}}}.

    Raises:
        ValueError: unknown parts, a judge that is missing or not good enough, or the run's folder
            belongs to something else.
    """
    parts = parts_of(parts, settings)
    settings = settings.resolved(vd)
    if judge is None and needs_judge(parts):
        raise ValueError("Pictures have to be judged: give a judge, or only the part describe.")
    known = identity(settings, vd, judge, None)
    known["applications"] = list(parts)
    known["prompts"] = (
        "dual, describe: complete captions by data.scenes.captions.write; edit, interpolate: canonical"
    )
    name = run_name(settings, vd, known)
    folder = Path(out) / name
    claim(folder, known)
    bench = ApplicationBench(vd, judge, modes, settings, parts=parts)
    found: dict[str, Measured] = {}
    for task in bench.tasks():
        if "judge-test" in found:
            licence(found)  # before anything is generated for it to judge
        found[task.name] = run_task(task, folder / "rows", settings.batch, progress)
    protocol = {
        "run": name,
        **known,
        "finished": max(measured.when for measured in found.values()),
        "seconds": round(sum(measured.seconds for measured in found.values()), 1),
    }
    made = {"protocol": protocol, "measures": summarise(found, parts)}
    report.keep(made, folder)
    return made


def summarise(found: dict[str, Measured], parts: Sequence[str]) -> dict[str, Any]:
    """All measures, the criteria first."""
    criteria: dict[str, Any] = {}
    measures: dict[str, Any] = {"criteria": criteria}
    for part in parts:
        section, asked = getattr(summary, part.replace("-", "_"))(found[part].rows)
        measures[part] = section
        criteria[part] = {}
        for criterion in asked:
            criteria[part] |= criterion.section()
    if "judge-test" in found:
        measures["judge"] = licence(found)
    return measures


def licence(found: dict[str, Measured]) -> dict[str, Any]:
    """How well the judge reads renders; ValueError if not well enough."""
    return scene_summary.licence({"test": found["judge-test"].rows})


def needs_judge(parts: Sequence[str]) -> bool:
    """Whether any of them makes pictures."""
    return bool(set(parts) - {"describe"})


def parts_of(given: Sequence[str] | None, settings: Settings) -> tuple[str, ...]:
    """The applications to measure, checked and in one order; None are all.

    Raises:
        ValueError: unknown ones, none, or settings that are for flows.
    """
    given = PARTS if given is None else given
    unknown = [part for part in given if part not in PARTS]
    if unknown or not given:
        told = ", ".join(map(repr, unknown)) or "nothing"
        raise ValueError(f"applications are {told}: choose from {', '.join(PARTS)}.")
    sweeps = settings.sweep_scale or settings.sweep_steps or settings.sweep_fidelity
    if settings.flows != FLOW_PARTS or sweeps:
        raise ValueError(
            "The suite applications has neither flows nor sweeps: leave them out, and "
            "choose what to measure by --applications."
        )
    return tuple(part for part in PARTS if part in given)
