"""Captioned pictures in the formats that people have: found first, opened one by one.

| format | what lies there |
|---|---|
| `sidecar` | `x.txt` or `x.caption` for `x.png` (or `x.png.txt`), in subfolders, too |
| `jsonl`, `csv` | `metadata.jsonl` or `.csv`: file_name, and text or caption (Hugging Face) |
| `coco` | a `.json` of images and annotations with captions, and the folder of its pictures |
| `webdataset` | `.tar` shards as of img2dataset: key.jpg with key.txt, or its caption in key.json |

A line of a text file is a caption; where a format has several for one picture, all are kept. What
has no picture or no caption is in `skipped`, with the reason. `analysis.folders.caption_formats` writes all
of these but COCO's.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from analysis.measure import processes
from data.caption_readers import (
    Entry,
    Item,
    Skipped,
    coco_files,
    read_coco,
    read_shards,
    read_sidecars,
    read_tables,
)
from data.folders import shown
from data.pictures import open_picture
from lib.checks import whole_number

__all__ = ["CaptionedFolder", "Chosen", "Entry", "Skipped", "choose", "read_captioned"]

log = logging.getLogger(__name__)

_ENDINGS = {".tar": "webdataset", ".jsonl": "jsonl", ".csv": "csv", ".json": "coco"}
_READERS: dict[str, Callable[[Path], Iterator[Item]]] = {
    "webdataset": read_shards,
    "jsonl": read_tables,
    "csv": read_tables,
    "coco": read_coco,
    "sidecar": read_sidecars,
}
FORMATS = tuple(_READERS)
_TOLD = 5


@dataclass(frozen=True)
class CaptionedFolder:
    """What was found, before any picture was opened.

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


def read_captioned(path: str | Path, format: str | None = None) -> CaptionedFolder:
    """Find the captioned pictures of a folder, or of a file that lists or holds them.

    Args:
        path: a folder, or a `.tar`, `.jsonl`, `.csv` or COCO `.json` file.
        format: one of `FORMATS`; None looks what is there, in that order.

    Raises:
        ValueError: nothing there, another format, or not a single picture with a caption.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"There is no {shown(path)}: give a folder of captioned pictures.")
    kind = _detected(path) if format is None else format
    if kind not in FORMATS:
        raise ValueError(f"format is {kind!r}: choose {', '.join(FORMATS)}.")
    entries: list[Entry] = []
    skipped: list[Skipped] = []
    for item in _READERS[kind](path):
        (entries if isinstance(item, Entry) else skipped).append(item)
    if not entries:
        found = f" ({told(skipped)})" if skipped else ""
        raise ValueError(
            f"{shown(path)}, read as {kind}, holds no picture with a caption{found}: give pictures "
            "with .txt files, metadata.jsonl, COCO captions, or .tar shards."
        )
    return CaptionedFolder(path, kind, tuple(entries), tuple(skipped))


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
        for entry in (folder.entries[i] for i in order):
            if len(good) == n:
                break
            try:
                data = entry.read()
                open_picture(entry.name, data)
            except ValueError as error:
                why = str(error).removeprefix(f"{entry.name} ")
                skipped.append(Skipped(shown(entry.name), why))
                continue
            good.append(entry)
            for piece in (
                entry.name.encode(errors="surrogateescape"),
                data,
                *map(str.encode, entry.captions),
            ):
                digest.update(len(piece).to_bytes(8, "little"))
                digest.update(piece)
            bar.update()
    if not good:
        raise ValueError(
            f"None of the pictures of {shown(folder.path)} can be opened ({told(skipped)})."
        )
    if skipped and processes.rank() == 0:
        log.warning("%s: left out %s", shown(folder.path), told(skipped))
    return Chosen(tuple(good), tuple(skipped), folder.format, digest.hexdigest()[:16])


def open_entry(entry: Entry) -> Image.Image:
    """The picture as RGB.

    Raises:
        ValueError: its file is missing, unreadable or damaged.
    """
    return open_picture(entry.name, entry.read())


def told(skipped: list[Skipped] | tuple[Skipped, ...]) -> str:
    """Say how many were left out, and why the first ones were."""
    first = "; ".join(f"{one.name}: {one.why}" for one in skipped[:_TOLD])
    more = f"; and {len(skipped) - _TOLD} more" if len(skipped) > _TOLD else ""
    return f"{len(skipped)}: {first}{more}"


def _detected(path: Path) -> str:
    """The format of what lies there; shards and lists are more telling than loose pictures."""
    if path.is_file():
        kind = _ENDINGS.get(path.suffix.lower())
        if kind is None:
            raise ValueError(
                f"{shown(path)} is no list of captions: give a folder, or a file ending in "
                f"{', '.join(_ENDINGS)}."
            )
        return kind
    if any(path.glob("[!.]*.tar")):
        return "webdataset"
    for kind in ("jsonl", "csv"):
        if next(path.rglob(f"metadata.{kind}"), None):
            return kind
    return "coco" if coco_files(path) else "sidecar"
