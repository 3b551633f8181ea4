"""Contact sheets: every picture at its place, its pixels as they are."""

import numpy as np
import pytest
from PIL import Image

from analysis.results.sheets import contact_sheet, load_font

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 255), (0, 255, 255)]


def test_places_and_enlargement():
    images = [Image.new("RGB", (3, 3), color) for color in COLORS]
    images[0].putpixel((0, 0), (9, 9, 9))
    sheet = np.asarray(contact_sheet(images, columns=2, cell=8, gap=4))
    assert sheet.shape == (4 + 3 * (8 + 4), 4 + 2 * (8 + 4), 3)
    for i, color in enumerate(COLORS):  # a factor of 2, centred in the cell
        y, x = 4 + i // 2 * 12 + 1, 4 + i % 2 * 12 + 1
        assert (sheet[y + 2 : y + 6, x + 2 : x + 6] == color).all()
    assert (sheet[5:7, 5:7] == 9).all()  # one pixel is a square of four
    assert (sheet[:4] == 255).all()
    assert (sheet[4 + 24 :, 4 + 12 :] == 255).all()  # the empty sixth place


def test_a_frame_stands_around_each_picture_and_not_over_it():
    images = [Image.new("RGB", (8, 8), "white")] * 2
    sheet = np.asarray(contact_sheet(images, columns=2, cell=8, gap=4).convert("L"))
    for left in (4, 16):
        inside = sheet[4:12, left : left + 8]
        around = sheet[3:13, left - 1 : left + 9]
        assert (inside == 255).all()
        assert (around < 255).sum() == 4 * 9 and (sheet[2, left - 1 : left + 9] == 255).all()


def test_large_pictures_keep_their_pixels_and_modes_are_converted():
    sheet = contact_sheet([Image.new("L", (300, 200), 7)], cell=64, gap=2)
    assert sheet.size == (304, 204)
    assert sheet.getpixel((150, 100)) == (7, 7, 7)


def test_labels_are_drawn_below_and_fit():
    images = [Image.new("RGB", (8, 8), "white")] * 2
    plain = contact_sheet(images, cell=64)
    for label in ("short", "many words " * 20, "x" * 500):
        labelled = contact_sheet(images, cell=64, labels=[label, ""], gap=10)
        assert labelled.width == plain.width
        assert labelled.height > plain.height
        ink = np.argwhere(np.asarray(labelled.convert("L")) < 128)
        assert len(ink)
        assert ink[:, 0].min() >= 10 + 64
        assert ink[:, 1].max() < 10 + 64 + 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": []}, "no picture"),
        ({"labels": ["a", "b"]}, "2 labels for 1 pictures"),
        ({"columns": 0}, "columns is 0"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        contact_sheet(**({"images": [Image.new("RGB", (2, 2))]} | arguments))


def test_letters_of_other_languages_are_drawn():
    """A letter that a font lacks is drawn as the same box as any other one that it lacks."""
    font = load_font(20)
    missing = bytes(font.getmask("\uffff"))
    assert all(bytes(font.getmask(letter)) != missing for letter in "çéœßłğж")
