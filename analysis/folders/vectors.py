"""A picture collection as vectors, on disk: one unit vector a picture, and what it belongs to.

    <index>/index.json                       manifest: encoder, folder, files, broken files
    <index>/vectors-<digest>.safetensors     (n, D), row i belongs to file i of the manifest
    <index>/part-<digest>.safetensors        unfinished work; becomes part of the above

The manifest names its file of vectors, and is replaced last and at once: whatever happens, there is
the state before or the state after, for readers too. Its paths are relative: folder and index can
move together.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from analysis.folders.encoders import Encoder
from data.folders import Broken, Found, relative_to, shown
from lib.checkpoints.tensor_files import open_tensors, save_tensors
from lib.checks import parse_json
from lib.files import beside, put, write_atomic

log = logging.getLogger(__name__)

MANIFEST = "index.json"
PRECISIONS = {"float16": torch.float16, "float32": torch.float32}
_FORMAT = 1
_VECTORS = re.compile(r"vectors-[0-9a-f]{16}\.safetensors")
_SHA256 = re.compile("[0-9a-f]{64}")
_DAMAGE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, SafetensorError,
)  # fmt: skip
"""What reading a file raises that holds something else than it should."""

Row = TypeVar("Row")


@dataclass(frozen=True)
class Entry(Found):
    """A picture that has a vector.

    Attributes:
        sha256: of the file's bytes.
    """

    sha256: str


@dataclass(frozen=True, eq=False)
class Collection:
    """An index in memory.

    Attributes:
        folder: where the pictures are.
        encoder: what made the vectors.
        entries: the pictures, sorted by name.
        vectors: (n, D), float16 or float32, of length 1 up to rounding; row i is of entry i.
        broken: files that hold no good picture.
    """

    folder: Path
    encoder: Encoder
    entries: Sequence[Entry]
    vectors: Tensor
    broken: Sequence[Broken] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape = len(self.entries), self.encoder.width
        if tuple(self.vectors.shape) != shape or self.precision not in PRECISIONS:
            raise ValueError(
                f"vectors are {tuple(self.vectors.shape)} of {self.precision}, not {shape} of "
                f"{' or '.join(PRECISIONS)}"
            )

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def precision(self) -> str:
        """How the vectors are stored: "float16" or "float32"."""
        return str(self.vectors.dtype).removeprefix("torch.")


def has_index(index: str | Path) -> bool:
    """Whether there is an index at that place."""
    return (Path(index) / MANIFEST).is_file()


def read_index(index: str | Path) -> Collection:
    """An index from disk; its vectors are mapped into memory, and read as they are used.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    index = Path(index)
    if not has_index(index):
        raise ValueError(
            f"There is no index in {shown(index)}: make one with `python -m analysis search index "
            "FOLDER`, or say where it is (--index)."
        )
    before = manifest = None
    while True:
        try:
            before, manifest = manifest, (index / MANIFEST).read_bytes()
            return _collection(index, parse_json(manifest))
        except _DAMAGE as error:
            if manifest == before:  # nobody has put a new index in its place meanwhile
                raise ValueError(
                    f"The index in {shown(index)} is damaged ({error}): delete it and index again."
                ) from error


def _collection(index: Path, manifest: dict[str, Any]) -> Collection:
    if manifest["format"] != _FORMAT:
        raise ValueError(f"it is of format {manifest['format']}, not {_FORMAT}")
    if not _VECTORS.fullmatch(manifest["vectors"]):
        raise ValueError(f"its vectors are in {manifest['vectors']!r}")
    return Collection(
        Path(os.path.normpath(index.resolve() / manifest["folder"])),
        _typed(Encoder(**manifest["encoder"])),
        [_entry(row) for row in manifest["pictures"]],
        open_tensors(index / manifest["vectors"])["vectors"],
        [_typed(Broken(*row)) for row in manifest["broken"]],
    )


def _typed(row: Row) -> Row:
    """The same; TypeError unless its fields are of the types that they are declared with."""
    for name, declared in _declared(type(row)):
        value = getattr(row, name)
        if type(value) is not declared:
            raise TypeError(f"{name} is {value!r}")
    return row


@cache
def _declared(kind: type) -> list[tuple[str, type]]:
    return [(declared.name, {"str": str, "int": int}[declared.type]) for declared in fields(kind)]


def _entry(row: Sequence[Any]) -> Entry:
    entry = _typed(Entry(*row))
    outside = entry.name.startswith("/") or ".." in entry.name.split("/")
    if outside or not _SHA256.fullmatch(entry.sha256):
        raise ValueError(f"it has a picture {entry.name!r} of digest {entry.sha256!r}")
    return entry


def write_index(collection: Collection, index: str | Path) -> None:
    """Put an index on disk in place of the one that is there, whole or not at all.

    Raises:
        OSError: it could not be written; the old one is still there.
    """
    index = Path(index)
    file = _write_vectors(index, "vectors", collection.vectors, {})
    manifest = {
        "format": _FORMAT,
        "folder": relative_to(collection.folder, index),
        "encoder": asdict(collection.encoder),
        "precision": collection.precision,
        "vectors": file,
        "broken": [astuple(broken) for broken in collection.broken],
        "pictures": [astuple(entry) for entry in collection.entries],
    }
    write_atomic(index / MANIFEST, json.dumps(manifest) + "\n")
    remove(path for path in index.glob("vectors-*.safetensors") if path.name != file)


# ---------------------------------------------------------------------- unfinished work


def write_part(index: Path, encoder: Encoder, entries: Sequence[Entry], vectors: Tensor) -> None:
    """Keep what is done so far; whole or not at all."""
    rows = [astuple(entry) for entry in entries]
    about = {"encoder": json.dumps(asdict(encoder)), "pictures": json.dumps(rows)}
    _write_vectors(index, "part", vectors, about)


def read_parts(index: Path, encoder: Encoder) -> list[tuple[Entry, Tensor]]:
    """What interrupted runs with the same encoder have left."""
    pairs: list[tuple[Entry, Tensor]] = []
    for path in sorted(index.glob("part-*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata()
                if Encoder(**parse_json(about["encoder"])) == encoder:
                    entries = [_entry(row) for row in parse_json(about["pictures"])]
                    part = Collection(index, encoder, entries, file.get_tensor("vectors"))
                    pairs += zip(entries, part.vectors, strict=True)
        except _DAMAGE as error:
            log.warning("%s is damaged (%r): its pictures are read again", path.name, error)
    return pairs


def remove_parts(index: Path) -> None:
    """Forget unfinished work."""
    remove(index.glob("part-*.safetensors"))


def _write_vectors(index: Path, kind: str, vectors: Tensor, about: dict[str, str]) -> str:
    """Write vectors under a name that says what is in them, and return it."""
    digest = hashlib.sha256(json.dumps([list(vectors.shape), about]).encode())
    digest.update(vectors.contiguous().view(torch.uint8).numpy())
    path = index / f"{kind}-{digest.hexdigest()[:16]}.safetensors"
    if not path.is_file():
        with beside(path) as temporary:
            save_tensors({"vectors": vectors}, temporary, about or None)
            put(temporary, path)
    return path.name


def remove(paths: Iterable[Path]) -> None:
    """Delete files; one that the system keeps, as a reader has it mapped, is left for next time."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.info("%s is left over (%s)", path.name, error)
