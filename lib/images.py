"""Pictures in whatever form they come, as plain 8-bit RGB."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL picture as mode "RGB", upright and opaque.

    Transparency (RGBA, LA, a palette's or a colour key) is composited on white; 16-bit grey is
    scaled to 8 bit (PIL's own conversion clips it to white); floating-point grey may be in [0, 1]
    or [0, 255]; a camera's EXIF rotation is applied.

    Raises:
        ValueError: not a PIL picture, an empty one, or values outside of these ranges.
    """
    if not isinstance(image, Image.Image):
        raise ValueError(f"Got a {type(image).__name__}: give a PIL picture (PIL.Image.open).")
    if 0 in image.size:
        raise ValueError(
            f"The picture is empty ({image.width}x{image.height}): give one with pixels."
        )
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_grey_8bit(image)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _grey_8bit(image: Image.Image) -> np.ndarray:
    """Grey of more than 8 bit -> uint8 (H, W)."""
    grey = np.asarray(image).astype(np.float64)
    low, high = grey.min(), grey.max()
    if image.mode.startswith("I;16"):
        top = 65535
    elif image.mode == "I":  # 32-bit integers: older PIL opens 16-bit PNGs so
        top = 255 if high <= 255 else 65535
    else:
        top = 1 if high <= 1 else 255
    if not (low >= 0 and high <= top):  # also false for NaN
        raise ValueError(
            f"The picture of mode {image.mode!r} has values from {low:g} to {high:g}: rescale it "
            "to 0...65535 (integers), or 0...1 or 0...255 (floats)."
        )
    return np.rint(grey * (255 / top)).astype(np.uint8)


def to_pil(images: Sequence[Image.Image] | Tensor) -> list[Image.Image]:
    """Pictures as a list of RGB PIL pictures.

    Args:
        images: PIL pictures of any modes and sizes, or a float tensor (B, 3, H, W) in [0, 1], which
            is rounded to 8 bit (the official preprocessing goes through PIL, so tensors do too).

    Raises:
        ValueError: another type or shape, or a tensor with values outside of [0, 1].
    """
    if isinstance(images, Tensor):
        pixels = check_pixels(images).detach().float().cpu()
        pixels = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        return [Image.fromarray(p) for p in pixels]
    if isinstance(images, (str, bytes, Image.Image)) or not isinstance(images, Sequence):
        raise ValueError(
            f"Got a {type(images).__name__}: give a list of PIL pictures (one in a list, too) or a "
            "tensor (B, 3, H, W)."
        )
    return [to_rgb(image) for image in images]


def check_pixels(images: Tensor) -> Tensor:
    """Return `images`; ValueError unless it is a float tensor (B, 3, H, W) within [0, 1]."""
    if images.dim() != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        raise ValueError(f"The image tensor has shape {tuple(images.shape)}: give (B, 3, H, W).")
    if not images.is_floating_point():
        raise ValueError(
            f"The image tensor is {images.dtype}: give floats in [0, 1] (divide by 255)."
        )
    if images.numel():
        low, high = images.min().item(), images.max().item()
        if not (low >= 0 and high <= 1):  # also false for NaN
            raise ValueError(f"Image values go from {low:g} to {high:g}: give them in [0, 1].")
    return images


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """RGB PIL pictures of one size -> (B, 3, H, W) float32 in [0, 1]."""
    stack = np.stack([np.asarray(image, dtype=np.uint8) for image in images])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255
