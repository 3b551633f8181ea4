"""The suite `folder`: a model on any captioned pictures, such as COCO's.

    python -m analysis evaluate --suite folder --data COCO --model vd-four-flow-v1-0 --n 5000

| flow | measured |
|---|---|
| t2i | distances of pictures from the folder's own (Frechet, kernel, CMMD), CLIP score, diversity |
| i2i | likeness to the picture given, distances, diversity |
| i2t | BLEU-4, ROUGE-L, CIDEr-D to the captions, CLIP score, distinct-n, repetition, length |
| t2t | likeness to the caption given, how often it is said in other words, CLIP score |
| t2i, i2t, t2t | recall@1, 5, 10 from texts to pictures and back, and that of the data's own |

Data: `data.captioned`. Networks that compare: `analysis.metrics.feature_models`; several may be named
(`--features inception,open_clip:...`), and each has its own numbers. `--sweep-scale` compares
guidance scales, as Figure 6 of the paper does.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from analysis.measure import folder_summary, processes, report
from analysis.measure.folder_tasks import RESIZE, FolderBench
from analysis.measure.protocol import PARTS, Settings, claim, identity, run_name
from analysis.measure.rows import Measured
from analysis.measure.rows import run as run_task
from analysis.metrics.feature_models import DEFAULT, FeatureModel, load_features
from analysis.modes import generate
from data.captioned import Chosen, choose, read_captioned
from data.folders import shown
from lib.checkpoints.weights import choose_device, load
from lib.config import FLOWS
from lib.model import VersatileDiffusion

log = logging.getLogger(__name__)

_CLIP = ("clip_text", "clip_vision")
_LISTED = 20


def evaluate(args: argparse.Namespace, settings: Settings, out: Path) -> report.Report:
    """Measure as the command line asks (`analysis.measure.evaluate`): load data and networks, and measure.

    Raises:
        ValueError: no data given or found, flows that are measured on scenes only, or a network
            that cannot be loaded.
    """
    settings = of_flows(settings)
    if not args.data:
        raise ValueError("The suite 'folder' needs --data: give a folder of captioned pictures.")
    specs = args.features or (DEFAULT,)
    progress = not args.quiet and processes.rank() == 0
    found = read_captioned(args.data, args.format)
    device = choose_device(args.device)
    others = {s: load_features(s, device=device) for s in specs if s != "own"}
    data = choose(found, settings.n, settings.seed, progress)
    components = _CLIP if "own" in specs else ()
    vd = load(
        args.model,
        flows=settings.flows,
        components=(*components, *(("image_encoder",) if settings.sweep_fidelity else ())),
        encoders=False,
        device=device,
        dtype=None if args.dtype is None else getattr(torch, args.dtype),
    )
    models = [others[s] if s in others else load_features(s, vd) for s in specs]
    name = shown(Path(args.data).resolve().name)
    return evaluate_folder(vd, data, models, settings, name=name, out=out, progress=not args.quiet)


def evaluate_folder(
    vd: VersatileDiffusion,
    data: Chosen,
    models: Sequence[FeatureModel],
    settings: Settings,
    modes: Any = generate,
    *,
    name: str = "",
    out: str | Path = "output/evaluation",
    progress: bool = True,
    figures: bool = True,
) -> report.Report:
    """Measure a model on captioned pictures, and write the report.

    Args:
        vd: the model, with the components that the flows need.
        data: pictures and captions; all of them are used.
        models: feature functions with different names; none leaves out what needs one.
        settings: what to measure; `n` becomes the number of pictures.
        modes: where `text_to_image`, `image_variation`, `image_to_text` and `text_variation` come
            from.
        name: of the data, for the report.
        out: the run's folder is made in it.
        progress: bars on stderr.
        figures: of the sweeps over scales and fidelities.

    Returns:
        The report (`analysis.measure.evaluate`).

    Raises:
        ValueError: a setting out of range, two feature functions of one name, or the run's folder
            belongs to something else.
    """
    settings = of_flows(settings).resolved(vd)
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise ValueError(f"features are {', '.join(names)}: give each only once.")
    if len(data.entries) < settings.n and processes.rank() == 0:
        log.warning("%d pictures are there, not %d", len(data.entries), settings.n)
    settings = replace(settings, n=len(data.entries))
    known = identity(settings, vd, None, None) | {
        "data": {"name": name, "format": data.format, "digest": data.digest},
        "splits": "one: pictures drawn from the data without repetition",
        "prompts": "one of each picture's captions, drawn; cut where too long for the model's CLIP",
        "resize": RESIZE,
        "features": [model.describe() for model in models],
    }
    run = run_name(settings, vd, known)
    folder = Path(out) / run
    claim(folder, known)
    bench = FolderBench(vd, None, modes, settings, chosen=data, models=tuple(models))
    found: dict[str, Measured] = {}
    for task in bench.tasks():
        found[task.name] = run_task(task, folder / "rows", settings.batch, progress)
    left_out = [{"name": one.name, "why": one.why} for one in data.skipped]
    protocol = {
        "run": run,
        **known,
        "left_out": {"count": len(left_out), "first": left_out[:_LISTED]},
        "finished": max(measured.when for measured in found.values()),
        "seconds": round(sum(measured.seconds for measured in found.values()), 1),
    }
    made = {"protocol": protocol, "measures": summarise(found, bench)}
    report.keep(made, folder, draw if figures else None)
    return made


def summarise(found: dict[str, Measured], bench: FolderBench) -> dict[str, Any]:
    """All measures, in the order of a report, from the rows of all tasks."""
    rows = {name: measured.rows for name, measured in found.items()}
    measures = {
        flow: folder_summary.flow(flow, rows["real"], rows[flow])
        for flow in FLOWS
        if flow in bench.settings.flows
    }
    measures |= folder_summary.real(rows["real"])
    for point in bench.points():
        n = min(bench.settings.n, bench.settings.sweep_n)
        found_here = folder_summary.sweep(point.flow, rows["real"], rows[point.task][:n])
        section = measures.setdefault(point.section, {}).setdefault(point.flow, {})
        section[point.label] = found_here
    return measures


def draw(measures: Mapping[str, Any], folder: Path) -> Mapping[str, Path]:
    """Figures of the sweeps, but for that over steps: the figure of it shows what a judge reads."""
    shown_here = {name: measures[name] for name in ("sweep", "sweep_fidelity") if name in measures}
    return report.draw_all(shown_here, folder)


def of_flows(settings: Settings) -> Settings:
    """The settings with those flows that a folder can measure.

    Raises:
        ValueError: something else was asked for by name.
    """
    others = [part for part in settings.flows if part not in FLOWS]
    if others and settings.flows != PARTS:
        raise ValueError(
            f"{', '.join(others)} is measured on scenes only: on a folder, flows are "
            f"{', '.join(FLOWS)}."
        )
    return replace(settings, flows=tuple(part for part in settings.flows if part in FLOWS))
