"""What show-your-work twins share: they agree with the library, and show themselves as tables."""

from __future__ import annotations

from html import escape
from typing import Any

from torch import Tensor


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


class Twin:
    """What a twin returns: a notebook shows it as a table."""

    def rows(self) -> list[dict[str, Any]]:
        """Lines of the table: column -> text, number, or tensor of one number a sample."""
        raise NotImplementedError

    def title(self) -> str:
        """What stands above the table."""
        return ""

    def _repr_html_(self) -> str:
        rows = self.rows()
        head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
        body = "".join(f"<tr>{''.join(map(_cell, row.values()))}</tr>" for row in rows)
        return f"<table><caption>{escape(self.title())}</caption><tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, Tensor):  # of a batch, the mean
        value = value.double().mean().item()
    if isinstance(value, str):
        return f'<td style="text-align:left">{escape(value)}</td>'
    return f"<td>{value:.4g}</td>" if isinstance(value, float) else f"<td>{value}</td>"


def root_mean_square(x: Tensor) -> float:
    """Length of vectors per root of their dimension: 1 for standard normal noise."""
    return x.detach().cpu().double().square().mean().sqrt().item()


def count_text(count: int) -> str:
    """A number of parameters as people say it: 267.2 M."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= unit:
            return f"{count / unit:.{2 if name == 'B' else 1}f} {name}"
    return str(count)
