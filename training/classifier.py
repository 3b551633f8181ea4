"""Stage `classifier` of drawings: their judge, to measure with; no part of the model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from data.emoji.judge import Judge, save_judge
from data.samples import Samples
from lib.files import replacing
from training.attributes import read_loss
from training.augment import shaded, turned
from training.export import record
from training.judge import soften
from training.stage import Recipe, Stage

TOP = 5
VIEWS = 16_000


class ClassifierStage(Stage):
    """Trains the head of a `data.emoji.judge.Judge` on samples that know attributes.

    What the frozen network sees of real pictures, each a little turned, blurred, noised and shaded
    so that nothing leans on what a decoder gets wrong, is computed once and kept under `runs`.

    Args:
        samples: to train on.
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
        self.pool, self.validation = samples, validation
        self.out, self.recipe = Path(out), recipe
        torch.manual_seed(recipe.seed)
        self.judge = Judge(samples.attributes)
        self.seen_before = self._looked(Path(runs), count)
        self.judge.head.fit_scale(self.seen_before["features"].float())
        self.modules = nn.ModuleDict({"head": self.judge.head})

    def identity(self) -> dict[str, Any]:
        """Which pictures."""
        return {"data": self.pool.identity(), "views": len(self.seen_before["labels"])}

    def _looked(self, runs: Path, count: int) -> dict[str, Tensor]:
        """(count, width) float16 features of changed pictures, and (count, attributes) labels."""
        about = [self.pool.identity(), len(self.pool), count]
        name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
        path = runs / f"judge-{name}.safetensors"
        if not path.exists():
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
                save_file(kept, temporary(path))
        return load_file(path)

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy, mean over all attributes."""
        rows = torch.from_numpy(
            rng.integers(len(self.seen_before["labels"]), size=self.recipe.batch)
        )
        features = self.seen_before["features"][rows].float()
        labels = self.seen_before["labels"][rows]
        logits = self.modules["head"](features.to(self.device))
        return read_loss(logits, labels.to(self.device)), {}

    def measure(self) -> dict[str, float]:
        """Share of held-out pictures read right, the first answer and one of the first five."""
        rng = np.random.default_rng(4)
        rows = np.arange(len(self.validation))[:3000]
        right: dict[str, list[Tensor]] = {}
        for start in range(0, len(rows), 64):
            part = rows[start : start + 64]
            wanted = self.validation.labels(part)
            seen = self.judge.look(self.validation.pictures(part, rng))[0]
            logits = self.modules["head"](seen.to(self.device))
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
