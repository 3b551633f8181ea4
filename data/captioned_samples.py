"""Any captioned folder as samples, in any order, split over any number of processes.

`iterate` goes once through a folder: an order for a seed and an epoch, from any position in it (so
also from the middle of a shard: entries know their places in the archives), every process and
worker a share of its own. `CaptionedSamples` is the same data by number, as training asks for it.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from data.captioned import CaptionedFolder, Entry, add_to_digest, open_entry, opened
from data.cleaning import clean_caption
from data.folders import Skipped, count_and_name, shown
from lib.checks import number, read_json, whole_number
from lib.files import DISK, alone, replacing, write_atomic
from lib.images import FITS, fit, to_tensor

log = logging.getLogger(__name__)

MIRRORED = 0.5
KEPT = 2**32
"""Bytes of pictures that are kept on the disk; further ones are opened again each time."""
_FULL = "No space is left on the disk (%s): no pictures are kept, each is opened again each time"


@dataclass(frozen=True)
class Sample:
    """A captioned picture.

    Attributes:
        key: its name in the data, unique.
        image: RGB, as it is.
        captions: one or more.
        position: in the order; the next epoch's part begins behind it.
    """

    key: str
    image: Image.Image
    captions: tuple[str, ...]
    position: int


def iterate(
    folder: CaptionedFolder,
    seed: int | None = None,
    epoch: int = 0,
    start: int = 0,
    share: int = 0,
    shares: int = 1,
    *,
    skipped: list[Skipped] | None = None,
    min_side: int = 1,
    max_watermark: float = 1.0,
    clean: bool = False,
) -> Iterator[Sample]:
    """Samples of a folder, each once; broken and filtered ones are left out.

    Positions p >= start with p mod shares = share are this iterator's: over all shares, every
    sample comes once. To go on after a position, give it plus 1 as `start`.

    Args:
        folder: as `read_captioned` finds it.
        seed: of the order, which differs from epoch to epoch; None: as they lie.
        epoch: number of the pass.
        start: first position.
        share, shares: which of how many parts: `process * workers + worker` of `processes *
            workers`.
        skipped: gets what is left out, with the reason.
        min_side: sides of originals in pixels (the paper: 224 for 256 pixels, 448 for 512).
        max_watermark: of the noted probability.
        clean: captions through `clean_caption`.

    Raises:
        ValueError: a number out of its range.
    """
    shares = whole_number("shares", shares)
    if whole_number("share", share, 0) >= shares:
        raise ValueError(f"share is {share}: give one from 0 to {shares - 1}.")
    start = whole_number("start", start, 0)
    numbers = (
        whole_number("seed", 0 if seed is None else seed, 0),
        whole_number("epoch", epoch, 0),
    )
    order = np.arange(len(folder.entries))
    if seed is not None:
        order = np.random.default_rng(numbers).permutation(order)
    mine = range(start + (share - start) % shares, len(order), shares)
    lost = [] if skipped is None else skipped
    entries = ((p, folder.entries[order[p]]) for p in mine)
    if clean:
        entries = _cleaned(entries, lost)
    for picture in opened(entries, lost, min_side, max_watermark):
        yield Sample(picture.entry.name, picture.image, picture.entry.captions, picture.position)


def _cleaned(
    entries: Iterator[tuple[int, Entry]], skipped: list[Skipped]
) -> Iterator[tuple[int, Entry]]:
    for position, entry in entries:
        captions = tuple(filter(None, map(clean_caption, entry.captions)))
        if captions:
            yield position, replace(entry, captions=captions)
        else:
            skipped.append(Skipped(shown(entry.name), "has no caption after cleaning"))


class CaptionedSamples:
    """A captioned folder by number (`data.samples.Samples`).

    Every picture is opened once at the start, so what is broken or filtered is known before
    training. Up to `KEPT` bytes of pictures are kept at the size that is trained on, in a file that
    is mapped into memory: all processes, and all who open the same files in the same way later,
    share it.

    Args:
        folder: as `read_captioned` finds it.
        side: of the pictures, in pixels.
        fit: how they become squares (`lib.images.fit`). A crop is where chance puts it, as by the
            paper's loader; `jitter` False takes the middle.
        jitter: see there.
        mirror: half of the pictures are mirrored, anew each time; where captions name no sides.
        min_side, max_watermark, clean: as for `iterate`.
        left_out: a file that gets what was left out, a line of JSON each.
        kept: the folder where pictures are kept; None: as long as these samples.
        progress: show a bar on stderr.

    Raises:
        ValueError: no picture is left, or a number out of its range.
    """

    attributes: Mapping[str, Sequence[str]] = {}
    words: Sequence[str] = ("",)

    def __init__(
        self,
        folder: CaptionedFolder,
        side: int,
        fit: str = "crop",
        jitter: bool = True,
        mirror: bool = False,
        *,
        min_side: int = 1,
        max_watermark: float = 1.0,
        clean: bool = False,
        left_out: Path | None = None,
        kept: Path | None = None,
        progress: bool = False,
    ) -> None:
        if fit not in FITS:
            raise ValueError(f"fit is {fit!r}: choose {', '.join(FITS)}.")
        self.side, self.fit = whole_number("side", side, 1, 8192), fit
        self.jitter, self.mirror = jitter, mirror
        self.filters = {
            "min_side": whole_number("min_side", min_side),
            "max_watermark": number("max_watermark", max_watermark, 0, 1),
            "clean": clean,
        }
        self.skipped = list(folder.skipped)
        entries = enumerate(folder.entries)
        rows = dict(_cleaned(entries, self.skipped) if clean else entries)
        self._while = None if kept else TemporaryDirectory(ignore_cleanup_errors=True)
        path = (kept or Path(self._while.name)) / f"pictures-{self._name(rows)}.json"
        with alone(path):
            if not self._read(path, rows, again=True):
                self._open(tqdm(rows.items(), "pictures", disable=not progress), path)
                self._read(path, rows)
        self._part, self._opened_for = {}, jitter
        self._places = np.arange(len(self))
        self._ends = self._shapes.prod(1).cumsum()
        if len(self._ends):
            self._pixels = np.memmap(path.with_suffix(".bin"), np.uint8, "r")
        if not self.entries:
            raise ValueError(
                f"No captioned picture of {shown(folder.path)} is left "
                f"({count_and_name(self.skipped)}): give others, or lower the limits."
            )
        if self.skipped:
            log.warning("%s: left out %s", shown(folder.path), count_and_name(self.skipped))
        if left_out is not None:
            rows = ({"name": item.name, "why": item.why} for item in self.skipped)
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_atomic(left_out, text)

    def _name(self, rows: Mapping[int, Entry]) -> str:
        """Changes with what is asked for, what lists say, and files' sizes and times."""
        digest = hashlib.sha256(repr((self.side, self.fit, self.jitter, self.filters)).encode())
        states: dict[Path, tuple[int, int]] = {}
        for row, entry in rows.items():
            if entry.path not in states:
                with suppress(OSError):  # what is gone is named when it is opened
                    state = entry.path.stat()
                    states[entry.path] = state.st_size, state.st_mtime_ns
            digest.update(repr((row, replace(entry, path=states.get(entry.path)))).encode())
        return digest.hexdigest()[:16]

    def _read(self, path: Path, rows: Mapping[int, Entry], again: bool = False) -> bool:
        """Take up what was kept; whether it was there, and whole (`again`: if it finds room)."""
        try:
            about = read_json(path)
            if again and shutil.disk_usage(path.parent).free > about.get("lacked", math.inf):
                return False
            self.entries = [rows[row] for row in about["rows"]]
            skipped = [Skipped(*item) for item in about["skipped"]]
            self._shapes = np.array(about["shapes"], np.int64).reshape(-1, 3)
            self.digest = about["digest"]
            whole = path.with_suffix(".bin").stat().st_size == self._shapes.prod(1).sum()
        except (OSError, ValueError, LookupError, TypeError, OverflowError):
            return False
        self.skipped += skipped if whole else []
        return bool(whole)

    def _open(self, entries: tqdm, path: Path) -> None:
        """Open all pictures, keep them beside a file that says which are good; why others not."""
        digest, skipped, rows, shapes, room = hashlib.sha256(), [], [], [], KEPT
        limits, lacked = (self.filters["min_side"], self.filters["max_watermark"]), {}
        with replacing() as temporary:
            with temporary(path.with_suffix(".bin")).open("wb", buffering=0) as file:
                for picture in opened(entries, skipped, *limits):
                    rows.append(picture.position)
                    add_to_digest(digest, picture)
                    if room > 0:
                        pixels = self._sized(picture.image)
                        room -= pixels.nbytes
                        shapes.append(pixels.shape)
                        if not _write(file, pixels):
                            log.warning(_FULL, path.parent)
                            needed = min(KEPT, pixels.nbytes * len(entries))
                            free = shutil.disk_usage(path.parent).free  # a quota leaves some
                            lacked = {"lacked": max(needed, free + free // 10)}
                            room, shapes = file.truncate(0), []
            about = {"digest": digest.hexdigest()[:16], "rows": rows, "shapes": shapes, **lacked}
            about["skipped"] = [astuple(item) for item in skipped]
            temporary(path).write_text(json.dumps(about), encoding="utf-8")

    def split(self, share: float, seed: int) -> tuple[CaptionedSamples, CaptionedSamples]:
        """Most of them, and a share by chance, at least one, which is always shown the same.

        Raises:
            ValueError: there is only one.
        """
        if len(self) < 2:
            raise ValueError(f"There is one good picture, {self.key(0)}: give at least two.")
        order = np.random.default_rng(seed).permutation(len(self))
        held = max(1, round(share * len(self)))
        parts = copy(self), copy(self)
        for part, rows in zip(parts, (order[held:], order[:held]), strict=True):
            part.entries = [self.entries[row] for row in rows]
            part._places, part._part = self._places[rows], {"held_out": [held, seed]}
        parts[1].jitter = parts[1].mirror = False
        parts[1]._part = {"held_out": [held, seed], "measured": True}  # halves are no twins
        return parts

    def __len__(self) -> int:
        return len(self.entries)

    def key(self, index: int) -> str:
        """Name of a picture in its folder."""
        return shown(self.entries[index].name)

    def identity(self) -> dict[str, Any]:
        """What the samples depend on, as plain JSON types."""
        return {
            "data": self.digest,
            "samples": len(self),
            "side": self.side,
            "fit": self.fit,
            "jitter": self.jitter,
            "mirror": self.mirror,
            **self.filters,
            **self._part,
        }

    def pictures(self, indices: Sequence[int], rng: np.random.Generator) -> Tensor:
        """(B, 3, side, side) float32 in [0, 1].

        Raises:
            ValueError: a file has changed so that it can no longer be opened.
        """
        return to_tensor([self._square(int(index), rng) for index in indices])

    def captions(self, indices: Sequence[int], rng: np.random.Generator) -> list[str]:
        """One of each picture's captions, drawn."""
        choices = (self.entries[int(index)].captions for index in indices)
        return [captions[int(rng.integers(len(captions)))] for captions in choices]

    def targets(
        self, indices: Sequence[int], rng: np.random.Generator, asked: Sequence[str] | None = None
    ) -> list[str]:
        """One of each picture's captions: nothing in particular can be asked."""
        return self.captions(indices, rng)

    def labels(self, indices: Sequence[int]) -> Tensor:
        """(B, 0): nothing is known but captions."""
        return torch.zeros(len(indices), 0, dtype=torch.int64)

    def read(self, texts: Sequence[str]) -> Tensor:
        """(B, 0), as `labels`."""
        return torch.zeros(len(texts), 0, dtype=torch.int64)

    def _sized(self, image: Image.Image) -> np.ndarray:
        """(H, W, 3) uint8: a square, or what a square is cut from, its shorter side `side`."""
        if self.fit == "crop" and self.jitter and min(image.size) != self.side:
            image = ImageOps.cover(image, (self.side, self.side), Image.Resampling.BICUBIC)
        elif self.fit != "crop" or not self.jitter:
            image = fit(image, self.side, self.fit)
        return np.asarray(image)

    def _square(self, index: int, rng: np.random.Generator) -> np.ndarray:
        place = self._places[index]
        if place < len(self._ends) and (self.fit != "crop" or self.jitter == self._opened_for):
            shape, end = self._shapes[place], self._ends[place]
            pixels = self._pixels[end - shape.prod() : end].reshape(shape)
        else:
            pixels = self._sized(open_entry(self.entries[index]))
        top, left = (
            int(rng.integers(edge - self.side + 1)) if edge > self.side else 0
            for edge in pixels.shape[:2]
        )
        pixels = pixels[top : top + self.side, left : left + self.side]
        return pixels[:, ::-1] if self.mirror and rng.random() < MIRRORED else pixels


def _write(file: io.RawIOBase, pixels: np.ndarray) -> bool:
    """Write a picture; whether there was space for all of it."""
    try:
        return file.write(pixels.tobytes()) == pixels.nbytes
    except OSError as error:
        if error.errno not in DISK:
            raise
        return False
