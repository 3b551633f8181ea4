"""Training data: scenes rendered once, and read back as memory-mapped arrays.

Every stage sees the same pool of scenes, two renders of each (the same content under another
jitter: what image-variation is trained on). Captions cost microseconds and are written on the fly.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.scenes.captions import write
from data.scenes.draw import render
from data.scenes.world import Scene, sample_scene

log = logging.getLogger(__name__)

RENDERS = 2


class Samples(Protocol):
    """What a stage trains on: captioned pictures by number, varied anew each time they are asked.

    Everything random follows from the given generator, so a step sees the same after a restart.
    """

    def __len__(self) -> int: ...

    def identity(self) -> dict[str, Any]:
        """What the samples depend on, as plain JSON types."""

    def pictures(self, indices: Sequence[int], rng: np.random.Generator) -> Tensor:
        """(B, 3, H, W) float32 in [0, 1]."""

    def captions(self, indices: Sequence[int], rng: np.random.Generator) -> list[str]:
        """What conditions: a caption each, in any words, told whole or in part."""

    def targets(self, indices: Sequence[int], rng: np.random.Generator) -> list[str]:
        """What the text column learns to write: a caption each that tells all."""


@dataclass(frozen=True)
class Pool:
    """Scenes and their renders.

    Attributes:
        scenes: n scenes, none held out, none of the test split.
        images: (n, 2, 64, 64, 3) uint8, two renders of each scene.
        seed: what the renders' own seeds follow from.
    """

    scenes: list[Scene]
    images: np.ndarray
    seed: int = 0

    def __len__(self) -> int:
        return len(self.scenes)

    def identity(self) -> dict[str, int]:
        """What the pool depends on, besides the code that draws."""
        return {"scenes": len(self), "seed": self.seed}

    def generator(self, index: int, which: int) -> np.random.Generator:
        """The random stream that one render was drawn with (for its layout)."""
        return render_generator(self.seed, index, which)

    def pictures(self, indices: np.ndarray, which: np.ndarray | int = 0) -> Tensor:
        """(B, 3, 64, 64) float32 in [0, 1]: the chosen render of each scene."""
        return to_tensor(self.images[indices, which])

    def captions(self, indices: np.ndarray, rng: np.random.Generator) -> list[str]:
        """A fresh caption of each scene; every fourth leaves something unsaid."""
        partial = rng.random(len(indices)) < 0.25
        return [
            write(self.scenes[i], rng, complete=not p)
            for i, p in zip(indices, partial, strict=True)
        ]


def to_tensor(images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255


def render_generator(seed: int, index: int, which: int) -> np.random.Generator:
    """The stream of one render of one scene of a pool."""
    return np.random.default_rng((seed, index, which))


def render_pairs(scenes: Sequence[Scene], seed: int) -> np.ndarray:
    """(n, 2, 64, 64, 3) uint8, two renders of each scene, each from a seed of its own."""
    out = np.empty((len(scenes), RENDERS, 64, 64, 3), np.uint8)
    for i, scene in enumerate(tqdm(scenes, desc="rendering", disable=len(scenes) < 5000)):
        for k in range(RENDERS):
            out[i, k] = np.asarray(render(scene, render_generator(seed, i, k)))
    return out


def pool(folder: Path, n: int, seed: int = 0) -> Pool:
    """The pool of n training scenes under `folder`, rendered on first use and kept.

    The files appear whole or not at all: an interrupted rendering starts again.
    """
    rng = np.random.default_rng((seed, 12345))
    scenes = [sample_scene(rng, held_out=False) for _ in range(n)]
    target = Path(folder) / f"pool-{n}-{seed}"
    fingerprint = {
        "n": n,
        "last": scenes[-1].key(),
        "drawing": zlib.crc32(render_pairs(scenes[:64], seed).tobytes()),
    }
    if target.exists():
        if json.loads((target / "pool.json").read_text()) == fingerprint:
            return Pool(scenes, np.load(target / "images.npy", mmap_mode="r"), seed)
        log.warning("%s holds another world's scenes: rendering again.", target)
        shutil.rmtree(target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.mkdir(parents=True, exist_ok=True)
    np.save(temporary / "images.npy", render_pairs(scenes, seed))
    (temporary / "pool.json").write_text(json.dumps(fingerprint))
    os.replace(temporary, target)
    return Pool(scenes, np.load(target / "images.npy", mmap_mode="r"), seed)
