"""Tensors that the shell is given as files: contexts and initial latents computed elsewhere.

    python -m analysis t2i --context predicted.safetensors --seed 20
    python -m analysis dual --image-context vision.safetensors --text-context text.safetensors
    python -m analysis t2i "a red circle" --latents noise.safetensors

The largest use of Versatile Diffusion in research, decoding of brain scans, predicts contexts:
257 x 768 for pictures and 77 x 768 for texts with the released model.

A file is a .safetensors with one tensor, of any name, or with several of which one has the name
that is asked for ("context", "latents"): (tokens, width) or (samples, tokens, width) for contexts,
one latent or (samples, ...) of them for latents. Several files are taken one after the other. What
`--as latents` wrote can be given back.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lib.checkpoints.tensor_files import open_tensors
from lib.model import Context

_AXES = {"image": 3, "text": 1}
"""Kind of data -> axes of one latent."""


def read_context(paths: Sequence[str | Path], kind: str) -> Context:
    """A precomputed context of a kind, from one file or several.

    Raises:
        ValueError: a file that cannot be used, or files that do not fit each other.
    """
    return Context(kind, _read(paths, "context", 2, "(tokens, width) or (samples, tokens, width)"))


def read_latents(paths: Sequence[str | Path], data: str) -> Tensor:
    """Initial latents (samples, ...) of a kind of data, from one file or several.

    Raises:
        ValueError: a file that cannot be used, or files that do not fit each other.
    """
    one = "(channels, height, width)" if data == "image" else "(width,)"
    return _read(paths, "latents", _AXES[data], f"{one}, or several of them")


def _read(paths: Sequence[str | Path], name: str, axes: int, form: str) -> Tensor:
    """Tensors of all files along the first axis; each has `axes` axes, or one more in front."""
    parts = []
    for path in map(Path, paths):
        file = open_tensors(path)
        names = list(file.shapes)
        if name not in names and len(names) != 1:
            raise ValueError(
                f"{path} holds {len(names)} tensors, none of them {name!r}: give a file with one "
                "tensor, or with one of that name."
            )
        value = file[name if name in names else names[0]]
        if value.ndim not in (axes, axes + 1) or not value.is_floating_point():
            raise ValueError(
                f"{path} holds {str(value.dtype).removeprefix('torch.')} of shape "
                f"{tuple(value.shape)}: give floating-point numbers, {form}."
            )
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{path} holds NaN or infinite values: look where they come from.")
        parts.append(value.float()[None] if value.ndim == axes else value.float())
    shapes = list(dict.fromkeys(tuple(part.shape[1:]) for part in parts))
    if len(shapes) > 1:
        told = " and ".join(map(str, shapes))
        raise ValueError(f"The files hold shapes {told}: give files of one shape.")
    return torch.cat(parts)
