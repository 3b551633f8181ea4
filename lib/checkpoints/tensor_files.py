"""Files of named tensors, opened without reading them: names and shapes first, values on demand.

Two formats, told by their content: safetensors, and torch's pickles (.pth and its other names). A
pickle can run code when it is opened; these are opened with `weights_only=True`, always, which
admits nothing but tensors and plain containers.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib.checks import parse_json
from lib.devices import release

PICKLES = (".pth", ".pt", ".ckpt", ".bin", ".pth.tar", ".pkl")
ENDINGS = (".safetensors", *PICKLES)
"""How names of files of weights end, in upper or lower case; the preferred one first."""

_WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "module", "net", "params"),
    # the average that a training keeps, where it is all there is
    *("ema_state_dict", "state_dict_ema", "model_ema", "params_ema", "ema"),
)
INDEX = ".index.json"
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\b")
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_LFS = b"version https://git-lfs"
_KINDS = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""What safetensors calls the kinds of numbers that weights come in."""


class TensorFile:
    """Named tensors of one file, or of all the parts of one. Made by `open_tensors`.

    Attributes:
        path: the file, or its first part.
        shapes: name -> shape, in the file's order.
        dtypes: name -> kind of numbers; for kinds that are no weights, what the file calls them.
    """

    def __init__(
        self,
        path: Path,
        shapes: dict[str, tuple[int, ...]],
        dtypes: dict[str, torch.dtype | str],
        read: Callable[[str], Tensor],
    ) -> None:
        self.path = path
        self.shapes = shapes
        self.dtypes = dtypes
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

    A part of a divided file (`...-00001-of-00003.safetensors`) opens all of its parts, and so does
    their index (`....index.json`).

    Raises:
        ValueError: not such a file, damaged, a part missing, or a pickle that holds more than
            tensors; one sentence says which file and what to do.
    """
    path = Path(path)
    divided = _SHARD.search(path.name)
    if path.name.endswith(INDEX) and path.is_file():
        names = _indexed(path)
    elif divided is None:
        return _open(path)
    else:
        mark, count = divided[0], divided[2]
        names = [path.name.replace(mark, f"-{i + 1:05}-of-{count}") for i in range(int(count))]
    parts = [_open(path.with_name(name)) for name in names]
    holder = {name: part for part in parts for name in part.shapes}
    shapes = {name: part.shapes[name] for name, part in holder.items()}
    dtypes = {name: part.dtypes[name] for name, part in holder.items()}
    if sum(len(part.shapes) for part in parts) != len(shapes):
        raise ValueError(f"The parts of {path} hold tensors twice: download them again.")
    return TensorFile(parts[0].path, shapes, dtypes, lambda name: holder[name][name])


def _indexed(path: Path) -> list[str]:
    """Names of the files beside an index that hold what it lists."""
    try:
        names = sorted({*parse_json(path.read_bytes())["weight_map"].values()})
        if names and all(ending(Path(name)) and Path(name).name == name for name in names):
            return names
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    raise ValueError(f"{path} is no index of files of weights beside it: copy it again.")


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
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        shapes = {name: tuple(piece.get_shape()) for name, piece in slices.items()}
        kinds = {name: piece.get_dtype() for name, piece in slices.items()}
    except (SafetensorError, OSError, RuntimeError) as error:  # RuntimeError: gone since `_open`
        raise ValueError(
            f"{path} is damaged or incomplete ({error}): download or copy it again."
        ) from error
    known = {word: dtype for dtype, word in _KINDS.items()}
    dtypes = {name: known.get(kind, kind) for name, kind in kinds.items()}
    return TensorFile(path, shapes, dtypes, file.get_tensor)


def write_tensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, torch.dtype],
    read: Callable[[str], Tensor],
) -> None:
    """Write a .safetensors file, holding one tensor in memory at a time.

    The safetensors library wants all of them at once; the format does not: a header that says which
    bytes belong to which name, then the bytes.

    Args:
        path: a new file.
        shapes, dtypes: name -> shape and kind of numbers, in the order of the file.
        read: name -> the tensor, of any kind of numbers; asked for each once, in that order.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * dtypes[name].itemsize
        header[name] = {
            "dtype": _KINDS[dtypes[name]],
            "shape": shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # numbers begin at multiples of eight bytes
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            tensor = read(name).detach().to("cpu", dtypes[name]).reshape(shape).contiguous()
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
            release(tensor)
        file.flush()
        os.fsync(file.fileno())


def save_tensors(tensors: dict[str, Tensor], path: Path, about: dict | None = None) -> None:
    """Write a .safetensors file of tensors that are in memory, and texts about them.

    Raises:
        OSError: what the system says, which the library hands on as an error of its own kind.
    """
    try:
        save_file({name: value.contiguous() for name, value in tensors.items()}, path, about)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise OSError(f"{path} could not be written: {error}") from error
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def kept_tensors(path: Path) -> dict[str, Tensor] | None:
    """What `save_tensors` wrote, mapped into memory; None: not there, or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return None


def _open_pickle(path: Path, head: bytes) -> TensorFile:
    # the format of before 2020 is no zip archive and cannot be mapped into memory
    mapped = head.startswith(_ZIP)
    if mapped and _is_packed(path):
        raise ValueError(f"{path} is compressed, which torch's own files are not: unpack it first.")
    try:
        values = load_pickle(path, mapped)
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
    dtypes = {
        name: value.dtype if value.dtype in _KINDS else str(value.dtype).removeprefix("torch.")
        for name, value in values.items()
    }
    return TensorFile(path, shapes, dtypes, values.__getitem__)


def save_pickle(values: Any, path: Path) -> None:
    """Write what `load_pickle` reads.

    Raises:
        OSError: what the system says; of a full disk, torch itself says "unexpected pos" only.
    """
    try:
        torch.save(values, path)
    except RuntimeError:
        with path.open("ab") as file:  # who has no room for more is told so here
            file.write(bytes(2**20))
        raise


def load_pickle(path: Path, mapped: bool = False) -> Any:
    """What a pickle of tensors holds, on the CPU; code in it is not run, but an error of torch's.

    torch remarks on files that it did not write itself; whether they are right, we look ourselves.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _is_packed(path: Path) -> bool:
    """Whether an archive is compressed: it may be of any size when unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError):  # torch says what is wrong
        return False


def _wrapper(values: object) -> str | None:
    """The name under which what training saved keeps the weights."""
    inner = values if isinstance(values, Mapping) else {}
    return next((name for name in _WRAPPERS if isinstance(inner.get(name), Mapping)), None)
