"""Measurements on disk, so that an interrupted evaluation goes on where it stopped.

A *task* measures n inputs; what it learns of one input is a *row* (plain JSON types), which depends
on the input's index and the settings alone. Rows are written in chunks as they are measured, one
file a chunk, each whole or not at all. Running a task again reads what is there and measures the
rest, in whatever chunks: the same rows, whoever measured them and when. So several processes
(`analysis.measure.processes`) share a task by taking turns at its missing chunks.

    <folder>/<task>/000000-000049.json    {"rows": {"0": {...}, ...}, "seconds": ..., "when": ...}
"""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from analysis.measure import processes
from data.folders import LIST_BYTES, read_file
from lib.checks import parse_json
from lib.files import write_atomic

log = logging.getLogger(__name__)

Row = dict[str, Any]
Rows = Sequence[Row]


@dataclass(frozen=True)
class Task:
    """Something to measure.

    Attributes:
        name: unique in a run; also the name of its folder.
        n: number of inputs.
        measure: consecutive indices -> one row each.
        check: called with all rows, before the next task; ValueError ends the evaluation.
    """

    name: str
    n: int
    measure: Callable[[range], list[Row]]
    check: Callable[[Rows], Any] | None = None


@dataclass(frozen=True)
class Measured:
    """All rows of a task, by index, and what they cost.

    Attributes:
        rows: one an input.
        seconds: spent on measuring them, in all sessions and processes together.
        when: ISO time at which the last one was finished.
    """

    rows: list[Row]
    seconds: float
    when: str


def run(task: Task, folder: Path, batch: int, progress: bool = True) -> Measured:
    """All rows of a task: those on disk, and the others measured now and stored.

    Of several processes each measures its share, and all of them return all rows.

    Args:
        task: what to measure.
        folder: of the run; the task's own folder is made in it.
        batch: most inputs a chunk, so at most so many are lost to an interruption.
        progress: show a bar on stderr.
    """
    folder = folder / task.name
    on_disk, _, _ = _read(folder, task.n)
    # agreed, since a process that starts late would already see what the others have measured
    missing = processes.agreed([i for i in range(task.n) if i not in on_disk])
    mine = shares(missing, batch, processes.world())[processes.rank()]
    hidden = not progress or processes.rank() > 0
    done = task.n - len(missing)
    with tqdm(total=task.n, initial=done, desc=task.name, unit="input", disable=hidden) as bar:
        for indices in mine:
            begin = time.perf_counter()
            rows = task.measure(indices)
            chunk = {
                "rows": dict(zip(map(str, indices), rows, strict=True)),
                "seconds": time.perf_counter() - begin,
                "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            }
            write_atomic(folder / f"{indices[0]:06d}-{indices[-1]:06d}.json", json.dumps(chunk))
            bar.update(min(len(indices) * processes.world(), task.n - bar.n))
    processes.wait()
    # read back, so that a fresh run and a resumed one go through the same numbers
    rows, seconds, when = _read(folder, task.n)
    measured = Measured([rows[i] for i in range(task.n)], seconds, when)
    if task.check is not None:
        task.check(measured.rows)
    return measured


def consecutive(indices: Sequence[int], most: int) -> Iterator[range]:
    """Ascending indices as ranges of at most `most`."""
    start = 0
    for i in range(1, len(indices) + 1):
        if i == len(indices) or indices[i] != indices[i - 1] + 1 or i - start == most:
            yield range(indices[start], indices[i - 1] + 1)
            start = i


def shares(indices: Sequence[int], most: int, parties: int) -> list[list[range]]:
    """Who measures what: the chunks of `consecutive` in turn, smaller ones if they are too few."""
    most = max(1, min(most, -(-len(indices) // parties)))
    chunks = list(consecutive(indices, most))
    return [chunks[i::parties] for i in range(parties)]


def _read(folder: Path, n: int) -> tuple[dict[int, Row], float, str]:
    """Rows below n, seconds, and last time of all chunks that can be read."""
    rows: dict[int, Row] = {}
    seconds, when = 0.0, ""
    for path in sorted(folder.glob("*.json")):
        try:
            chunk = parse_json(read_file(path, LIST_BYTES))
            new = {int(i): row for i, row in chunk["rows"].items() if int(i) < n}
            seconds, when = seconds + float(chunk["seconds"]), max(when, chunk["when"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s is damaged (%r): measured again", path, error)
            continue
        rows |= new
    return rows, seconds, when


def pack(vector: Tensor | np.ndarray) -> str:
    """A float32 vector as text that JSON can hold without loss."""
    if isinstance(vector, Tensor):
        vector = vector.detach().float().cpu().numpy()
    return base64.b64encode(np.ascontiguousarray(vector, dtype="<f4").tobytes()).decode("ascii")


def unpack(text: str) -> np.ndarray:
    """The inverse of `pack`."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4")
