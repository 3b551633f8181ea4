"""Evaluation: how good a model is, as numbers with intervals, and exactly how they were measured.

    python -m analysis evaluate --model vd-mini --n 500 --seed 7 --json

writes `report.json` and `report.md` to `output/evaluation/<run>/`. A run is named by its settings
and a digest of everything else that a number may depend on (`analysis.protocol`), so no report is
overwritten by another one's. Interrupted, the same command goes on (`analysis.rows`).

| measured | by |
|---|---|
| what pictures show | `scenes.judge`, after it has read real renders of both splits without fault |
| what captions say | `scenes.captions.parse` |
| how far pictures are from real ones | `vd`'s own CLIP: secondary, it also conditions the model |
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from analysis import generate, report, scene_summary
from analysis.outputs import prepare
from analysis.protocol import PARTS, SUITES, SWEPT, Settings, identity, run_name
from analysis.rows import Measured, write_atomic
from analysis.rows import run as run_task
from analysis.sampling import SAMPLERS
from analysis.scene_tasks import Bench, FeatureFunctions, Reader
from lib.config import FLOWS
from lib.model import VersatileDiffusion
from lib.weights import load
from scenes.judge import JUDGE_FOLDER, load_judge

OUT = Path("output")
FOLDER = "evaluation"
JUDGED = ("t2i", "i2i")
_CLIP = ("clip_text", "clip_vision")
_AUTOENCODERS = ("image_encoder", "image_decoder", "text_encoder", "text_decoder")


def evaluate_scenes(
    vd: VersatileDiffusion,
    judge: Reader | None,
    settings: Settings,
    modes: Any = generate,
    *,
    features: FeatureFunctions | None = None,
    out: str | Path = OUT / FOLDER,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure a model on the suite `scenes`, and write the report.

    Args:
        vd: the model, with the components that the flows need.
        judge: what reads pictures; None if no flow makes any.
        settings: what to measure.
        modes: where `text_to_image`, `image_variation`, `image_to_text` and `text_variation` come
            from.
        features: None takes the model's own CLIP if both of its towers are loaded.
        out: the run's folder is made in it.
        progress: bars on stderr.

    Returns:
        {"protocol": ..., "measures": nested dicts with `Estimate`s}; as written, but for the
        estimates being plain dicts there.

    Raises:
        ValueError: the judge is not good enough, or the run's folder belongs to something else.
    """
    settings = settings.resolved(vd)
    if judge is None and needs_judge(settings):
        raise ValueError(
            f"Pictures have to be judged: give a judge, or flows without {' and '.join(JUDGED)}."
        )
    if features is None and set(_CLIP) <= set(vd.loaded):
        features = own_features(vd)
    known = identity(settings, vd, judge, None if features is None else features.name)
    name = run_name(settings, vd, known)
    folder = Path(out) / name
    _claim(folder, known)
    bench = Bench(vd, judge, modes, settings, features)
    found: dict[str, Measured] = {}
    for task in bench.tasks():
        if "judge-test" in found and not task.name.startswith("judge"):
            _licence(found)  # before anything is generated for it to judge
        found[task.name] = run_task(task, folder / "rows", settings.batch, progress)
    protocol = {
        "run": name,
        **known,
        "finished": max(measured.when for measured in found.values()),
        "seconds": round(sum(measured.seconds for measured in found.values()), 1),
    }
    made = {"protocol": protocol, "measures": summarise(found, settings)}
    write_atomic(folder / "report.json", report.dumps(made))
    write_atomic(folder / "report.md", report.to_markdown(made))
    return made


def summarise(found: dict[str, Measured], settings: Settings) -> dict[str, Any]:
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
    swept = [flow for flow in SWEPT if flow in settings.flows and settings.sweep_scale]
    if swept:
        measures["sweep"] = {
            flow: {
                f"{scale:g}": scene_summary.sweep(flow, rows[f"sweep-{flow}-{scale:g}"])
                for scale in settings.sweep_scale
            }
            for flow in swept
        }
    return measures


def needs_judge(settings: Settings) -> bool:
    """Whether a flow makes pictures."""
    return bool(set(JUDGED) & set(settings.flows))


def own_features(vd: VersatileDiffusion) -> FeatureFunctions:
    """The model's own CLIP. A generated text that is too long for it loses its end."""

    def images(pictures: Sequence[Image.Image]) -> Tensor:
        return vd.image_features(pictures)

    def one_text(text: str) -> Tensor:
        words = text.split()
        while True:
            try:
                return vd.text_features([" ".join(words)])
            except ValueError:
                if not words:
                    raise
                words = words[: len(words) * 3 // 4]

    def texts(given: Sequence[str]) -> Tensor:
        try:
            return vd.text_features(given)
        except ValueError:
            return torch.cat([one_text(text) for text in given])

    return FeatureFunctions(f"{vd.spec.name}'s own CLIP", images, texts)


def _licence(found: dict[str, Measured]) -> dict[str, Any]:
    splits = {
        name.removeprefix("judge-"): measured.rows
        for name, measured in found.items()
        if name.startswith("judge-")
    }
    return scene_summary.licence(splits)


def _claim(folder: Path, known: dict[str, Any]) -> None:
    """Note in a run's folder what it is for, or check that it is for the same."""
    path = folder / "protocol.json"
    if not path.is_file():
        write_atomic(path, json.dumps(known, indent=2) + "\n")
        return
    try:
        same = json.loads(path.read_text(encoding="utf-8")) == known
    except ValueError:
        same = False
    if not same:
        raise ValueError(
            f"{folder} holds another evaluation than this one ({path.name} differs): move it away, "
            "or write elsewhere with out=."
        )


# ---------------------------------------------------------------------- command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m analysis evaluate`."""
    default = Settings()
    add = parser.add_argument
    add("--model", default="vd-mini", help="name or path of the model (default: %(default)s)")
    add("--suite", default="scenes", choices=SUITES, help="what to measure on")
    add("--n", type=int, default=default.n, help="inputs a flow and split (default: %(default)s)")
    add("--seed", type=int, default=default.seed, help="chooses inputs and noise (%(default)s)")
    add("--flows", type=_words, default=PARTS, metavar="A,B", help=f"of {','.join(PARTS)}")
    add("--steps", type=int, help="sampling steps (default: the model's)")
    add("--sampler", default=default.sampler, choices=sorted(SAMPLERS), help="(%(default)s)")
    add("--scale-text", type=float, help="guidance of text contexts (default: the model's)")
    add("--scale-image", type=float, help="guidance of image contexts (default: the model's)")
    swept = f"also compare these scales ({' and '.join(SWEPT)}, at most {default.sweep_n} inputs)"
    add("--sweep-scale", type=_numbers, default=(), metavar="1,2,3", help=swept)
    add("--batch", type=int, default=default.batch, help="inputs at once (default: %(default)s)")
    add("--judge", default=str(JUDGE_FOLDER), help="folder of the judge")
    add("--out", default=str(OUT), metavar="DIR", help=f"report goes to DIR/{FOLDER}/RUN")
    add("--device", help="cpu, cuda, mps (default: the best one here)")
    add("--dtype", choices=("float32", "float16", "bfloat16"), help="(default: the model's)")
    add("--json", action="store_true", help="print the report as one JSON document")
    add("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """Evaluate as the command line asks; print the report.

    Returns:
        0.

    Raises:
        ValueError, OSError: with one sentence that says what is wrong.
    """
    settings = Settings(
        n=args.n,
        seed=args.seed,
        flows=tuple(args.flows),
        steps=args.steps,
        sampler=args.sampler,
        scale_text=args.scale_text,
        scale_image=args.scale_image,
        sweep_scale=tuple(args.sweep_scale),
        suite=args.suite,
        batch=args.batch,
    )
    prepare(args.out, FOLDER)
    judge = load_judge(args.judge) if needs_judge(settings) else None
    rebuilt = _AUTOENCODERS if "reconstruction" in settings.flows else ()
    vd = load(
        args.model,
        flows=[flow for flow in settings.flows if flow in FLOWS],
        components=(*_CLIP, *rebuilt),
        encoders=False,
        device=args.device,
        dtype=None if args.dtype is None else getattr(torch, args.dtype),
    )
    if judge is not None:
        judge = judge.to(vd.device)
    out = Path(args.out) / FOLDER
    try:
        made = evaluate_scenes(vd, judge, settings, out=out, progress=not args.quiet)
    except KeyboardInterrupt:
        print("what was measured is kept: the same command goes on from here", file=sys.stderr)
        raise
    if args.json:
        print(report.dumps(made), end="")
        return 0
    folder = out / made["protocol"]["run"]
    print(report.to_text(made["measures"]))
    print(f"{folder / 'report.json'}\n{folder / 'report.md'}")
    return 0


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in _words(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 1,2,3") from error
