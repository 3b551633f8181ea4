"""What show-your-work twins share: they agree with the library, and show themselves as tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
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


class Twin(ABC):
    """What a twin returns: a notebook shows it as a table."""

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """Lines of the table: column -> text, number, or tensor of one number a sample."""

    def title(self) -> str:
        """What stands above the table."""
        return ""

    def _repr_html_(self) -> str:
        rows = [{name: _number(value) for name, value in row.items()} for row in self.rows()]
        return html_table(rows, self.title())


def _number(value: Any) -> Any:
    """Of a batch, the mean."""
    return value.double().mean().item() if isinstance(value, Tensor) else value


def root_mean_square(x: Tensor) -> float:
    """Length of vectors per root of their dimension: 1 for standard normal noise."""
    return x.detach().cpu().double().square().mean().sqrt().item()


def count_text(count: int) -> str:
    """A number of parameters as people say it: 267.2 M."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= unit:
            return f"{count / unit:.{2 if name == 'B' else 1}f} {name}"
    return str(count)
