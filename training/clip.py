"""Stage `clip`: the context encoders, from nothing, on pictures and their captions.

Objectives, summed:

- *Contrastive* (Radford et al. 2021): `cross_entropy(s <text_i, image_j>)` both ways. A caption
  that leaves things out fits several pictures of a batch: they share the wanted probability.
  Samples may bring harder batches along (`contrast`), such as near copies that differ in one
  attribute.
- *Reading*, where samples know attributes: from the context tokens (what the diffuser will see, not
  the pooled vector), one learned query per attribute must find that attribute by a single
  cross-attention. Contrast on batches of this size leaves the binding of colour to shape out of
  the tokens; reading puts it there.
- *Local reading*, where samples know what each patch shows: its token must say so, by a linear map.
  The local tokens are where image flows look.
- *A teacher*, where there is one (`training.teacher`): a linear map of the image tokens must point
  where the frozen features of a network trained on photographs point (Hinton et al. 2015).

The readers are dropped afterwards. They are ours, not CLIP's: a model of this size has no 400
million pairs to learn from.

Captions are learned long before pictures. So a warm start locks the text tower and trains only the
vision tower against it (the mirror of Zhai et al. 2022, who lock the picture's): a third of a step
is saved, and whatever was trained on text contexts stays valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.samples import Samples, contrast
from lib.clip import ClipText, ClipVision, preprocess_images
from lib.config import ModelSpec
from lib.ops import attention
from lib.tokenizers import Tokenizers
from training.attributes import read_loss, right
from training.export import export
from training.stage import Recipe, Stage

RECIPES = (
    Recipe(steps=2400, batch=64, lr=1e-3, warmup=100, weight_decay=0.05, ema=0.995),
    Recipe(steps=1500, batch=128, lr=1e-3, warmup=100, weight_decay=0.05, ema=0.995),
)
TAUGHT = 2.0  # weight of the teacher


class Reader(nn.Module):
    """One learned query per attribute, one cross-attention into the context tokens.

    Args:
        width: of the tokens.
        choices: how many values each attribute has.
    """

    def __init__(
        self, width: int, choices: Sequence[int], hidden: int = 256, heads: int = 4
    ) -> None:
        super().__init__()
        self.heads = heads
        # context tokens have length about 1, so their entries are small: bring them to unit scale
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(len(choices), hidden))
        self.keys = nn.Linear(width, hidden)
        self.values = nn.Linear(width, hidden)
        self.answers = nn.ModuleList([nn.Linear(hidden, n) for n in choices])

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """(B, N, D) context tokens -> logits, one (B, choices) per attribute."""
        queries = self.queries.expand(len(tokens), -1, -1)
        tokens = self.norm(tokens)
        read = attention(queries, self.keys(tokens), self.values(tokens), self.heads)
        return [answer(F.gelu(read[:, i])) for i, answer in enumerate(self.answers)]


class LocalReader(nn.Module):
    """A linear map from the token of a patch to the attributes of what it shows."""

    def __init__(self, width: int, choices: Sequence[int]) -> None:
        super().__init__()
        self.sizes = list(choices)
        self.norm = nn.LayerNorm(width)
        self.answer = nn.Linear(width, sum(self.sizes))

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """(B, N, D) -> logits (B, N, choices), one an attribute."""
        return self.answer(self.norm(tokens)).split(self.sizes, dim=-1)


class Student(nn.Module):
    """A linear map from the pooled and the mean token to the teacher's features."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * width)
        self.answer = nn.Linear(2 * width, features)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 1 + N, D) -> (B, features)."""
        return self.answer(self.norm(torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], -1)))


class LogitScale(nn.Module):
    """CLIP's learned inverse temperature, at most 100."""

    def __init__(self) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(np.log(1 / 0.07), dtype=torch.float32))

    def forward(self) -> Tensor:
        """The scale itself."""
        return self.log.clamp(max=float(np.log(100))).exp()


class ClipStage(Stage):
    """Trains `clip_text` and `clip_vision`.

    Args:
        spec: sizes.
        tokenizers: whose ids the text tower reads.
        samples: captioned pictures.
        validation: others, to measure on.
        out: model folder.
        recipe: how it is trained.
        teacher: (samples, F) frozen features of each sample's picture.
    """

    name = "clip"

    def __init__(
        self,
        spec: ModelSpec,
        tokenizers: Tokenizers,
        samples: Samples,
        validation: Samples,
        out: Path,
        recipe: Recipe = RECIPES[0],
        teacher: Tensor | None = None,
    ) -> None:
        self.spec, self.words, self.pool, self.validation = spec, tokenizers, samples, validation
        self.out, self.recipe = out, recipe
        torch.manual_seed(recipe.seed)
        modules = {
            "clip_text": ClipText(spec.clip, attention="eager"),
            "clip_vision": ClipVision(spec.clip, attention="eager"),
            "logit_scale": LogitScale(),
        }
        width = spec.clip.projection
        if samples.attributes:
            modules["reader"] = Reader(width, [len(v) for v in samples.attributes.values()])
        local = getattr(samples, "local", None)
        if local:
            modules["local_reader"] = LocalReader(width, [len(v) for v in local.values()])
        self.teacher = None
        if teacher is not None:
            centred = teacher.float() - teacher.float().mean(0)
            self.teacher = F.normalize(centred / centred.std(0).clamp(min=1e-3), dim=-1)
            modules["student"] = Student(width, teacher.shape[1])
        self.modules = nn.ModuleDict(modules)

    def warmed(self) -> None:
        """Lock the text tower."""
        super().warmed()
        self.modules["clip_text"].requires_grad_(False)

    def identity(self) -> dict[str, Any]:
        """Which pictures and whose captions, and whether there is a teacher."""
        taught = {} if self.teacher is None else {"teacher": self.teacher.shape[1]}
        return {"data": self.pool.identity()} | taught

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Contrast within the batch, and attributes read from both kinds of tokens."""
        batch = contrast(self.pool, self.recipe.batch, rng, self.spec.clip.vision.patch_size)
        self.seen = batch.indices
        text_tokens, text_pooled = self._text(batch.texts)
        image_tokens, image_pooled = self._image(batch.pictures)
        logits = self.modules["logit_scale"]() * text_pooled.float() @ image_pooled.float().T
        # a caption fits every picture that has what it says
        said, seen = batch.said.to(self.device), batch.seen.to(self.device)
        fits = torch.eye(len(batch.texts), dtype=torch.bool, device=self.device)
        if seen.shape[1]:
            fits |= ((said[:, None] == seen[None]) | (said[:, None] < 0)).all(-1)
        wanted = fits.float()
        losses = {
            "contrast": (
                F.cross_entropy(logits, wanted / wanted.sum(1, keepdim=True))
                + F.cross_entropy(logits.T, wanted.T / wanted.T.sum(1, keepdim=True))
            )
            / 2
        }
        if "reader" in self.modules:
            losses["from_image"] = read_loss(self.modules["reader"](image_tokens), seen)
            losses["from_text"] = read_loss(self.modules["reader"](text_tokens), said)
        if batch.patches is not None:
            answers = self.modules["local_reader"](image_tokens[:, 1:])
            losses["local"] = torch.stack(
                [
                    F.cross_entropy(
                        answer.flatten(0, 1).float(),
                        shown.flatten().to(self.device),
                        ignore_index=-1,
                    )
                    for answer, shown in zip(answers, batch.patches, strict=True)
                ]
            ).mean()
        if self.teacher is not None:
            answer = F.normalize(self.modules["student"](image_tokens).float(), dim=-1)
            goal = self.teacher[torch.from_numpy(batch.indices)].to(self.device)
            losses["taught"] = TAUGHT * (1 - (answer * goal).sum(-1).mean())
        return torch.stack(list(losses.values())).sum(), {k: v.item() for k, v in losses.items()}

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
        """Recall@1 among validation samples both ways, and what the reader gets right."""
        rng = np.random.default_rng(2)
        indices = rng.permutation(len(self.validation))[:1000]
        texts = self.validation.targets(indices, rng)
        seen = self.validation.labels(indices).to(self.device)
        names = list(self.pool.attributes)
        pooled: dict[str, list[Tensor]] = {"text": [], "image": []}
        read: dict[str, list[Tensor]] = {"text": [], "image": []}
        for start in range(0, len(indices), 100):
            part = slice(start, start + 100)
            for kind, (tokens, vector) in {
                "text": self._text(texts[part]),
                "image": self._image(self.validation.pictures(indices[part], rng)),
            }.items():
                pooled[kind].append(vector)
                if names:
                    read[kind].append(right(self.modules["reader"](tokens), seen[part]))
        text, image = torch.cat(pooled["text"]), torch.cat(pooled["image"])
        nearest = {"text_to_image": (text @ image.T).argmax(1)}
        nearest["image_to_text"] = (image @ text.T).argmax(1)
        own = torch.arange(len(indices), device=self.device)
        measured = {
            f"recall_{way}": float((which == own).float().mean()) for way, which in nearest.items()
        }
        for k, name in enumerate(names):  # a caption finds a picture with the same ...
            same = seen[nearest["text_to_image"], k] == seen[:, k]
            measured[f"recall_{name}"] = float(same.float().mean())
        for kind, rows in read.items():
            if rows:
                ok = torch.cat(rows)
                measured[f"read_from_{kind}"] = float(ok.all(1).float().mean())
                for k, name in enumerate(names):
                    measured[f"{name}_from_{kind}"] = float(ok[:, k].float().mean())
        return measured

    def export(self, measured: dict[str, float], seconds: float) -> None:
        """Save the two towers; readers and logit scale have done their work."""
        export(self, measured, seconds, only=("clip_text", "clip_vision"))
