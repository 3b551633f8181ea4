"""From a stage's name to its trained weights: what each needs, and where it is put."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from data.emoji.judge import JUDGE_FOLDER as OF_DRAWINGS
from data.scenes.judge import JUDGE_FOLDER as OF_SCENES
from lib.checkpoints import load, save
from lib.checkpoints.parts import own_file
from lib.components import structure
from lib.config import COMPONENTS
from lib.devices import choose_device
from lib.files import alone
from lib.model import VersatileDiffusion
from training import autoencoder, classifier, clip, flows, judge, optimus, parallel
from training.augment import Varied
from training.cache import build
from training.datasets import Data, open_data
from training.export import current_spec, recorded, settle
from training.loop import train
from training.plots import plot_losses
from training.recipes import Preset, chosen
from training.stage import Recipe, Stage
from training.teacher import views_of
from training.vocabulary import vocabulary


def run(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Train one stage as the command line asks; returns what its last run measured.

    From nothing that is every run of its preset, each in a run folder of its own. With `--init`, it
    is the last run alone.

    Raises:
        ValueError: flows are asked for before the encoders are trained, a checkpoint belongs to
            another recipe, or the preset has no such stage.
    """
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.track and len(args.track) > 2:
        raise ValueError(f"--track has {len(args.track)} words: give a tracker, and a folder.")
    preset = chosen(args, name)
    args.device = parallel.start(str(choose_device(args.device)))
    there = load(args.init, device="cpu").spec if _is_model(args.init) else None
    if args.lora is None:
        there = current_spec(args.out, there)
    data = open_data(
        args.data,
        args.runs,
        scenes=args.scenes,
        cached=args.cached,
        side=args.side or (there and there.image_size),
        fit=args.fit,
        mirror=args.mirror,
        min_side=args.min_side,
        max_watermark=args.max_watermark,
        clean=args.clean,
        outside=args.outside,
        exchanged=args.exchanged or 0.0,
    )
    recipes = preset.recipes[name]
    if args.init is not None:
        return _run(name, args, data, preset, recipes[-1], args.runs, args.init)
    measured: dict[str, float] = {}
    for k, recipe in enumerate(recipes):
        # what goes on from a run is not shown that run's samples and noise once more
        recipe = replace(recipe, seed=recipe.seed + k)
        folder = args.runs / f"run-{k + 1}" if k else args.runs
        warm = args.out if k else None
        measured = _run(name, args, data, preset, recipe, folder, warm)
    return measured


def _run(
    name: str,
    args: argparse.Namespace,
    data: Data,
    preset: Preset,
    recipe: Recipe,
    folder: Path,
    warm: str | Path | None,
) -> dict[str, float]:
    """Train one run of a stage, from nothing or from the weights in a model folder."""
    if parallel.rank() > 0:  # the first process renders and encodes, the others read
        parallel.wait()
    stage = make(name, args, data, preset, recipe)
    stage.max_file = args.max_file
    recorded(stage.out)  # which the end of training adds to: better refused now
    if warm is not None:
        warm_start(stage, warm)
    if parallel.rank() == 0:
        parallel.wait()
    measured = train(
        stage,
        folder,
        args.device,
        recompute=args.checkpoint_activations,
        shard=args.shard,
        track=args.track and (args.track[0], Path([*args.track, args.runs / "tracked"][1])),
    )
    if parallel.rank() == 0:
        plot_losses(folder / stage.name / "log.jsonl", folder / stage.name / "losses.png")
    return measured


def warm_start(stage: Stage, source: Path | str) -> None:
    """Give a stage's modules the weights of a model, or those of another run's checkpoint.

    Optimizer and average start anew. What the source lacks (readers, columns of flows that it was
    not trained for) keeps its fresh weights. A checkpoint of the run folder, if there is one, wins
    over all this.

    Args:
        stage: what is going to be trained.
        source: a model folder or name (`lib.checkpoints.load`), or the path of a
            `checkpoint.pt` or `stable.pt`.

    Raises:
        ValueError: the source holds nothing of this stage, or of other sizes.
    """
    if str(source).endswith(".pt"):
        try:
            held = torch.load(source, weights_only=True, map_location="cpu")
        except Exception as error:  # torch and pickle raise whatever the bytes lead them to
            raise ValueError(f"{source} is no checkpoint of a run here ({error!r}).") from error
        weights = held.get("modules") if isinstance(held, dict) else None
        weights = weights if isinstance(weights, dict) else {}
        names = [n for n in stage.modules if any(str(key).startswith(f"{n}.") for key in weights)]
        parts = {
            name: {
                key.removeprefix(f"{name}."): value
                for key, value in weights.items()
                if str(key).startswith(f"{name}.")
            }
            for name in names
        }
    else:
        vd = load(source, device="cpu", dtype=torch.float32)
        names = [name for name in stage.modules if name in COMPONENTS and name in vd.available]
        parts = {name: vd.component(name).state_dict() for name in names}
    if not parts:
        raise ValueError(f"{source} holds nothing that {stage.name} trains: give another --init.")
    for name, weights in parts.items():
        try:
            stage.modules[name].load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f"{name} of {source} has other sizes than this model: {str(error).splitlines()[-1]}"
            ) from error
    stage.warmed()


def make(name: str, args: argparse.Namespace, data: Data, preset: Preset, recipe: Recipe) -> Stage:
    """A stage, its weights fresh."""
    if name == "classifier":
        if args.data == "scenes":
            return judge.JudgeStage(args.judge or OF_SCENES, recipe)
        out = args.judge or OF_DRAWINGS
        (samples, validation), (more, _) = data.samples(name), data.samples("autoencoder")
        return classifier.ClassifierStage(samples, more, validation, out, recipe, args.runs)
    samples, validation = data.samples(name)
    fresh, kept = data.spec, None
    if _is_model(args.init):
        vd = load(args.init, device="cpu", dtype=torch.float32)
        fresh = replace(vd.spec, image_size=data.spec.image_size)
        kept = vd.tokenizers.source
    if preset.options.lora is not None:
        return _flows(args.init, data, args, recipe, preset, args.out / "lora")
    words, _ = data.samples("clip")
    fresh = current_spec(args.out, fresh)
    if fresh.image_size != data.spec.image_size:
        raise ValueError(
            f"{args.out} is a model of pictures of {fresh.image_size} pixels a side, these have "
            f"{data.spec.image_size}: give another --out, and what it begins from as --init."
        )
    spec, tokenizers = vocabulary(fresh, words, args.out, kept)
    settle(args.out, spec)
    if name == "autoencoder":
        return autoencoder.AutoencoderStage(spec, samples, validation, args.out, recipe)
    if name == "clip":
        views, known = None, ()
        if args.teacher:  # who learns from a teacher needs no captions: all pictures will do
            more, _ = data.samples("autoencoder")
            views = views_of(more, args.runs)
            known = [len(values) for values in more.attributes.values()]
        parts = (spec, tokenizers, samples, validation, args.out, recipe)
        return clip.ClipStage(*parts, views, known)
    if name == "optimus":
        parts = (spec, tokenizers, samples, validation, args.out, recipe)
        return optimus.OptimusStage(*parts, args.anchor)
    if _is_model(args.init):
        complete(args.out, args.init, args.max_file)
    return _flows(args.out, data, args, recipe, preset, args.out)


def _flows(
    encoders: Path | str,
    data: Data,
    args: argparse.Namespace,
    recipe: Recipe,
    preset: Preset,
    out: Path,
) -> flows.FlowsStage:
    needed = flows.encoders_for(preset.options)
    vd = load(encoders, components=needed, device=args.device, dtype=torch.float32)
    kept, (samples, validation) = args.runs / "cache", data.samples("flows")
    cached, held = (build(vd, part, kept, needed) for part in (samples, validation))
    pictures = None
    if data.uncaptioned and preset.options.uncaptioned and preset.options.share.get("i2i", 0):
        more, _ = data.samples("autoencoder")
        pictures = build(vd, Varied(more), kept, ("image_encoder", "clip_vision"))
    return flows.FlowsStage(vd, cached, held, out, recipe, preset.options, pictures)


def _is_model(init: str | None) -> bool:
    return init is not None and not init.endswith(".pt")


def complete(out: Path, source: str, max_file: int | None = None) -> None:
    """Copy the encoders and decoders that a model folder lacks from the model that it began from.

    What was trained anew in the folder stays; so does its configuration, which began as a copy.

    Raises:
        ValueError: it did not: the folder is a model of other sizes.
    """
    vd = load(source, device="cpu", dtype=torch.float32)
    coders = [name for name in COMPONENTS if name.endswith("coder") or name.startswith("clip_")]
    wanted = (name for name in coders if name in vd.available and own_file(out, name) is None)
    lacking = {name: vd.component(name) for name in wanted}
    if lacking:
        with alone(out):
            spec = current_spec(out, vd.spec)
            for name, module in lacking.items():
                own, held = structure(spec)[name].state_dict(), module.state_dict()
                if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in held.items()}:
                    raise ValueError(
                        f"{out} is a model of other sizes than {source} ({name}): give another "
                        "--out."
                    )
            save(VersatileDiffusion(spec, lacking), out, max_file=max_file)
