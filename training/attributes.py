"""Attributes of a picture as classification targets: what encoders are taught to keep readable."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def read_loss(logits: Sequence[Tensor], wanted: Tensor) -> Tensor:
    """Mean cross-entropy over the attributes that are said.

    Args:
        logits: (B, choices) for each attribute.
        wanted: (B, attributes) indices; -1 where nothing is said.
    """
    losses = [
        F.cross_entropy(answer.float(), wanted[:, i], ignore_index=-1, reduction="sum")
        for i, answer in enumerate(logits)
    ]
    return torch.stack(losses).sum() / (wanted >= 0).sum().clamp(min=1)


def mixed_loss(logits: Sequence[Tensor], wanted: Tensor, share: Tensor) -> Tensor:
    """`read_loss` of pictures that two are mixed in, labels smoothed by a tenth.

    Args:
        logits: (B, choices) for each attribute.
        wanted: (B, 2, attributes) of both; -1 where nothing is known.
        share: (B,) of the first.
    """
    total, count = logits[0].new_zeros(()).float(), 0
    for which, part in enumerate((share, 1 - share)):
        for i, answer in enumerate(logits):
            target = wanted[:, which, i]
            told = F.cross_entropy(
                answer.float(), target, ignore_index=-1, reduction="none", label_smoothing=0.1
            )
            total, count = total + (told * part).sum(), count + (part * (target >= 0)).sum()
    return total / count.clamp(min=1e-3)


def right(logits: Sequence[Tensor], wanted: Tensor) -> Tensor:
    """(B, attributes) bool: whether the likeliest choice is right, or nothing is said."""
    answers = torch.stack([answer.argmax(1) for answer in logits], 1)
    return (answers == wanted) | (wanted < 0)
