"""Captioned pictures of people's own as training samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from data.captioned import Chosen, choose, read_captioned
from lib.images import fit, to_tensor

MIRRORED = 0.5
HELD_OUT = 0.05  # of the pictures are measured on instead, at least one


class FolderSamples:
    """Pictures of a folder, made as large as the model's, with the captions that lie beside them.

    They are opened once and kept in memory, 8 bits a colour.

    Args:
        chosen: opened and found good.
        rows: which of them.
        side: pixels a side.
        how: to bring other shapes to a square, one of `lib.images.FITS`.
        mirror: whether half of them are mirrored each time they are asked for; only where captions
            name no sides.
    """

    attributes: ClassVar[dict[str, tuple]] = {}
    words: ClassVar[tuple[str, ...]] = ("",)

    def __init__(
        self,
        chosen: Chosen,
        rows: Sequence[int],
        side: int,
        how: str = "crop",
        mirror: bool = False,
    ) -> None:
        self.captions_ = [chosen.entries[i].captions for i in rows]
        self.digest, self.side, self.how, self.mirror = chosen.digest, side, how, mirror
        images = [fit(chosen.images(range(i, i + 1))[0], (side, side), how) for i in rows]
        self.images = (to_tensor(images) * 255).round().byte()

    def __len__(self) -> int:
        return len(self.captions_)

    def identity(self) -> dict[str, Any]:
        """Which files, how large, and whether mirrored."""
        return {
            "digest": self.digest,
            "pictures": len(self),
            "side": self.side,
            "fit": self.how,
            "mirror": self.mirror,
        }

    def pictures(self, indices: Sequence[int], rng: np.random.Generator) -> Tensor:
        """(B, 3, side, side) float32 in [0, 1]."""
        images = self.images[torch.as_tensor(np.asarray(indices))].float() / 255
        if self.mirror:
            turned = torch.from_numpy(rng.random(len(images)) < MIRRORED)
            images[turned] = images[turned].flip(-1)
        return images

    def captions(self, indices: Sequence[int], rng: np.random.Generator) -> list[str]:
        """One of each picture's captions."""
        return [self.captions_[i][rng.integers(len(self.captions_[i]))] for i in indices]

    def targets(
        self, indices: Sequence[int], rng: np.random.Generator, asked: Sequence[str] | None = None
    ) -> list[str]:
        """One of each picture's captions: nothing is known of what they say."""
        return self.captions(indices, rng)

    def labels(self, indices: Sequence[int]) -> Tensor:
        """(B, 0): no attributes are known."""
        return torch.empty(len(indices), 0, dtype=torch.int64)

    def read(self, texts: Sequence[str]) -> Tensor:
        """(B, 0): no attributes are known."""
        return torch.empty(len(texts), 0, dtype=torch.int64)


def folder(
    path: Path, side: int, seed: int = 0, how: str = "crop", mirror: bool = False
) -> tuple[FolderSamples, FolderSamples]:
    """Training and held-out pictures of a folder, a `.tar` or a list.

    Raises:
        ValueError: fewer than two good pictures with captions, or none at all.
    """
    found = read_captioned(path)
    chosen = choose(found, len(found.entries), seed)
    n = len(chosen.entries)
    if n < 2:
        raise ValueError(f"{path} holds {n} captioned picture: give at least two to train on.")
    held = max(1, round(HELD_OUT * n))
    return (
        FolderSamples(chosen, range(held, n), side, how, mirror),
        FolderSamples(chosen, range(held), side, how),
    )
