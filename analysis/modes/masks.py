"""Soft masks: where in a picture, and how much."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from analysis.modes.sampling import tensor_digest
from data.pictures import Picture
from lib.images import to_tensor


@dataclass(frozen=True)
class Mask:
    """Weights of a picture's places.

    Attributes:
        weights: (1, 1, H, W) in [0, 1]: white, or 1, is in, black, or 0, is out.
        described: for records.
    """

    weights: Tensor
    described: dict[str, Any]

    @classmethod
    def of(cls, given: str | Path | Image.Image | Tensor) -> Mask:
        """A picture (its brightness counts) or its file, or a tensor (H, W) or (1, H, W).

        Raises:
            ValueError: neither picture nor tensor, another shape, or values outside of [0, 1].
        """
        if isinstance(given, Tensor):
            weights = given.detach().float().cpu()
            if weights.ndim not in (2, 3) or weights.numel() == 0 or weights.shape[:-2].numel() > 1:
                raise ValueError(
                    f"The mask has shape {tuple(given.shape)}: give (height, width), or a picture."
                )
            if not (weights.min() >= 0 and weights.max() <= 1):  # also false for NaN
                raise ValueError(
                    "The mask has values outside of [0, 1]: give 1 for what is in, 0 for the rest."
                )
            weights = weights.reshape(1, 1, *weights.shape[-2:])
            return cls(weights, {"mask_sha256": tensor_digest(weights)})
        if not isinstance(given, (str, Path, Image.Image, Picture)):
            raise ValueError(
                f"A mask is of type {type(given).__name__}: give a PIL picture, a file's path, or "
                "a tensor (height, width)."
            )
        picture = Picture.of(given)
        grey = picture.open().convert("L").convert("RGB")
        return cls(to_tensor([grey])[:, :1], picture.describe())

    def at(self, height: int, width: int, feather: int = 0) -> Tensor:
        """The mask in another resolution, (1, 1, height, width); places it cuts are in by share.

        Args:
            height, width: of a map of latents.
            feather: edges are blurred over so many places on either side.
        """
        if self.weights.shape[-2] >= height and self.weights.shape[-1] >= width:
            small = F.adaptive_avg_pool2d(self.weights, (height, width))
        else:
            small = F.interpolate(self.weights, (height, width), mode="bilinear")
        if feather:
            side = 2 * feather + 1
            small = F.avg_pool2d(small, side, 1, feather, count_include_pad=False)
        return torch.clamp(small, 0, 1)
