"""What a notebook shows: results, pictures and rows, pictures with words for who cannot see them.

>>> show(result)                                          # pictures on a sheet, or a table of texts
>>> show({"ddim": first, "heun": second}, columns=2)      # side by side, each with its label
>>> show([{"text": "a red circle", "score": 0.3}])        # a table
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from analysis.results.result import Result, html_picture, html_table
from analysis.results.sheets import contact_sheet


@dataclass(frozen=True, eq=False)
class Sheet:
    """Pictures side by side.

    Attributes:
        image: all of them on one picture.
        alt: what is on it, in words.
    """

    image: Image.Image
    alt: str

    def _repr_html_(self) -> str:
        return html_picture(self.image, self.alt)


@dataclass(frozen=True)
class Table:
    """Rows, column -> text or number, and what stands above them."""

    rows: list[Mapping[str, Any]]
    caption: str = ""

    def _repr_html_(self) -> str:
        return html_table(self.rows, self.caption)

    def __str__(self) -> str:
        lines = ["  ".join(map(str, row.values())) for row in self.rows]
        return "\n".join([self.caption, *lines] if self.caption else lines)


def show(what: Any, columns: int | None = None, *, caption: str = "", **sheet: Any) -> Any:
    """Show something below a notebook's cell.

    Args:
        what: a `Result`; a picture, or a list of pictures or results of pictures; label -> picture
            or result of one picture; a list of rows (column -> text or number); or what can show
            itself: a figure, a twin.
        columns: pictures a row.
        caption: stands above a table; of pictures, is what they are for who cannot see them.
        sheet: cell, gap, ... of `analysis.results.sheets.contact_sheet`.

    Returns:
        None in a notebook. Elsewhere what was shown: a sheet has its picture as `image`.

    Raises:
        ValueError: nothing to show.
    """
    shown = _displayable(what, columns, caption, sheet)
    shell = sys.modules.get("IPython")
    if shell is None or shell.get_ipython() is None:
        return shown
    shell.display.display(shown)
    return None


def _displayable(what: Any, columns: int | None, caption: str, sheet: dict[str, Any]) -> Any:
    if isinstance(what, Result) and what.images and (columns or sheet):
        return Sheet(what.sheet(columns, **sheet), caption or what.alt)
    if hasattr(what, "_repr_html_"):
        return what
    rows = isinstance(what, (list, tuple)) and what and isinstance(what[0], Mapping)
    if rows:
        return Table(list(what), caption)
    labels = None
    if isinstance(what, Mapping):
        labels, what = list(map(str, what)), what.values()
    images = list(_pictures([what] if isinstance(what, Image.Image) else what))
    image = contact_sheet(images, columns, labels, **sheet)
    names = "; ".join(labels or [])
    return Sheet(image, ": ".join(filter(None, (caption or f"{len(images)} pictures", names))))


def _pictures(given: Iterable[Any]) -> Iterable[Image.Image]:
    for item in given:
        if isinstance(item, Result):
            yield from item.images
        else:
            yield item
