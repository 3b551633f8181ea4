"""Samples of each kind and models of their sizes, small enough for every stage's tests."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from data.captioned_samples import CaptionedSamples
from data.emoji import load as load_drawings
from data.emoji.samples import EmojiSamples, concrete
from data.scenes.samples import SceneSamples, render_pairs
from data.scenes.world import sample_scene
from lib.components import build as build_component
from lib.model import VersatileDiffusion
from training.cache import ENCODERS
from training.folders import folder
from training.stage import Recipe, generator
from training.vocabulary import vocabulary

RECIPE = Recipe(steps=4, batch=6, lr=1e-3)


def scene_samples(folder) -> SceneSamples:
    rng = np.random.default_rng(0)
    world = [sample_scene(rng) for _ in range(8)]
    return SceneSamples(world, render_pairs(world, seed=0))


def drawing_samples(folder) -> EmojiSamples:
    return EmojiSamples(concrete(load_drawings()).where(np.arange(4)), grounds=2)


def write_folder(folder):
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for k in range(9):
        pixels = rng.integers(0, 255, (70, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text(f"picture number {k}\nanother word for {k}\n")
    return folder


def folder_samples(path) -> CaptionedSamples:
    return folder(write_folder(path), 64, mirror=True)[0]


KINDS = {"scenes": scene_samples, "emoji": drawing_samples, "folder": folder_samples}


def worldly(vd, samples, folder):
    """The tiny model's sizes for pictures of 64 pixels, and tokenizers that know the samples."""
    vision = replace(vd.spec.clip.vision, image_size=64, patch_size=16)
    text = replace(vd.spec.clip.text, positions=64)
    clip = replace(vd.spec.clip, resize=64, vision=vision, text=text)
    texts = replace(vd.spec.text_vae, bert_positions=66, gpt2_positions=64, max_input=64)
    spec = replace(vd.spec, image_size=64, clip=clip, text_vae=texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.vocabulary.CORPUS", 200)
        return vocabulary(spec, samples, folder)


def encoders_of(spec, words) -> VersatileDiffusion:
    torch.manual_seed(0)
    modules = {name: build_component(spec, name) for name in ENCODERS}
    return VersatileDiffusion(spec, modules, words).eval().requires_grad_(False)


def check(stage) -> None:
    torch.manual_seed(0)
    loss, metrics = stage.loss(3, generator(0, 3))
    assert torch.isfinite(loss)
    assert all(np.isfinite(float(value)) for value in metrics.values())
    loss.backward()
    # what starts at zero passes no gradient back on the first step: nudge it and look again
    with torch.no_grad():
        for p in stage.modules.parameters():
            p.add_(0.01 * torch.randn_like(p))
    stage.modules.zero_grad()
    stage.loss(3, generator(0, 3))[0].backward()
    idle = [n for n, p in stage.modules.named_parameters() if p.grad is None or not p.grad.any()]
    unused = ("position_embedding", "positions", "wpe", "embeddings", "token_embedding", "wte")
    assert not [name for name in idle if not any(word in name for word in unused)]
