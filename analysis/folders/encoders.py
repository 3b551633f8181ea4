"""A model's own CLIP as it compares pictures and texts: for captions, search, and reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.metrics.feature_models import FeatureModel, shortened
from lib.fingerprints import fingerprint, sizes_digest
from lib.model import VersatileDiffusion

TOWERS = ("clip_text", "clip_vision")


def own_clip(vd: VersatileDiffusion) -> FeatureModel:
    """A model's own CLIP: unit vectors (B, D). A text that is too long for it loses its end.

    Raises:
        ValueError: the model has none.
    """
    vd.require(*TOWERS)

    def texts(captions: Sequence[str]) -> Tensor:
        try:
            return vd.text_features(captions)
        except ValueError:
            return torch.cat(
                [shortened(text, lambda t: vd.text_features([t]))[1] for text in captions]
            )

    side = vd.spec.clip.vision.image_size
    return FeatureModel(
        f"{vd.spec.name}'s own CLIP",
        lambda pictures: vd.image_features(pictures),
        texts,
        "-".join(fingerprint(vd.component(name)) for name in TOWERS),
        f"to {vd.spec.clip.resize}, then {side} a side whatever the aspect, bicubic",
    )


@dataclass(frozen=True)
class Encoder:
    """What made the vectors of an index; those of different encoders do not compare.

    Attributes:
        model: its name.
        weights: fingerprint of the picture encoder, and digest of its sizes.
        width: D.
        dtype: in what precision the weights were when they worked (another one rounds them, so
            that their fingerprint differs).
    """

    model: str
    weights: str
    width: int
    dtype: str

    @classmethod
    def of(cls, vd: VersatileDiffusion) -> Encoder:
        """The picture encoder of a model.

        Raises:
            ValueError: the model has none.
        """
        vd.require("clip_vision")
        dtype = str(vd.dtype).removeprefix("torch.")
        weights = f"{fingerprint(vd.clip_vision)}-{sizes_digest(vd.spec, 'clip_vision')}"
        return cls(vd.spec.name, weights, vd.spec.clip.projection, dtype)

    def check(self, other: Encoder) -> None:
        """ValueError unless the other one makes vectors that compare with those of this one."""
        if self.width != other.width:
            raise ValueError(
                f"The index holds vectors of {self.width} numbers ({self.model}), {other.model} "
                f"makes {other.width}: load the model of the index, or make another index."
            )
        # before sizes were digested, too, an index held the fingerprint alone
        if self.weights not in (other.weights, other.weights.partition("-")[0]):
            how = f" in {self.dtype}, here it is {other.dtype}" if self.dtype != other.dtype else ""
            raise ValueError(
                f"The index was made with {self.model} ({self.weights}){how}; the vectors of "
                f"{other.model} ({other.weights}) do not compare with it: load the model of the "
                "index, with the same dtype, or make another index."
            )
