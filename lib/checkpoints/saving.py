"""Saving: a folder that `load` reads, written in full or not at all.

The folder is this project's own layout: config.json (the `ModelSpec`), one <component>.safetensors
each, tokenizers/.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lib.checkpoints.tensor_files import open_tensors, write_tensors
from lib.components import named_tensors, structure
from lib.config import COMPONENTS, ModelSpec
from lib.files import replacing
from lib.model import VersatileDiffusion


def save(
    vd: VersatileDiffusion,
    folder: str | Path,
    dtype: torch.dtype = torch.float16,
    components: Sequence[str] | None = None,
) -> None:
    """Write components, the configuration and the tokenizers to a folder that `load` reads.

    Other components that the folder holds already stay. All files are written in full before the
    first one takes its place.

    Args:
        vd: the model.
        folder: made if needed.
        dtype: of the stored weights.
        components: default: all that the model has, also those that were not read yet.

    Raises:
        ValueError: the model lacks a component, a weight is not finite in `dtype`, or the folder
            holds components of another model.
        OSError: the files could not be written (disk full, no permission); the folder is unchanged.
    """
    folder = Path(folder)
    names = vd.available if components is None else tuple(components)
    vd.require(*names)
    _check_neighbours(folder, vd.spec, names)
    try:
        with replacing() as temporary:
            for name in names:
                tensors = {
                    inner: tensor
                    for inner, tensor, tied in named_tensors(vd.component(name))
                    if not tied
                }
                path = temporary(folder / f"{name}.safetensors")
                shapes = {inner: tuple(tensor.shape) for inner, tensor in tensors.items()}
                read = partial(_stored, tensors, name, dtype)
                write_tensors(path, shapes, dict.fromkeys(tensors, dtype), read)
            text = json.dumps(vd.spec.to_dict(), indent=2) + "\n"
            temporary(folder / "config.json").write_text(text, encoding="utf-8")
            words = getattr(vd.tokenizers, "source", None)
            if words is not None and words.resolve() != (folder / "tokenizers").resolve():
                for path in sorted(p for p in words.rglob("*") if p.is_file()):
                    copy = folder / "tokenizers" / path.relative_to(words)
                    shutil.copyfile(path, temporary(copy))
    except OSError as error:
        raise OSError(
            f"Could not save to {folder} ({error}); what it held before is unchanged. Free some "
            "space or choose another folder, and save again."
        ) from error


def _stored(tensors: dict[str, Tensor], component: str, dtype: torch.dtype, name: str) -> Tensor:
    stored = tensors[name].detach().to("cpu", dtype)
    if not torch.isfinite(stored).all():
        was = tensors[name].detach().abs().max().item()
        raise ValueError(
            f"{component}.{name} cannot be saved in {dtype} (largest absolute value {was:g}): "
            "save in float32 or bfloat16, or look for the step that broke training."
        )
    return stored


def _check_neighbours(folder: Path, spec: ModelSpec, names: Sequence[str]) -> None:
    """Refuse to write a configuration that the folder's other components would not fit."""
    for name in COMPONENTS:
        path = folder / f"{name}.safetensors"
        if name in names or not path.is_file():
            continue
        own = named_tensors(structure(spec)[name])
        if open_tensors(path).shapes != {n: tuple(t.shape) for n, t, tied in own if not tied}:
            raise ValueError(
                f"{path} belongs to a model of other sizes than {spec.name}: save to another "
                "folder, or remove it first."
            )
