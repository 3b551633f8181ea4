"""Contact sheets: many pictures side by side on one."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from PIL import Image, ImageDraw, ImageFont

CELL = 192
"""Side, in pixels, that small pictures are enlarged towards."""
FRAME = "#c8c8c8"
"""Colour of the line around each picture, one pixel wide."""


def load_font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: Pillow's own font lacks letters such as ç."""
    package = find_spec("matplotlib").submodule_search_locations[0]
    return ImageFont.truetype(f"{package}/mpl-data/fonts/ttf/DejaVuSans.ttf", size)


def contact_sheet(
    images: Sequence[Image.Image],
    columns: int | None = None,
    labels: Sequence[str] | None = None,
    cell: int = CELL,
    gap: int = 10,
    background: str = "white",
    ink: str = "black",
    font_size: int = 14,
) -> Image.Image:
    """Pictures in rows, each with its label below.

    A picture smaller than the cell is enlarged by the largest whole factor that fits, every pixel
    becoming a square, so that it looks as it is. Larger ones stay as they are.

    Args:
        images: any modes and sizes.
        columns: default: a nearly square sheet, at most 8 wide.
        labels: one a picture; long ones are wrapped to at most three lines.
        cell: side of the place for a picture, in pixels.
        gap: pixels between pictures and around them.
        background, ink: colours of paper and labels.
        font_size: of the labels.

    Raises:
        ValueError: no pictures, not one label a picture, or a number below 1.
    """
    images = list(images)
    if not images:
        raise ValueError("There is no picture to put on a sheet: give at least one.")
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"{len(labels)} labels for {len(images)} pictures: give one each.")
    if columns is None:
        columns = min(8, next(c for c in range(1, len(images) + 1) if c * c >= len(images)))
    if columns < 1 or cell < 1:
        raise ValueError(f"columns is {columns} and cell {cell}: give whole numbers from 1 on.")
    columns = min(columns, len(images))

    images = [_enlarged(image.convert("RGB"), cell) for image in images]
    width, height = (max(cell, *(image.size[axis] for image in images)) for axis in (0, 1))
    font = load_font(font_size)
    wrapped = [_wrap(label, font, width) for label in labels or [""] * len(images)]
    line = int(font_size * 1.35)
    text_height = line * max(map(len, wrapped)) + (gap // 2 if any(wrapped) else 0)

    rows = -(-len(images) // columns)
    step_x, step_y = width + gap, height + text_height + gap
    sheet = Image.new("RGB", (gap + columns * step_x, gap + rows * step_y), background)
    draw = ImageDraw.Draw(sheet)
    for i, (image, lines) in enumerate(zip(images, wrapped, strict=True)):
        x, y = gap + i % columns * step_x, gap + i // columns * step_y
        left, top = x + (width - image.width) // 2, y + (height - image.height) // 2
        sheet.paste(image, (left, top))
        # around it, not over it: a picture on white paper may be white at its edges, too
        around = (left - 1, top - 1, left + image.width, top + image.height)
        if gap > 1:  # or it would lie over the pictures beside it
            draw.rectangle(around, outline=FRAME)
        for k, words in enumerate(lines):
            draw.text((x, y + height + gap // 2 + k * line), words, fill=ink, font=font)
    return sheet


def _enlarged(image: Image.Image, cell: int) -> Image.Image:
    factor = max(1, cell // max(image.size))
    size = (image.width * factor, image.height * factor)
    return image if factor == 1 else image.resize(size, Image.Resampling.NEAREST)


def _wrap(text: str, font: ImageFont.ImageFont, width: int, most: int = 3) -> list[str]:
    """Words filled into lines of at most `width` pixels; the last one says if there was more."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > most:
        lines = [*lines[: most - 1], f"{lines[most - 1]} ..."]
    return [_cut(words, font, width) for words in lines]


def _cut(words: str, font: ImageFont.ImageFont, width: int) -> str:
    if font.getlength(words) <= width:
        return words
    words = words.removesuffix(" ...")
    while words and font.getlength(f"{words}...") > width:
        words = words[:-1]
    return f"{words}..."
