"""Captioned pictures in the formats that people have: found first, opened one by one.

| format | what lies there |
|---|---|
| `webdataset` | `.tar` shards as of img2dataset: key.jpg with key.txt, or its caption in key.json |
| `jsonl` | `metadata.jsonl`, or another `.jsonl`: a row with a picture's file and a caption |
| `csv` | the same as a table, `.csv`, `.tsv` or `captions.txt` (Flickr8k, open_clip) |
| `coco` | a `.json` of images and annotations with captions, and the folder of its pictures |
| `kohya` | a `meta*.json`: {"name": {"caption": ..., "tags": ...}} |
| `sidecar` | `x.txt` or `x.caption` for `x.png` (or `x.png.txt`), in subfolders, too |

A line of a text file is a caption; where a format has several for one picture, all are kept. What
has no picture or no caption is in `skipped`, with the reason.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torch import distributed
from tqdm import tqdm

from data.entries import Entry, Item
from data.folders import Skipped, count_and_name, files_below, shown
from data.json_lists import coco_files, is_coco, kohya_files, read_coco, read_kohya
from data.pictures import open_picture
from data.shards import read_shards
from data.sidecars import read_sidecars
from data.tables import TABLES, columns_of, read_tables, tables_of
from lib.checks import whole_number

__all__ = ["CaptionedFolder", "Chosen", "Entry", "Skipped", "choose", "read_captioned"]

log = logging.getLogger(__name__)

_ENDINGS = {".tar": "webdataset", ".jsonl": "jsonl", ".csv": "csv", ".tsv": "csv", ".txt": "csv"}
_READERS: dict[str, Callable[..., Iterator[Item]]] = {
    "webdataset": read_shards,
    "jsonl": read_tables,
    "csv": read_tables,
    "coco": read_coco,
    "kohya": read_kohya,
    "sidecar": read_sidecars,
}
FORMATS = tuple(_READERS)
_LISTS = ("jsonl", "csv", "coco", "kohya")
_NAMED = 5


@dataclass(frozen=True)
class CaptionedFolder:
    """Captioned pictures of a folder, before any was opened.

    Attributes:
        path: of the folder or file.
        format: one of `FORMATS`.
        entries: at least one, sorted as the format has them.
        skipped: what has no picture, or no caption.
    """

    path: Path
    format: str
    entries: tuple[Entry, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class Chosen:
    """Pictures that were opened and found good.

    Attributes:
        entries: in the order in which they were drawn.
        skipped: what was left out: by the format's reader, and because it cannot be opened.
        format: one of `FORMATS`.
        digest: of names, captions and the bytes of the pictures' files.
    """

    entries: tuple[Entry, ...]
    skipped: tuple[Skipped, ...]
    format: str
    digest: str

    def images(self, indices: range) -> list[Image.Image]:
        """Some of the pictures, as RGB.

        Raises:
            ValueError: a file has changed so that it can no longer be opened.
        """
        return [open_entry(self.entries[i]) for i in indices]


def read_captioned(
    path: str | Path, format: str | None = None, outside: bool = False
) -> CaptionedFolder:
    """Find the captioned pictures of a folder, or of a file that lists or holds them.

    Args:
        path: a folder, a `.tar`, or a file that lists pictures.
        format: one of `FORMATS`; None looks what is there, in that order.
        outside: lists may name pictures outside of the folder (the commands' `--outside`).

    Raises:
        ValueError: nothing there, another format, or not a single picture with a caption.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"There is no {shown(path)}: give a folder of captioned pictures.")
    kind = _detected(path) if format is None else format
    if kind not in FORMATS:
        raise ValueError(f"format is {kind!r}: choose {', '.join(FORMATS)}.")
    read = partial(_READERS[kind], outside=outside) if kind in _LISTS else _READERS[kind]
    entries: list[Entry] = []
    skipped: list[Skipped] = []
    for item in read(path):
        (entries if isinstance(item, Entry) else skipped).append(item)
    if not entries:
        lost = f" ({count_and_name(skipped)})" if skipped else ""
        raise ValueError(
            f"{shown(path)}, read as {kind}, holds no picture with a caption{lost}{_there(path)}: "
            "give pictures with .txt files, metadata.jsonl or .csv, COCO captions, or .tar shards."
        )
    return CaptionedFolder(path, kind, tuple(entries), tuple(skipped))


def _detected(path: Path) -> str:
    """The format of what lies there; shards and lists are more telling than loose pictures."""
    if path.is_file():
        kind = _ENDINGS.get(path.suffix.lower())
        if path.suffix.lower() == ".json":
            kind = "coco" if is_coco(path) else "kohya"
        if kind is None:
            raise ValueError(
                f"{shown(path)} is no list of captions: give a folder, or a file ending in "
                f"{', '.join(_ENDINGS)} or .json."
            )
        return kind
    if files_below(path, "*.tar"):
        return "webdataset"
    metadata = any(files_below(path, f"metadata{ending}") for ending in (".jsonl", ".csv"))
    if not metadata and coco_files(path):
        return "coco"
    if not metadata and kohya_files(path):
        return "kohya"
    tables = tables_of(path)
    return _ENDINGS[tables[0].suffix.lower()] if tables else "sidecar"


def _there(path: Path) -> str:
    """What else lies in a folder that holds no format, with the columns of tables."""
    if not path.is_dir():
        return ""
    files = [file for file in sorted(path.glob("[!.]*")) if file.is_file()]
    columns = {file: columns_of(file) for file in files if file.suffix.lower() in TABLES}
    names = [
        f"{shown(file.name)}" + (f" with {', '.join(columns[file])}" if columns.get(file) else "")
        for file in sorted(files, key=lambda file: not columns.get(file))
    ]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"; there are {'; '.join(names[:_NAMED])}{more}" if names else ""


@dataclass(frozen=True)
class Opened:
    """A picture that was opened and found good.

    Attributes:
        position: its place in the order it was opened in.
        entry: name and captions.
        data: the bytes of its file.
        image: RGB.
    """

    position: int
    entry: Entry
    data: bytes
    image: Image.Image


def opened(
    entries: Iterable[tuple[int, Entry]],
    skipped: list[Skipped],
    min_side: int = 1,
    max_watermark: float = 1.0,
) -> Iterator[Opened]:
    """Open pictures one after the other; those that are broken or filtered are named in `skipped`.

    Args:
        entries: with their positions.
        skipped: gets what was left out, with the reason.
        min_side: sides of the original, where its list has them, or of the picture.
        max_watermark: of the probability that its list has; with a limit below 1, pictures that
            nobody has looked at are left out, as by the paper's loader.
    """
    for position, entry in entries:
        noted = entry.watermark
        if max_watermark < 1 and (noted is None or noted > max_watermark):
            why = f"may have a watermark ({'nothing noted' if noted is None else f'{noted:g}'})"
            skipped.append(Skipped(shown(entry.name), why, failed=False))
            continue
        try:
            data = entry.read()
            image = open_picture(entry.name, data)
        except ValueError as error:
            why = str(error).removeprefix(f"{entry.name} ")
            skipped.append(Skipped(shown(entry.name), why))
            continue
        width, height = entry.original or image.size
        if min(width, height) < min_side:
            why = f"is {width:g} x {height:g}, below {min_side} a side"
            skipped.append(Skipped(shown(entry.name), why, failed=False))
            continue
        yield Opened(position, entry, data, image)


def choose(folder: CaptionedFolder, n: int, seed: int, progress: bool = True) -> Chosen:
    """Draw n pictures without repetition, and open each, so that a broken one is known at once.

    What cannot be opened is left out, and the next one of the drawn order takes its place. A
    smaller choice is the beginning of a larger one of the same seed. One picture is in memory at a
    time.

    Args:
        folder: where from.
        n: how many; all that are good if there are fewer.
        seed: of the order.
        progress: show a bar on stderr.

    Raises:
        ValueError: none of them can be opened, or n is below 1.
    """
    n = min(whole_number("n", n), len(folder.entries))
    order = np.random.default_rng(seed).permutation(len(folder.entries))
    good: list[Entry] = []
    skipped = list(folder.skipped)
    digest = hashlib.sha256()
    with tqdm(total=n, desc="pictures", unit="picture", disable=not progress) as bar:
        for picture in opened(((i, folder.entries[i]) for i in order), skipped):
            good.append(picture.entry)
            add_to_digest(digest, picture)
            bar.update()
            if len(good) == n:
                break
    if not good:
        raise ValueError(
            f"None of the pictures of {shown(folder.path)} can be opened "
            f"({count_and_name(skipped)})."
        )
    if skipped and not (distributed.is_initialized() and distributed.get_rank()):
        log.warning("%s: left out %s", shown(folder.path), count_and_name(skipped))
    return Chosen(tuple(good), tuple(skipped), folder.format, digest.hexdigest()[:16])


def add_to_digest(digest: hashlib._Hash, picture: Opened) -> None:
    """Name, bytes and captions of a picture, each behind its length."""
    name = picture.entry.name.encode(errors="surrogateescape")
    for piece in (name, picture.data, *map(str.encode, picture.entry.captions)):
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)


def open_entry(entry: Entry) -> Image.Image:
    """The picture as RGB.

    Raises:
        ValueError: its file is missing, unreadable or damaged.
    """
    return open_picture(entry.name, entry.read())
