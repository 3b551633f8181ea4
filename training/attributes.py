"""A scene's attributes as classification targets: what encoders are taught to keep readable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from data.scenes.world import ATTRIBUTE_VALUES as VALUES


def targets(attributes: Sequence[Mapping]) -> Tensor:
    """(B, attributes) indices into `VALUES`; -1 where nothing is said."""
    rows = [
        [VALUES[k].index(row[k]) if row.get(k) is not None else -1 for k in VALUES]
        for row in attributes
    ]
    return torch.tensor(rows)


def read_loss(logits: Sequence[Tensor], wanted: Tensor) -> Tensor:
    """Mean cross-entropy over the attributes that are said."""
    losses = [
        F.cross_entropy(answer.float(), wanted[:, i], ignore_index=-1, reduction="sum")
        for i, answer in enumerate(logits)
    ]
    return torch.stack(losses).sum() / (wanted >= 0).sum()
