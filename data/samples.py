"""What training asks of any set of captioned pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor


class Samples(Protocol):
    """What a stage trains on: captioned pictures by number, varied anew each time they are asked.

    Everything random follows from the given generator, so a step sees the same after a restart.

    Attributes:
        attributes: name -> values of what can be told of a picture, such as its colour; empty where
            nothing is known but captions.
        words: what may be asked of whoever answers with a text, `""` first: nothing in particular.
    """

    attributes: Mapping[str, Sequence[str]]
    words: Sequence[str]

    def __len__(self) -> int: ...

    def identity(self) -> dict[str, Any]:
        """What the samples depend on, as plain JSON types."""

    def pictures(self, indices: Sequence[int], rng: np.random.Generator) -> Tensor:
        """(B, 3, H, W) float32 in [0, 1]."""

    def captions(self, indices: Sequence[int], rng: np.random.Generator) -> list[str]:
        """What conditions: a caption each, in any words, told whole or in part."""

    def targets(
        self, indices: Sequence[int], rng: np.random.Generator, asked: Sequence[str] | None = None
    ) -> list[str]:
        """What the text column learns to write: a caption each that answers what is asked.

        `asked` are captions or one of `words` each; nothing asked is answered by everything.
        """

    def labels(self, indices: Sequence[int]) -> Tensor:
        """(B, attributes) int64: indices of each attribute's values; -1 where it has none."""

    def read(self, texts: Sequence[str]) -> Tensor:
        """(B, attributes) int64: what captions say, as `labels`; -1 where they say nothing."""


def key_of(samples: Any, index: int) -> str:
    """What a sample is called in the data, where samples have a method `key`; else its number."""
    return getattr(samples, "key", str)(int(index))


@dataclass(frozen=True)
class Batch:
    """Captioned pictures that are to be told apart.

    Attributes:
        indices: (B,) numbers of the samples, where they are samples.
        pictures: (B + more, 3, H, W); what is more has no caption and is only read.
        texts: (B,) a caption each.
        seen: (B + more, attributes) what the pictures show; -1 where that is not to be read.
        said: (B, attributes) what the captions say.
        patches: for each of the samples' `local` attributes, (B + more, patches) indices of what a
            patch shows, -1 where nothing; None where that is not known.
    """

    indices: np.ndarray | None
    pictures: Tensor
    texts: list[str]
    seen: Tensor
    said: Tensor
    patches: list[Tensor] | None = None


def contrast(samples: Samples, size: int, rng: np.random.Generator, patch: int) -> Batch:
    """A batch to be told apart: as the samples make it, if they do, or at random.

    Args:
        samples: whose pictures and captions.
        size: how many.
        rng: the step's own stream.
        patch: pixels a side of the patches that a context encoder sees.
    """
    own = getattr(samples, "contrast", None)
    if own is not None:
        return own(size, rng, patch)
    indices = rng.integers(len(samples), size=size)
    texts = samples.captions(indices, rng)
    return Batch(
        indices,
        samples.pictures(indices, rng),
        texts,
        samples.labels(indices),
        samples.read(texts),
    )
