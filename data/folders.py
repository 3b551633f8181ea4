"""Folders of pictures that are worked through: what is in them, what has changed, who may write.

A file is taken for unchanged if its size and time of change are; whoever has to be sure reads it.
Only regular files are read (links to them, too), and none that is larger than a stated limit: a
named pipe or a device never ends.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from PIL import Image

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind
    fcntl = None

PICTURE_BYTES = 2**30
LIST_BYTES = 2**31
CAPTION_BYTES = 2**24
"""The largest files that are read: of a picture, of a list of many, of one picture's captions."""

_NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that PIL knows by name only, or hands to a program outside (PostScript)."""
_NAMED = 5
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Skipped:
    """What was left out.

    Attributes:
        name: of a file, or of a place in a list.
        why: what is wrong.
        failed: whether it should have been good; False for files of other kinds.
    """

    name: str
    why: str
    failed: bool = True


def count_and_name(skipped: Sequence[Skipped]) -> str:
    """Say how many were left out, and why the first ones were."""
    first = "; ".join(f"{item.name}: {item.why}" for item in skipped[:_NAMED])
    more = f"; and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
    return f"{len(skipped)}: {first}{more}"


@cache
def picture_formats() -> tuple[str, ...]:
    """PIL's names of the formats that are read, those first that PIL tries first."""
    Image.init()
    return tuple(name for name in Image.ID if name not in _NO_PICTURES)


@cache
def picture_endings() -> frozenset[str]:
    """Endings of picture files, lower case, with their dot."""
    known = Image.registered_extensions()
    return frozenset(end for end, name in known.items() if name in picture_formats())


def read_file(path: Path, most: int) -> bytes:
    """The bytes of a regular file.

    Args:
        path: of the file, or of a link to it.
        most: bytes that it may have.

    Raises:
        OSError: it is missing, no regular file, or larger; `strerror` says why.
    """
    try:
        _check_regular(os.stat(path), most)  # opening a device can be an act already
        with open(path, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            _check_regular(status, most)
            return file.read(status.st_size)
    except ValueError as error:  # a zero byte in the name
        raise OSError(errno.EINVAL, str(error)) from error


def is_regular(path: Path) -> bool:
    """Whether it is a regular file, or a link to one."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def files_below(folder: Path, pattern: str) -> list[Path]:
    """Files of a folder and its subfolders whose names fit a pattern, but for hidden ones, sorted.

    Pipes and devices are among them: whoever reads one says what it is.
    """
    files = []
    for path in folder.rglob(pattern):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and not path.is_dir():
            files.append(path)
    return sorted(files)


def _check_regular(status: os.stat_result, most: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    if status.st_size > most:
        size = f"it has {status.st_size:,} bytes, and at most {most:,} are read"
        raise OSError(errno.EFBIG, size)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


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
    files = []
    for name in _files_below(folder, pictures=True):
        try:
            status = (folder / PurePosixPath(name)).stat()
        except OSError:  # a dangling link: nothing that could be opened
            continue
        files.append(Found(name, status.st_size, status.st_mtime_ns))
    if not files:
        others = [item.name for item in others_below(folder)]
        there = f" (there are {', '.join(others[:_NAMED])})" if others else ""
        raise ValueError(
            f"The folder {shown(folder)} holds no pictures{there}: give one that does."
        )
    return sorted(files, key=lambda file: file.name)


def others_below(folder: str | Path) -> list[Skipped]:
    """The files that `pictures_below` passes over, but for hidden ones, sorted by name.

    Raises:
        ValueError: as there.
    """
    names = sorted(_files_below(Path(folder), pictures=False))
    return [Skipped(shown(name), "is no picture", failed=False) for name in names]


def _files_below(folder: Path, pictures: bool) -> Iterator[str]:
    """Names of files with, or without, a picture's ending."""
    if not folder.is_dir():
        raise ValueError(f"There is no folder {shown(folder)}: give a folder of pictures.")
    for here, below, files in os.walk(folder, onerror=_refuse):
        below[:] = [name for name in below if not name.startswith(".")]
        for file in files:
            is_picture = Path(file).suffix.lower() in picture_endings()
            if not file.startswith(".") and is_picture == pictures:
                yield Path(here, file).relative_to(folder).as_posix()


def shown(name: str | Path) -> str:
    """A file's name for people, in one line: any bytes can name a file, not all can be printed."""
    text = str(name).encode(errors="backslashreplace").decode()
    return _CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


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
        raise ValueError(
            f"{shown(folder)} cannot be written ({error.strerror}): choose another folder."
        ) from error
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
