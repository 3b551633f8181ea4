"""Pictures in whatever form they come, as plain 8-bit sRGB.

| mode of the picture | becomes |
|---|---|
| 1, L, P, RGB, RGBX, YCbCr, HSV, LAB, CMYK | RGB (of 16 bit a colour, PIL keeps the upper 8) |
| I;16 (any byte order) | grey, 0...65535 scaled to 0...255 |
| I | grey, 0...255 if nothing is above, else 0...65535 |
| F | grey, 0...1 if nothing is above, else 0...255 |
| RGBA, LA, PA, RGBa, La, or a transparent colour | composited on white |

A colour profile (ICC) is applied: colours are converted to sRGB. A profile that cannot be read, or
that belongs to another kind of picture, is left alone. A camera's rotation (EXIF) is applied, too.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

FITS = ("squeeze", "crop", "pad")
_SAME = 2  # of 255: a profile that moves no colour further is sRGB with other rounding
_PROFILED = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL picture as sRGB of mode "RGB", upright and opaque, as the table above says.

    Raises:
        ValueError: not a PIL picture, an empty one, or values outside of the table's ranges.
    """
    colors, alpha = color_and_alpha(image)
    if alpha is not None:
        colors.putalpha(alpha)
        white = Image.new("RGBA", colors.size, "white")
        colors = Image.alpha_composite(white, colors).convert("RGB")
    colors.info = {}  # profile and rotation are in the pixels now, not to be applied again
    return colors


def color_and_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """A picture's colours (mode RGB, sRGB, upright) and its coverage (mode L; None: opaque).

    Raises:
        ValueError: as for `to_rgb`.
    """
    if not isinstance(image, Image.Image):
        raise ValueError(f"Got a {type(image).__name__}: give a PIL picture (PIL.Image.open).")
    if 0 in image.size:
        raise ValueError(
            f"The picture is empty ({image.width}x{image.height}): give one with pixels."
        )
    profile, alpha = image.info.get("icc_profile"), None
    image = _upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            alpha = Image.fromarray(np.where(np.asarray(image) == clear, 0, 255).astype(np.uint8))
        image = Image.fromarray(_grey_8bit(image))
    elif image.mode in ("LA", "La"):
        alpha = image.convert("LA").getchannel("A")
        image = image.convert("LA").getchannel("L")
    elif image.mode in ("RGBA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    return _to_srgb(image, profile), alpha


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned as its camera says."""
    image.load()  # what is damaged is refused here, not taken for unreadable metadata
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION))
    except Exception:  # metadata that cannot be read is left alone, however it breaks
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An opaque picture as RGB, its colours converted from its profile's space."""
    mode, transform = _transform(profile) if profile else ("", None)
    gray, cmyk = image.mode in ("1", "L"), image.mode == "CMYK"
    fits = {"L": gray, "CMYK": cmyk, "RGB": not cmyk and image.mode != "LAB"}
    if transform is None or not fits[mode]:
        return image.convert("RGB")
    return transform.apply(image.convert(mode))


@lru_cache(maxsize=32)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """A profile's mode, and the way to sRGB; None where it is sRGB already, or unreadable."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _PROFILED[source.profile.xcolor_space.strip()]
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if mode == "CMYK":
            return mode, transform
        levels = np.linspace(0, 255, 9).round().astype(np.uint8)
        colors = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
        grid = Image.fromarray(colors).convert(mode)
        moved = np.asarray(transform.apply(grid), int) - np.asarray(grid.convert("RGB"), int)
    except Exception:  # as above
        return "", None
    return mode, None if np.abs(moved).max() <= _SAME else transform


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


def fit(image: Image.Image, side: int | tuple[int, int], how: str = "squeeze") -> Image.Image:
    """An RGB picture as a square of a side, bicubic (antialiased); a square is only resized.

    Args:
        image: mode "RGB" (`to_rgb`).
        side: in pixels; or (width, height), for another shape than a square.
        how: "squeeze" changes the aspect, as the released code does; "crop" takes the largest
            square of the middle, as diffusers does; "pad" shows the whole picture on white.

    Raises:
        ValueError: another `how`.
    """
    if how not in FITS:
        raise ValueError(f"fit is {how!r}: choose {', '.join(FITS)}.")
    size = (side, side) if isinstance(side, int) else side
    if image.size == size:
        return image
    if image.width * size[1] == image.height * size[0] or how == "squeeze":
        return image.resize(size, Image.Resampling.BICUBIC)
    if how == "crop":
        return ImageOps.fit(image, size, Image.Resampling.BICUBIC)
    scale = min(size[0] / image.width, size[1] / image.height)
    inner = tuple(max(1, round(edge * scale)) for edge in image.size)
    square = Image.new("RGB", size, "white")
    corner = tuple((outer - edge) // 2 for outer, edge in zip(size, inner, strict=True))
    square.paste(image.resize(inner, Image.Resampling.BICUBIC), corner)
    return square


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
