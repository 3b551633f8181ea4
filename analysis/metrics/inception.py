"""Inception v3 as a feature function: torchvision's network, with either of two sets of weights.

- torchvision's own (1000 classes), or
- those of published FIDs, ported from TensorFlow (1008 classes, no auxiliary classifier). That
  network pools otherwise: means next to the border leave the padding out, and the last block takes
  a maximum in place of a mean.

Pictures are resized as Parmar, Zhang and Zhu 2022 recommend (PIL's bicubic, which is antialiased),
not as the first FIDs did it: the resize alone moves a FID by more than many papers' improvements.

Source: Szegedy et al. 2016; Heusel et al. 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import Inception3, Inception_V3_Weights
from torchvision.models import inception as blocks

from lib.checkpoints.tensor_files import open_tensors
from lib.images import to_pil, to_tensor

SIDE = 299
PORTED, TORCHVISION = 1008, 1000
_LAST_BLOCK = 2048  # channels that only the very last block takes in
_IGNORED = ("AuxLogits.", "fc.")


def _inner_mean(x: Tensor) -> Tensor:
    """3 x 3 means of what lies inside the picture."""
    return F.avg_pool2d(x, kernel_size=3, stride=1, padding=1, count_include_pad=False)


class PortedA(blocks.InceptionA):
    """Block A, its means without the padding."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        return [*super()._forward(x)[:-1], self.branch_pool(_inner_mean(x))]


class PortedC(blocks.InceptionC):
    """Block C, its means without the padding."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        return [*super()._forward(x)[:-1], self.branch_pool(_inner_mean(x))]


class PortedE(blocks.InceptionE):
    """Block E, its means without the padding; the last of the two takes maxima."""

    def __init__(self, in_channels: int, **kwargs: object) -> None:
        super().__init__(in_channels, **kwargs)
        self.is_last = in_channels == _LAST_BLOCK

    def _forward(self, x: Tensor) -> list[Tensor]:
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.is_last else _inner_mean(x)
        return [*super()._forward(x)[:-1], self.branch_pool(pooled)]


def build(ported: bool) -> Inception3:
    """The network without its two classifiers, with random weights."""
    parts = None
    if ported:
        b, d, aux = blocks.InceptionB, blocks.InceptionD, blocks.InceptionAux
        parts = [blocks.BasicConv2d, PortedA, b, PortedC, d, PortedE, aux]
    model = Inception3(aux_logits=False, inception_blocks=parts, init_weights=False)
    model.fc = nn.Identity()
    return model.eval()


def load_inception(file: str | None = None) -> tuple[Inception3, str]:
    """The network with its weights, and which ones these are.

    Args:
        file: a state dict in either layout (see the module); None downloads torchvision's.

    Raises:
        ValueError: a file that is not one.
        OSError: the download failed.
    """
    if file is None:
        state = Inception_V3_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
        classes = TORCHVISION
    else:
        tensors = open_tensors(file)
        classes = tensors.shapes.get("fc.bias", (0,))[0]
        state = {name: tensors[name] for name in tensors.shapes}
    if classes not in (PORTED, TORCHVISION):
        raise ValueError(f"fc.bias has {classes} classes, not {TORCHVISION} or {PORTED}")
    model = build(ported=classes == PORTED)
    kept = {k: v for k, v in state.items() if not k.startswith(_IGNORED)}
    if classes == PORTED:  # older ports have no such counters, and nothing here reads them
        counters = {k: v for k, v in model.state_dict().items() if k.endswith("batches_tracked")}
        kept = counters | kept
    try:
        model.load_state_dict(kept)
    except RuntimeError as error:
        raise ValueError(
            f"it is not Inception v3 as torchvision names its parts: {error}"
        ) from error
    return model, "ported from the original FID" if classes == PORTED else "torchvision's ImageNet"


@torch.no_grad()
def inception_pool(model: Inception3, pictures: Sequence[Image.Image]) -> Tensor:
    """Pooled features.

    Args:
        model: of `load_inception`.
        pictures: of any modes and sizes.

    Returns:
        (B, 2048) float32, of pixels in [-1, 1], which both sets of weights were trained on.
    """
    size = (SIDE, SIDE)
    resized = [p.resize(size, Image.Resampling.BICUBIC) for p in to_pil(list(pictures))]
    device = next(model.parameters()).device
    return model(2 * to_tensor(resized).to(device) - 1)
