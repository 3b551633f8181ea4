"""Colour match: the colours of one picture put on another.

A variation keeps what a picture shows and drifts in colour; the reference's colour statistics bring
it back, without touching what the variation shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from lib.checks import number

if TYPE_CHECKING:
    from analysis.modes.source import Source

METHODS = ("mean_std", "histogram")


def match_color(
    image: Image.Image, reference: Image.Image, keep: float = 0.0, method: str = "mean_std"
) -> Image.Image:
    """Put the reference's colours on a picture, channel by channel:

        out = keep * image + (1 - keep) * match(image, reference)

    rounded, and clipped to 0 ... 255.

    Args:
        image: RGB.
        reference: RGB, of any size.
        keep: 0 ... 1, share of the picture's own colours that stays (0.5 in the first release).
        method: "mean_std" (`match_mean_std`) or "histogram" (`match_histogram`).

    Raises:
        ValueError: keep out of range, or an unknown method.
    """
    number("color_match", keep, 0, 1)
    if method not in METHODS:
        raise ValueError(f"color_method is {method!r}: choose {' or '.join(METHODS)}.")
    match = match_mean_std if method == "mean_std" else match_histogram
    x, y = (np.asarray(picture.convert("RGB"), dtype=np.float64) for picture in (image, reference))
    out = keep * x + (1 - keep) * match(x, y)
    return Image.fromarray(np.rint(out).clip(0, 255).astype(np.uint8))


def match_mean_std(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """`(x - mean(x)) / std(x) * std(reference) + mean(reference)`, per channel.

    The result has the reference's mean and standard deviation exactly, until somebody clips it; a
    channel without any variation only moves to the mean.

    Args:
        x: (H, W, C).
        reference: (h, w, C).

    Returns:
        (H, W, C) float64, not clipped.
    """
    mean, std = x.mean((0, 1)), x.std((0, 1))
    scale = reference.std((0, 1)) / np.where(std > 1e-9, std, 1)
    return (x - mean) * scale + reference.mean((0, 1))


def match_histogram(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Replace each value by the reference's value of the same rank, per channel.

    Equal values share their middle rank, so flat areas stay flat. Between two of the reference's
    ranks (pictures of different sizes) values are interpolated.

    Args:
        x: (H, W, C).
        reference: (h, w, C).

    Returns:
        (H, W, C) float64.
    """
    out = np.empty(x.shape, dtype=np.float64)
    for c in range(x.shape[2]):
        _, where, count = np.unique(x[..., c], return_inverse=True, return_counts=True)
        rank = (np.cumsum(count) - count / 2) / x[..., c].size  # middle of each value's ranks
        target = np.sort(reference[..., c], axis=None)
        at = (np.arange(target.size) + 0.5) / target.size
        out[..., c] = np.interp(rank, at, target)[where].reshape(x.shape[:2])
    return out


def matching(
    source: Source, keep: float | None, method: str
) -> Callable[[int, Image.Image], Image.Image] | None:
    """What puts each input's colours on its results; None where nothing is to be matched.

    Raises:
        ValueError: there is only the inputs' context, which has no colours.
    """
    if keep is None:
        return None
    if source.items is None:
        raise ValueError(
            "color_match needs the pictures themselves: give them, too, not only their context."
        )

    def finish(j: int, image: Image.Image) -> Image.Image:
        reference = source.items[0 if len(source.items) == 1 else j]
        return match_color(image, reference.open(), keep, method)

    return finish
