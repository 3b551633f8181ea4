"""Arrays that are computed once and kept: read if they are whole, or computed again."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np


def kept_array(path: Path, rows: int) -> np.ndarray | None:
    """The array of a `.npy`, mapped into memory; None: not there, damaged, or of other rows."""
    with suppress(OSError, ValueError, EOFError):
        array = np.load(path, mmap_mode="r")
        if isinstance(array, np.ndarray) and array.ndim and len(array) == rows:
            return array
    return None


def write_array(path: Path, rows: int, parts: Iterable[np.ndarray]) -> None:
    """Write a `.npy`, some rows after the other.

    A file that is mapped into memory ends the process where the disk is full, and numpy's own
    `save` says no reason.

    Args:
        path: a new file.
        rows: of all parts.
        parts: of the array, along its first axis; one at least.

    Raises:
        OSError: what the system says.
    """
    with path.open("wb") as file:
        for k, part in enumerate(parts):
            if not k:
                about = np.lib.format.header_data_from_array_1_0(np.ascontiguousarray(part))
                shape = (rows, *part.shape[1:])
                np.lib.format.write_array_header_1_0(file, {**about, "shape": shape})
            file.write(np.ascontiguousarray(part).data.cast("B"))
