"""Loading: lazy and strict.

*Lazy*: a flow needs a part of the model (text-to-image 1.03 B of 3.8 B parameters). A component is
read when something first requires it, and only its tensors are. Modules are built on the `meta`
device, without memory, and the file's tensors become their parameters (`assign=True`).

*Strict*: every parameter of a component is filled with finite numbers of its shape, and every key
of a file is a parameter, consumed once, or known to be optional. Anything else is an error by name.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from lib.checkpoints.parts import Part, check_fit, read_weight
from lib.checkpoints.sources import locate
from lib.components import (
    TEXT_VAE,
    build,
    check_components,
    components_for,
    named_tensors,
    structure,
)
from lib.config import COMPONENTS, ModelSpec
from lib.devices import choose_device, choose_dtype
from lib.model import VersatileDiffusion
from lib.specs import VD_FOUR_FLOW_V1_0
from lib.tokenizers import load_tokenizers

log = logging.getLogger(__name__)


def load(
    name_or_path: str | Path = "vd-mini",
    *,
    flows: Sequence[str] | str | None = None,
    components: Sequence[str] | str | None = None,
    encoders: bool = True,
    spec: ModelSpec | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> VersatileDiffusion:
    """Load a model, ready for inference; each component is read when it is first required.

    Args:
        name_or_path: "vd-mini" or another folder or file in `pretrained/`; "vd-four-flow-v1-0"
            (files in `pretrained/`, else the hub); the path of a checkpoint in any released layout
            (`lib.checkpoints.keymaps`), of a model folder that `save` wrote, or of a diffusers
            folder.
        flows: any of `lib.config.FLOWS`, whose components are read at once; with `encoders`, also
            what starting from a given picture or text needs.
        components: any of `lib.config.COMPONENTS`, which are read at once, too.
        encoders: see flows.
        spec: sizes, for files of another model than the released one; folders bring their own.
        device: cpu, cuda, cuda:1, ... or mps; default: cuda, else mps, else cpu.
        dtype: default: `lib.devices.choose_dtype`.

    Returns:
        The model in evaluation mode, without gradients.

    Raises:
        ValueError: nothing of that name, a damaged file, or weights that do not fit; names the
            file and what is missing, left over or of a wrong shape. (Also when a component is read
            later.)
        OSError: an official file is not here and could not be downloaded.

    Example:
        >>> vd = load("vd-four-flow-v1-0")
        >>> vd.require(*components_for(["t2i"]))                     # 1.03 of 3.8 B parameters
    """
    flows, components = (
        (value,) if isinstance(value, str) else tuple(value or ()) for value in (flows, components)
    )
    wanted = {*components_for(flows, encoders), *components} if flows else set(components)
    check_components(wanted)
    device = choose_device(device)
    source = locate(name_or_path, spec)
    # whether a model is big can be told without its text VAE, which is slow to import
    counted = wanted or {*source.components} - {*TEXT_VAE}
    modules = [structure(source.spec)[name] for name in counted]
    count = sum(p.numel() for module in modules for p in module.parameters())
    dtype = dtype or choose_dtype(device, count)
    log.info("%s: %.1f M parameters, %s on %s", source.where, count / 1e6, dtype, device)

    def read(name: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
        with torch.device("meta"):
            module = build(source.spec, name)
        fill(module, name, source.part(name), source.spec, device, dtype)
        return module.eval().requires_grad_(False)

    words = None
    if source.tokenizers is not None or source.spec == VD_FOUR_FLOW_V1_0:
        words = load_tokenizers(source.tokenizers, source.spec)
    where = {"device": device, "dtype": dtype}
    vd = VersatileDiffusion(
        source.spec, {}, words, read=read, readable=source.components, **where
    ).eval()
    vd.require(*(name for name in COMPONENTS if name in wanted))
    return vd


def fill(
    module: nn.Module,
    component: str,
    part: Part,
    spec: ModelSpec,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Give every parameter of a module its tensor from a file.

    Raises:
        ValueError: parameters without a tensor, tensors of a wrong shape or kind, or numbers that
            are not finite.
    """
    check_fit(part, component, module, spec)
    keys = part.keys[component]
    tensors = {
        name: read_weight(part.file, keys[name], device, dtype).reshape(own.shape)
        for name, own, _ in named_tensors(module)
        if name in keys
    }
    try:
        module.load_state_dict(tensors, assign=True)
    except ValueError as error:  # the text decoder checks that its tied tensors agree
        raise ValueError(f"{part.file.path}: {error}") from error
    assert not any(t.is_meta for t in (*module.parameters(), *module.buffers())), component
