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


def right(logits: Sequence[Tensor], wanted: Tensor) -> Tensor:
    """(B, attributes) bool: whether the likeliest choice is right, or nothing is said."""
    answers = torch.stack([answer.argmax(1) for answer in logits], 1)
    return (answers == wanted) | (wanted < 0)
