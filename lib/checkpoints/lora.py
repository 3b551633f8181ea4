"""Low-rank adapters in peft's format, merged into the weights that they were trained for.

An adapter (Hu et al. 2021) adds a product of two thin matrices to the weight W of a linear layer:
`W + weight * scale * B A`, with A (r, in), B (out, r) and `scale = alpha / r`. Merged, it costs
nothing any more. The files are peft's, `adapter_config.json` beside `adapter_model.safetensors`;
reading them needs no peft.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib.checkpoints.parts import shorten
from lib.checkpoints.tensor_files import open_tensors
from lib.checks import parse_json
from lib.model import VersatileDiffusion

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
"""What peft puts before the name of a layer."""

_PLAIN = {
    "bias": "none",
    **dict.fromkeys(("use_dora", "fan_in_fan_out", "lora_bias"), False),
    **dict.fromkeys(("alpha_pattern", "modules_to_save", "megatron_config"), None),
}
"""Settings that change what an adapter computes, and the values that are understood here."""


def merge_lora(vd: VersatileDiffusion, path: str | Path, weight: float = 1.0) -> VersatileDiffusion:
    """Merge an adapter into a model's weights, in place.

    >>> vd = merge_lora(load("vd-emoji"), "runs/mine/lora")
    >>> save(vd, "runs/mine/merged")                            # plain weights, like any other

    Args:
        vd: the model; the components that the adapter is about are read if they were not yet.
        path: folder of an adapter, or its file of weights.
        weight: how strong; 1 is as trained, a negative one takes a merged adapter out again.

    Returns:
        The same model.

    Raises:
        ValueError: no adapter there, one of another kind, or one for other layers or sizes than the
            model's; then nothing has changed.
    """
    if not math.isfinite(weight):
        raise ValueError(f"weight is {weight}: give a finite number, such as 1.")
    path = Path(path)
    path = path / WEIGHTS if path.is_dir() else path
    config = _config(path.with_name(CONFIG))
    tensors = open_tensors(path)
    wrong = [key for key in tensors.shapes if not _part(key)]
    layers = sorted({key.rpartition(".lora_")[0] for key in tensors.shapes} - {""})
    if wrong or not layers:
        raise ValueError(
            f"{path} holds {shorten(wrong) or 'nothing'}: give a LoRA adapter in peft's format."
        )
    merged: dict[nn.Linear, Tensor] = {}
    for name in layers:
        layer = _layer(vd, name.removeprefix(PREFIX), path)
        keys = [f"{name}.lora_{part}.weight" for part in "AB"]
        if any(key not in tensors.shapes for key in keys):
            raise ValueError(f"{path} is incomplete: {name} has one of two matrices.")
        precise = torch.promote_types(layer.weight.dtype, torch.float32)
        a, b = (tensors[key].to(layer.weight.device, precise) for key in keys)
        if a.shape[0] != b.shape[1] or (len(b), a.shape[1]) != tuple(layer.weight.shape):
            raise ValueError(
                f"{path} is for other sizes than {vd.spec.name}: {name.removeprefix(PREFIX)} is "
                f"{tuple(layer.weight.shape)} there, {(len(b), a.shape[1])} here."
            )
        rank = math.sqrt(len(a)) if config.get("use_rslora") else len(a)
        added = (weight * config["lora_alpha"] / rank) * (b @ a)
        merged[layer] = (layer.weight.detach() + added).to(layer.weight.dtype)
        if not torch.isfinite(merged[layer]).all():
            raise ValueError(f"{path}: {name} holds numbers that are not finite.")
    for layer, value in merged.items():
        layer.weight = nn.Parameter(value, requires_grad=layer.weight.requires_grad)
    return vd


def _part(key: str) -> bool:
    return key.endswith((".lora_A.weight", ".lora_B.weight"))


def _layer(vd: VersatileDiffusion, name: str, path: Path) -> nn.Linear:
    component, _, inner = name.partition(".")
    component = component.removesuffix("_column")
    if component in vd.available:
        layer = dict(vd.component(component).named_modules()).get(inner)
        if isinstance(layer, nn.Linear):
            return layer
    raise ValueError(f"{path} is for {name}, which is no linear layer of {vd.spec.name}.")


def _config(path: Path) -> dict[str, Any]:
    try:
        config = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): give an adapter's folder.") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ValueError(f"{path} is no configuration of a LoRA adapter.")
    other = [
        f"{key} {config[key]!r}"
        for key, usual in _PLAIN.items()
        if config.get(key, usual) not in (usual, {}, None)
    ]
    alpha = config.get("lora_alpha")
    if other or isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        raise ValueError(
            f"{path} has {', '.join(other) or f'lora_alpha {alpha!r}'}: only plain LoRA is merged "
            "here; merge it with peft, and load the merged weights."
        )
    return config
