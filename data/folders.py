"""Folders of pictures that are worked through: what is in them, what has changed, who may write.

A file is taken for unchanged if its size and time of change are; whoever has to be sure reads it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind
    fcntl = None


@dataclass(frozen=True)
class Found:
    """A picture file, before anybody has opened it.

    Attributes:
        name: path below the folder, with "/" on every system.
        size: in bytes.
        mtime_ns: when it was last changed.
    """

    name: str
    size: int
    mtime_ns: int

    def below(self, folder: Path) -> Path:
        """Its path."""
        return folder / PurePosixPath(self.name)


@dataclass(frozen=True)
class Broken(Found):
    """A file that could not be opened as a picture.

    Attributes:
        why: a sentence.
    """

    why: str


def pictures_below(folder: str | Path) -> list[Found]:
    """All picture files in a folder and its subfolders, by their endings, sorted by name.

    Hidden files and folders, and links to folders, are passed over.

    Raises:
        ValueError: no folder, one that cannot be read, or one without pictures (an unmounted disk
            looks like that, so it is never taken for "all were removed").
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"There is no folder {shown(folder)}: give a folder of pictures.")
    known = Image.registered_extensions()
    found = []
    for here, below, files in os.walk(folder, onerror=_refuse):
        below[:] = [name for name in below if not name.startswith(".")]
        for file in files:
            path = Path(here, file)
            if file.startswith(".") or path.suffix.lower() not in known:
                continue
            try:
                stat = path.stat()
            except OSError:  # a dangling link: nothing that could be opened
                continue
            name = path.relative_to(folder).as_posix()
            found.append(Found(name, stat.st_size, stat.st_mtime_ns))
    if not found:
        raise ValueError(f"The folder {shown(folder)} holds no pictures: give one that does.")
    return sorted(found, key=lambda one: one.name)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"{shown(path)} cannot be read ({error.strerror}).") from error


def shown(name: str | Path) -> str:
    """A file's name for people: any bytes can name a file, not all of them can be printed."""
    return str(name).encode(errors="backslashreplace").decode()


def relative_to(folder: Path, other: Path) -> str:
    """The way from one folder to another, so that both can move together."""
    try:
        return Path(os.path.relpath(folder.resolve(), other.resolve())).as_posix()
    except ValueError:  # another drive: there is no way
        return str(folder.resolve())


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Make the folder, and keep other processes from writing to it until the end of the block.

    The lock goes with the process, however that ends. Where the system has no such locks, this only
    makes the folder.

    Raises:
        ValueError: somebody else writes there, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a")
    except OSError as error:
        told = f"{shown(folder)} cannot be written ({error.strerror}): choose another folder."
        raise ValueError(told) from error
    with lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ValueError(
                    f"Another process is writing to {shown(folder)}: wait for it, or choose "
                    "another folder."
                ) from error
        yield


def _refuse(error: OSError) -> None:
    raise ValueError(f"{shown(error.filename)} cannot be read ({error.strerror}).") from error
