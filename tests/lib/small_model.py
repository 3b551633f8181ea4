"""A small model of another configuration, shared by the tests of loading and saving."""

import json
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file

from lib.checkpoints import keymaps
from lib.config import COMPONENTS
from lib.model import VersatileDiffusion
from tests import golden
from tests.released_config import read_released

CONFIG = Path(__file__).parents[1] / "fixtures" / "other_config.json"
SPEC = read_released(json.loads(CONFIG.read_text()), "other")


@cache
def official() -> dict[str, torch.Tensor]:
    """Its checkpoint in the official layout."""
    return golden.checkpoint(SPEC)


@cache
def small_vd() -> VersatileDiffusion:
    """The model itself."""
    return golden.load_recipe(SPEC)


def in_layout(layout: str, only: tuple[str, ...] = COMPONENTS) -> dict[str, torch.Tensor]:
    """Its weights under a layout's keys (the preferred spelling)."""
    return {
        keys[0]: tensor.clone()
        for component in only
        for name, tensor in small_vd().component(component).state_dict().items()
        if (keys := keymaps.file_keys(layout, SPEC, component, name))
    }


def same(a: VersatileDiffusion, names: tuple[str, ...] = COMPONENTS) -> bool:
    """Whether a model's components are the small model's, bit by bit."""
    b = small_vd()
    pairs = ((a.component(n).state_dict(), b.component(n).state_dict()) for n in names)
    return all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in pairs)


def edited(path: Path, drop: tuple[str, ...] | list[str] = (), **add: torch.Tensor) -> Path:
    """The official checkpoint without some keys and with others."""
    save_file({k: v for k, v in official().items() if k not in drop} | add, path)
    return path
