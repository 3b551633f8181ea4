"""From a stage's name to its trained weights: what each needs, and where it is put."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from lib.checkpoints.weights import load
from lib.config import COMPONENTS, VD_MINI
from training import autoencoder, clip, flows, judge, optimus, parallel
from training.cache import ENCODERS, build
from training.data import pool
from training.export import current_spec
from training.loop import Recipe, Stage, train
from training.plots import plot_losses
from training.vocabulary import vocabulary

RECIPES: dict[str, tuple[Recipe, ...]] = {
    "judge": judge.RECIPES,
    "autoencoder": autoencoder.RECIPES,
    "clip": clip.RECIPES,
    "optimus": optimus.RECIPES,
    "flows": flows.RECIPES,
}
"""A stage's runs, one after the other: every later one is a warm start from what is there."""


def run(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Train one stage as the command line asks; returns what its last run measured.

    Without a warm start that is every run of its recipes, each in a run folder of its own. With
    one, it is the last run alone.

    Raises:
        ValueError: flows are asked for before the encoders are trained, or a checkpoint belongs to
            another recipe.
    """
    if args.threads:
        torch.set_num_threads(args.threads)
    args.device = parallel.start(args.device)
    changes = {"steps": args.steps, "batch": args.batch, "lr": args.lr}
    changes = {k: v for k, v in changes.items() if v is not None}
    if args.warm_start is not None:
        return _run(name, args, replace(RECIPES[name][-1], **changes), args.runs, args.warm_start)
    measured: dict[str, float] = {}
    for k, recipe in enumerate(RECIPES[name]):
        folder = args.runs / f"run-{k + 1}" if k else args.runs
        warm = args.out if k else None
        measured = _run(name, args, replace(recipe, **changes), folder, warm)
    return measured


def _run(
    name: str, args: argparse.Namespace, recipe: Recipe, folder: Path, warm: Path | None
) -> dict[str, float]:
    """Train one run of a stage, from nothing or from the weights in a model folder."""
    if parallel.rank() > 0:  # the first process renders and encodes, the others read
        parallel.wait()
    stage = _stage(name, args, recipe)
    if warm is not None:
        warm_start(stage, warm)
    if parallel.rank() == 0:
        parallel.wait()
    measured = train(stage, folder, args.device)
    if parallel.rank() == 0:
        plot_losses(folder / name / "log.jsonl", folder / name / "losses.png")
    return measured


def warm_start(stage: Stage, folder: Path) -> None:
    """Give a stage's modules the weights that a model folder holds for them.

    Optimizer and average start anew. What a stage trains besides components (readers) keeps its
    fresh weights. A checkpoint of the run folder, if there is one, wins over all this.
    """
    names = [name for name in stage.modules if name in COMPONENTS]
    vd = load(folder, components=names, device="cpu", dtype=torch.float32)
    for name in names:
        stage.modules[name].load_state_dict(vd.component(name).state_dict())
    stage.warmed()


def _stage(name: str, args: argparse.Namespace, recipe: Recipe) -> Stage:
    if name == "judge":
        return judge.JudgeStage(args.judge, recipe)
    spec, tokenizers = vocabulary(current_spec(args.out, VD_MINI), args.out)
    scenes = pool(args.runs, args.scenes)
    if name == "autoencoder":
        return autoencoder.AutoencoderStage(spec, scenes, args.out, recipe)
    if name == "clip":
        return clip.ClipStage(spec, tokenizers, scenes, args.out, recipe)
    if name == "optimus":
        return optimus.OptimusStage(spec, tokenizers, scenes, args.out, recipe)
    vd = load(args.out, components=ENCODERS, device="cpu", dtype=torch.float32)
    folder = args.runs / "cache"
    cached = build(vd, scenes, min(args.cached, len(scenes)), folder)
    return flows.FlowsStage(vd, cached, flows.validation_cache(vd, 1000, folder), args.out, recipe)
