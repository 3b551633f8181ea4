"""What conditions: contexts, mixes of them, and what "no picture" can mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib.config import ModelSpec

KINDS = ("image", "text")
IMAGE_NULLS = ("zeros", "black", "grey")
"""What can stand for "no picture" (`VersatileDiffusion.null_context`)."""


@dataclass(frozen=True)
class Context:
    """What conditions: tokens, and the kind of thing they describe.

    Attributes:
        kind: "image" or "text": which context column reads them.
        tokens: (B, N, D), from `text_context` / `image_context`, or precomputed elsewhere.
    """

    kind: str
    tokens: Tensor

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"A context is of kind 'image' or 'text', not {self.kind!r}.")
        if self.tokens.ndim != 3:
            raise ValueError(
                f"Context tokens have shape {tuple(self.tokens.shape)}: give (B, tokens, width)."
            )

    def __len__(self) -> int:
        return len(self.tokens)

    def repeat(self, times: int) -> Context:
        """Every sample `times` times in a row: (B, N, D) -> (B * times, N, D)."""
        return Context(self.kind, self.tokens.repeat_interleave(times, dim=0))

    def __getitem__(self, index: slice) -> Context:
        return Context(self.kind, self.tokens[index])


Mix = Sequence[tuple[Context, float]]
"""Contexts with their weights (any positive scale: weights are normalised to sum 1)."""


def which_null(kind: str, data: str, null: str | None) -> str | None:
    """The null that is asked for, or the default of what is generated; None for a text context.

    Raises:
        ValueError: there is no such null, or one is asked for in place of a text context.
    """
    if null is not None and (kind != "image" or null not in IMAGE_NULLS):
        raise ValueError(
            f"null is {null!r} for a context of kind {kind!r}: choose {', '.join(IMAGE_NULLS)} "
            "for an image context, and none for a text context (give one as a negative prompt)."
        )
    return None if kind == "text" else null or IMAGE_NULLS[0 if data == "image" else 1]


def opposed(contexts: Mix, nulls: Sequence[Context]) -> Mix:
    """What to guide away from: a null in the place of each context, or nothing at all.

    Raises:
        ValueError: another number of nulls than of contexts.
    """
    if nulls and len(nulls) != len(contexts):
        raise ValueError(
            f"{len(contexts)} contexts but {len(nulls)} nulls: give one null a context."
        )
    return [(null, weight) for null, (_, weight) in zip(nulls, contexts, strict=False)]


def stacked(first: Mix, second: Mix) -> Mix | None:
    """Two mixes as one of both their batches, the first one's samples first; weights of the second.

    None where they do not fit together: other kinds, or tokens of another shape. Tokens lie
    where the second ones do, in a precision that holds both.
    """
    pairs = list(zip(first, second, strict=False))
    alike = [(a.kind, a.tokens.shape) == (b.kind, b.tokens.shape) for (a, _), (b, _) in pairs]
    if not len(first) == len(second) == sum(alike):
        return None
    return [
        (Context(b.kind, torch.cat([a.tokens.to(b.tokens.device), b.tokens])), weight)
        for (a, _), (b, weight) in pairs
    ]


def check_inputs(spec: ModelSpec, x: Tensor, contexts: Mix) -> None:
    """ValueError unless a noisy latent and contexts are such as `VersatileDiffusion.eps` takes."""
    widths = {2: spec.unet.text_dim, 4: spec.unet.image_channels}
    if x.ndim not in widths or x.shape[1] != widths[x.ndim]:
        raise ValueError(
            f"x has shape {tuple(x.shape)}: give (B, {spec.unet.image_channels}, h, w) "
            f"for an image latent or (B, {spec.unet.text_dim}) for a text latent."
        )
    halvings = 2 ** (len(spec.unet.channel_mult) - 1)
    if any(side % halvings for side in x.shape[2:]):
        raise ValueError(
            f"x has shape {tuple(x.shape)}: the levels of the network halve height and width, "
            f"so give multiples of {halvings}."
        )
    if not contexts:
        raise ValueError("No context was given: eps needs at least one (context, weight).")
    for context, weight in contexts:
        if not 0 < weight < math.inf:
            raise ValueError(
                f"A {context.kind} context has weight {weight}: weights must be positive and "
                "finite; leave a context out to weigh it 0."
            )
        if len(context) != len(x):
            raise ValueError(
                f"{len(x)} latents but {len(context)} {context.kind} contexts: give one "
                "context a sample (Context.repeat)."
            )
        if context.tokens.shape[2] != spec.unet.context_dim:
            raise ValueError(
                f"The {context.kind} context is {context.tokens.shape[2]} wide, "
                f"{spec.name} takes {spec.unet.context_dim}."
            )
