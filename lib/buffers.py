"""Buffers that a checkpoint does not hold.

transformers registers a few index tables as *non-persistent* buffers: they belong to the module but
not to its `state_dict`. A module built under `torch.device("meta")` and filled by
`load_state_dict(..., assign=True)` therefore keeps them on `meta`, without values, and the first
forward pass fails; after `to_empty()` they hold garbage and nothing fails at all. Their values
follow from their shapes, so they are simply written anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def _positions(shape: torch.Size, device: torch.device) -> Tensor:
    return torch.arange(shape[-1], device=device).expand(shape)


def _zeros(shape: torch.Size, device: torch.device) -> Tensor:
    return torch.zeros(shape, dtype=torch.long, device=device)


# All the non-persistent buffers of transformers' BERT, GPT-2 and CLIP.
_RULES: dict[str, Callable[[torch.Size, torch.device], Tensor]] = {
    "position_ids": _positions,
    "token_type_ids": _zeros,
}


def materialize_buffers(module: nn.Module) -> nn.Module:
    """Write every non-persistent buffer of `module` anew, on the device of its neighbours' weights.

    Args:
        module: any module whose parameters have their values already; changed in place.

    Returns:
        The same module.

    Raises:
        RuntimeError: a buffer is on `meta` and no rule says what it holds (a newer transformers
            may register one: add its rule here).
    """
    for path, owner in module.named_modules():
        for name in sorted(owner._non_persistent_buffers_set):
            buffer = owner._buffers[name]
            if buffer is None:
                continue
            rule = _RULES.get(name)
            if rule is None:
                if buffer.is_meta:
                    raise RuntimeError(f"No rule says what the buffer {path}.{name} holds.")
                continue
            device = next((p.device for p in owner.parameters()), buffer.device)
            setattr(owner, name, rule(buffer.shape, device))
    return module


def materialize_after_load(module: nn.Module) -> None:
    """Renew the module's non-persistent buffers after each `load_state_dict`, its own or nested.

    With this, `with torch.device("meta"): m = M(cfg)` and `m.load_state_dict(sd, assign=True)` is
    all a loader has to do.
    """
    module.register_load_state_dict_post_hook(_renew)


def _renew(module: nn.Module, incompatible: Any) -> None:
    materialize_buffers(module)
