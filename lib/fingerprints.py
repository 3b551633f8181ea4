"""What a record says of weights and tensors that it does not hold: enough to tell them apart."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lib.config import ModelSpec
    from lib.model import VersatileDiffusion

_SIZES = {
    **dict.fromkeys(("clip_text", "clip_vision"), "clip"),
    "image_encoder": "image_vae",
    "text_encoder": "text_vae",
}
"""Encoder -> the part of the configuration that is about it."""


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


def model_digests(vd: VersatileDiffusion) -> dict[str, str]:
    """What decides results besides weights: digests of the sizes, and of the tokenizers' files."""
    digests = {"config": _of_plain(vd.spec.to_dict())}
    folder = getattr(vd.tokenizers, "source", None)
    if folder is not None:
        digest = hashlib.sha256()
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
        digests["tokenizers"] = digest.hexdigest()[:12]
    return digests


def sizes_digest(spec: ModelSpec, component: str) -> str:
    """What decides what an encoder says besides its weights: how many heads it has, for one."""
    return _of_plain(spec.to_dict()[_SIZES[component]])


def _of_plain(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's values as float32."""
    return hashlib.sha256(tensor.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()
