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
- *A teacher*, where there is one (`training.teacher`): of more pictures, changed strongly, linear
  maps of the tokens must point where the features of a network trained on photographs point that
  saw the same pictures (Hinton et al. 2015; Beyer et al. 2022): of the whole picture, and patch by
  patch of its inner layers. Another reader reads what is known of these pictures.
- *Pixels*, with a teacher: a linear map of each token must say what its patch shows, `1 - R^2` of
  its principal components, and another where the patch is. A network that recognises things has
  no use for most of that; whoever draws the picture anew from its tokens has.

With a teacher, half of the patches are left out until the last quarter of the cooldown (as He et
al. 2022 and Li et al. 2023 do): the tower has less to learn by heart, and a step takes half the
time.

Samples may bring pictures without captions along, which are only read; half of them are turned,
scaled, shaded and blurred before.

The readers are dropped afterwards. They are ours, not CLIP's: a model of this size has no 400
million pairs to learn from.

Captions are learned long before pictures. So a warm start locks the text tower and trains only the
vision tower against it (the mirror of Zhai et al. 2022, who lock the picture's): a third of a step
is saved, and whatever was trained on text contexts stays valid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.samples import Batch, Samples, contrast
from lib.clip import ClipText, ClipVision, preprocess_images
from lib.config import ModelSpec
from lib.tokenizers import Tokenizers
from training.attributes import LocalReader, Reader, mixed_loss, read_loss, right
from training.augment import blurred, shaded, turned
from training.export import export
from training.stage import Recipe, Stage
from training.teacher import Goals, Views

RECIPES = (
    Recipe(steps=2400, batch=64, lr=1e-3, warmup=100, weight_decay=0.05, ema=0.995),
    Recipe(steps=1500, batch=128, lr=1e-3, warmup=100, weight_decay=0.05, ema=0.995),
)
TAUGHT = 2.0  # weight of the teacher's view of whole pictures; that of patches weighs 1
PIXELS = 2.0  # weight of what patches show; of where they are it is 1
PER_SAMPLE = 2  # of the teacher's pictures go with each captioned one
READING = 0.3  # weight of reading captioned pictures beside a teacher: few, learned by heart
KEPT = 0.5  # of the patches, until the last quarter of the cooldown


class Student(nn.Module):
    """Linear maps to what a teacher sees: from the pooled and the mean token, and from patches.

    The last numbers of a patch are principal components of its own pixels.
    """

    def __init__(self, width: int, goals: Goals) -> None:
        super().__init__()
        self.sizes = [*goals.widths, goals.pixel_axes.shape[1]]
        self.norm, self.patch_norm = nn.LayerNorm(2 * width), nn.LayerNorm(width)
        self.whole = nn.Linear(2 * width, goals.axes.shape[1])
        self.patches = nn.Linear(width, sum(self.sizes))

    def forward(self, tokens: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, 1 + N, D) -> (B, kept), and (B, N, width) of each inner layer and of the pixels."""
        whole = self.whole(self.norm(torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], -1)))
        return whole, self.patches(self.patch_norm(tokens[:, 1:])).split(self.sizes, dim=-1)


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
        views: what a teacher sees in further pictures.
        known: how many values each attribute of these has.
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
        views: Views | None = None,
        known: Sequence[int] = (),
    ) -> None:
        self.spec, self.words, self.pool, self.validation = spec, tokenizers, samples, validation
        self.out, self.recipe = out, recipe
        torch.manual_seed(recipe.seed)
        modules = {
            "clip_text": ClipText(spec.clip),
            "clip_vision": ClipVision(spec.clip),
            "logit_scale": LogitScale(),
        }
        width = spec.clip.projection
        if samples.attributes:
            modules["reader"] = Reader(width, [len(v) for v in samples.attributes.values()])
        local = getattr(samples, "local", None)
        if local:
            modules["local_reader"] = LocalReader(width, [len(v) for v in local.values()])
        self.views = views
        if views is not None:
            vision = spec.clip.vision
            self.goals = Goals(views, vision.patch_size, vision.image_size)
            modules["student"] = Student(width, self.goals)
            grid = (vision.image_size // vision.patch_size) ** 2
            modules["places"] = LocalReader(width, [grid])
            if known:
                modules["view_reader"] = Reader(width, known)
        self.modules = nn.ModuleDict(modules)

    def warmed(self) -> None:
        """Lock the text tower."""
        super().warmed()
        self.modules["clip_text"].requires_grad_(False)

    def identity(self) -> dict[str, Any]:
        """Which pictures and whose captions, and whether there is a teacher."""
        taught = {} if self.views is None else {"teacher": len(self.views)}
        return {"data": self.pool.identity()} | taught

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Contrast within the batch, and attributes read from both kinds of tokens."""
        batch = contrast(self.pool, self.recipe.batch, rng, self.spec.clip.vision.patch_size)
        self.seen = batch.indices
        self._spoil(batch, rng)
        if self.views is None:
            image_tokens, taught = self._image(batch.pictures)[0], {}
        else:
            image_tokens, taught = self._taught(step, batch, rng)
        image_pooled = F.normalize(image_tokens[: len(batch.texts), 0].float(), dim=-1)
        text_tokens, text_pooled = self._text(batch.texts)
        logits = self.modules["logit_scale"]() * text_pooled.float() @ image_pooled.float().T
        # a caption fits every picture that has what it says
        said, seen = batch.said.to(self.device), batch.seen.to(self.device)
        fits = torch.eye(len(batch.texts), dtype=torch.bool, device=self.device)
        if seen.shape[1]:
            told = seen[None, : len(batch.texts)]
            fits |= ((said[:, None] == told) | (said[:, None] < 0)).all(-1)
        wanted = fits.float()
        losses = {
            "contrast": (
                F.cross_entropy(logits, wanted / wanted.sum(1, keepdim=True))
                + F.cross_entropy(logits.T, wanted.T / wanted.T.sum(1, keepdim=True))
            )
            / 2
        }
        if "reader" in self.modules:
            weight = READING if taught else 1.0
            losses["from_image"] = weight * read_loss(self.modules["reader"](image_tokens), seen)
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
        losses |= taught
        return torch.stack(list(losses.values())).sum(), {k: v.item() for k, v in losses.items()}

    def _spoil(self, batch: Batch, rng: np.random.Generator) -> None:
        """Turn, scale, shade and blur half of the pictures without captions, in place.

        How large things are, and what patches show, is not known of them any more.
        """
        few = np.arange(len(batch.texts), len(batch.pictures), 2)
        if len(few):
            spoilt = shaded(turned(batch.pictures[few], rng, 20, (0.8, 1.15)), rng)
            batch.pictures[few] = blurred(spoilt, rng, 0.3)
            sizes = [k for k, name in enumerate(self.pool.attributes) if name.startswith("size")]
            batch.seen[np.ix_(few, sizes)] = -1
            for shown in batch.patches or ():
                shown[few] = -1

    def _taught(
        self, step: int, batch: Batch, rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Tokens of the batch's pictures, and what the tower loses on views that go with them."""
        rows = torch.from_numpy(rng.integers(len(self.views), size=PER_SAMPLE * len(batch.texts)))
        own = shaded(turned(batch.pictures, rng, degrees=12, scale=(0.8, 1.15)), rng)
        pictures = torch.cat([own, self.views.pictures[rows].float() / 255])
        vision = self.spec.clip.vision
        grid = vision.image_size // vision.patch_size
        # a picture's patches may say what they show: then all are needed
        late = (self.recipe.cooldown_start + 3 * self.recipe.steps) // 4
        whole = step >= late or batch.patches is not None
        kept = grid**2 if whole else round(KEPT * grid**2)
        places = torch.rand(len(pictures), grid**2).argsort(1)[:, :kept].sort(1).values
        tokens = self._seen_in_part(pictures, places)
        own, tokens, places = tokens[: len(own)], tokens[len(own) :], places[len(own) :]

        answers = self.modules["student"](tokens)
        goal, maps = self.goals(self.views, rows, grid)
        wanted = [part.gather(1, places[..., None].expand(-1, -1, part.shape[2])) for part in maps]
        *inner, shown = answers[1]
        patches = [_apart(a, w) for a, w in zip(inner, wanted, strict=True)]
        pixels = self.goals.pixels(self.views.pictures[rows])
        pixels = pixels.gather(1, places[..., None].expand(-1, -1, pixels.shape[2]))
        missed = F.mse_loss(shown.float(), pixels.to(self.device)) / self.goals.pixel_variance
        losses = {
            "taught": TAUGHT * _apart(answers[0], goal),
            "taught_patches": torch.stack(patches).mean(),
            "pixels": PIXELS * missed,
            "places": self._misplaced(tokens[:, 1:], places),
        }
        if "view_reader" in self.modules:
            labels, share = self.views.labels[rows].long(), self.views.share[rows]
            read = self.modules["view_reader"](tokens)
            losses["from_views"] = mixed_loss(read, labels.to(self.device), share.to(self.device))
        return own, losses

    def _misplaced(self, tokens: Tensor, places: Tensor) -> Tensor:
        """How badly (B, N, D) tokens tell which of the patches, (B, N), they are; chance is 1."""
        (told,) = self.modules["places"](tokens)
        wanted = places.to(self.device).flatten()
        return F.cross_entropy(told.flatten(0, 1).float(), wanted) / math.log(told.shape[2])

    def _seen_in_part(self, pictures: Tensor, places: Tensor) -> Tensor:
        """(B, 1 + kept, D) context tokens of pictures of which only (B, kept) patches are seen."""
        vision = self.modules["clip_vision"]
        vit = vision.vision_model
        hidden = vit.embeddings(preprocess_images(pictures, self.spec.clip).to(self.device))
        first = torch.zeros(len(places), 1, dtype=torch.long)
        places = torch.cat([first, places + 1], 1).to(self.device)
        hidden = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[2]))
        hidden = vit.encoder(vit.pre_layrnorm(hidden))
        tokens = vision.visual_projection(vit.post_layernorm(hidden))
        return tokens / tokens[:, :1].norm(dim=-1, keepdim=True)

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


def _apart(answer: Tensor, goal: Tensor) -> Tensor:
    """One minus the mean cosine along the last axis."""
    return 1 - F.cosine_similarity(answer.float(), goal.to(answer.device), dim=-1).mean()
