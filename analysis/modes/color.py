"""Colour match: the colours of one picture put on another.

A variation keeps what a picture shows and drifts in colour; the reference's colour statistics bring
it back, without touching what the variation shows.
"""

from __future__ import annotations

from numbers import Real

import numpy as np
from PIL import Image

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
    check_color_match(keep, method)
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


def check_color_match(keep: float, method: str) -> None:
    """ValueError unless both are allowed."""
    if isinstance(keep, bool) or not isinstance(keep, Real) or not 0 <= keep <= 1:
        raise ValueError(
            f"color_match is {keep!r}: give the share of its own colours that a picture keeps, "
            "0 (full match) to 1, or None for no match."
        )
    if method not in METHODS:
        raise ValueError(f"color_method is {method!r}: choose {' or '.join(METHODS)}.")
