"""The judge of drawings: reads off a picture what it shows, whose hand drew it, and its ground.

It measures what a model generates, so nothing of the model teaches it and it teaches nothing: it
looks through a network that others trained on photographs (`data.frozen`, of another size than the
one that taught the model's context encoder), and its own weights saw real drawings only. Such a
network hardly looks at whose hand drew; a small convnet that learned from drawings alone does. Its
accuracy on real drawings whose pair of concept and artist it never saw stands in `config.json`; a
model's figures are to be read as a share of these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from data.frozen import Frozen
from lib.checkpoints.tensor_files import save_tensors
from lib.checks import read_json
from lib.files import replacing
from lib.images import to_pil, to_tensor

JUDGE_FOLDER = Path(__file__).resolve().parents[2] / "pretrained" / "vd-emoji-judge"
SIZE, SIDE = 2, 128
BLOCKS = {"early": 3, "fine": 6, "middle": 14, "late": 19, "deep": 20}
"""Maps whose mean and deviation over the picture are looked at: 24 ... 352 channels."""
PLAIN = "deep"
"""The map whose mean `Judge.features` gives."""
OWN = 0.8
"""How much the convnet counts in what both read: it is right far more often."""
_WEIGHTS, _CONFIG = "judge.safetensors", "config.json"
_TRAINED = ("head", "hand")


class Head(nn.Module):
    """A linear map an attribute, on features brought to unit scale.

    Args:
        width: of the features.
        choices: how many values each attribute has.
    """

    def __init__(self, width: int, choices: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.answers = nn.ModuleList([nn.Linear(width, n) for n in choices])

    def fit_scale(self, features: Tensor) -> None:
        """Take mean and deviation from (N, width) features."""
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0) + 1e-3)

    def forward(self, features: Tensor) -> list[Tensor]:
        """(B, width) -> logits (B, choices) of each attribute."""
        x = ((features - self.mean) / self.std).clamp(-6, 6)
        x = F.dropout(x, 0.5, self.training)
        return [answer(x) for answer in self.answers]


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016), the first with a stride of 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.SiLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / 2, W / 2)."""
        return F.silu(self.branch(x) + self.shortcut(x))


class Hand(nn.Module):
    """A convnet from nothing for what photographs do not teach: mean and deviation of each level.

    Args:
        choices: how many values each attribute has.
        width: channels of the first level.
    """

    def __init__(self, choices: Sequence[int], width: int = 24) -> None:
        super().__init__()
        widths = [3, width, 2 * width, 4 * width, 6 * width]
        self.levels = nn.ModuleList([_Residual(a, b) for a, b in pairwise(widths)])
        self.answers = nn.ModuleList([nn.Linear(2 * sum(widths[1:]), n) for n in choices])

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> logits (B, choices) of each attribute."""
        x, parts = 2 * pictures - 1, []
        for level in self.levels:
            x = level(x)
            parts += [x.float().mean((2, 3)), (x.float().var((2, 3)) + 1e-4).sqrt()]
        seen = F.dropout(torch.cat(parts, 1), 0.2, self.training)
        return [answer(seen) for answer in self.answers]


class Judge(nn.Module):
    """The frozen network, what was trained on top of it, and a convnet beside it.

    Args:
        attributes: name -> values.
        told: those that the convnet reads, too, and counts for `OWN` in.
        accuracy: attribute -> share of real held-out drawings that are read right.

    Raises:
        ValueError: the network's packages are not installed.
    """

    def __init__(
        self,
        attributes: Mapping[str, Sequence[str]],
        told: Sequence[str] = (),
        accuracy: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.attributes = {name: list(values) for name, values in attributes.items()}
        self.told, self.accuracy = tuple(told), dict(accuracy or {})
        self.frozen = Frozen(SIZE, SIDE, BLOCKS)
        width = self.look(torch.zeros(1, 3, SIDE, SIDE))[0].shape[1]
        self.head = Head(width, [len(v) for v in self.attributes.values()])
        self.hand = Hand([len(self.attributes[name]) for name in self.told])

    def look(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """What the frozen network sees.

        Args:
            pictures: (B, 3, H, W) in [0, 1].

        Returns:
            (B, width) float32 for the head: mean and deviation of every map; and (B, 352), the
            mean of the last block's, which nothing here was taught by or trained on.
        """
        maps = {name: value.float() for name, value in self.frozen(pictures).items()}
        parts = [part for m in maps.values() for part in (m.mean((2, 3)), m.std((2, 3)))]
        return torch.cat(parts, 1), maps[PLAIN].mean((2, 3))

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> log-probabilities (B, values) of each attribute."""
        answers = [a.float().log_softmax(1) for a in self.head(self.look(pictures)[0])]
        for name, second in zip(self.told, self.hand(pictures), strict=True):
            k = list(self.attributes).index(name)
            second = second.float().log_softmax(1)
            answers[k] = ((1 - OWN) * answers[k] + OWN * second).log_softmax(1)
        return answers

    @torch.no_grad()
    def read(self, pictures: Sequence[Image.Image], batch: int = 64) -> dict[str, np.ndarray]:
        """Attribute -> (B, values) float32 log-probabilities, of pictures of any size."""
        parts = [self(part) for part in self._batches(pictures, batch)]
        answers = [torch.cat(rows).cpu().numpy() for rows in zip(*parts, strict=True)]
        return dict(zip(self.attributes, answers, strict=True))

    @torch.no_grad()
    def features(self, pictures: Sequence[Image.Image], batch: int = 64) -> np.ndarray:
        """(B, 352) float32: what the frozen network sees, to compare sets of pictures by."""
        return torch.cat([self.look(p)[1] for p in self._batches(pictures, batch)]).cpu().numpy()

    def _batches(self, pictures: Sequence[Image.Image], batch: int) -> list[Tensor]:
        """Pictures as they are trained on: 64 pixels a side."""
        device = self.head.mean.device
        small = [p.resize((64, 64), Image.Resampling.BICUBIC) for p in to_pil(pictures)]
        return [part.to(device) for part in to_tensor(small).split(batch)]


def save_judge(judge: Judge, accuracy: Mapping[str, float], folder: str | Path) -> None:
    """Write what was trained, 16-bit, and `config.json` (attributes, accuracy)."""
    folder = Path(folder)
    config = {
        "attributes": judge.attributes,
        "told": judge.told,
        "accuracy": {name: round(value, 4) for name, value in accuracy.items()},
    }
    weights = {
        f"{name}.{key}": value.half().contiguous() if value.is_floating_point() else value
        for name in _TRAINED
        for key, value in getattr(judge, name).state_dict().items()
    }
    with replacing() as temporary:
        save_tensors(weights, temporary(folder / _WEIGHTS))
        text = json.dumps(config, indent=1, ensure_ascii=False) + "\n"
        temporary(folder / _CONFIG).write_text(text, encoding="utf-8")


def load_judge(folder: str | Path = JUDGE_FOLDER, device: str | torch.device = "cpu") -> Judge:
    """The judge in evaluation mode, without gradients; `accuracy` is its own on real drawings.

    Raises:
        ValueError: the folder holds none, or a damaged one, or the network that it looks through
            is not installed.
    """
    folder = Path(folder)
    try:
        config = read_json(folder / _CONFIG)
        told = {key: config[key] for key in ("attributes", "told", "accuracy")}
        weights = load_file(folder / _WEIGHTS)
    except Exception as error:  # files of other kinds fail in many ways
        raise ValueError(
            f"{folder} holds no judge of drawings ({error}): train one with `python -m training "
            f"classifier --data emoji --judge {folder}`."
        ) from error
    judge = Judge(**told)
    frozen = {f"frozen.{key}": value for key, value in judge.frozen.state_dict().items()}
    try:
        judge.load_state_dict(weights | frozen)
    except RuntimeError as error:
        raise ValueError(
            f"{folder / _WEIGHTS} is damaged ({error}): train the judge anew."
        ) from error
    return judge.to(device).eval().requires_grad_(False)
