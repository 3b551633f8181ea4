"""Files of named tensors, opened without reading them: names and shapes first, values on demand.

Two formats: safetensors, and torch's pickles (.pth and its other names). A pickle can run code when
it is opened; these are opened with `weights_only=True`, always, which admits nothing but tensors
and plain containers.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

PICKLES = (".pth", ".pt", ".ckpt", ".bin")
_WRAPPERS = ("state_dict", "model_state_dict")
_ZIP = b"PK\x03\x04"
_LFS = b"version https://git-lfs"


class TensorFile:
    """Named tensors of one file. Made by `open_tensors`.

    Attributes:
        path: the file.
        shapes: name -> shape, in the file's order.
    """

    def __init__(self, path: Path, shapes: dict[str, tuple[int, ...]], values: Any) -> None:
        self.path = path
        self.shapes = shapes
        self._values = values

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of that name; where the format allows, its pages are read when used."""
        if isinstance(self._values, Mapping):
            return self._values[name]
        return self._values.get_tensor(name)


def open_tensors(path: str | Path) -> TensorFile:
    """Open a .safetensors file, or a .pth, .pt, .ckpt or .bin pickle of tensors.

    Raises:
        ValueError: not such a file, damaged, or a pickle that holds more than tensors; one
            sentence says which file and what to do.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    if path.suffix not in (".safetensors", *PICKLES):
        raise ValueError(
            f"{path} is not a file of weights: give a .safetensors file or a pickle "
            f"({', '.join(PICKLES)})."
        )
    with path.open("rb") as file:
        head = file.read(len(_LFS))
    if head == _LFS:
        raise ValueError(
            f"{path} is only a pointer to the real file: fetch it with `git lfs pull`."
        )
    return _open_safetensors(path) if path.suffix == ".safetensors" else _open_pickle(path, head)


def _open_safetensors(path: Path) -> TensorFile:
    try:
        file = safe_open(path, framework="pt", device="cpu")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged or incomplete ({error}): download or copy it again."
        ) from error
    return TensorFile(path, shapes, file)


def _open_pickle(path: Path, head: bytes) -> TensorFile:
    # the format of before 2020 is no zip archive and cannot be mapped into memory
    mapped = head.startswith(_ZIP)
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        if "weights_only" not in str(error).lower():
            raise ValueError(f"{path} is damaged: download or copy it again.") from error
        raise ValueError(
            f"{path} holds more than tensors and is refused, because opening it could run code: "
            "get the file from its official source, or convert it to safetensors."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        raise ValueError(f"{path} is damaged or incomplete: download or copy it again.") from error
    for wrapper in _WRAPPERS:
        if isinstance(values, Mapping) and isinstance(values.get(wrapper), Mapping):
            values = values[wrapper]
    if not isinstance(values, Mapping) or not all(isinstance(v, Tensor) for v in values.values()):
        raise ValueError(f"{path} is not a checkpoint: it should hold tensors by name, only.")
    return TensorFile(path, {name: tuple(v.shape) for name, v in values.items()}, values)
