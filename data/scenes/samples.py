"""Scenes as training samples: drawn once, read back as memory-mapped arrays, told on the fly.

Every stage sees the same pool of scenes, two renders of each: the same content under another
jitter, which is what image variation is trained on. Captions cost microseconds.
"""

from __future__ import annotations

import json
import logging
import shutil
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.arrays import kept_array, write_array
from data.samples import Batch
from data.scenes.captions import CaptionError, read_attributes, write
from data.scenes.draw import BACKGROUND_RGB, SHOWN, layout, render, unnamed
from data.scenes.exchange import exchange
from data.scenes.world import (
    ATTRIBUTE_VALUES,
    BACKGROUNDS,
    COLORS,
    SHAPES,
    SIZES,
    STYLES,
    Scene,
    is_training,
    sample_scene,
    split,
)
from lib.checks import read_json
from lib.files import alone, replacing

log = logging.getLogger(__name__)

RENDERS = 2
PARTIAL = 0.25  # captions that leave something unsaid
STRANGE = 0.5  # pictures in colours without a name, beside a batch


@dataclass(frozen=True)
class SceneSamples:
    """Scenes and their renders.

    Attributes:
        scenes: n scenes.
        images: (n, 2, 64, 64, 3) uint8, two renders of each scene.
        seed: what the renders' own seeds follow from.
        exchanged: share of captions in which words are exchanged (`data.scenes.exchange`). They
            tell of no scene any more, and the answer to one is itself.
        attributes, words: as `data.samples.Samples` has them.
        local: what `contrast` says of a patch -> its values.
    """

    scenes: list[Scene]
    images: np.ndarray
    seed: int = 0
    exchanged: float = 0.0

    attributes: ClassVar[dict[str, tuple]] = ATTRIBUTE_VALUES
    words: ClassVar[tuple[str, ...]] = ("",)
    local: ClassVar[dict[str, tuple]] = {"size": SIZES, "color": COLORS, "shape": SHAPES}

    def __len__(self) -> int:
        return len(self.scenes)

    def identity(self) -> dict[str, Any]:
        """What the pool depends on, besides the code that draws."""
        more = {"exchanged": self.exchanged} if self.exchanged else {}
        return {"scenes": len(self), "seed": self.seed, **more}

    def pictures(self, indices: Sequence[int], rng: np.random.Generator) -> Tensor:
        """(B, 3, 64, 64) float32 in [0, 1]: a render of each scene."""
        indices = np.asarray(indices)
        return to_tensor(self.images[indices, rng.integers(RENDERS, size=len(indices))])

    def captions(self, indices: Sequence[int], rng: np.random.Generator) -> list[str]:
        """A fresh caption of each scene; every fourth leaves something unsaid."""
        partial = rng.random(len(indices)) < PARTIAL
        texts = [
            write(self.scenes[i], rng, complete=not p)
            for i, p in zip(indices, partial, strict=True)
        ]
        if self.exchanged:
            chosen = rng.random(len(texts)) < self.exchanged
            texts = [exchange(t, rng) if c else t for t, c in zip(texts, chosen, strict=True)]
        return texts

    def targets(
        self, indices: Sequence[int], rng: np.random.Generator, asked: Sequence[str] | None = None
    ) -> list[str]:
        """A fresh caption of each scene that says all and names things in reading order.

        Which of two things comes first would otherwise be one more choice to make while denoising,
        and one that every attribute has to agree on: half-made, it exchanges the colours of the two
        (`training/EXPERIMENTS.md`).
        """
        texts = [write(self.scenes[i], rng, reading_order=True) for i in indices]
        if not self.exchanged or asked is None:
            return texts
        rows = zip(texts, asked, indices, strict=True)
        return [a if a and not _tells(a, self.scenes[i]) else text for text, a, i in rows]

    def labels(self, indices: Sequence[int]) -> Tensor:
        """(B, attributes) int64: indices of `attributes`; -1 where a scene has none."""
        return _numbers([self.scenes[i].attributes() for i in indices])

    def read(self, texts: Sequence[str]) -> Tensor:
        """(B, attributes) int64: what captions say, as `labels`; nonsense says nothing."""
        return _numbers([_read(text) for text in texts])

    def contrast(self, size: int, rng: np.random.Generator, patch: int) -> Batch:
        """A batch to be told apart: half of it are near copies of the other half.

        Random scenes are told apart without knowing what belongs to what. Behind it come pictures
        of scenes in colours that have no name here, to be read but for these: or a shape would be
        known by the colours that it was seen in (`training/EXPERIMENTS.md`).
        """
        half = size // 2
        indices, which = rng.integers(len(self), size=half), rng.integers(RENDERS, size=half)
        originals = [self.scenes[i] for i in indices]
        near = [near_copy(scene, rng) for scene in originals]
        seeds = [int(seed) for seed in rng.integers(2**31, size=half)]
        drawn = [np.asarray(render(scene, seed)) for scene, seed in zip(near, seeds, strict=True)]
        texts = self.captions(indices, rng) + [write(scene, rng) for scene in near]
        layouts = [
            layout(scene, render_generator(self.seed, i, k))
            for scene, i, k in zip(originals, indices, which, strict=True)
        ] + [layout(scene, seed) for scene, seed in zip(near, seeds, strict=True)]
        strange = [self.scenes[i] for i in rng.integers(len(self), size=round(STRANGE * size))]
        seeds = [int(seed) for seed in rng.integers(2**31, size=len(strange))]
        for scene, seed in zip(strange, seeds, strict=True):
            tones = [unnamed(scene.background, rng) for _ in scene.things]
            drawn.append(np.asarray(render(scene, seed, tones)))
            layouts.append(layout(scene, seed))
        images = np.concatenate([self.images[indices, which], np.stack(drawn)])
        scenes = originals + near + strange
        seen = _numbers([scene.attributes() for scene in scenes])
        patches = local_targets(scenes, layouts, images, patch)
        seen[len(texts) :, [k for k, name in enumerate(self.attributes) if "color" in name]] = -1
        patches[list(self.local).index("color")][len(texts) :] = -1
        return Batch(
            indices=None,
            pictures=to_tensor(images),
            texts=texts,
            seen=seen,
            said=self.read(texts),
            patches=patches,
        )


def validation(n: int, seed: int = 6) -> SceneSamples:
    """Scenes that training never sees."""
    scenes = list(dict.fromkeys(split("validation", n + n // 2, seed=seed)))[:n]
    return SceneSamples(scenes, render_pairs(scenes, seed=seed), seed)


def _read(text: str) -> dict[str, Any]:
    try:
        return read_attributes(text)
    except CaptionError:
        return {}


def _tells(text: str, scene: Scene) -> bool:
    """Whether a caption can be read, and says nothing that is not so."""
    said, known = _read(text), scene.attributes()
    return bool(said) and all(said[name] in (None, known[name]) for name in said)


def _numbers(attributes: Sequence[dict[str, Any]]) -> Tensor:
    rows = [
        [
            values.index(row[k]) if row.get(k) is not None else -1
            for k, values in ATTRIBUTE_VALUES.items()
        ]
        for row in attributes
    ]
    return torch.tensor(rows)


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


def pool(folder: Path, n: int, seed: int = 0) -> SceneSamples:
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
    with alone(target):
        images = _rendered(target, fingerprint)
        if images is None:
            if target.exists():
                log.warning("%s is damaged, or of another world: rendering again.", target)
                shutil.rmtree(target)
            with replacing() as temporary:
                whole = temporary(target)
                whole.mkdir()
                write_array(whole / "images.npy", n, [render_pairs(scenes, seed)])
                (whole / "pool.json").write_text(json.dumps(fingerprint))
            images = _rendered(target, fingerprint)
    return SceneSamples(scenes, images, seed)


def _rendered(target: Path, fingerprint: dict[str, int]) -> np.ndarray | None:
    """The pictures that lie there, unless they are other ones, or damaged."""
    with suppress(OSError, ValueError):
        if read_json(target / "pool.json") == fingerprint:
            return kept_array(target / "images.npy", fingerprint["n"])
    return None


def local_targets(
    scenes: list[Scene],
    layouts: list[list[tuple[float, float, float]]],
    images: np.ndarray,
    patch: int,
) -> list[Tensor]:
    """What each patch shows: indices of size, colour and shape, each (B, patches); -1 = background.

    A patch shows a thing if a quarter of its pixels are not background; which thing is decided by
    the nearer centre.
    """
    batch, side = len(scenes), images.shape[1] // patch
    ground = np.array([BACKGROUND_RGB[scene.background] for scene in scenes])[:, None, None]
    differs = np.abs(images.astype(int) - ground).max(-1) > SHOWN
    share = differs.reshape(batch, side, patch, side, patch).mean((2, 4))
    middle = (np.arange(side) + 0.5) * patch
    out = np.full((3, batch, side, side), -1)
    for b, (scene, places) in enumerate(zip(scenes, layouts, strict=True)):
        distances = [(middle[None] - x) ** 2 + (middle[:, None] - y) ** 2 for x, y, _ in places]
        nearest = np.argmin(distances, axis=0)
        things = scene.canonical().things
        values = np.array(
            [[SIZES.index(t.size), COLORS.index(t.color), SHAPES.index(t.shape)] for t in things]
        )
        out[:, b] = np.where(share[b] >= 0.25, values[nearest].transpose(2, 0, 1), -1)
    return [torch.from_numpy(labels.reshape(batch, -1)) for labels in out]


def near_copy(scene: Scene, rng: np.random.Generator) -> Scene:
    """A training scene that differs in one attribute, or in which thing has which."""
    for _ in range(100):
        try:
            other = _mutate(scene, rng)
        except ValueError:  # e.g. two things became identical
            continue
        if other != scene and is_training(other):
            return other
    return scene


def _mutate(scene: Scene, rng: np.random.Generator) -> Scene:
    def pick(values: tuple) -> object:
        return values[rng.integers(len(values))]

    kind = rng.integers(6 if len(scene.things) == 2 else 3)
    if kind == 0:
        return replace(scene, background=pick(BACKGROUNDS))
    if kind == 1:
        return replace(scene, style=pick(STYLES))
    things = list(scene.things)
    if kind == 2 or kind == 3:
        k = rng.integers(len(things))
        field, values = [("size", SIZES), ("color", COLORS), ("shape", SHAPES)][rng.integers(3)]
        things[k] = replace(things[k], **{field: pick(values)})
        return replace(scene, things=tuple(things))
    if kind == 4:
        other = "above" if scene.relation in ("left of", "right of") else "left of"
        return replace(scene, relation=other)
    # exchange one attribute, or all three, between the two things
    a, b = things
    field = pick(("size", "color", "shape", "all"))
    if field == "all":
        return replace(scene, things=(b, a))
    swapped = (
        replace(a, **{field: getattr(b, field)}),
        replace(b, **{field: getattr(a, field)}),
    )
    return replace(scene, things=swapped)
