"""From a folder of pictures to its index, and from an old index to a new one.

Only files that are new or changed are read, and only contents that have no vector yet are encoded,
so an update costs what has changed, and a moved picture costs nothing. What an interrupted update
has encoded is kept (`analysis.folders.vectors`).
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from analysis.folders.encoders import Encoder
from analysis.folders.neighbours import build_graph, choose
from analysis.folders.reading import Unread, disk_errors, is_unchanged, read_picture
from analysis.folders.vectors import (
    PRECISIONS,
    Collection,
    Entry,
    has_index,
    read_index,
    read_parts,
    remove_parts,
    write_index,
    write_part,
)
from data.folders import Broken, Found, one_writer, pictures_below, shown
from lib.checks import whole_number
from lib.clip import preprocess_images
from lib.files import held_interrupts
from lib.model import VersatileDiffusion

_PART = 1024
"""Pictures after which unfinished work is saved."""


@dataclass
class Update:
    """What an update of an index has done: names of files.

    Attributes:
        new, changed, removed, unchanged: pictures, compared with the index before. A file that was
            moved is removed and new; its vector is taken over.
        broken: file -> why it has no vector.
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
    """Index a folder, or bring its index up to date, while others may search it.

    A file that cannot be opened is named in the result and does not stop the others; one that
    cannot be read for a moment is tried again by the next update. Interrupted (also killed), the
    same call goes on where it stopped.

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
        OSError: the disk is full; what was encoded is kept as far as there was room.
        KeyboardInterrupt: what was encoded is kept.
    """
    folder, index = Path(folder), Path(index)
    whole_number("batch_size", batch_size, 1, 4096)
    if precision not in (None, *PRECISIONS):
        raise ValueError(f"precision is {precision!r}: choose {' or '.join(PRECISIONS)}.")
    encoder = Encoder.of(vd)
    files = pictures_below(folder)
    with one_writer(index), disk_errors(index):
        old = read_index(index) if has_index(index) else None
        if old is not None:
            _check_same(old, folder, encoder, precision, index)
            precision = old.precision
        dtype = PRECISIONS[precision or "float16"]
        rows: dict[str, Found] = {} if old is None else {b.name: b for b in old.broken}
        vectors: dict[str, Tensor] = {}
        known = [] if old is None else zip(old.entries, old.vectors, strict=True)
        for entry, vector in (*known, *read_parts(index, encoder)):
            rows[entry.name] = entry
            vectors[entry.sha256] = vector.to(dtype)
        todo = [f for f in files if verify or not is_unchanged(rows.get(f.name), f)]
        part: list[Entry] = []
        encoded = 0
        try:
            for row, vector in _read_all(vd, folder, todo, vectors, batch_size, progress):
                rows[row.name] = row
                if isinstance(row, Broken):
                    continue
                if vector is not None:
                    encoded += row.sha256 not in vectors
                    vectors[row.sha256] = vector.to(dtype)
                part.append(row)
                if len(part) >= _PART:
                    _keep(index, encoder, part, vectors)
        except BaseException:  # also Ctrl-C
            with held_interrupts():
                _keep(index, encoder, part, vectors)
            raise
        now = [rows[file.name] for file in files]
        entries = [row for row in now if isinstance(row, Entry)]
        broken = [row for row in now if isinstance(row, Broken)]
        none = torch.zeros(0, encoder.width, dtype=dtype)
        matrix = torch.stack([vectors[e.sha256] for e in entries]) if entries else none
        lasting = [row for row in broken if not isinstance(row, Unread)]
        new = Collection(folder, encoder, entries, matrix, lasting)
        with held_interrupts():
            write_index(new, index)
            remove_parts(index)
        if choose(library, len(new)) == "usearch":
            build_graph(new, index, progress=progress)
    return _compared(old, new, files, {row.name: row.why for row in broken}, encoded)


def _compared(
    old: Collection | None,
    new: Collection,
    files: Sequence[Found],
    broken: dict[str, str],
    encoded: int,
) -> Update:
    before = {entry.name: entry.sha256 for entry in (old.entries if old else ())}
    removed = sorted(before.keys() - {file.name for file in files})
    update = Update(removed=removed, encoded=encoded, broken=broken)
    for entry in new.entries:
        if entry.name not in before:
            update.new.append(entry.name)
        elif before[entry.name] == entry.sha256:
            update.unchanged.append(entry.name)
        else:
            update.changed.append(entry.name)
    return update


def _read_all(
    vd: VersatileDiffusion,
    folder: Path,
    todo: Sequence[Found],
    known: Container[str],
    batch_size: int,
    progress: bool,
) -> Iterator[tuple[Entry | Broken, Tensor | None]]:
    """Read files, a batch ahead; with each content that is not known comes its vector."""

    def read(file: Found) -> tuple[Entry | Broken, Tensor | None]:
        # shrunk here, so that a batch of photographs does not have to fit into memory
        content = read_picture(
            file, folder, known, lambda image: preprocess_images([image], vd.spec.clip)
        )
        if isinstance(content, Broken):
            return content, None
        sha256, pixels = content
        return Entry(file.name, file.size, file.mtime_ns, sha256), pixels

    batches = [todo[i : i + batch_size] for i in range(0, len(todo), batch_size)]
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        tqdm(total=len(todo), desc="index", unit="picture", disable=not progress) as bar,
    ):
        ahead = [pool.submit(read, file) for file in batches[0]] if batches else []
        for following in [*batches[1:], []]:
            now, ahead = ahead, [pool.submit(read, file) for file in following]
            results = [future.result() for future in now]
            pixels = {row.sha256: p for row, p in results if p is not None}
            vectors = _encode(vd, list(pixels.values())) if pixels else ()
            encoded = dict(zip(pixels, vectors, strict=True))
            for row, _ in results:
                yield row, None if isinstance(row, Broken) else encoded.get(row.sha256)
            bar.update(len(results))


@torch.no_grad()
def _encode(vd: VersatileDiffusion, pixels: Sequence[Tensor]) -> Tensor:
    """`vd.image_features` of pictures that are preprocessed already: (B, D), unit norm."""
    vectors = vd.clip_vision.features(torch.cat(list(pixels)).to(vd.device, vd.dtype)).float().cpu()
    if not bool(torch.isfinite(vectors).all()):
        raise FloatingPointError(
            f"A picture's vector left the range of {vd.dtype}: use float32 (--dtype float32)."
        )
    return vectors


def _keep(index: Path, encoder: Encoder, part: list[Entry], vectors: dict[str, Tensor]) -> None:
    """Save unfinished work, and begin a new part."""
    if part:
        write_part(index, encoder, part, torch.stack([vectors[e.sha256] for e in part]))
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
