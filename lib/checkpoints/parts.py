"""An opened file of weights, sorted: which parameter of which component each of its keys is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lib.checkpoints import keymaps
from lib.checkpoints.tensor_files import TensorFile, open_tensors
from lib.components import structure
from lib.config import ModelSpec

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
        known = {name: (path.stem, name) for name in structure(spec)[path.stem].state_dict()}
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


def shorten(names: list[str], count: int = 4) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - count
    return ", ".join(names[:count]) + (f" and {more} more" if more > 0 else "")
