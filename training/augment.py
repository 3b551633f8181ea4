"""Pictures changed at random, whole batches at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.samples import Samples, key_of

DEGREES, ZOOM, RECOLORED = 15.0, (0.75, 1.15), 0.4  # of `Varied`


def turned(
    pictures: Tensor,
    rng: np.random.Generator,
    degrees: float = 8.0,
    scale: tuple[float, float] = (0.9, 1.1),
) -> Tensor:
    """Each turned and scaled about its middle, its edge going on outside.

    Args:
        pictures: (B, 3, H, W).
        rng: what is drawn from.
        degrees: at most so far, either way.
        scale: of what is shown; below 1 it gets smaller.
    """
    angle = torch.from_numpy(np.radians(rng.uniform(-degrees, degrees, len(pictures)))).float()
    zoom = 1 / torch.from_numpy(rng.uniform(*scale, len(pictures))).float()
    matrix = torch.zeros(len(pictures), 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos() * zoom
    matrix[:, 0, 1], matrix[:, 1, 0] = -angle.sin() * zoom, angle.sin() * zoom
    grid = nn.functional.affine_grid(matrix, list(pictures.shape), align_corners=False)
    return nn.functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def shaded(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Contrast and brightness changed a little; (B, 3, H, W) in [0, 1]."""
    shape = (len(pictures), 1, 1, 1)
    gain = torch.from_numpy(rng.uniform(0.85, 1.15, shape)).float()
    shift = torch.from_numpy(rng.uniform(-0.06, 0.06, shape)).float()
    return ((pictures - 0.5) * gain + 0.5 + shift).clamp(0, 1)


def blurred(pictures: Tensor, rng: np.random.Generator, often: float) -> Tensor:
    """Some of (B, 3, H, W) through half the size and back."""
    half = nn.functional.interpolate(pictures, scale_factor=0.5, mode="area")
    back = nn.functional.interpolate(half, pictures.shape[2:], mode="bilinear")
    chosen = torch.from_numpy(rng.random(len(pictures)) < often)[:, None, None, None]
    return torch.where(chosen, back, pictures)


def recolored(pictures: Tensor, rng: np.random.Generator, often: float) -> tuple[Tensor, Tensor]:
    """The colour channels of some exchanged.

    Args:
        pictures: (B, 3, H, W).
        rng: what is drawn from.
        often: share of the pictures.

    Returns:
        The pictures, and (B,) bool: whose channels were exchanged.
    """
    changed = rng.random(len(pictures)) < often
    orders = np.tile(np.arange(3), (len(pictures), 1))
    orders[changed] = rng.permuted(orders[changed], axis=1)
    rows = torch.arange(len(pictures))[:, None]
    return pictures[rows, torch.from_numpy(orders)], torch.from_numpy(changed)


def mixed(
    pictures: Tensor, others: Tensor, rng: np.random.Generator, often: float
) -> tuple[Tensor, Tensor]:
    """Some laid over others, half of these as a whole and half as a rectangle (mixup, cutmix).

    Args:
        pictures, others: (B, 3, H, W).
        rng: what is drawn from.
        often: share of the pictures that anything happens to.

    Returns:
        The pictures, and (B,) float32: what share of each is still of `pictures`.
    """
    b, _, height, width = pictures.shape
    share = torch.ones(b, 1, 1, 1)
    mask = torch.ones(b, 1, height, width)
    for k in np.flatnonzero(rng.random(b) < often):
        if rng.random() < 0.5:
            mask[k] = rng.random()
        else:
            h, w = (round(side * rng.uniform(0.2, 0.8)) for side in (height, width))
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            mask[k, :, top : top + h, left : left + w] = 0
        share[k] = mask[k].mean()
    return pictures * mask + others * (1 - mask), share.flatten()


class Varied:
    """Samples for what needs no captions: pictures turned, scaled and recoloured beyond these.

    Args:
        samples: whose pictures.
    """

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def key(self, index: int) -> str:
        """As the samples call it."""
        return key_of(self.samples, index)

    def identity(self) -> dict[str, Any]:
        """The samples', and how far they are varied."""
        return {**self.samples.identity(), "varied": [DEGREES, *ZOOM, RECOLORED]}

    def pictures(self, indices: Sequence[int], rng: np.random.Generator) -> Tensor:
        """(B, 3, H, W) float32 in [0, 1], each changed anew."""
        pictures = turned(self.samples.pictures(indices, rng), rng, DEGREES, ZOOM)
        return recolored(pictures, rng, RECOLORED)[0].clamp(0, 1)
