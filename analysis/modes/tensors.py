"""Contexts and latents computed elsewhere: tensors, arrays, or files of them, checked strictly.

The largest use of Versatile Diffusion in research, decoding of brain scans, predicts contexts:
257 x 768 for pictures and 77 x 768 for texts with the released model.

| given | taken |
|---|---|
| `lib.model.Context`, torch tensor, numpy array | as it is, float32 |
| `.safetensors` | its only tensor, or that of the name asked for ("context", "latents") |
| `.npy`, `.npz` | the array; of several, that of the name |
| `.pt`, `.pth` | a bare tensor, or a dict with one, never code (`weights_only`) |

Several files are taken one after the other along the first axis. (samples, tokens, width) is a
context; (tokens, width) is one of a single sample, if it has as many tokens as the model's contexts
of that kind. Anything else is refused: a file of three pooled vectors, (3, width), is no context.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.checkpoints.tensor_files import load_pickle, open_tensors
from lib.fingerprints import tensor_digest
from lib.model import Context, VersatileDiffusion

ENDINGS = (".safetensors", ".npy", ".npz", ".pt", ".pth")


def described(value: Any) -> Any:
    """What a record says of a context or a tensor: its kind and digest."""
    if isinstance(value, Context):
        return {"kind": value.kind, "sha256": tensor_digest(value.tokens)}
    return {"sha256": tensor_digest(value)} if isinstance(value, Tensor) else str(value)


def is_tensor_file(value: Any) -> bool:
    """Whether this is the path of a file that can hold a tensor."""
    try:
        return (
            isinstance(value, (str, Path))
            and Path(value).suffix.lower() in ENDINGS
            and Path(value).is_file()
        )
    except (OSError, ValueError):  # too long for a path, or with characters that no path has
        return False


def context_of(vd: VersatileDiffusion, value: Any, kind: str, longer: bool = False) -> Context:
    """A precomputed context, from whatever holds it.

    Args:
        vd: the model that it is for.
        value: a `Context`, tensor, array, path, or a list of paths.
        kind: "image" or "text".
        longer: whether a multiple of the usual number of tokens will do (contexts side by side).

    Raises:
        ValueError: another kind, shape, width or number of tokens, or values that are not finite.
    """
    if isinstance(value, Context):
        if value.kind != kind:
            raise ValueError(f"context is of kind {value.kind!r}: this takes {kind!r}.")
        tokens = value.tokens
    else:
        tokens = _joined(value, "context", 2)
    clip = vd.spec.clip
    count = clip.vision.tokens if kind == "image" else clip.text.positions
    form = f"(samples, {count}, {clip.projection})"
    if tokens.ndim == 2 and tuple(tokens.shape) == (count, clip.projection):
        tokens = tokens[None]
    fits = tokens.ndim == 3 and tokens.shape[0] > 0 and tokens.shape[2] == clip.projection
    if not fits or tokens.shape[1] % count or not tokens.shape[1]:
        raise ValueError(
            f"context of kind {kind!r} has shape {tuple(tokens.shape)}: give {form}, one matrix of "
            "tokens a sample."
        )
    if tokens.shape[1] != count and not longer:
        raise ValueError(f"context has {tokens.shape[1]} tokens a sample: give {form}.")
    if not bool(torch.isfinite(tokens).all()):
        raise ValueError("context holds NaN or infinite values: look where they come from.")
    return Context(kind, tokens)


def latents_of(value: Any, shape: Sequence[int], count: int, name: str = "latents") -> Tensor:
    """Latents, from whatever holds them.

    Args:
        value: a tensor, array, path, or a list of paths.
        shape: of one latent.
        count: how many are needed; a single one is taken for all.
        name: what to call them in an error.

    Raises:
        ValueError: another shape or number, or values that are not finite.
    """
    tensor = _joined(value, name, len(shape))
    if tuple(tensor.shape) == tuple(shape):
        tensor = tensor[None]
    if tuple(tensor.shape[1:]) != tuple(shape) or len(tensor) not in (1, count):
        raise ValueError(
            f"{name}: got shape {tuple(tensor.shape)}, need {(count, *shape)}: one a sample."
        )
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} hold NaN or infinite values: look where they come from.")
    return tensor.expand(count, *shape)


def _joined(value: Any, name: str, single: int) -> Tensor:
    """A floating-point tensor; files one after the other, those of a single sample, too.

    Args:
        value: what holds it.
        name: of a tensor among several, and in errors.
        single: how many axes the tensor of one sample has.
    """
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    if not isinstance(value, Tensor):
        paths = [value] if isinstance(value, (str, Path)) else value
        if not isinstance(paths, (list, tuple)) or not paths:
            raise ValueError(
                f"{name} is a {type(value).__name__}: give a Context, a tensor, an array, or files "
                f"({', '.join(ENDINGS)})."
            )
        parts = [_read(Path(path), name) for path in paths]
        if len(parts) == 1:
            return _floating(parts[0], name)
        parts = [part[None] if part.ndim == single else part for part in parts]
        shapes = list(dict.fromkeys(tuple(part.shape[1:]) for part in parts))
        if len(shapes) > 1:
            raise ValueError(
                f"The files hold shapes {' and '.join(map(str, shapes))}: give files of one shape."
            )
        value = torch.cat(parts)
    return _floating(value, name)


def _floating(tensor: Tensor, name: str) -> Tensor:
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(f"{name} hold {kind} numbers: give floating-point ones.")
    return tensor.detach().float()


def _read(path: Path, name: str) -> Tensor:
    """The tensor of one file."""
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"{path} cannot hold {name}: give a file of {', '.join(ENDINGS)}.")
    if not path.is_file():
        raise ValueError(f"There is no file {path}: give the path of {name}.")
    if path.suffix.lower() in (".npy", ".npz"):
        held = _held(path, lambda: np.load(path, allow_pickle=False))
        if isinstance(held, np.ndarray):
            return _held(path, lambda: torch.from_numpy(held))
        with held:
            which = _named(path, held.files, name)
            return _held(path, lambda: torch.from_numpy(held[which]))
    if path.suffix.lower() in (".pt", ".pth"):
        held = _held(path, lambda: load_pickle(path))
        if isinstance(held, Tensor):
            return held
        held = (
            {k: v for k, v in held.items() if isinstance(v, Tensor)}
            if isinstance(held, dict)
            else {}
        )
        return held[_named(path, list(held), name)]
    file = open_tensors(path)
    return file[_named(path, list(file.shapes), name)]


def _held(path: Path, read: Callable[[], Any]) -> Any:
    """What a file holds; each library breaks in its own ways, and says it in many lines."""
    try:
        return read()
    except Exception as error:
        why = " ".join(str(error).partition("\n")[0].partition(". ")[0].split())
        raise ValueError(f"{path} is damaged, or holds more than numbers ({why}).") from error


def _named(path: Path, names: list[str], name: str) -> str:
    """The tensor that is meant: the only one, or that of this name."""
    if name in names:
        return name
    if len(names) != 1:
        raise ValueError(
            f"{path} holds {len(names)} tensors ({', '.join(names[:5])}), none of them {name!r}: "
            "give a file with one tensor, or with one of that name."
        )
    return names[0]
