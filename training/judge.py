"""Stage `judge`: the classifier that reads scenes off pictures; no part of the diffusion model.

It sees renders only, a little blurred and noised so that the softness of a decoder does not throw
it off. It knows held-out pairs (it has to recognise them when the model makes them), but neither
the test nor the validation scenes: on those it earns its licence.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.scenes.draw import render_batch
from data.scenes.judge import Judge, encode_targets, measure, save_judge
from data.scenes.samples import to_tensor
from data.scenes.world import Scene, is_test, is_validation, sample_scene, split
from training.export import record
from training.stage import Recipe, Stage

RECIPES = (Recipe(steps=1500, batch=64, lr=2e-3, warmup=50, decay="linear", ema=0.995),)


class JudgeStage(Stage):
    """Trains `data.scenes.judge.Judge`."""

    name = "judge"

    def __init__(self, out: Path, recipe: Recipe = RECIPES[0]) -> None:
        self.out, self.recipe = Path(out), recipe
        torch.manual_seed(recipe.seed)
        self.modules = nn.ModuleDict({"judge": Judge()})

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of every head that counts."""
        scenes = [_known(rng) for _ in range(self.recipe.batch)]
        images = soften(to_tensor(render_batch(scenes, rng)))
        logits = self.modules["judge"](images.to(self.device))
        wanted = {name: rows.to(self.device) for name, rows in encode_targets(scenes).items()}
        return Judge.loss(logits, wanted), {}

    def measure(self) -> dict[str, float]:
        """Accuracy on renders of test and held-out scenes; the worse of the two counts."""
        judge = self.modules["judge"]
        seen = measure(judge, split("test", 3000, seed=4))
        unseen = measure(judge, split("heldout", 3000, seed=4))
        return {name: min(seen[name], unseen[name]) for name in seen}

    def export(self, measured: dict[str, float], seconds: float) -> None:
        """Save the judge with its accuracy: `load_judge` refuses a poor one."""
        save_judge(self.modules["judge"], measured, self.out)
        record(self, measured, seconds)


def soften(images: Tensor) -> Tensor:
    """Blur half of the pictures by a 3x3 binomial filter and add noise (sigma 0 to 0.05)."""
    filter_1d = torch.tensor([0.25, 0.5, 0.25])
    kernel = (filter_1d[:, None] * filter_1d).expand(3, 1, 3, 3)
    blurred = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    choose = torch.rand(len(images), 1, 1, 1)
    images = torch.where(choose < 0.5, images, blurred)
    sigma = 0.05 * torch.rand(len(images), 1, 1, 1)
    return (images + sigma * torch.randn_like(images)).clamp(0, 1)


def _known(rng: np.random.Generator) -> Scene:
    while True:
        scene = sample_scene(rng, held_out=None)
        if not is_test(scene) and not is_validation(scene):
            return scene
