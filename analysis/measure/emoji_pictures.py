"""Pictures of the suite `emoji`: thumbnails in rows, contact sheets, nearest training drawings."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
from PIL import Image

from analysis.measure.rows import Row, Rows
from analysis.results.sheets import contact_sheet
from data.emoji import Drawings
from data.emoji.captions import GROUNDS

SHOWN = 18
"""The first inputs keep their pictures."""


def packed(picture: Image.Image) -> str:
    """A picture as text that JSON can hold."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def strip(i: int, pictures: Sequence[Image.Image]) -> Row:
    """What the row of input i keeps of its strip of pictures."""
    return {"strip": [packed(picture) for picture in pictures]} if i < SHOWN // 2 else {}


def unpacked(text: str) -> Image.Image:
    """The inverse of `packed`."""
    return Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")


def triples(
    real: Rows, made: Rows, nearest: Callable[[Row], Image.Image], labels: Sequence[str]
) -> Image.Image:
    """Each held-out drawing, what was made in its place, and what of training is nearest to that.

    Args:
        real, made: rows of the same inputs.
        nearest: what a row says of it -> that training drawing.
        labels: of what was made.
    """
    pictures, below = [], []
    for drawn, row, label in zip(real[:SHOWN], made, labels, strict=False):
        pictures += [unpacked(drawn["png"]), unpacked(row["png"]), nearest(row["nearest"])]
        below += ["held out", label, f"nearest training drawing, {row['nearest']['distance']:.3f}"]
    return contact_sheet(pictures, 9, below, cell=96, font_size=11)


def strips(rows: Rows, levels: Sequence[float]) -> Image.Image:
    """Strips from level to level, of the inputs that keep them."""
    kept = [row for row in rows if "strip" in row]
    pictures = [unpacked(png) for row in kept for png in row["strip"]]
    labels = [f"{row.get('text', '')} {level:g}".strip() for row in kept for level in levels]
    return contact_sheet(pictures, 2 * len(levels), labels, cell=96, font_size=11)


def sheets(
    rows: Mapping[str, Rows],
    nearest: Callable[[Row], Image.Image],
    captions: Sequence[str],
    levels: Sequence[float],
) -> dict[str, tuple[str, Image.Image]]:
    """Title -> (name of the file, sheet), of what was measured."""
    drawn = {}
    beside = {
        "t2i-heldout": ("from-captions", "Pictures from captions", captions),
        "i2i": ("variations", "Variations", ["variation"] * SHOWN),
    }
    for task, (name, title, labels) in beside.items():
        if task in rows:
            sheet = triples(rows["real-heldout"], rows[task], nearest, labels)
            drawn[f"{title}, beside the held-out drawings"] = name, sheet
    for task, title in {"focus": "From content to style", "dual": "From drawing to text"}.items():
        if task in rows:
            drawn[title] = task, strips(rows[task], levels)
    return drawn


class Nearest:
    """The training drawing nearest to a picture, by the RMS distance of their pixels.

    Compared at half size, in [0, 1], with all drawings on the same ground, mirrored or not.
    """

    def __init__(self, drawings: Drawings) -> None:
        self.drawings = drawings

    def __call__(self, pictures: Sequence[Image.Image], grounds: np.ndarray) -> list[Row]:
        """Number of the nearest drawing, the ground, and the distance, for each picture."""
        found = []
        for picture, ground in zip(pictures, grounds, strict=True):
            known = self._known[int(ground)]
            half = _halved(np.asarray(picture.convert("RGB"))[None]).reshape(1, -1)
            # |a - b|^2 = |a|^2 - 2 a b + |b|^2, without a copy of all drawings
            apart = (known**2).sum(1) - 2 * (known @ half[0]) + (half**2).sum()
            where = int(apart.argmin())
            distance = float(np.sqrt(max(apart[where], 0) / known.shape[1]))
            drawing = where % len(self.drawings)
            found.append({"drawing": drawing, "ground": int(ground), "distance": distance})
        return found

    def picture(self, found: Row) -> Image.Image:
        """The drawing of a row that `__call__` gave, on its ground."""
        _, color = list(GROUNDS.values())[found["ground"]]
        return Image.fromarray(self.drawings.where(np.array([found["drawing"]])).on(color)[0])

    @cached_property
    def _known(self) -> list[np.ndarray]:
        """Of each ground the drawings on it, then mirrored: (2 x drawings, numbers)."""
        known = []
        for _, color in GROUNDS.values():
            half = _halved(self.drawings.on(color))
            both = np.concatenate([half, half[:, :, ::-1]])
            known.append(both.reshape(len(both), -1))
        return known


def _halved(pictures: np.ndarray) -> np.ndarray:
    """(B, 2 H, 2 W, 3) uint8 -> (B, H, W, 3) float32 in [0, 1], means of four pixels."""
    b, h, w, c = pictures.shape
    blocks = pictures.reshape(b, h // 2, 2, w // 2, 2, c).astype(np.float32)
    return blocks.mean(axis=(2, 4)) / 255
