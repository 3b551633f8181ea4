"""Soft masks: where in a picture, and how much."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from analysis.modes.heavy import fingerprints, functional, pictures, torch
from analysis.modes.kinds import Kind


@dataclass(frozen=True)
class Mask:
    """Weights of a picture's places.

    Attributes:
        weights: (1, 1, H, W) in [0, 1]: white, or 1, is in, black, or 0, is out.
        described: for records.
    """

    weights: torch.Tensor
    described: dict[str, Any]

    @classmethod
    def of(cls, value: Any) -> Mask:
        """A picture (brightness times coverage counts) or its file; a tensor or array (H, W).

        Raises:
            ValueError: neither, another shape, or values outside of [0, 1].
        """
        if hasattr(value, "ndim"):
            weights = torch.as_tensor(value).detach().float().cpu()
            if weights.ndim not in (2, 3) or weights.numel() == 0 or weights.shape[:-2].numel() > 1:
                raise ValueError(
                    f"The mask has shape {tuple(weights.shape)}: give (height, width), or a "
                    "picture."
                )
            if not (weights.min() >= 0 and weights.max() <= 1):  # also false for NaN
                raise ValueError(
                    "The mask has values outside of [0, 1]: give 1 for what is in, 0 for the rest."
                )
            weights = weights.reshape(1, 1, *weights.shape[-2:])
            return cls(weights, {"mask_sha256": fingerprints.tensor_digest(weights)})
        picture = pictures.Picture.of(value)
        return cls(pictures.open_mask(value)[None, None], picture.describe())

    def fitted(self, how: str, height: int = 1, width: int = 1) -> Mask:
        """The mask for pictures that `lib.images.fit` gives this aspect; padding is out.

        Whole pixels of the mask are cropped or added, and its size is not changed.

        Args:
            how: "squeeze", "crop" or "pad".
            height, width: the aspect; a square if none is given.
        """
        if how == "squeeze":
            return self
        side = min if how == "crop" else max
        rows, columns = self.weights.shape[-2:]
        more = (
            max(1, round(side(columns, rows * width / height))) - columns,
            max(1, round(side(rows, columns * height / width))) - rows,
        )
        edges = [part for extra in more for part in (extra // 2, extra - extra // 2)]
        return replace(self, weights=functional.pad(self.weights, edges))

    def at(self, height: int, width: int, feather: int = 0) -> torch.Tensor:
        """The mask in another resolution, (1, 1, height, width); places it cuts are in by share.

        Args:
            height, width: of a map of latents.
            feather: edges are blurred over so many places on either side.
        """
        if self.weights.shape[-2] >= height and self.weights.shape[-1] >= width:
            small = functional.adaptive_avg_pool2d(self.weights, (height, width))
        else:
            small = functional.interpolate(self.weights, (height, width), mode="bilinear")
        if feather:
            side = 2 * feather + 1
            small = functional.avg_pool2d(small, side, 1, feather, count_include_pad=False)
        return torch.clamp(small, 0, 1)


def mask_files(nargs: str | None = None) -> Kind:
    """An option that is a mask; with `nargs`, or a list of them, None or "-" for no mask."""

    def check(name: str, value: Any) -> Any:
        if nargs and isinstance(value, (list, tuple)):
            return [None if mask is None or mask == "-" else Mask.of(mask) for mask in value]
        return Mask.of(value)

    return Kind(check=check, record=lambda mask: mask.described, metavar="PATH", nargs=nargs)
