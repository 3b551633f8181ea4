"""Presets: how each stage is trained, by the kind of data or by whose numbers they are.

A stage's runs come one after the other: every later one is a warm start from what is there.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace

from lib.config import FLOWS
from training import autoencoder, clip, flows, judge, optimus
from training.flows import FlowOptions
from training.stage import Recipe


@dataclass(frozen=True)
class Preset:
    """Recipes of the stages, and what is particular to the flows.

    Attributes:
        recipes: stage -> its runs.
        options: of the flows.
    """

    recipes: dict[str, tuple[Recipe, ...]]
    options: FlowOptions = field(default_factory=FlowOptions)


def _paper(lr: float, batch: int, flows_: tuple[str, ...], scales: dict[str, float]) -> Preset:
    recipe = Recipe(steps=100_000, batch=batch, lr=lr, warmup=10_000, decay="trapezoid", ema=0.9999)
    share = dict.fromkeys(flows_, 1.0)
    return Preset({"flows": (recipe,)}, FlowOptions(share=share, uniform=1.0, scales=scales))


_SMALL = {
    "classifier": (
        Recipe(steps=1500, batch=64, lr=1.5e-3, warmup=60, weight_decay=0.05, ema=0.99),
    ),
    "autoencoder": (
        Recipe(
            steps=9000, batch=16, lr=1.5e-3, clip=0.5, ema=0.998, decay="trapezoid", cooldown=0.3
        ),
    ),
    "clip": (
        Recipe(
            steps=2000,
            batch=128,
            lr=1e-3,
            weight_decay=0.05,
            ema=0.998,
            decay="trapezoid",
            cooldown=0.3,
        ),
    ),
    "optimus": (
        Recipe(
            steps=5000,
            batch=64,
            lr=6e-4,
            warmup=200,
            ema=0.998,
            decay="trapezoid",
            cooldown=0.3,
        ),
    ),
    "flows": (
        Recipe(
            steps=20_000,
            batch=48,
            lr=1e-3,
            decay="trapezoid",
            cooldown=0.25,
            ema=0.999,
            optimizer="muon",
        ),
    ),
}

PRESETS = {
    "scenes": Preset(
        {
            "classifier": judge.RECIPES,
            "autoencoder": autoencoder.RECIPES,
            "clip": clip.RECIPES,
            "optimus": optimus.RECIPES,
            "flows": flows.RECIPES,
        }
    ),
    # a text sample costs a quarter of a picture's, and what a picture shows is learned last
    "small": Preset(
        _SMALL,
        FlowOptions(
            share={"t2i": 1.0, "i2i": 1.2, "i2t": 2.0, "t2t": 0.3}, same=1.0, uncaptioned=0.7
        ),
    ),
    # Xu et al. 2022, section 4.1 and its supplement: rates, batches and gradient scales; how long
    # is for --steps to say
    "paper-single": _paper(1e-4, 2048, ("i2i",), {}),
    "paper-dual": _paper(1e-4, 1024, ("t2i", "i2i"), {}),
    "paper-four": _paper(
        5e-5,
        512,
        ("t2i", "i2i", "i2t", "t2t"),
        {"image_data": 0.2, "time_embed": 0.1},
    ),
}


def chosen(args: argparse.Namespace, stage: str) -> Preset:
    """The preset that the command asks for, with the command's own numbers in its recipes.

    Raises:
        ValueError: the preset says nothing of that stage, or an option is of another one.
    """
    _check_texts(args, stage)
    if args.lora is not None and (stage != "flows" or str(args.init or ".pt").endswith(".pt")):
        raise ValueError("--lora adapts the flows of a model: give stage flows, and --init MODEL.")
    name = args.preset or ("scenes" if args.data == "scenes" else "small")
    preset = PRESETS[name]
    if stage not in preset.recipes:
        raise ValueError(
            f"Preset {name} says nothing of {stage}: it has {', '.join(preset.recipes)}."
        )
    given = {
        key: getattr(args, key)
        for key in ("steps", "batch", "lr", "accumulate", "optimizer", "seed")
        if getattr(args, key) is not None
    }
    if getattr(args, "shard", False) and "optimizer" not in given:
        given["optimizer"] = "adamw"  # which takes divided weights, as Muon does not
    recipes = {
        key: tuple(replace(recipe, **given) for recipe in runs)
        for key, runs in preset.recipes.items()
    }
    options = preset.options
    if args.flows:
        unequal = {flow: options.share.get(flow, 1.0) for flow in args.flows}
        options = replace(options, share=unequal)
    if args.freeze:
        options = replace(options, frozen=tuple(args.freeze))
    if args.lora is not None:
        options = replace(options, lora=args.lora, lora_layers=args.lora_layers)
    if args.min_snr is not None:
        options = replace(options, min_snr=args.min_snr)
    return replace(preset, recipes=recipes, options=options)


def _check_texts(args: argparse.Namespace, stage: str) -> None:
    """ValueError for what is about texts only, where there are others."""
    if args.anchor and (stage != "optimus" or args.init is None):
        raise ValueError(
            "--anchor holds the text VAE's latents in place: give stage optimus, and --init."
        )
    pictured = {"t2i", "i2i"} & {*(args.flows or FLOWS)} if stage == "flows" else {stage}
    if args.exchanged and pictured - {"optimus"}:
        raise ValueError(
            "--exchanged makes captions that no picture shows: give stage optimus, or flows with "
            "--flows i2t t2t (or one of them)."
        )
