"""What show-your-work twins share: they agree with the library, and show themselves as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from analysis.results.result import html_table


def agree(what: str, twin: Tensor, lib: Tensor, tolerance: float | None = None) -> None:
    """AssertionError unless a twin has computed what the library does.

    Args:
        what: is compared, for the message.
        twin, lib: of the same shape.
        tolerance: largest difference, relative to lib's largest value; None chooses by lib's dtype.
    """
    if tolerance is None:
        tolerance = 1e-4 if lib.dtype.itemsize >= 4 else 5e-2
    if twin.shape != lib.shape:
        raise AssertionError(f"{what}: {tuple(twin.shape)} here, {tuple(lib.shape)} in the library")
    twin, lib = twin.detach().cpu().double(), lib.detach().cpu().double()
    off, size = (x.abs().max().item() if x.numel() else 0.0 for x in (twin - lib, lib))
    if not off <= tolerance * max(size, 1e-12):  # also true for NaN
        raise AssertionError(f"{what}: off by {off:.3g} where values reach {size:.3g}")


class Twin(SimpleNamespace):
    """What a twin returns: all that it computed, by name; a notebook shows it as a table.

    Args:
        rows: lines of the table: column -> text, number, or tensor of one number a sample, of which
            the mean is shown.
        title: what stands above the table.
        computed: name -> value.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], title: str = "", **computed: Any) -> None:
        super().__init__(**computed)
        means = [
            {k: v.double().mean().item() if isinstance(v, Tensor) else v for k, v in row.items()}
            for row in rows
        ]
        self._table = html_table(means, title)

    def __repr__(self) -> str:
        return f"Twin({', '.join(name for name in vars(self) if name != '_table')})"

    def _repr_html_(self) -> str:
        return self._table


def root_mean_square(x: Tensor) -> float:
    """Length of vectors per root of their dimension: 1 for standard normal noise."""
    return x.detach().cpu().double().square().mean().sqrt().item()


def count_text(count: int) -> str:
    """A number of parameters as people say it: 267.2 M."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= unit:
            return f"{count / unit:.{2 if name == 'B' else 1}f} {name}"
    return str(count)
