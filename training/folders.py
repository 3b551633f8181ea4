"""Captioned pictures of people's own as training samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.captioned import read_captioned
from data.captioned_samples import CaptionedSamples

HELD_OUT = 0.05  # of the pictures are measured on instead, at least one


def folder(
    path: Path,
    side: int,
    seed: int = 0,
    how: str = "crop",
    mirror: bool = False,
    outside: bool = False,
    **filters: Any,
) -> tuple[CaptionedSamples, CaptionedSamples]:
    """Training and held-out pictures of a folder, a `.tar` or a list.

    Args:
        path: of it.
        side, how, mirror: see `CaptionedSamples`.
        seed: of the choice of the held-out ones.
        outside: see `read_captioned`.
        filters: where pictures are kept, what is left out: see `CaptionedSamples`, too.

    Raises:
        ValueError: fewer than two pictures with captions, or none that can be opened.
    """
    found = read_captioned(path, outside=outside)
    return CaptionedSamples(found, side, how, mirror=mirror, **filters).split(HELD_OUT, seed)
