"""An opened file of weights, sorted: which parameter of which component each of its keys is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lib.checkpoints import keymaps
from lib.checkpoints.tensor_files import INDEX, TensorFile, open_tensors
from lib.components import named_tensors, structure
from lib.config import ModelSpec
from lib.devices import release

OWN = "own"
"""Layout of this project: a folder with config.json and one <component>.safetensors each."""


@dataclass(frozen=True)
class Part:
    """An opened file, sorted.

    Attributes:
        file: names, shapes and values.
        layout: `OWN` or one of `keymaps.LAYOUTS`.
        keys: component -> parameter -> the file's key for it.
    """

    file: TensorFile
    layout: str
    keys: dict[str, dict[str, str]]


def own_file(folder: Path, component: str) -> Path | None:
    """A component's file in a model folder of this project, or the index of its parts, if any."""
    path = folder / f"{component}.safetensors"
    return next((p for p in (path.with_name(path.name + INDEX), path) if p.is_file()), None)


def sort_file(path: Path, spec: ModelSpec, layout: str | None = None) -> Part:
    """Open a file and say which parameter each of its keys is.

    Raises:
        ValueError: a key is no parameter of the model, or the file is none of the layouts.
    """
    file, wrapper = open_tensors(path), ""
    if layout is None:
        detected = keymaps.detect(file.shapes)
        if detected is None:
            starts = sorted({key.split(".")[0] for key in file.shapes})
            raise ValueError(
                f"{path} is no checkpoint of Versatile Diffusion that is known here: its keys "
                f"start with {shorten(starts) or 'nothing'}."
            )
        layout, wrapper = detected
    if layout == OWN:
        own = path.name.partition(".")[0]
        known = {name: (own, name) for name in structure(spec)[own].state_dict()}
    else:
        known = keymaps.inverse(layout, spec)
    keys: dict[str, dict[str, str]] = {}
    unknown = []
    for key in file.shapes:
        inner = key.removeprefix(wrapper)
        component, name = known.get(inner, ("", ""))
        own = keys.setdefault(component, {}) if component else None
        if own is not None and name not in own:
            own[name] = key
        elif own is not None or not keymaps.is_optional(layout, inner):
            unknown.append(key)
    if unknown:
        raise ValueError(
            f"{path} ({layout} layout) holds {len(unknown)} keys that belong to no component of "
            f"{spec.name}: {shorten(unknown)}. Check that file and model (spec=) belong together."
        )
    return Part(file, layout, keys)


def check_fit(part: Part, component: str, module: nn.Module, spec: ModelSpec) -> None:
    """Check by names and shapes that a file holds all parameters of a component.

    Raises:
        ValueError: parameters without a tensor, or tensors of a wrong shape.
    """
    keys = part.keys[component]
    missing, misshapen = [], []
    for name, own, tied in named_tensors(module):
        if name in keys:
            here, want = part.file.shapes[keys[name]], tuple(own.shape)
            # diffusers keeps some 1x1 convolutions as linear layers: the same numbers
            linear = part.layout in keymaps.DIFFUSERS and (*here, 1, 1) == want
            if here != want and not linear:
                misshapen.append(f"{keys[name]} is {here} instead of {want}")
        elif not tied:
            own_keys = (name,) if part.layout == OWN else ()
            missing.append((own_keys or keymaps.file_keys(part.layout, spec, component, name))[0])
    problems = {"missing": missing, "of a wrong shape": misshapen}
    if missing or misshapen:
        listed = "; ".join(f"{len(v)} {k}: {shorten(v)}" for k, v in problems.items() if v)
        raise ValueError(
            f"{part.file.path} does not fit the {component} of {spec.name} ({listed}). Check that "
            "file and model (spec=) belong together."
        )


def read_weight(file: TensorFile, key: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A tensor of a file, on a device and in a precision.

    Raises:
        ValueError: numbers that are no weights, or that are not finite in that precision.
    """
    tensor = file[key]
    if not tensor.is_floating_point() or tensor.element_size() < 2:
        raise ValueError(
            f"{file.path}: {key} holds {str(tensor.dtype).removeprefix('torch.')} numbers, which "
            "are no weights by themselves: get the file in float32, bfloat16 or float16."
        )
    weight = tensor.to(device, dtype)
    if weight.numel() and not all(math.isfinite(end) for end in weight.aminmax()):
        broken = not all(math.isfinite(end) for end in tensor.aminmax())
        what = "in the file: get another" if broken else f"in {dtype}: take dtype float32"
        raise ValueError(f"{file.path}: {key} holds numbers that are not finite {what}.")
    if weight is not tensor:  # of a file that is mapped into memory
        release(tensor)
    return weight


def shorten(names: list[str], count: int = 4) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - count
    return ", ".join(names[:count]) + (f" and {more} more" if more > 0 else "")
