"""How each format of captioned pictures is read: a generator of entries, and of what is none.

`data.captioned` chooses the reader. Nothing here opens a picture: of a shard, the places of its
members are noted.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from data.folders import pictures_below, shown

_CAPTION_FILES = (".txt", ".caption")
_CAPTION_KEYS = ("text", "caption", "captions")
_SAMPLE = re.compile(r"^((?:.*/)?[^/.]+)\.([^/]+)$")
"""A member of a shard: its sample's key up to the first dot of the name, then its kind."""
_BLOCK = 512  # bytes of a tar's unit; two of zeros are its end
_PROBED = 100


@dataclass(frozen=True)
class Entry:
    """A picture with its captions, not opened yet.

    Attributes:
        name: unique in its folder, with "/" on every system.
        captions: one or more, each one line.
        path: the file that holds the picture.
        span: (offset, size) of its bytes, where the file is an archive.
    """

    name: str
    captions: tuple[str, ...]
    path: Path
    span: tuple[int, int] | None = None

    def read(self) -> bytes:
        """The bytes of the picture's file.

        Raises:
            ValueError: the file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                return _part(file, *self.span) if self.span else file.read()
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            why = getattr(error, "strerror", None) or error
            raise ValueError(f"{shown(self.name)} cannot be read ({why}).") from error


@dataclass(frozen=True)
class Skipped:
    """What is not a picture with a caption.

    Attributes:
        name: of the picture, or of the place in a list.
        why: what is wrong.
    """

    name: str
    why: str


Item = Entry | Skipped


# ---------------------------------------------------------------------- files


def read_sidecars(folder: Path) -> Iterator[Item]:
    """Pictures with a text file of the same name beside them."""
    for found in pictures_below(folder):
        path = found.below(folder)
        stems = (path.with_suffix(""), path)
        files = [Path(f"{stem}{ending}") for stem in stems for ending in _CAPTION_FILES]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            yield Skipped(shown(found.name), "has no .txt or .caption beside it")
            continue
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            yield Skipped(shown(found.name), f"its {file.suffix} cannot be read ({error})")
            continue
        yield _entry(found.name, lines, path)


def read_tables(path: Path) -> Iterator[Item]:
    """Rows of `metadata.jsonl` or `metadata.csv`, file names being relative to its folder.

    Rows of the same picture are one entry with all their captions.

    Raises:
        ValueError: there is no such file, or a .csv that is not UTF-8.
    """
    files = [path]
    if path.is_dir():
        files = sorted(path.rglob("metadata.jsonl")) or sorted(path.rglob("metadata.csv"))
        if not files:
            raise ValueError(f"{shown(path)} has no metadata.jsonl or metadata.csv.")
    top = path if path.is_dir() else path.parent
    for file in files:
        rows = _json_lines(file) if file.suffix == ".jsonl" else _csv_rows(file)
        captions: dict[str, list[Any]] = {}
        for where, row in rows:
            name = row.get("file_name") if isinstance(row, dict) else None
            if not isinstance(name, str) or not name:
                why = f"is no row ({row})" if isinstance(row, str) else "has no file_name"
                yield Skipped(where, why)
                continue
            captions.setdefault(name, []).extend(_captions_of(row))
        for name, texts in captions.items():
            place = file.parent / PurePosixPath(name)
            below = (file.parent.relative_to(top) / PurePosixPath(name)).as_posix()
            yield _entry(below, texts, place)


def _json_lines(file: Path) -> Iterator[tuple[str, Any]]:
    with file.open("rb") as lines:
        for i, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield f"{file.name}, line {i}", json.loads(line.decode("utf-8-sig"))
            except ValueError as error:
                yield f"{file.name}, line {i}", f"{error}"


def _csv_rows(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown(file)} is not UTF-8 ({error}): save it as UTF-8.") from error
    table = csv.DictReader(io.StringIO(text, newline=""))
    while True:
        where = f"{file.name}, line {table.line_num + 1}"
        try:
            row = next(table)
        except StopIteration:
            return
        except csv.Error as error:
            row = str(error)
        yield where, row


# ---------------------------------------------------------------------- COCO


def coco_files(folder: Path) -> list[Path]:
    """The COCO caption files of a folder and of its `annotations`."""
    files = [*sorted(folder.glob("*.json")), *sorted(folder.glob("annotations/*.json"))]
    wanted = (b'"images"', b'"annotations"', b'"caption"')
    found = []
    for file in files:
        try:
            data = file.read_bytes()
        except OSError:  # whoever asks for this file will hear of it
            continue
        if all(word in data for word in wanted):
            found.append(file)
    return found


def read_coco(path: Path) -> Iterator[Item]:
    """Pictures and captions of a COCO file.

    The pictures lie beside the file or in a folder beside it (`val2017` beside `annotations`): that
    one is taken which holds most of the first names.

    Raises:
        ValueError: no such file, several of them, another layout, or no folder with its pictures.
    """
    files = [path] if path.is_file() else coco_files(path)
    if len(files) != 1:
        names = ", ".join(shown(file.relative_to(path)) for file in files) or "none"
        raise ValueError(f"{shown(path)} holds COCO captions in: {names}; give one such file.")
    file = files[0]
    try:
        data = json.loads(file.read_bytes())
        images, annotations = data["images"], data["annotations"]
        if not isinstance(images, list) or not isinstance(annotations, list):
            raise TypeError("images and annotations are not lists")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{shown(file)} is no file of COCO captions ({error!r}): give one with images and "
            "annotations."
        ) from error
    captions: dict[Any, list[Any]] = {}
    for i, one in enumerate(annotations):
        if (
            isinstance(one, dict)
            and "caption" in one
            and isinstance(one.get("image_id"), int | str)
        ):
            captions.setdefault(one["image_id"], []).append(one["caption"])
        else:
            yield Skipped(f"annotation {i}", "has no caption or no image_id")
    named = [
        one for one in images if isinstance(one, dict) and isinstance(one.get("file_name"), str)
    ]
    folder = _coco_pictures(file, path, [one["file_name"] for one in named[:_PROBED]])
    for i, one in enumerate(images):
        if not isinstance(one, dict) or not isinstance(one.get("file_name"), str):
            yield Skipped(f"image {i}", "has no file_name")
            continue
        name, key = one["file_name"], one.get("id")
        texts = captions.pop(key, []) if isinstance(key, int | str) else []
        yield _entry(name, texts, folder / PurePosixPath(name))
    for key in captions:
        yield Skipped(f"image_id {key}", "has captions, but is not among the images")


def _coco_pictures(file: Path, path: Path, names: list[str]) -> Path:
    top = path if path.is_dir() else file.parent
    tops = [top, *([top.parent] if top.name == "annotations" else [])]
    below = [sub for one in tops for sub in sorted(one.iterdir()) if sub.is_dir()]
    held = {folder: sum((folder / name).is_file() for name in names) for folder in (*tops, *below)}
    best = max(held, key=held.__getitem__)
    if not held[best]:
        raise ValueError(
            f"The pictures that {shown(file)} names ({', '.join(names[:2]) or 'none'} ...) lie "
            f"neither in {shown(top)} nor in a folder there: put them beside the file."
        )
    return best


# ---------------------------------------------------------------------- webdataset


def read_shards(path: Path) -> Iterator[Item]:
    """Samples of `.tar` shards, in the order of the archives.

    Raises:
        ValueError: there is no shard.
    """
    files = [path] if path.is_file() else sorted(path.glob("[!.]*.tar"))
    if not files:
        raise ValueError(f"{shown(path)} holds no .tar shards: give a folder of them, or one.")
    for file in files:
        yield from _read_shard(file)


def _read_shard(file: Path) -> Iterator[Item]:
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    broken = None
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                match = _SAMPLE.match(member.name) if member.isreg() else None
                if match and not PurePosixPath(member.name).name.startswith("."):
                    span = (member.offset_data, member.size)
                    samples.setdefault(match[1], {})[match[2].lower()] = span
        with file.open("rb") as data:
            # tarfile takes an archive that was cut between two members for a whole one
            data.seek(max(0, data.seek(0, io.SEEK_END) - _BLOCK))
            if data.read().strip(b"\0"):
                broken = "has no end mark: samples may be missing"
    except (OSError, tarfile.TarError) as error:
        broken = f"is damaged or no archive ({error}), read up to there"
    if broken:
        yield Skipped(file.name, broken)
    endings = Image.registered_extensions()
    for key, parts in samples.items():
        picture = next((kind for kind in parts if f".{kind}" in endings), None)
        name = f"{file.name}/{key}" + (f".{picture}" if picture else "")
        try:
            captions, status = _shard_captions(file, parts)
        except (OSError, ValueError) as error:
            yield Skipped(shown(name), f"its caption cannot be read ({error})")
            continue
        if picture is None:
            yield Skipped(shown(name), f"has no picture{f' ({status})' if status else ''}")
            continue
        yield _entry(name, captions, file, parts[picture])


def _shard_captions(file: Path, parts: dict[str, tuple[int, int]]) -> tuple[list[Any], str]:
    """Captions of a sample, and what img2dataset says of its download if that went wrong."""
    with file.open("rb") as data:
        texts = [_part(data, *parts[kind]) for kind in ("txt", "caption", "text") if kind in parts]
        about = json.loads(_part(data, *parts["json"])) if "json" in parts else {}
    about = about if isinstance(about, dict) else {}
    status = about.get("status", "success")
    lines = texts[0].decode("utf-8-sig").splitlines() if texts else []
    said = "" if status == "success" else f"{status}, {about.get('error_message')}"
    return (lines if any(map(str.strip, lines)) else _captions_of(about)), said


def _part(file: io.BufferedReader, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


# ---------------------------------------------------------------------- entries


def _captions_of(row: dict[str, Any]) -> list[Any]:
    """The captions in a row, under the first of the known keys that it has."""
    value = next((row[key] for key in _CAPTION_KEYS if row.get(key)), [])
    return value if isinstance(value, list) else [value]


def _entry(
    name: str, captions: Iterable[Any], path: Path, span: tuple[int, int] | None = None
) -> Item:
    """An entry, or why it is none. Captions become one line each; empty ones are no captions."""
    lines = [" ".join(text.split()) for text in captions if isinstance(text, str)]
    good = tuple(line for line in lines if line and _is_unicode(line))
    if not good:
        return Skipped(shown(name), "has no caption")
    return Entry(name, good, path, span)


def _is_unicode(text: str) -> bool:
    """Whether it can be written (JSON can hold halves of characters)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
