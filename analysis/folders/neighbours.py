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

import hashlib
import importlib
import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from analysis.folders.encoders import Encoder
from analysis.folders.reading import digest_of
from analysis.folders.vectors import Collection, remove
from data.folders import shown
from lib.files import beside, put

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
    index = Path(index)
    graph = _restored(index, collection.encoder, view=False)
    if graph is None:
        graph = _usearch().Index(
            ndim=collection.encoder.width, metric="ip", dtype="f16", connectivity=16,
            expansion_add=128, expansion_search=128,
        )  # fmt: skip
    # files of equal content share a key, so one that was moved keeps it
    keys, rows = np.unique(_keys(collection), return_index=True)
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
    with beside(index / "graph") as temporary:
        graph.save(str(temporary))
        path = index / f"graph-{collection.encoder.weights}-{_digest(temporary)}.usearch"
        put(temporary, path)
    remove(other for other in index.glob("graph-*.usearch") if other != path)
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
    graph = _restored(Path(index), collection.encoder, view=True)
    if graph is None:
        return None
    keys = _keys(collection)
    if not np.array_equal(np.sort(np.asarray(graph.keys, dtype=np.uint64)), np.unique(keys)):
        return None
    count = min(len(graph), max(10 * k, 200))
    unit = torch.nn.functional.normalize(query.float(), dim=0).numpy()
    nearest = np.asarray(graph.search(unit, count).keys, dtype=np.uint64)
    return np.flatnonzero(np.isin(keys, nearest)).tolist()


def _keys(collection: Collection) -> np.ndarray:
    """A key of the graph for each row."""
    return np.array([int(entry.sha256[:15], 16) for entry in collection.entries], dtype=np.uint64)


def _restored(index: Path, encoder: Encoder, view: bool) -> Any:
    """The graph beside an index, or None.

    Native code that reads a damaged graph may end the process, so a file whose content is not that
    which its name says is never given to it.
    """
    for path in index.glob(f"graph-{encoder.weights}-*.usearch"):
        try:
            status = path.stat()
            if path.is_file() and _is_whole(path, status.st_size, status.st_mtime_ns):
                return _usearch().Index.restore(str(path), view=view)
            why = "its content is not what its name says"
        except (ValueError, RuntimeError, OSError) as error:
            why = str(error)
        log.warning("%s is damaged (%s) and not used", shown(path.name), why)
    return None


@lru_cache(maxsize=8)
def _is_whole(path: Path, size: int, mtime_ns: int) -> bool:
    """Whether a graph's file has the digest of its name; asked once of each state of a file."""
    return path.stem.endswith(f"-{_digest(path)}")


def _digest(path: Path) -> str:
    return digest_of(path, hashlib.blake2b(digest_size=8))


def _usearch() -> ModuleType:
    """The library, imported when it is needed and not before."""
    return importlib.import_module("usearch.index")
