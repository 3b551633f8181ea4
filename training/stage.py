"""What a stage of training is: a recipe, modules, a loss, and a measure."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.samples import Samples, key_of


@dataclass(frozen=True)
class Recipe:
    """How a stage is trained.

    Attributes:
        steps: optimizer steps in all.
        batch: samples a step and process.
        accumulate: batches whose mean gradient makes one step: n of them in one process are what n
            processes see.
        lr: peak learning rate, reached linearly after `warmup` steps.
        decay: "cosine" or "linear" from there to 0, or "trapezoid": constant, then linear to 0 over
            the last `cooldown` of the steps. A trapezoid can be prolonged: the state before the
            cooldown is kept as `stable.pt`, and a recipe that differs in nothing but more steps
            goes on from it.
        cooldown: share of the steps, for "trapezoid".
        optimizer: "adamw", or "muon" for all matrices (`training.muon`) with AdamW for the rest.
        weight_decay, betas: AdamW's; the decay is Muon's, too.
        clip: gradients are scaled down to this global norm.
        ema: decay of the exponential moving average of the weights (0 = none). It warms up as
            `min(ema, (1 + step) / (10 + step))`, so that the start is forgotten.
        seed: fresh weights, order, and noise follow from it.
        save_every: seconds between checkpoints.
        log_every: steps between log lines.
    """

    steps: int
    batch: int
    lr: float
    warmup: int = 100
    decay: str = "cosine"
    cooldown: float = 0.2
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    save_every: float = 120.0
    log_every: int = 50
    accumulate: int = 1
    optimizer: str = "adamw"

    def __post_init__(self) -> None:
        if self.decay not in ("cosine", "linear", "trapezoid"):
            raise ValueError(f"decay is {self.decay!r}: choose 'cosine', 'linear' or 'trapezoid'.")
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f"optimizer is {self.optimizer!r}: choose 'adamw' or 'muon'.")
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"steps {self.steps}, batch {self.batch}: both must be at least 1.")
        if self.accumulate < 1:
            raise ValueError(f"accumulate is {self.accumulate}: it must be at least 1.")

    @property
    def cooldown_start(self) -> int:
        """First step of a trapezoid's falling side."""
        return round(self.steps * (1 - self.cooldown))

    def lr_at(self, step: int) -> float:
        """Learning rate of step 0 ... steps - 1."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        start = self.cooldown_start if self.decay == "trapezoid" else self.warmup
        done = max(0.0, (step - start) / max(1, self.steps - start))
        if self.decay == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * done))
        return self.lr * (1 - done)


class Stage(ABC):
    """What one stage trains; subclasses fill in the model and the loss.

    Attributes:
        name: folder name under the run folder.
        recipe: how it is trained.
        modules: everything that is trained, by name.
        warm: whether the weights were trained before: what only a fresh start needs is left out.
        run: what tells this run from all others, however often it is interrupted or prolonged.
        pool: the samples that it trains on, if it has any.
        seen: numbers of the samples that the last call of `loss` was about.
        max_file: bytes of a file of finished weights; None: each component is one file.
    """

    name: str
    recipe: Recipe
    modules: nn.ModuleDict
    warm: bool = False
    run: str = ""
    pool: Samples | None = None
    seen: Sequence[int] | np.ndarray | None = None
    max_file: int | None = None

    @property
    def device(self) -> torch.device:
        """Where the modules are, and so where `loss` has to put its data."""
        return next(self.modules.parameters()).device

    @abstractmethod
    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, Any]]:
        """Loss of one step on data drawn from rng, and numbers to log (or tensors of one)."""

    def placed(self) -> None:  # noqa: B027
        """Called when the modules are on the device that they are trained on."""

    def gradient_scales(self) -> dict[str, float]:
        """Module name -> factor on its gradients (1 where not named)."""
        return {}

    def identity(self) -> dict[str, Any]:
        """What the weights depend on besides the recipe: options and data, as plain JSON types.

        A checkpoint is only continued by a stage of the same identity.
        """
        return {}

    def key(self, number: int) -> str:
        """What a sample that was `seen` is called in the data; where it has no name, its number."""
        return key_of(self.pool, number)

    def samples(self) -> int:
        """Samples of one step of one process."""
        return self.recipe.batch

    def measure(self) -> dict[str, float]:
        """Quality on held-out data, with the weights as they are now (EMA when called)."""
        return {}

    def kept(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold of the modules: all that training changes."""
        return self.modules.state_dict()

    def twin(self, modules: nn.ModuleDict) -> Stage:
        """The same stage with other modules."""
        other = copy(self)
        other.modules = modules
        return other

    def warmed(self) -> None:
        """Called when the modules have been given weights that were trained before."""
        self.warm = True

    def export(self, measured: dict[str, float], seconds: float) -> None:  # noqa: B027
        """Save the finished weights where the library loads them from; by default nowhere."""


def generator(seed: int, step: int, rank: int = 0) -> np.random.Generator:
    """The stream of random numbers that belongs to one step of one process."""
    return np.random.default_rng((seed, step, rank))


def native_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 without emulation."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
