"""A picture collection as vectors, on disk: one unit vector a picture, and what it belongs to.

    <index>/index.json                       manifest: encoder, folder, files, broken files
    <index>/vectors-<digest>.safetensors     (n, D), row i belongs to file i of the manifest
    <index>/part-<digest>.safetensors        unfinished work; becomes part of the above

The manifest names its file of vectors, and is replaced last and at once: whatever happens, there is
the state before or the state after. Its paths are relative: folder and index can move together.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from analysis.modes.sampling import fingerprint
from data.folders import Broken, Found, relative_to, shown
from lib.checkpoints.tensor_files import open_tensors
from lib.files import write_atomic
from lib.model import VersatileDiffusion

log = logging.getLogger(__name__)

MANIFEST = "index.json"
PRECISIONS = {"float16": torch.float16, "float32": torch.float32}
_FORMAT = 1


@dataclass(frozen=True)
class Encoder:
    """What made the vectors; those of different encoders do not compare.

    Attributes:
        model: its name.
        weights: fingerprint of the picture encoder.
        width: D.
        dtype: in what precision the weights were when they worked (another one rounds them, so
            that their fingerprint differs).
    """

    model: str
    weights: str
    width: int
    dtype: str

    @classmethod
    def of(cls, vd: VersatileDiffusion) -> Encoder:
        """The picture encoder of a model.

        Raises:
            ValueError: it is not loaded.
        """
        vd.require("clip_vision")
        dtype = str(vd.dtype).removeprefix("torch.")
        return cls(vd.spec.name, fingerprint(vd.clip_vision), vd.spec.clip.projection, dtype)

    def check(self, other: Encoder) -> None:
        """ValueError unless the other one makes vectors that compare with those of this one."""
        if self.width != other.width:
            raise ValueError(
                f"The index holds vectors of {self.width} numbers ({self.model}), {other.model} "
                f"makes {other.width}: load the model of the index, or make another index."
            )
        if self.weights != other.weights:
            how = f" in {self.dtype}, here it is {other.dtype}" if self.dtype != other.dtype else ""
            raise ValueError(
                f"The index was made with {self.model} ({self.weights}){how}; the vectors of "
                f"{other.model} ({other.weights}) do not compare with it: load the model of the "
                "index, with the same dtype, or make another index."
            )


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
        broken: files that could not be opened.
    """

    folder: Path
    encoder: Encoder
    entries: Sequence[Entry]
    vectors: Tensor
    broken: Sequence[Broken] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.vectors.shape == (len(self.entries), self.encoder.width), self.vectors.shape

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
    path = index / MANIFEST
    if not path.is_file():
        raise ValueError(
            f"There is no index in {shown(index)}: make one with `python -m analysis search index "
            "FOLDER`, or say where it is (--index)."
        )
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["format"] != _FORMAT:
            raise ValueError(f"it is of format {told['format']}, not {_FORMAT}")
        encoder = Encoder(**told["encoder"])
        entries = [Entry(*row) for row in told["pictures"]]
        broken = [Broken(*row) for row in told["broken"]]
        vectors = open_tensors(index / told["vectors"])["vectors"]
        if vectors.shape != (len(entries), encoder.width):
            raise ValueError(f"{len(entries)} pictures, vectors {tuple(vectors.shape)}")
        folder = Path(os.path.normpath(index.resolve() / told["folder"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"The index in {shown(index)} is damaged ({error}): delete it and index again."
        ) from error
    return Collection(folder, encoder, entries, vectors, broken)


def write_index(collection: Collection, index: str | Path) -> None:
    """Put an index on disk in place of the one that is there, whole or not at all.

    Raises:
        OSError: it could not be written; the old one is still there.
    """
    index = Path(index)
    index.mkdir(parents=True, exist_ok=True)
    file = _write_vectors(index, "vectors", collection.vectors, {})
    manifest = {
        "format": _FORMAT,
        "folder": relative_to(collection.folder, index),
        "encoder": asdict(collection.encoder),
        "precision": collection.precision,
        "vectors": file,
        "broken": [[b.name, b.size, b.mtime_ns, b.why] for b in collection.broken],
        "pictures": _rows(collection.entries),
    }
    write_atomic(index / MANIFEST, json.dumps(manifest) + "\n")
    _remove(path for path in index.glob("vectors-*.safetensors") if path.name != file)


# ---------------------------------------------------------------------- unfinished work


def write_part(index: Path, encoder: Encoder, entries: Sequence[Entry], vectors: Tensor) -> None:
    """Keep what is done so far; whole or not at all."""
    about = {"encoder": json.dumps(asdict(encoder)), "pictures": json.dumps(_rows(entries))}
    _write_vectors(index, "part", vectors, about)


def read_parts(index: Path, encoder: Encoder) -> list[tuple[Entry, Tensor]]:
    """What interrupted runs with the same encoder have left."""
    found: list[tuple[Entry, Tensor]] = []
    for path in sorted(index.glob("part-*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata()
                if Encoder(**json.loads(about["encoder"])) != encoder:
                    continue
                entries = [Entry(*row) for row in json.loads(about["pictures"])]
                found += zip(entries, file.get_tensor("vectors"), strict=True)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is damaged (%r): its pictures are read again", path.name, error)
    return found


def remove_parts(index: Path) -> None:
    """Forget unfinished work, and what killed processes were writing."""
    for pattern in ("part-*.safetensors", ".*.tmp"):
        _remove(index.glob(pattern))


def _rows(entries: Iterable[Entry]) -> list[list[Any]]:
    return [[e.name, e.size, e.mtime_ns, e.sha256] for e in entries]


def _write_vectors(index: Path, kind: str, vectors: Tensor, about: dict[str, str]) -> str:
    """Write vectors under a name that says what is in them, and return it."""
    digest = hashlib.sha256(json.dumps([list(vectors.shape), about]).encode())
    digest.update(vectors.contiguous().view(torch.uint8).numpy())
    path = index / f"{kind}-{digest.hexdigest()[:16]}.safetensors"
    if path.is_file():
        return path.name
    temporary = index / f".{path.name}.{os.getpid()}.tmp"
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file({"vectors": vectors.contiguous()}, temporary, metadata=about or None)
        temporary.chmod(mode)  # the library's own would keep everybody else from reading it
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except SafetensorError as error:  # what the disk says arrives as this
        raise OSError(f"{shown(index)} could not be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path.name


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:  # still mapped by a reader, on some systems: next time
            log.info("%s is left over (%s)", path.name, error)
