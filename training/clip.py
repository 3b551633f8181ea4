"""Stage `clip`: the context encoders, from nothing, on pictures and their captions.

Three objectives, summed:

- *Contrastive* (Radford et al. 2021): `cross_entropy(s <text_i, image_j>)` both ways. Half of the
  batch are near copies of the other half that differ in one attribute or in who has which, because
  random scenes are told apart without knowing what belongs to what.
- *Reading*: from the context tokens (what the diffuser will see, not the pooled vector), one
  learned query per attribute must find that attribute by a single cross-attention. Contrast on
  batches of this size leaves the binding of colour to shape out of the tokens; reading puts it
  there.
- *Local reading*: the token of a patch that shows a thing must say, by a linear map, which size,
  colour and shape that thing has: the local tokens are where image flows look.

The readers are dropped afterwards. They are ours, not CLIP's: a model of this size has no 400
million pairs to learn from.

Captions are learned long before pictures. So a warm start locks the text tower and trains only the
vision tower against it (the mirror of Zhai et al. 2022, who lock the picture's): a third of a step
is saved, and whatever was trained on text contexts stays valid.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.scenes.captions import read_attributes, write
from data.scenes.draw import BACKGROUND_RGB, layout, render
from data.scenes.world import (
    BACKGROUNDS,
    COLORS,
    SHAPES,
    SIZES,
    STYLES,
    Scene,
    is_training,
    split,
)
from lib.clip import ClipText, ClipVision, preprocess_images
from lib.config import ModelSpec
from lib.ops import attention
from lib.tokenizers import Tokenizers
from training.attributes import VALUES, read_loss, targets
from training.data import Pool, render_pairs, to_tensor
from training.export import export
from training.loop import Recipe, Stage

RECIPES = (
    Recipe(steps=2400, batch=64, lr=1e-3, warmup=100, weight_decay=0.05, ema=0.995),
    Recipe(steps=1500, batch=128, lr=1e-3, warmup=100, weight_decay=0.05, ema=0.995),
)


class Reader(nn.Module):
    """One learned query per attribute, one cross-attention into the context tokens."""

    def __init__(self, width: int, hidden: int = 256, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        # context tokens have length about 1, so their entries are small: bring them to unit scale
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(len(VALUES), hidden))
        self.keys = nn.Linear(width, hidden)
        self.values = nn.Linear(width, hidden)
        self.answers = nn.ModuleList([nn.Linear(hidden, len(v)) for v in VALUES.values()])

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """(B, N, D) context tokens -> logits, one (B, choices) per attribute."""
        queries = self.queries.expand(len(tokens), -1, -1)
        tokens = self.norm(tokens)
        read = attention(queries, self.keys(tokens), self.values(tokens), self.heads)
        return [answer(F.gelu(read[:, i])) for i, answer in enumerate(self.answers)]


class LocalReader(nn.Module):
    """A linear map from the token of a patch to size, colour and shape of the thing it shows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = [len(SIZES), len(COLORS), len(SHAPES)]
        self.norm = nn.LayerNorm(width)
        self.answer = nn.Linear(width, sum(self.sizes))

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """(B, N, D) -> three logits (B, N, choices)."""
        return self.answer(self.norm(tokens)).split(self.sizes, dim=-1)


class LogitScale(nn.Module):
    """CLIP's learned inverse temperature, at most 100."""

    def __init__(self) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(np.log(1 / 0.07), dtype=torch.float32))

    def forward(self) -> Tensor:
        """The scale itself."""
        return self.log.clamp(max=float(np.log(100))).exp()


class ClipStage(Stage):
    """Trains `clip_text` and `clip_vision`."""

    name = "clip"

    def __init__(
        self,
        spec: ModelSpec,
        tokenizers: Tokenizers,
        pool: Pool,
        out: Path,
        recipe: Recipe = RECIPES[0],
    ) -> None:
        self.spec, self.words, self.pool = spec, tokenizers, pool
        self.out, self.recipe = out, recipe
        torch.manual_seed(recipe.seed)
        self.modules = nn.ModuleDict(
            {
                "clip_text": ClipText(spec.clip, attention="eager"),
                "clip_vision": ClipVision(spec.clip, attention="eager"),
                "reader": Reader(spec.clip.projection),
                "local_reader": LocalReader(spec.clip.projection),
                "logit_scale": LogitScale(),
            }
        )

    def warmed(self) -> None:
        """Lock the text tower."""
        super().warmed()
        self.modules["clip_text"].requires_grad_(False)

    def identity(self) -> dict[str, Any]:
        """Which pictures and whose captions."""
        return {"data": self.pool.identity()}

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Contrast within the batch, and attributes read from both kinds of tokens."""
        half = self.recipe.batch // 2
        indices, which = rng.integers(len(self.pool), size=half), rng.integers(2, size=half)
        originals = [self.pool.scenes[i] for i in indices]
        near = [near_copy(scene, rng) for scene in originals]
        seeds = [int(seed) for seed in rng.integers(2**31, size=half)]
        drawn = [np.asarray(render(scene, seed)) for scene, seed in zip(near, seeds, strict=True)]
        images = np.concatenate([self.pool.images[indices, which], np.stack(drawn)])
        texts = self.pool.captions(indices, rng) + [write(scene, rng) for scene in near]

        text_tokens, text_pooled = self._text(texts)
        image_tokens, image_pooled = self._image(to_tensor(images))
        logits = self.modules["logit_scale"]() * text_pooled.float() @ image_pooled.float().T
        labels = torch.arange(len(texts), device=self.device)
        contrast = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

        reader = self.modules["reader"]
        seen = targets([scene.attributes() for scene in originals + near]).to(self.device)
        said = targets([read_attributes(text) for text in texts]).to(self.device)
        from_image = read_loss(reader(image_tokens), seen)
        from_text = read_loss(reader(text_tokens), said)

        layouts = [
            layout(scene, self.pool.generator(i, k))
            for scene, i, k in zip(originals, indices, which, strict=True)
        ] + [layout(scene, seed) for scene, seed in zip(near, seeds, strict=True)]
        shown = local_targets(originals + near, layouts, images, self.spec.clip.vision.patch_size)
        local = [
            F.cross_entropy(
                answer.flatten(0, 1).float(), wanted.flatten().to(self.device), ignore_index=-1
            )
            for answer, wanted in zip(
                self.modules["local_reader"](image_tokens[:, 1:]), shown, strict=True
            )
        ]
        local_loss = torch.stack(local).mean()
        metrics = {
            "contrast": contrast.item(),
            "from_image": from_image.item(),
            "from_text": from_text.item(),
            "local": local_loss.item(),
        }
        return contrast + from_image + from_text + local_loss, metrics

    def _text(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        ids = self.words.clip_ids(texts).to(self.device)
        tokens = self.modules["clip_text"](ids)
        end = (ids == self.spec.clip.text.eos).int().argmax(1)
        rows = torch.arange(len(ids), device=self.device)
        return tokens, F.normalize(tokens[rows, end].float(), dim=-1)

    def _image(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = preprocess_images(images, self.spec.clip).to(self.device)
        tokens = self.modules["clip_vision"](pixels)
        return tokens, F.normalize(tokens[:, 0].float(), dim=-1)

    def measure(self) -> dict[str, float]:
        """Recall@1 among 1000 validation scenes both ways, and what the reader gets right."""
        scenes = list(dict.fromkeys(split("validation", 1500, seed=2)))[:1000]
        rng = np.random.default_rng(2)
        images = to_tensor(render_pairs(scenes, seed=2)[:, 0])
        texts = [write(scene, rng) for scene in scenes]
        wanted = targets([scene.attributes() for scene in scenes]).to(self.device)
        pooled: dict[str, list[Tensor]] = {"text": [], "image": []}
        right: dict[str, list[Tensor]] = {"text": [], "image": []}
        for start in range(0, len(scenes), 100):
            part = slice(start, start + 100)
            for kind, (tokens, vector) in {
                "text": self._text(texts[part]),
                "image": self._image(images[part]),
            }.items():
                pooled[kind].append(vector)
                answers = torch.stack([a.argmax(1) for a in self.modules["reader"](tokens)], 1)
                ok = (answers == wanted[part]) | (wanted[part] < 0)
                right[kind].append(ok.all(1))
        text, image = torch.cat(pooled["text"]), torch.cat(pooled["image"])
        index = torch.arange(len(scenes), device=self.device)
        return {
            "recall_text_to_image": float(((text @ image.T).argmax(1) == index).float().mean()),
            "recall_image_to_text": float(((image @ text.T).argmax(1) == index).float().mean()),
            "read_from_text": float(torch.cat(right["text"]).float().mean()),
            "read_from_image": float(torch.cat(right["image"]).float().mean()),
        }

    def export(self, measured: dict[str, float], seconds: float) -> None:
        """Save the two towers; reader and logit scale have done their work."""
        kept = ("clip_text", "clip_vision")
        self.modules = nn.ModuleDict({name: self.modules[name] for name in kept})
        export(self, measured, seconds)


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
    differs = np.abs(images.astype(int) - ground).max(-1) > 24
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
