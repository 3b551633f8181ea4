"""A picture's file decoded: in any format, mode and size that people have, as 8-bit sRGB.

Every mode and bit depth becomes RGB as the table of `lib.images` says. Metadata that cannot be read
is left alone: pixels are what counts. Limits keep one picture from stopping a folder.
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from data.folders import PICTURE_BYTES, picture_formats, read_file
from lib.images import to_rgb

MAX_PIXELS = 178_000_000
MAX_SIDE = 65_535
MAX_ASPECT = 200
"""The largest pictures: width x height, the longer side, and how often it is the shorter one."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"tRNS",)
_MEANING = (*_PIXELS, b"eXIf", b"iCCP", b"cHRM", b"gAMA", b"sRGB")
"""Chunks of a PNG beside the critical ones that change what is seen."""


class UnreadableFileError(ValueError):
    """A picture's file is missing or cannot be read at present; its content is not to blame."""


class _TooLargeError(ValueError):
    def __init__(self, path: Path, pixels: str) -> None:
        super().__init__(
            f"{path} is too large ({pixels} pixels): give at most {MAX_PIXELS:,} pixels, "
            f"{MAX_SIDE:,} a side, and no side more than {MAX_ASPECT} times the other."
        )


def read(path: Path) -> bytes:
    """The bytes of a picture's file.

    Raises:
        UnreadableFileError: it is missing, no regular file, too large, or cannot be read.
        ValueError: it is a folder.
    """
    try:
        return read_file(path, PICTURE_BYTES)
    except FileNotFoundError as error:
        raise UnreadableFileError(
            f"There is no file {path}: give the path of a picture."
        ) from error
    except OSError as error:
        if path.is_dir():
            raise ValueError(f"{path} is a folder: give picture files.") from error
        raise UnreadableFileError(f"{str(path)!r} cannot be read ({error.strerror}).") from error


def decode(path: Path, data: bytes, convert: Callable[[Image.Image], Any] = to_rgb) -> Any:
    """The picture in a file's bytes; of a film, the first frame.

    Args:
        path: names the file in errors.
        data: its bytes.
        convert: what is made of PIL's picture.

    Raises:
        ValueError: damaged, too large, or no picture at all.
    """
    first: Exception | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's, of metadata and sizes
        for content in _with_less_metadata(data):
            try:
                with Image.open(io.BytesIO(content), formats=picture_formats()) as image:
                    _check_size(path, image.size)
                    return convert(image)
            except (MemoryError, _TooLargeError):
                raise
            except Image.DecompressionBombError as error:
                raise _TooLargeError(path, f"over {MAX_PIXELS:,}") from error
            except Exception as error:  # every decoder breaks in its own way
                first = first or error
    if isinstance(first, UnidentifiedImageError):
        what = "is empty" if not data else "is not a picture in a format that is known here"
        raise ValueError(f"{path} {what}: give a PNG, JPEG or WebP file, for example.") from first
    raise ValueError(
        f"{path} is damaged, or not a picture that can be used ({first}): copy or save it again."
    ) from first


def _check_size(path: Path, size: tuple[int, int]) -> None:
    low, high = sorted(size)
    if low * high > MAX_PIXELS or high > MAX_SIDE or high > MAX_ASPECT * max(low, 1):
        raise _TooLargeError(path, f"{size[0]:,} x {size[1]:,}")


def _with_less_metadata(data: bytes) -> Iterator[bytes]:
    """A file as it is; a PNG then also without its texts, and with nothing but its pixels."""
    yield data
    if data.startswith(_PNG):
        for extra in (_MEANING, _PIXELS):
            chunks = _png_chunks(data)
            yield _PNG + b"".join(c for c in chunks if _critical(c) or c[4:8] in extra)


def _critical(chunk: bytes) -> bool:
    return chunk[4:5].isupper()


def _png_chunks(data: bytes) -> Iterator[bytes]:
    """Chunks with length, kind and checksum; extra ones whose checksum is wrong are left out."""
    place = len(_PNG)
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        chunk = data[place:end]
        if _critical(chunk) or zlib.crc32(chunk[4:-4]).to_bytes(4, "big") == chunk[-4:]:
            yield chunk
        place = end
