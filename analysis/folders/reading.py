"""Pictures of a folder, read one by one: what fails is passed over and named, the rest is done."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from data.decode import UnreadableFileError, decode, read
from data.folders import Broken, Found, shown


class Unread(Broken):
    """A file that cannot be read at present: nothing is noted of it, so it is tried again."""


def read_picture(
    file: Found,
    folder: Path,
    known: Container[str],
    convert: Callable[[Image.Image], Any] = lambda image: image,
) -> tuple[str, Any] | Broken:
    """A picture's content, or why there is none.

    Args:
        file: in the folder.
        folder: in which it is.
        known: digests of contents that need not be opened again.
        convert: what is made of an RGB picture.

    Returns:
        SHA-256 of the file's bytes, and what `convert` makes of the picture (None if the content is
        known); `Broken` if the file holds no good picture, `Unread` if it could not be read.
    """
    path = file.below(folder)
    try:
        data = read(path)
        sha256 = hashlib.sha256(data).hexdigest()
        return sha256, None if sha256 in known else convert(decode(path, data))
    except ValueError as error:
        kind = Unread if isinstance(error, UnreadableFileError) else Broken
        why = shown(error).replace(shown(path), shown(file.name)).removeprefix(f"{file.name} ")
        return kind(file.name, file.size, file.mtime_ns, why.rstrip("."))


def is_unchanged(before: Found | None, now: Found) -> bool:
    """Whether a file is, by size and time of change, the one that was noted."""
    return before is not None and (before.size, before.mtime_ns) == (now.size, now.mtime_ns)


def digest_of(path: Path, digest: Any = None) -> str:
    """SHA-256 of a file's bytes, or another digest of `hashlib`, in hexadecimal digits."""
    digest = hashlib.sha256() if digest is None else digest
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """What the disk says of writing to a folder, as one sentence (an OSError)."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{shown(folder)} could not be written ({error.strerror or error}): mend that, and the "
            "same command goes on from what is kept."
        ) from error
