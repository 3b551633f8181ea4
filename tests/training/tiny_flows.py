"""A stage of flows on the tiny model, with a cache of random numbers: nothing has to be encoded."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from lib.checkpoints import load
from lib.config import FLOWS
from training.cache import CAPTIONS, ENCODERS, REPLIES, VIEWS, Cache
from training.flows import FlowOptions, FlowsStage
from training.stage import Recipe
from training.stages import warm_start

RECIPE = Recipe(steps=4, batch=4, lr=1e-3, warmup=1, ema=0.9, log_every=1)
SAMPLES = 10


def tiny_cache(vd) -> Cache:
    rng = np.random.default_rng(0)
    spec = vd.spec

    def array(*shape):
        return (0.5 * rng.normal(size=(SAMPLES, *shape))).astype(np.float16)

    return Cache(
        image_latents=array(VIEWS, *spec.latent_shape("image")),
        image_tokens=array(VIEWS, spec.clip.vision.tokens, spec.clip.projection),
        text_latents=array(CAPTIONS + REPLIES, *spec.latent_shape("text")),
        text_tokens=array(CAPTIONS, spec.clip.text.positions, spec.clip.projection),
        word_tokens=array(spec.clip.text.positions, spec.clip.projection)[:1],
        made={"samples": SAMPLES},
    )


def flows_stage(model: Path, out: Path, options: FlowOptions | None = None, **how) -> FlowsStage:
    """Begun from the weights of the tiny model."""
    vd = load(model, components=ENCODERS, device="cpu")
    cache = tiny_cache(vd)
    options = options or FlowOptions(share=dict.fromkeys(FLOWS, 1.0))
    stage = FlowsStage(vd, cache, cache, out, replace(RECIPE, **how), options)
    warm_start(stage, model)
    return stage
