"""From a folder of pictures to its index, and from an old index to a new one.

Only files that are new or changed are read, and only contents that have no vector yet are encoded,
so an update costs what has changed, and a moved picture costs nothing. What an interrupted update
has encoded is kept (`analysis.folders.vectors`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from analysis.folders.neighbours import build_graph, choose
from analysis.folders.vectors import (
    PRECISIONS,
    Collection,
    Encoder,
    Entry,
    has_index,
    read_index,
    read_parts,
    remove_parts,
    write_index,
    write_part,
)
from data.folders import Broken, Found, one_writer, pictures_below, sha256_of, shown
from data.pictures import open_picture
from lib.checks import whole_number
from lib.clip import preprocess_images
from lib.files import held_interrupts
from lib.model import VersatileDiffusion

_PART = 1024
"""Pictures after which unfinished work is saved."""


@dataclass
class Update:
    """What an update of an index has found: names of files.

    Attributes:
        new, changed, removed, unchanged: pictures, compared with the index before. A file that was
            moved is removed and new; its vector is taken over.
        broken: file -> why it could not be opened.
        encoded: how many pictures the encoder has seen.
    """

    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    encoded: int = 0


def update_index(
    vd: VersatileDiffusion,
    folder: str | Path,
    index: str | Path,
    *,
    batch_size: int = 32,
    precision: str | None = None,
    verify: bool = False,
    library: str = "auto",
    progress: bool = True,
) -> Update:
    """Index a folder, or bring its index up to date.

    Only files that are new or changed are read, and only contents that have no vector yet are
    encoded. Interrupted (also killed), the same call goes on where it stopped.

    Args:
        vd: a model with "clip_vision".
        folder: pictures, also in subfolders.
        index: where the index is kept.
        batch_size: pictures encoded at a time.
        precision: "float16" (default; scores are off by less than 0.001) or "float32".
        verify: compare contents, where otherwise size and time of change say what has changed.
        library: as in `analysis.folders.neighbours.choose`: whether to build a graph.
        progress: show a bar.

    Raises:
        ValueError: no pictures, or the index belongs to another folder or encoder.
        KeyboardInterrupt: what was encoded is kept.
    """
    folder, index = Path(folder), Path(index)
    whole_number("batch_size", batch_size)
    if precision not in (None, *PRECISIONS):
        raise ValueError(f"precision is {precision!r}: choose {' or '.join(PRECISIONS)}.")
    encoder = Encoder.of(vd)
    found = pictures_below(folder)
    with one_writer(index):
        old = read_index(index) if has_index(index) else None
        if old is not None:
            _check_same(old, folder, encoder, precision, index)
            precision = old.precision
        dtype = PRECISIONS[precision or "float16"]
        known = _Known(old, read_parts(index, encoder), verify)
        todo, broken = known.sort_out(found)
        encoded = 0
        part: list[tuple[Entry, Tensor]] = []
        try:
            for one, vector in _read_all(vd, folder, todo, known, batch_size, dtype, progress):
                if isinstance(one, Broken):
                    broken.append(one)
                    continue
                encoded += known.add(one, vector)
                part.append((one, vector))
                if len(part) >= _PART:
                    _keep(index, encoder, part)
        except BaseException:  # also Ctrl-C
            with held_interrupts():
                _keep(index, encoder, part)
            raise
        entries = [known.entries[one.name] for one in found if one.name in known.entries]
        rows = [known.vectors[entry.sha256] for entry in entries]
        vectors = torch.stack(rows) if rows else torch.zeros(0, encoder.width, dtype=dtype)
        broken.sort(key=lambda one: one.name)
        made = Collection(folder, encoder, entries, vectors, broken)
        with held_interrupts():
            write_index(made, index)
            remove_parts(index)
        if choose(library, len(made)) == "usearch":
            build_graph(made, index, progress=progress)
    return _compared(old, made, found, encoded)


def _compared(
    old: Collection | None, new: Collection, found: Sequence[Found], encoded: int
) -> Update:
    before = {entry.name: entry.sha256 for entry in (old.entries if old else ())}
    removed = sorted(before.keys() - {one.name for one in found})
    update = Update(removed=removed, encoded=encoded, broken={b.name: b.why for b in new.broken})
    for entry in new.entries:
        if entry.name not in before:
            update.new.append(entry.name)
        elif before[entry.name] == entry.sha256:
            update.unchanged.append(entry.name)
        else:
            update.changed.append(entry.name)
    return update


class _Known:
    """Vectors there are already, by content, and what is known of each file."""

    def __init__(
        self, old: Collection | None, parts: Iterable[tuple[Entry, Tensor]], verify: bool
    ) -> None:
        self.entries: dict[str, Entry] = {}
        self.vectors: dict[str, Tensor] = {}
        self.verify = verify
        self._broken = {b.name: b for b in (old.broken if old else ())}
        for entry, vector in [*(zip(old.entries, old.vectors, strict=True) if old else ()), *parts]:
            self.entries[entry.name] = entry
            self.vectors[entry.sha256] = vector

    def sort_out(self, found: Sequence[Found]) -> tuple[list[Found], list[Broken]]:
        """What has to be read, and what is known to be broken; of the rest there are vectors."""
        before, self.entries = self.entries, {}
        todo: list[Found] = []
        broken: list[Broken] = []
        for one in found:
            was = before.get(one.name) or self._broken.get(one.name)
            same = was is not None and (was.size, was.mtime_ns) == (one.size, one.mtime_ns)
            if self.verify or not same:
                todo.append(one)
            elif isinstance(was, Broken):
                broken.append(was)
            else:
                self.entries[one.name] = was
        return todo, broken

    def add(self, entry: Entry, vector: Tensor) -> bool:
        """Note a file's vector; returns whether its content is new."""
        new = entry.sha256 not in self.vectors
        self.entries[entry.name] = entry
        self.vectors[entry.sha256] = vector
        return new


def _read_all(
    vd: VersatileDiffusion,
    folder: Path,
    todo: Sequence[Found],
    known: _Known,
    batch_size: int,
    dtype: torch.dtype,
    progress: bool,
) -> Iterator[tuple[Entry | Broken, Tensor | None]]:
    """Read files, and encode contents that have no vector yet; files are read a batch ahead."""

    def read(one: Found) -> tuple[Entry | Broken, Tensor | None]:
        path = one.below(folder)
        try:
            entry = Entry(one.name, one.size, one.mtime_ns, sha256_of(path))
            if entry.sha256 in known.vectors:
                return entry, None
            # shrunk here, so that a batch of photographs does not have to fit into memory
            return entry, preprocess_images([open_picture(path)], vd.spec.clip)
        except ValueError as error:
            why = shown(error).replace(shown(path), shown(one.name))
            return Broken(one.name, one.size, one.mtime_ns, why), None

    batches = [todo[i : i + batch_size] for i in range(0, len(todo), batch_size)]
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        tqdm(total=len(todo), desc="index", unit="picture", disable=not progress) as bar,
    ):
        ahead = [pool.submit(read, one) for one in batches[0]] if batches else []
        for following in [*batches[1:], []]:
            now, ahead = ahead, [pool.submit(read, one) for one in following]
            files = [future.result() for future in now]
            new = {one.sha256: pixels for one, pixels in files if pixels is not None}
            vectors = _encode(vd, list(new.values())).to(dtype) if new else ()
            made = dict(zip(new, vectors, strict=True))
            for one, _ in files:
                if isinstance(one, Broken):
                    yield one, None
                else:
                    known_one = known.vectors.get(one.sha256)
                    yield one, made[one.sha256] if known_one is None else known_one
            bar.update(len(files))


@torch.no_grad()
def _encode(vd: VersatileDiffusion, pixels: Sequence[Tensor]) -> Tensor:
    """`vd.image_features` of pictures that are preprocessed already: (B, D), unit norm."""
    vectors = vd.clip_vision.features(torch.cat(list(pixels)).to(vd.device, vd.dtype)).float().cpu()
    if not bool(torch.isfinite(vectors).all()):
        raise FloatingPointError(
            f"A picture's vector left the range of {vd.dtype}: use float32 (--dtype float32)."
        )
    return vectors


def _keep(index: Path, encoder: Encoder, part: list[tuple[Entry, Tensor]]) -> None:
    """Save unfinished work, and begin a new part."""
    if part:
        write_part(index, encoder, [e for e, _ in part], torch.stack([v for _, v in part]))
        part.clear()


def _check_same(
    old: Collection, folder: Path, encoder: Encoder, precision: str | None, index: Path
) -> None:
    old.encoder.check(encoder)
    if old.folder != folder.resolve() and old.folder.exists():
        raise ValueError(
            f"{shown(index)} is the index of {shown(old.folder)}: give another place for that of "
            f"{shown(folder)} (--index)."
        )
    if precision not in (None, old.precision):
        raise ValueError(
            f"The index in {shown(index)} holds {old.precision}, not {precision}: leave precision "
            "out, or make another index."
        )
