"""The suite `scenes`: a model on drawn scenes, whose meaning is known exactly.

| measured | by |
|---|---|
| what pictures show | `data.scenes.judge`, after it has read real renders of both splits without fault |
| what captions say | `data.scenes.captions.parse` |
| how far pictures are from real ones | `vd`'s own CLIP: secondary, it also conditions the model |

`analysis.measure.scene_tasks` lets the model generate, `analysis.measure.scene_summary` sums up what came out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from analysis.folders.caption import caption
from analysis.measure import report, scene_summary, scene_sweeps
from analysis.measure.protocol import Settings, claim, identity, run_name
from analysis.measure.rows import Measured
from analysis.measure.rows import run as run_task
from analysis.measure.scene_tasks import Bench, FeatureFunctions, Reader
from analysis.metrics.feature_models import own_features
from analysis.modes import generate
from data.scenes.judge import load_judge
from lib.checkpoints.weights import load
from lib.config import FLOWS
from lib.model import VersatileDiffusion
from lib.schedule import NoiseSchedule

JUDGED = ("t2i", "i2i")
MODES = SimpleNamespace(
    text_to_image=generate.text_to_image,
    image_variation=generate.image_variation,
    image_to_text=generate.image_to_text,
    text_variation=generate.text_variation,
    caption=caption,
)
"""What is measured: the functions that users call."""
_CLIP = ("clip_text", "clip_vision")
_AUTOENCODERS = ("image_encoder", "image_decoder", "text_encoder", "text_decoder")


def evaluate(args: argparse.Namespace, settings: Settings, out: Path) -> report.Report:
    """Measure as the command line asks (`analysis.measure.evaluate`): load model and judge, and measure."""
    judge = load_judge(args.judge) if needs_judge(settings) else None
    # captions are made by a flow, also where that flow itself is not asked for
    used = {*settings.flows, "i2t"} if "caption" in settings.flows else set(settings.flows)
    rebuilt = _AUTOENCODERS if "reconstruction" in settings.flows else ()
    vd = load(
        args.model,
        flows=[flow for flow in FLOWS if flow in used],
        components=(*_CLIP, *rebuilt),
        encoders=False,
        device=args.device,
        dtype=None if args.dtype is None else getattr(torch, args.dtype),
    )
    if judge is not None:
        judge = judge.to(vd.device)
    return evaluate_scenes(vd, judge, settings, out=out, progress=not args.quiet)


def evaluate_scenes(
    vd: VersatileDiffusion,
    judge: Reader | None,
    settings: Settings,
    modes: Any = MODES,
    *,
    features: FeatureFunctions | None = None,
    out: str | Path = "output/evaluation",
    progress: bool = True,
    figures: bool = True,
) -> report.Report:
    """Measure a model on the suite `scenes`, and write the report.

    Args:
        vd: the model, with the components that the flows need.
        judge: what reads pictures; None if no flow makes any.
        settings: what to measure.
        modes: where `text_to_image`, `image_variation`, `image_to_text`, `text_variation` and
            `caption` come from.
        features: None takes the model's own CLIP if both of its towers are loaded.
        out: the run's folder is made in it.
        progress: bars on stderr.
        figures: whether the report gets them.

    Returns:
        {"protocol": ..., "measures": nested dicts with `Estimate`s}; as written, but for the
        estimates being plain dicts there.

    Raises:
        ValueError: something is missing, the judge is not good enough, or the run's folder belongs
            to something else.
    """
    settings = settings.resolved(vd)
    if judge is None and needs_judge(settings):
        raise ValueError(
            f"Pictures have to be judged: give a judge, or flows without {' and '.join(JUDGED)}."
        )
    if features is None and set(_CLIP) <= set(vd.loaded):
        features = own_features(vd)
    if "search" in settings.flows and (features is None or features.texts is None):
        raise ValueError(
            "Search compares vectors of texts and pictures: load clip_text and clip_vision, or "
            "give flows without search."
        )
    known = identity(settings, vd, judge, None if features is None else features.name)
    name = run_name(settings, vd, known)
    folder = Path(out) / name
    claim(folder, known)
    bench = Bench(vd, judge, modes, settings, features)
    found: dict[str, Measured] = {}
    for task in [*bench.tasks(), *scene_sweeps.tasks(bench)]:
        if "judge-test" in found and not task.name.startswith("judge"):
            _licence(found)  # before anything is generated for it to judge
        found[task.name] = run_task(task, folder / "rows", settings.batch, progress)
    protocol = {
        "run": name,
        **known,
        "finished": max(measured.when for measured in found.values()),
        "seconds": round(sum(measured.seconds for measured in found.values()), 1),
    }
    made = {"protocol": protocol, "measures": summarise(found, settings, vd.schedule)}
    report.keep(made, folder, report.draw_all if figures else None)
    return made


def summarise(
    found: dict[str, Measured], settings: Settings, schedule: NoiseSchedule
) -> dict[str, Any]:
    """All measures, in the order of a report, from the rows of all tasks."""
    rows = {name: measured.rows for name, measured in found.items()}
    measures: dict[str, Any] = {}
    if "t2i" in settings.flows:
        heldout = scene_summary.t2i(rows["t2i-heldout"])
        heldout["heldout_objects"] = scene_summary.heldout_objects(rows["t2i-heldout"])
        measures["t2i"] = {"test": scene_summary.t2i(rows["t2i-test"]), "heldout": heldout}
        features = scene_summary.t2i_features(rows["t2i-test"])
        measures["t2i"] |= {"features": features} if features else {}
    if "i2i" in settings.flows:
        measures["i2i"] = scene_summary.i2i(rows["i2i-test"])
    if "i2t" in settings.flows:
        measures["i2t"] = scene_summary.i2t(rows["i2t-test"])
    if "t2t" in settings.flows:
        measures["t2t"] = scene_summary.t2t(rows["t2t-test"])
    if "reconstruction" in settings.flows:
        parts = rows["reconstruction-image"], rows["reconstruction-text"]
        measures["reconstruction"] = scene_summary.reconstruction(*parts)
    if "judge-test" in found:
        measures["judge"] = _licence(found)
    if "search" in settings.flows:
        measures["search"] = scene_summary.search(rows["search"])
    if "caption" in settings.flows:
        measures["caption"] = scene_summary.captioning(rows["caption"])
    return measures | scene_sweeps.summarise(rows, settings, schedule)


def needs_judge(settings: Settings) -> bool:
    """Whether a flow makes pictures."""
    return bool(set(JUDGED) & set(settings.flows))


def _licence(found: dict[str, Measured]) -> dict[str, Any]:
    splits = {
        name.removeprefix("judge-"): measured.rows
        for name, measured in found.items()
        if name.startswith("judge-")
    }
    return scene_summary.licence(splits)
