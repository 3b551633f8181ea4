"""Stage `classifier`: what reads attributes off pictures, to measure with; no part of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.classifier import Classifier, save_classifier
from data.samples import Samples
from training.attributes import read_loss
from training.export import record
from training.judge import soften
from training.stage import Recipe, Stage

TOP = 5


class ClassifierStage(Stage):
    """Trains a `data.classifier.Classifier` on samples that know attributes.

    It sees real pictures a little blurred, noised, turned and recoloured, so that it does not lean
    on what a decoder gets wrong.

    Args:
        samples: to train on.
        validation: to measure on.
        out: the classifier's folder.
        recipe: how it is trained.

    Raises:
        ValueError: nothing is known of the samples but captions.
    """

    name = "classifier"

    def __init__(self, samples: Samples, validation: Samples, out: Path, recipe: Recipe) -> None:
        if not samples.attributes:
            raise ValueError(
                "A classifier needs attributes, which captions of one's own have not: use --data "
                "scenes or emoji, or samples with `attributes`."
            )
        self.pool, self.validation = samples, validation
        self.out, self.recipe = Path(out), recipe
        torch.manual_seed(recipe.seed)
        self.modules = nn.ModuleDict({"classifier": Classifier(samples.attributes)})

    def identity(self) -> dict[str, Any]:
        """Which pictures."""
        return {"data": self.pool.identity()}

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy, mean over all attributes."""
        indices = rng.integers(len(self.pool), size=self.recipe.batch)
        self.seen = indices
        pictures = _shaded(soften(_turned(self.pool.pictures(indices, rng), rng)), rng)
        logits = self.modules["classifier"](pictures.to(self.device))
        return read_loss(logits, self.pool.labels(indices).to(self.device)), {}

    def measure(self) -> dict[str, float]:
        """Share of held-out pictures read right, the first answer and one of the first five."""
        classifier, rng = self.modules["classifier"], np.random.default_rng(4)
        rows = np.arange(len(self.validation))[:3000]
        right: dict[str, list[Tensor]] = {}
        for start in range(0, len(rows), 100):
            part = rows[start : start + 100]
            wanted = self.validation.labels(part)
            logits = classifier(self.validation.pictures(part, rng).to(self.device))
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
        save_classifier(self.modules["classifier"], measured, self.out)
        record(self, measured, seconds)


def _turned(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Each turned by up to 8 degrees and scaled by up to a tenth, its edge going on outside."""
    angle = torch.from_numpy(np.radians(rng.uniform(-8, 8, len(pictures)))).float()
    scale = torch.from_numpy(rng.uniform(0.9, 1.1, len(pictures))).float()
    matrix = torch.zeros(len(pictures), 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos() * scale
    matrix[:, 0, 1], matrix[:, 1, 0] = -angle.sin() * scale, angle.sin() * scale
    grid = nn.functional.affine_grid(matrix, list(pictures.shape), align_corners=False)
    return nn.functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def _shaded(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Contrast and brightness changed a little."""
    shape = (len(pictures), 1, 1, 1)
    gain = torch.from_numpy(rng.uniform(0.85, 1.15, shape)).float()
    shift = torch.from_numpy(rng.uniform(-0.06, 0.06, shape)).float()
    return ((pictures - 0.5) * gain + 0.5 + shift).clamp(0, 1)
