"""The vectors nearest to a query: exactly, or by a graph where there are very many.

*Exact* is one matrix product and always gives the right answer, so nothing else is used below
`MANY`. Above, every query would read hundreds of megabytes; then `usearch` finds candidates by a
navigable small-world graph (Malkov and Yashunin 2016), and their scores are computed exactly from
the stored vectors.

Why usearch and not faiss: vectors can be *removed* from its graph (not from faiss's; the clusters
of its inverted lists, from which they can, stay those of the first vectors), the file is mapped
instead of read, and there is no second OpenMP runtime beside torch's. It is optional: without it
search is exact, however many vectors there are.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from analysis.folders.vectors import Collection
from data.folders import shown

log = logging.getLogger(__name__)

MANY = 200_000
"""From so many vectors on, a graph is built and used, if usearch is installed."""
LIBRARIES = ("auto", "exact", "usearch")
_CHUNK = 65_536
_INSTALL = "install it with `pip install usearch`, or search without it (--library exact)"


def cosines(vectors: Tensor, queries: Tensor, chunk: int = _CHUNK) -> Tensor:
    """Cosine of every vector with every query, a chunk of vectors at a time.

    Args:
        vectors: (n, D), float16 or float32; stored ones have length 1 up to rounding only.
        queries: (T, D) of length 1.
        chunk: vectors that are float32 at a time.

    Returns:
        (n, T) float32.
    """
    out = torch.empty(len(vectors), len(queries))
    for i in range(0, len(vectors), chunk):
        part = torch.nn.functional.normalize(vectors[i : i + chunk].float(), dim=-1)
        out[i : i + chunk] = part @ queries.float().T
    return out


def best(scores: Tensor, k: int) -> list[int]:
    """Numbers of the k highest scores, highest first; of equal ones the first comes first."""
    return np.argsort(-scores.numpy(), kind="stable")[:k].tolist()


def choose(library: str, count: int) -> str:
    """Which way to search: "exact" or "usearch".

    Args:
        library: one of `LIBRARIES`; "auto" decides by the count and by what is installed.
        count: number of vectors.

    Raises:
        ValueError: an unknown name, or usearch is asked for and not installed.
    """
    if library not in LIBRARIES:
        raise ValueError(f"library is {library!r}: choose {', '.join(LIBRARIES)}.")
    if library == "exact" or (library == "auto" and count < MANY):
        return "exact"
    try:
        _usearch()
    except ImportError as error:
        if library == "usearch":
            raise ValueError(f"usearch is not installed: {_INSTALL}.") from error
        log.warning("%d vectors are searched exactly, which is slow; usearch: %s", count, _INSTALL)
        return "exact"
    return "usearch"


def build_graph(
    collection: Collection, index: str | Path, threads: int = 0, progress: bool = True
) -> Path:
    """Bring the graph beside an index up to date: new vectors are added, gone ones removed.

    Args:
        collection: the index.
        index: its folder.
        threads: 0 takes all cores.
        progress: show a bar.

    Returns:
        The graph's file. It is a cache: search is exact without it.
    """
    path = graph_path(collection, index)
    graph = _restored(path, view=False)
    if graph is None:
        graph = _usearch().Index(
            ndim=collection.encoder.width, metric="ip", dtype="f16", connectivity=16,
            expansion_add=128, expansion_search=128,
        )  # fmt: skip
    keys, rows = _keys(collection)
    there = np.asarray(graph.keys, dtype=np.uint64)
    gone = np.setdiff1d(there, keys)
    if len(gone):
        graph.remove(gone)
    new = np.flatnonzero(~np.isin(keys, there))
    with tqdm(total=len(new), desc="graph", unit="vector", disable=not progress) as bar:
        for i in range(0, len(new), 4096):
            part = new[i : i + 4096]
            vectors = collection.vectors[torch.from_numpy(rows[part])].float().numpy()
            graph.add(keys[part], vectors, threads=threads)
            bar.update(len(part))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        graph.save(str(temporary))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def candidates(
    collection: Collection, index: str | Path, query: Tensor, k: int
) -> Sequence[int] | None:
    """Rows among which the k best are, very probably; None if the graph is missing or out of date.

    Args:
        collection: the index.
        index: its folder.
        query: (D,), of any length.
        k: how many are wanted.
    """
    graph = _restored(graph_path(collection, index), view=True)
    if graph is None:
        return None
    keys = np.array([_key(entry.sha256) for entry in collection.entries], dtype=np.uint64)
    if not np.array_equal(np.sort(np.asarray(graph.keys, dtype=np.uint64)), np.unique(keys)):
        return None
    count = min(len(graph), max(10 * k, 200))
    unit = torch.nn.functional.normalize(query.float(), dim=0).numpy()
    found = np.asarray(graph.search(unit, count).keys, dtype=np.uint64)
    return np.flatnonzero(np.isin(keys, found)).tolist()


def graph_path(collection: Collection, index: str | Path) -> Path:
    """Where the graph of an index lies; another encoder has another one."""
    return Path(index) / f"graph-{collection.encoder.weights}.usearch"


def _keys(collection: Collection) -> tuple[np.ndarray, np.ndarray]:
    """Keys of the graph and one row each; files of equal content share a key, so also moved ones
    keep it."""
    keys = np.array([_key(entry.sha256) for entry in collection.entries], dtype=np.uint64)
    return np.unique(keys, return_index=True)


def _key(sha256: str) -> int:
    return int(sha256[:15], 16)


def _restored(path: Path, view: bool) -> Any:
    """The graph of a file, or None."""
    if not path.is_file():
        return None
    try:
        return _usearch().Index.restore(str(path), view=view)
    except (ValueError, RuntimeError, OSError) as error:
        log.warning("%s is damaged (%s) and not used", shown(path.name), error)
        return None


def _usearch() -> ModuleType:
    """The library, imported when it is needed and not before."""
    return importlib.import_module("usearch.index")
