"""Attributes of a picture as classification targets: what encoders are taught to keep readable."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.ops import attention


class Reader(nn.Module):
    """One learned query per attribute, one cross-attention into the context tokens.

    Args:
        width: of the tokens.
        choices: how many values each attribute has.
    """

    def __init__(
        self, width: int, choices: Sequence[int], hidden: int = 256, heads: int = 4
    ) -> None:
        super().__init__()
        self.heads = heads
        # context tokens have length about 1, so their entries are small: bring them to unit scale
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(len(choices), hidden))
        self.keys = nn.Linear(width, hidden)
        self.values = nn.Linear(width, hidden)
        self.answers = nn.ModuleList([nn.Linear(hidden, n) for n in choices])

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """(B, N, D) context tokens -> logits, one (B, choices) per attribute."""
        queries = self.queries.expand(len(tokens), -1, -1)
        tokens = self.norm(tokens)
        read = attention(queries, self.keys(tokens), self.values(tokens), self.heads)
        return [answer(F.gelu(read[:, i])) for i, answer in enumerate(self.answers)]


class LocalReader(nn.Module):
    """A linear map from the token of a patch to the attributes of what it shows."""

    def __init__(self, width: int, choices: Sequence[int]) -> None:
        super().__init__()
        self.sizes = list(choices)
        self.norm = nn.LayerNorm(width)
        self.answer = nn.Linear(width, sum(self.sizes))

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """(B, N, D) -> logits (B, N, choices), one an attribute."""
        return self.answer(self.norm(tokens)).split(self.sizes, dim=-1)


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
