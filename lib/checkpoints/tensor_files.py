"""Files of named tensors, opened without reading them: names and shapes first, values on demand.

Two formats, told by their content: safetensors, and torch's pickles (.pth and its other names). A
pickle can run code when it is opened; these are opened with `weights_only=True`, always, which
admits nothing but tensors and plain containers.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

PICKLES = (".pth", ".pt", ".ckpt", ".bin", ".pth.tar", ".pkl")
ENDINGS = (".safetensors", *PICKLES)
"""How names of files of weights end, in upper or lower case; the preferred one first."""

_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\b")
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_LFS = b"version https://git-lfs"


class TensorFile:
    """Named tensors of one file, or of all the parts of one. Made by `open_tensors`.

    Attributes:
        path: the file, or its first part.
        shapes: name -> shape, in the file's order.
    """

    def __init__(
        self, path: Path, shapes: dict[str, tuple[int, ...]], read: Callable[[str], Tensor]
    ) -> None:
        self.path = path
        self.shapes = shapes
        self._read = read

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of that name; where the format allows, its pages are read when used."""
        return self._read(name)


def ending(path: Path) -> str | None:
    """How the name of a file of weights ends, as it is spelt there; None for other files."""
    last = [path.name[-len(end) :] for end in ENDINGS if path.name.lower().endswith(end)]
    return max(last, key=len, default=None)


def open_tensors(path: str | Path) -> TensorFile:
    """Open a .safetensors file, or a .pth, .pt, .ckpt or .bin pickle of tensors.

    A part of a divided file (`...-00001-of-00003.safetensors`) opens all of its parts.

    Raises:
        ValueError: not such a file, damaged, a part missing, or a pickle that holds more than
            tensors; one sentence says which file and what to do.
    """
    path = Path(path)
    divided = _SHARD.search(path.name)
    if divided is None:
        return _open(path)
    mark, _, count = divided[0], *divided.groups()
    names = (path.name.replace(mark, f"-{i + 1:05}-of-{count}") for i in range(int(count)))
    parts = [_open(path.with_name(name)) for name in names]
    holder = {name: part for part in parts for name in part.shapes}
    shapes = {name: part.shapes[name] for name, part in holder.items()}
    if sum(len(part.shapes) for part in parts) != len(shapes):
        raise ValueError(f"The parts of {path} hold tensors twice: download them again.")
    return TensorFile(parts[0].path, shapes, lambda name: holder[name][name])


def _open(path: Path) -> TensorFile:
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    with path.open("rb") as file:
        head = file.read(len(_LFS))
    if head == _LFS:
        raise ValueError(
            f"{path} is only a pointer to the real file: fetch it with `git lfs pull`."
        )
    if head[8:9] == b"{":  # after eight bytes of length; no pickle has it there
        return _open_safetensors(path)
    if head.startswith((_ZIP, _PICKLE)):
        return _open_pickle(path, head)
    if ending(path) is None:
        raise ValueError(
            f"{path} is not a file of weights: give a .safetensors file or a pickle "
            f"({', '.join(PICKLES)})."
        )
    raise ValueError(f"{path} is damaged or incomplete: download or copy it again.")


def _open_safetensors(path: Path) -> TensorFile:
    try:
        file = safe_open(path, framework="pt", device="cpu")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged or incomplete ({error}): download or copy it again."
        ) from error
    return TensorFile(path, shapes, file.get_tensor)


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
    except Exception as error:  # torch and pickle raise whatever the bytes lead them to
        raise ValueError(f"{path} is damaged or incomplete: download or copy it again.") from error
    while wrapper := _wrapper(values):
        values = values[wrapper]
    named = isinstance(values, Mapping) and all(isinstance(name, str) for name in values)
    if not named or not all(isinstance(value, Tensor) for value in values.values()):
        raise ValueError(f"{path} is not a checkpoint: it should hold tensors by name, only.")
    shapes = {name: tuple(value.shape) for name, value in values.items()}
    return TensorFile(path, shapes, values.__getitem__)


def _wrapper(values: object) -> str | None:
    """The name under which what training saved keeps the weights."""
    inner = values if isinstance(values, Mapping) else {}
    return next((name for name in _WRAPPERS if isinstance(inner.get(name), Mapping)), None)
