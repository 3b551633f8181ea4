"""A small classifier of pictures: what a set's attributes look like, learned from pixels alone.

It measures what a model generates, so it must not come from the model: it sees real pictures only,
through other augmentations, and no network that teaches any part of a model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lib.files import replacing

_WEIGHTS, _CONFIG = "classifier.safetensors", "config.json"


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016), the first with a stride."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.SiLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return F.silu(self.branch(x) + self.shortcut(x))


class Classifier(nn.Module):
    """Residual blocks down to a sixteenth of the side, their mean, and a linear map an attribute.

    Args:
        attributes: name -> values.
        width: channels of the first block; each later one has twice as many.
    """

    def __init__(self, attributes: Mapping[str, Sequence[str]], width: int = 32) -> None:
        super().__init__()
        self.attributes = {name: list(values) for name, values in attributes.items()}
        self.width = width
        widths = [3, *(width * 2**k for k in range(4))]
        self.features = nn.Sequential(*(_Residual(a, b, 2) for a, b in pairwise(widths)))
        self.dropout = nn.Dropout(0.2)
        self.heads = nn.ModuleList(
            [nn.Linear(widths[-1], len(values)) for values in self.attributes.values()]
        )

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> logits (B, values) of each attribute."""
        h = self.dropout(self.features(2 * pictures - 1).mean((2, 3)))
        return [head(h) for head in self.heads]


def save_classifier(
    classifier: Classifier, accuracy: Mapping[str, float], folder: str | Path
) -> None:
    """Write weights and `config.json` (values of the attributes, accuracy on held-out pictures)."""
    folder = Path(folder)
    config = {
        "width": classifier.width,
        "attributes": classifier.attributes,
        "accuracy": dict(accuracy),
    }
    weights = {name: tensor.contiguous() for name, tensor in classifier.state_dict().items()}
    with replacing() as temporary:
        save_file(weights, temporary(folder / _WEIGHTS))
        text = json.dumps(config, indent=1, ensure_ascii=False) + "\n"
        temporary(folder / _CONFIG).write_text(text, encoding="utf-8")


def load_classifier(folder: str | Path) -> tuple[Classifier, dict[str, float]]:
    """The classifier in evaluation mode, and its accuracy on real held-out pictures.

    Raises:
        ValueError: the folder holds none, or a damaged one.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        classifier = Classifier(config["attributes"], config["width"])
        classifier.load_state_dict(load_file(folder / _WEIGHTS))
    except Exception as error:  # files of other kinds fail in many ways
        raise ValueError(
            f"{folder} holds no classifier ({error}): train one with `python -m training "
            "classifier --data ...`."
        ) from error
    return classifier.eval().requires_grad_(False), config["accuracy"]
