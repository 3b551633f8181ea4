"""A scene's attributes as classification targets: what encoders are taught to keep readable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from scenes.world import (
    BACKGROUNDS,
    CANONICAL_RELATIONS,
    COLORS,
    SHAPES,
    SIZES,
    STYLES,
)

VALUES: dict[str, tuple] = {
    "background": BACKGROUNDS,
    "style": STYLES,
    "count": (1, 2),
    "relation": CANONICAL_RELATIONS,
    **{f"size{k}": SIZES for k in (1, 2)},
    **{f"color{k}": COLORS for k in (1, 2)},
    **{f"shape{k}": SHAPES for k in (1, 2)},
}
"""What the reader reads, in canonical order: thing 1 is the left or upper one."""


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
