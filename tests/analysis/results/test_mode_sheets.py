"""Sheets of modes: inputs first, results of one input in one row, words as they were asked for."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from analysis.modes import image_to_text, image_variation, text_to_image
from analysis.modes.edit import edit, latent_edit
from analysis.modes.interpolate import interpolate
from analysis.modes.mix import blend, dual_guided
from analysis.results.mode_sheets import (
    CELL,
    GAP,
    LINE,
    RECORDS,
    label,
    made_from,
    main,
    mode_sheet,
)
from analysis.results.outputs import read_record, save
from analysis.results.sheets import FRAME

QUIET = {"seed": 5, "steps": 2, "progress": False}
ROW = CELL + GAP
WORDS = LINE + GAP


def cell(sheet, column, top):
    """Pixels of a picture's place in a row that begins `top` pixels down."""
    x, y = GAP + column * ROW, top + GAP
    return np.asarray(sheet)[y : y + CELL, x : x + CELL]


def shown(picture):
    """A picture as a cell shows it."""
    factor = CELL // max(picture.size)
    size = [side * factor for side in picture.size]
    page = Image.new("RGB", (CELL, CELL), "white")
    at = ((CELL - size[0]) // 2, (CELL - size[1]) // 2)
    page.paste(picture.convert("RGB").resize(size, Image.Resampling.NEAREST), at)
    around = (at[0] - 1, at[1] - 1, at[0] + size[0], at[1] + size[1])
    ImageDraw.Draw(page).rectangle(around, outline=FRAME)
    return np.asarray(page)


def test_inputs_come_first_and_each_has_a_row(vd, tmp_path, picture_files):
    made = image_variation(vd, picture_files, n=2, **QUIET)
    sheet = mode_sheet(save(made, tmp_path), picture_files)
    height = sheet.height // 2
    assert sheet.width == GAP + 3 * ROW
    for row, path in enumerate(picture_files):
        expected = [Image.open(path), *made.images[2 * row : 2 * row + 2]]
        for column, picture in enumerate(expected):
            assert (cell(sheet, column, row * height) == shown(picture)).all()


def test_a_strip_has_a_row_for_each_seed_under_its_words_once(vd, tmp_path, picture_files):
    text = "a red circle"
    made = dual_guided(vd, picture_files[0], text, strength=[0, 0.5, 1], n=2, **QUIET)
    sheet = mode_sheet(save(made, tmp_path), picture_files)
    assert sheet.width == GAP + 4 * ROW
    row = (sheet.height - WORDS) // 2
    for seed in range(2):
        for v in range(3):
            place = cell(sheet, 1 + v, WORDS + seed * row)
            assert (place == shown(made.images[2 * v + seed])).all()


def test_all_pictures_of_a_blend_that_count(vd, tmp_path, picture_files):
    made = blend(vd, picture_files, weights=[1, 0.5], **QUIET)
    assert mode_sheet(save(made, tmp_path), picture_files).width == GAP + 3 * ROW
    made = blend(vd, picture_files, weights=[0, 1], **QUIET)
    sheet = mode_sheet(save(made, tmp_path), picture_files)
    assert (cell(sheet, 0, 0) == shown(Image.open(picture_files[1]))).all()


def test_texts_stand_beside_their_picture(vd, tmp_path, picture_files):
    paths = save(image_to_text(vd, picture_files[:1], n=3, **QUIET), tmp_path)
    sheet = mode_sheet(paths, picture_files)
    assert (cell(sheet, 0, 0) == shown(Image.open(picture_files[0]))).all()
    written = np.asarray(sheet.convert("L"))[:, GAP + ROW :] < 128
    rows = written.any(axis=1)
    assert (rows[1:] & ~rows[:-1]).sum() >= 3  # as many lines as texts


def test_words(vd, tmp_path, picture_files):
    first = picture_files[0]
    results = [
        (text_to_image(vd, "a ring", **QUIET), "a ring", "seed 5"),
        (interpolate(vd, "a ring", "a star", frames=2, **QUIET), "a ring -> a star", "position 0"),
        (latent_edit(vd, first, "red", "blue", **QUIET), "without red, with blue", "seed 5"),
        (
            edit(vd, first, "a ring", "a star", steps=2, progress=False),
            "a ring -> a star",
            "edited",
        ),
        (edit(vd, first, "", "a star", steps=2, progress=False), "a star", "edited"),
    ]
    for made, words, own in results:
        record = read_record(save(made, tmp_path)[0])
        assert (made_from(record), label(record)) == (words, own)


def test_from_the_shell(vd, tmp_path, picture_files, capsys):
    paths = save(image_variation(vd, picture_files, **QUIET), tmp_path)
    file = tmp_path / "new" / "i2i.png"
    arguments = [str(tmp_path / "i2i"), str(picture_files[0].parent), str(file)]
    assert main(arguments) == 0 and capsys.readouterr().out == f"{file}\n"
    expected = np.asarray(mode_sheet(sorted(paths), picture_files))
    with Image.open(file) as image:  # and says how all that it shows was made
        assert json.loads(image.text[RECORDS]) == [read_record(path) for path in sorted(paths)]
    assert (np.asarray(Image.open(file)) == expected).all()
    assert main([str(tmp_path / "i2i"), str(picture_files[0]), str(file)]) == 2
    assert "in none of the inputs" in capsys.readouterr().err
    assert main([str(tmp_path / "nothing"), str(file)]) == 2
    assert "no results" in capsys.readouterr().err
    assert (np.asarray(Image.open(file)) == expected).all()  # as it was
    with pytest.raises(ValueError, match="no record"):
        mode_sheet([picture_files[0]])
