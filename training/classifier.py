"""Stage `classifier` of drawings: their judge, to measure with; no part of the model."""

from __future__ import annotations

import hashlib
import json
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.emoji.judge import Judge, save_judge
from data.samples import Samples, key_of
from lib.checkpoints.tensor_files import kept_tensors, save_tensors
from lib.files import replacing
from lib.fingerprints import fingerprint
from training.attributes import read_loss
from training.augment import shaded, turned
from training.export import record
from training.judge import soften
from training.stage import Recipe, Stage

TOP = 5
VIEWS = 16_000
SOFT = 0.4  # of the convnet's pictures are blurred or noised


class ClassifierStage(Stage):
    """Trains a `data.emoji.judge.Judge` on samples that know attributes.

    What the frozen network sees of real pictures, each a little turned, blurred, noised and shaded
    so that nothing leans on what a decoder gets wrong, is computed once and kept under `runs`. The
    convnet sees more pictures, half of them as they are: a hand shows in what blur takes away.

    Args:
        samples: to train on.
        more: all that the convnet may learn from; attributes with the same values count, mirrored
            or not.
        validation: to measure on.
        out: the judge's folder.
        recipe: how it is trained.
        runs: where features are kept.
        count: how many pictures are looked at.

    Raises:
        ValueError: nothing is known of the samples but captions, or the frozen network is not
            installed.
    """

    name = "judge"

    def __init__(
        self,
        samples: Samples,
        more: Samples,
        validation: Samples,
        out: Path,
        recipe: Recipe,
        runs: Path,
        count: int = VIEWS,
    ) -> None:
        if not samples.attributes:
            raise ValueError(
                "A classifier needs attributes, which captions of one's own have not: use --data "
                "scenes or emoji, or samples with `attributes`."
            )
        self.pool, self.more, self.validation = samples, more, validation
        self.exact = copy(more)
        self.exact.jitter = False
        self.out, self.recipe = Path(out), recipe
        torch.manual_seed(recipe.seed)
        names = [n for n, v in samples.attributes.items() if more.attributes.get(n) == v]
        self.places = [list(more.attributes).index(name) for name in names]
        self.judge = Judge(samples.attributes, names)
        self.seen_before = self._looked(Path(runs), count)
        self.judge.head.fit_scale(self.seen_before["features"].float())
        self.modules = nn.ModuleDict({"head": self.judge.head, "hand": self.judge.hand})

    def identity(self) -> dict[str, Any]:
        """Which pictures."""
        return {"data": self.pool.identity(), "views": len(self.seen_before["labels"])}

    def key(self, number: int) -> str:
        """As the convnet's pictures are called."""
        return key_of(self.more, number)

    def _looked(self, runs: Path, count: int) -> dict[str, Tensor]:
        """(count, width) float16 features of changed pictures, and (count, attributes) labels."""
        about = [self.pool.identity(), len(self.pool), count, fingerprint(self.judge.frozen)]
        name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
        path = runs / f"judge-{name}.safetensors"
        seen = kept_tensors(path)
        if seen is None:
            rng = np.random.default_rng(96)
            torch.manual_seed(96)
            rows = np.concatenate(
                [rng.permutation(len(self.pool)) for _ in range(-(-count // len(self.pool)))]
            )[:count]
            features = []
            for start in range(0, count, 64):
                part = self.pool.pictures(rows[start : start + 64], rng)
                features.append(self.judge.look(shaded(soften(turned(part, rng)), rng))[0].half())
            kept = {"features": torch.cat(features), "labels": self.pool.labels(rows)}
            with replacing() as temporary:
                save_tensors(kept, temporary(path))
            seen = kept_tensors(path)
        return seen

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of both, mean over the attributes of each."""
        features, labels = self.seen_before["features"], self.seen_before["labels"]
        rows = torch.from_numpy(rng.integers(len(labels), size=4 * self.recipe.batch))
        logits = self.modules["head"](features[rows].float().to(self.device))
        head = read_loss(logits, labels[rows].to(self.device))
        self.seen = indices = rng.integers(len(self.more), size=self.recipe.batch)
        half = len(indices) // 2
        parts = (self.exact.pictures(indices[:half], rng), self.more.pictures(indices[half:], rng))
        pictures = torch.cat(parts)
        turn = torch.from_numpy(rng.random(len(pictures)) < 0.5)
        pictures[turn] = pictures[turn].flip(3)
        soft = torch.from_numpy(rng.random(len(pictures)) < SOFT)
        pictures[soft] = soften(pictures[soft])
        logits = self.modules["hand"](shaded(pictures, rng).to(self.device))
        labels = self.more.labels(indices)[:, self.places]
        hand = read_loss(logits, labels.to(self.device))
        return head + hand, {"head": head.item(), "hand": hand.item()}

    def measure(self) -> dict[str, float]:
        """Share of held-out pictures read right, the first answer and one of the first five."""
        rng = np.random.default_rng(4)
        rows = np.arange(len(self.validation))[:3000]
        right: dict[str, list[Tensor]] = {}
        for start in range(0, len(rows), 64):
            part = rows[start : start + 64]
            wanted = self.validation.labels(part)
            logits = self.judge(self.validation.pictures(part, rng).to(self.device))
            for name, answer, label in zip(self.pool.attributes, logits, wanted.T, strict=True):
                told = label >= 0
                best = answer.float().cpu().topk(min(TOP, answer.shape[1])).indices[told]
                hits = best == label[told, None]
                right.setdefault(name, []).append(hits[:, 0])
                if answer.shape[1] > 2 * TOP:
                    right.setdefault(f"{name}_top{TOP}", []).append(hits.any(1))
        return {name: float(torch.cat(parts).float().mean()) for name, parts in right.items()}

    def export(self, measured: dict[str, float], seconds: float) -> None:
        """Save it with its accuracy, which is what a model's figures are a share of."""
        save_judge(self.judge, measured, self.out)
        record(self, measured, seconds)
