"""What a record says of weights and tensors that it does not hold: enough to tell them apart."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn


def fingerprint(module: nn.Module) -> str:
    """Twelve hexadecimal digits that tell weights apart, without reading all of them.

    SHA-256 of every tensor's name and shape, and of up to 64 of its values, evenly spread, as
    float32. Training moves all values, so another training has another fingerprint; one changed
    value among millions may go unnoticed. Float16 weights have theirs in float32, too.
    """
    digest = hashlib.sha256()
    picked: list[Tensor] = []
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)};".encode())
        flat = tensor.detach().reshape(-1)
        picked.append(flat[:: math.ceil(flat.numel() / 64) or 1].float())
    digest.update(torch.cat(picked).cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's values as float32."""
    return hashlib.sha256(tensor.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()
