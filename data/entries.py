"""A picture with captions before it is opened, and what its list or its neighbours say of it."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from data.folders import PICTURE_BYTES, Skipped, read_file, shown
from lib.checks import parse_json

PICTURE_COLUMNS = (
    *("file_name", "filename", "file", "filepath", "file_path", "image", "image_path"),
    *("image_file", "image_name", "img", "img_path", "path", "picture"),
)
CAPTION_COLUMNS = (
    *("text", "caption", "captions", "title", "prompt", "description", "comment"),
    *("sentence", "sentences"),
)
"""What people call the columns of a picture and of its caption; the first that is there counts."""

_NUMBERED = re.compile(r"(text|caption|comment)_?\d+")


@dataclass(frozen=True)
class Entry:
    """A picture with its captions, not opened yet.

    Attributes:
        name: unique in its folder, with "/" on every system.
        captions: one or more, each one line.
        path: the file that holds the picture.
        span: (offset, size) of its bytes, where the file is an archive.
        original: (width, height) before it was made smaller, where somebody noted that.
        watermark: how likely it has one, in [0, 1], where somebody noted that.
    """

    name: str
    captions: tuple[str, ...]
    path: Path
    span: tuple[int, int] | None = None
    original: tuple[float, float] | None = None
    watermark: float | None = None

    def read(self) -> bytes:
        """The bytes of the picture's file.

        Raises:
            ValueError: the file cannot be read.
        """
        try:
            if self.span is None:
                return read_file(self.path, PICTURE_BYTES)
            with self.path.open("rb") as file:
                return read_span(file, *self.span)
        except OSError as error:
            why = error.strerror or error
            raise ValueError(f"{shown(self.name)} cannot be read ({why}).") from error


Item = Entry | Skipped


def read_span(file: io.BufferedReader, offset: int, size: int) -> bytes:
    """Some bytes of an archive."""
    file.seek(offset)
    return file.read(size)


def lines(data: bytes) -> list[str]:
    """The lines of a text file: UTF-8, or UTF-16 with its mark.

    Raises:
        UnicodeDecodeError: another encoding.
    """
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig").splitlines()


def plain(column: str) -> str:
    """A column's name as it is compared: "Image Name" is "image_name"."""
    return column.strip().lower().replace(" ", "_").replace("-", "_")


def value_of(row: Mapping[str, Any], columns: Iterable[str]) -> Any:
    """The first value that a row of plain column names has under one of some names, or None."""
    return next((row[column] for column in columns if row.get(column)), None)


def captions_of(row: Mapping[str, Any]) -> list[Any]:
    """The captions in a row; several may be a list, or lie in numbered columns."""
    value = value_of(row, CAPTION_COLUMNS)
    if value is None:
        return [row[column] for column in row if _NUMBERED.fullmatch(column)]
    return value if isinstance(value, list) else [value]


def beside(texts: bytes | None, about: bytes | None) -> tuple[list[Any], dict[str, Any]]:
    """Captions and further facts in a picture's .txt and .json; the text file counts first.

    Raises:
        ValueError: there is no caption, and one of the files cannot be read.
    """
    facts: Any = {}
    broken: ValueError | None = None
    try:
        facts = parse_json(about) if about is not None else {}
    except ValueError as error:
        broken = error
    facts = {plain(key): facts[key] for key in facts} if isinstance(facts, dict) else {}
    captions: list[Any] = lines(texts) if texts is not None else []
    if not any(map(str.strip, captions)):
        captions = captions_of(facts)
    if broken and not captions:
        raise broken
    return captions, facts


def entry(
    name: str,
    captions: Iterable[Any],
    path: Path,
    span: tuple[int, int] | None = None,
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> Item:
    """An entry, or why it is none. Captions become one line each; empty ones are no captions."""
    texts = [" ".join(text.split()) for text in captions if isinstance(text, str)]
    good = tuple(text for text in texts if text and _is_unicode(text))
    if not good:
        return Skipped(shown(name), "has no caption")
    size = _number(facts.get("original_width")), _number(facts.get("original_height"))
    original = None if None in size else size
    return Entry(name, good, path, span, original, _number(facts.get("pwatermark")))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and abs(value) < 1e9 else None


def _is_unicode(text: str) -> bool:
    """Whether it can be written (JSON can hold halves of characters)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
