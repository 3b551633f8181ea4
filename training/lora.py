"""Low-rank adapters on the attention of context columns: a small file instead of a model.

The base stays as it is; each adapted layer learns a product of two thin matrices (Hu et al. 2021),
which starts at zero. `lib.checkpoints.lora` merges the files, and peft itself loads them.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lib.checkpoints.lora import CONFIG, PREFIX, WEIGHTS
from lib.checkpoints.tensor_files import save_tensors
from lib.checks import read_json
from lib.files import replacing
from lib.model import VersatileDiffusion

if TYPE_CHECKING:
    from peft import PeftConfig

LAYERS = {
    "cross": r"(text|image)_context_column\..*\.attn2\.to_(q|k|v|out\.0)",
    "attention": r"(text|image)_context_column\..*\.attn[12]\.to_(q|k|v|out\.0)",
}
"""What is adapted: how things attend to what conditions, or also to each other."""


def adapt(vd: VersatileDiffusion, rank: int, layers: str, seed: int) -> PeftConfig:
    """Put adapters into the columns of a model, and freeze everything else.

    Args:
        vd: whose columns, with the weights to be adapted.
        rank: of the products.
        layers: one of `LAYERS`.
        seed: of the first matrices; the second ones are zero.

    Returns:
        Their configuration.

    Raises:
        ValueError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError("--lora needs `pip install peft`.") from error
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=LAYERS[layers])
    inject_adapter_in_model(config, vd)
    return config


def adapters(modules: nn.ModuleDict) -> dict[str, Tensor]:
    """The adapters among the weights of a stage, by the names that they have there."""
    return {key: value for key, value in modules.state_dict().items() if ".lora_" in key}


def save_adapters(made: PeftConfig, modules: nn.ModuleDict, folder: Path) -> None:
    """Write adapters as peft does: weights in float32, and their configuration.

    Args:
        made: what `adapt` returned.
        modules: the adapted columns, by component.
        folder: made if needed.
    """
    tensors = {}
    for key, value in adapters(modules).items():
        component, _, inner = key.partition(".")
        name = f"{PREFIX}{component}_column.{inner.replace('.default.', '.')}"
        tensors[name] = value.detach().float().cpu().contiguous()
    with tempfile.TemporaryDirectory() as there, replacing() as temporary:
        made.save_pretrained(there)
        config = read_json(Path(there) / CONFIG)
        text = json.dumps({**config, "inference_mode": True}, indent=2) + "\n"
        temporary(folder / CONFIG).write_text(text, encoding="utf-8")
        save_tensors(tensors, temporary(folder / WEIGHTS), {"format": "pt"})
