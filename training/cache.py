"""What the frozen encoders say about the pool, computed once: latents and context tokens.

A training step of the flows then touches no encoder at all. Arrays are float16 on disk, memory
mapped, and appear whole or not at all; their folder is named after the encoders' weights, so that
retrained encoders never meet old arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.scenes.captions import write
from lib.files import replacing
from lib.model import VersatileDiffusion
from training.data import RENDERS, Pool
from training.loop import native_bf16

CAPTIONS = 3
COMPLETE = 2
TARGETS = 4
CHUNK = 256
ARRAYS = ("image_latents", "image_tokens", "text_latents", "text_tokens")
ENCODERS = ("image_encoder", "text_encoder", "clip_text", "clip_vision")


@dataclass(frozen=True)
class Cache:
    """Encoded scenes; every array's first axis is the scene.

    An array whose encoder was not loaded is None: enough for flows that do not use it.

    Attributes:
        image_latents: (n, 2, C, h, w), scaled posterior means of both renders.
        image_tokens: (n, 2, 1 + patches, D), CLIP contexts of both renders.
        text_latents: (n, 4, D), scaled posterior means of the captions to generate (`targets_of`).
        text_tokens: (n, 3, positions, D), CLIP contexts of captions that condition (`captions_of`).
        made: what they depend on: how many scenes, of which pool, and the encoders' fingerprints.
    """

    image_latents: np.ndarray | None
    image_tokens: np.ndarray | None
    text_latents: np.ndarray | None
    text_tokens: np.ndarray | None
    made: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        arrays = (self.image_latents, self.image_tokens, self.text_latents, self.text_tokens)
        return min(len(array) for array in arrays if array is not None)


def fingerprint(vd: VersatileDiffusion, names: tuple[str, ...]) -> str:
    """Ten characters that change with the weights of the named components."""
    digest = hashlib.sha256()
    for name in names:
        for parameter in getattr(vd, name).parameters():
            digest.update(parameter.detach().float().numpy().tobytes())
    return digest.hexdigest()[:10]


def captions_of(pool: Pool, index: int, seed: int = 0) -> list[str]:
    """The captions of a scene that condition, always the same.

    `COMPLETE` of them say all, the last may leave things out, as prompts do.
    """
    rng = np.random.default_rng((seed, index, 99))
    scene = pool.scenes[index]
    return [write(scene, rng, complete=k < COMPLETE) for k in range(CAPTIONS)]


def targets_of(pool: Pool, index: int, seed: int = 0) -> list[str]:
    """The captions of a scene that the text column learns to generate, always the same.

    They say all, in any words, but name things in reading order. Which of two things comes first
    would otherwise be one more choice to make while denoising, and one that every attribute has to
    agree on: half-made, it exchanges the colours of the two (`training/EXPERIMENTS.md`).
    """
    rng = np.random.default_rng((seed, index, 98))
    return [write(pool.scenes[index], rng, reading_order=True) for _ in range(TARGETS)]


def build(vd: VersatileDiffusion, pool: Pool, n: int, folder: Path) -> Cache:
    """Encode the first n scenes of the pool, or read what an earlier run encoded.

    Args:
        vd: with the four encoders loaded.
        pool: where scenes come from.
        n: how many scenes; at most the pool's size.
        folder: parent of the cache's folders.
    """
    if n > len(pool):
        raise ValueError(f"The cache wants {n} scenes, the pool has {len(pool)}.")

    def image_latents(scenes: range) -> Tensor:
        return vd.encode_image(_renders(pool, scenes)).unflatten(0, (-1, RENDERS))

    def image_tokens(scenes: range) -> Tensor:
        return vd.image_context(_renders(pool, scenes)).tokens.unflatten(0, (-1, RENDERS))

    def text_latents(scenes: range) -> Tensor:
        texts = [text for i in scenes for text in targets_of(pool, i)]
        return vd.encode_text(texts).unflatten(0, (-1, TARGETS))

    def text_tokens(scenes: range) -> Tensor:
        texts = [text for i in scenes for text in captions_of(pool, i)]
        return vd.text_context(texts).tokens.unflatten(0, (-1, CAPTIONS))

    jobs: dict[str, tuple[str, Callable[[range], Tensor]]] = {
        "image_latents": ("image_encoder", image_latents),
        "image_tokens": ("clip_vision", image_tokens),
        "text_latents": ("text_encoder", text_latents),
        "text_tokens": ("clip_text", text_tokens),
    }
    jobs = {name: job for name, job in jobs.items() if getattr(vd, job[0]) is not None}
    made = {encoder: fingerprint(vd, (encoder,)) for encoder, _ in jobs.values()}
    arrays = {
        name: _encoded(Path(folder) / f"{name}-{n}-{made[encoder]}.npy", n, encode)
        for name, (encoder, encode) in jobs.items()
    }
    known = {"scenes": n, "seed": pool.seed} | made
    return Cache(**{name: arrays.get(name) for name in ARRAYS}, made=known)


def _encoded(path: Path, n: int, encode: Callable[[range], Tensor]) -> np.ndarray:
    if not path.exists():
        array = None
        bf16 = native_bf16(torch.device("cpu"))
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
        with torch.inference_mode(), autocast, replacing() as temporary:
            for start in tqdm(range(0, n, CHUNK), desc=path.name.split("-")[0]):
                scenes = range(start, min(n, start + CHUNK))
                part = encode(scenes).half().numpy()
                if array is None:
                    shape = (n, *part.shape[1:])
                    array = np.lib.format.open_memmap(temporary(path), "w+", np.float16, shape)
                array[scenes.start : scenes.stop] = part
            array.flush()
    return np.load(path, mmap_mode="r")


def _renders(pool: Pool, scenes: range) -> Tensor:
    images = pool.images[scenes.start : scenes.stop]
    flat = torch.from_numpy(np.array(images)).flatten(0, 1)
    return flat.permute(0, 3, 1, 2).float() / 255
