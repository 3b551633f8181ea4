"""Results beside what they were made from, for showing what a mode does.

    python -m analysis.results.mode_sheets output/edit assets/pictures edit.png

A row holds what shares its inputs, and along a strip its seed: the words it was made from above,
the pictures it was made from first, then the results, pictures side by side or texts line by line.
Records say which pictures those were, but not where they lay; they are found in a folder by their
content.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from analysis.results.outputs import read_record
from analysis.results.sheets import contact_sheet, load_font
from data.pictures import open_picture, picture_files
from lib.__main__ import status_of
from lib.files import printable, write_atomic

RECORDS = "records"
"""Key of the PNG's metadata that holds the records of all results on a sheet, as a JSON list."""
FLOWS = {
    "t2i": "text to image",
    "i2i": "image variation",
    "i2t": "image to text",
    "t2t": "text variation",
}
"""The four directions, as a sheet of several modes names them."""
CELL = 128
GAP = 10
FONT_SIZE = 14
LINE = int(FONT_SIZE * 1.5)


def mode_sheet(results: Sequence[Path], inputs: Sequence[Path] = ()) -> Image.Image:
    """One picture that shows results, a row for each group of them.

    Args:
        results: saved pictures or saved texts (.png or .txt), with their records.
        inputs: picture files, among them those that the results were made from.

    Raises:
        ValueError: no results, one without a record, or an input picture that is not there.
    """
    if not results:
        raise ValueError("There are no results to show: give at least one.")
    known = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in inputs}
    groups: dict[tuple, list[tuple[Path, dict[str, Any]]]] = {}
    for path in results:
        record = read_record(path)
        digests = [picture["sha256"] for picture in _input_pictures(record)]
        if not known.keys() >= set(digests):
            raise ValueError(
                f"{path.name} was made from a picture that is in none of the inputs: give the "
                "folder where it lies."
            )
        seed = record["seed"] if "strip" in record and path.suffix == ".png" else None
        key = (record["mode"], made_from(record), *digests, seed)
        groups.setdefault(key, []).append((path, record))
    rows: list[Image.Image] = []
    several = len({mode for mode, *_ in groups}) > 1
    mode_before = words_before = ""
    for (mode, words, *digests, _), group in groups.items():
        if several and mode != mode_before:
            rows.append(_lines([f"{FLOWS.get(mode, mode)}:"]))
            words_before = ""
        mode_before = mode
        if words and words != words_before:
            rows.append(_lines([words]))
        words_before = words
        rows.append(_row([open_picture(known[digest]) for digest in digests], group))
    widths, heights = zip(*(row.size for row in rows), strict=True)
    sheet = Image.new("RGB", (max(widths), sum(heights)), "white")
    for k, row in enumerate(rows):
        sheet.paste(row, (0, sum(heights[:k])))
    return sheet


def made_from(record: Mapping[str, Any]) -> str:
    """The words that a result was made from: "A", "A -> B" where one led to the other, or ""."""
    if "remove" in record:
        taken = [f"without {record['remove']}"] if record["remove"] else []
        return ", ".join(taken + ([f"with {record['add']}"] if record["add"] else []))
    words = [record.get(name) for name in ("source", "prompt", "prompt_to")]
    return " -> ".join(word for word in words if word and isinstance(word, str))


def label(record: Mapping[str, Any]) -> str:
    """What tells a result from the others of its row."""
    strip = record.get("strip")
    if strip:
        return f"{strip} {record[strip]:.3g}"
    # what leads from a source to a target depends on no seed
    return "edited" if "source" in record else f"seed {record['seed']}"


def _input_pictures(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    if "blended" in record:
        return [picture for picture in record["blended"] if picture["weight"] > 0]
    return [record[name] for name in ("input", "input_to") if "sha256" in record.get(name, {})]


def _row(
    inputs: Sequence[Image.Image], group: Sequence[tuple[Path, dict[str, Any]]]
) -> Image.Image:
    """Inputs first; then pictures beside them, or texts as lines beside them."""
    if group[0][0].suffix == ".txt":
        lines = _lines([f"{label(record)}:  {record['text']}" for _, record in group])
        if not inputs:
            return lines
        left = contact_sheet(inputs, len(inputs), cell=CELL, gap=GAP)
        row = Image.new("RGB", (left.width + lines.width, max(left.height, lines.height)), "white")
        row.paste(left, (0, 0))
        row.paste(lines, (left.width, max(0, (left.height - lines.height) // 2)))
        return row
    images = [*inputs, *(open_picture(path) for path, _ in group)]
    labels = ["input"] * len(inputs) + [label(record) for _, record in group]
    return contact_sheet(images, len(images), labels, cell=CELL, gap=GAP, font_size=FONT_SIZE)


def _lines(texts: Sequence[str]) -> Image.Image:
    font = load_font(FONT_SIZE)
    width = int(max(font.getlength(text) for text in texts)) + 2 * GAP
    page = Image.new("RGB", (width, LINE * len(texts) + GAP), "white")
    for i, text in enumerate(texts):
        ImageDraw.Draw(page).text((GAP, GAP // 2 + i * LINE), text, fill="black", font=font)
    return page


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser("python -m analysis.results.mode_sheets", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "results", type=Path, metavar="DIR", help="results of one mode, or of the four flows"
    )
    parser.add_argument("inputs", metavar="PATH", nargs="*", help="input pictures, or their folder")
    parser.add_argument("sheet", type=Path, metavar="FILE", help="PNG to write, or to replace")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a sheet; returns the exit status (`lib.__main__.status_of`)."""
    args = build_parser().parse_args(arguments)
    return status_of(lambda: _write(args))


def _write(args: argparse.Namespace) -> int:
    folders = [args.results, *(args.results / flow for flow in FLOWS)]
    results = [
        path
        for folder in folders
        for path in sorted(folder.glob("[0-9]*"))
        if path.suffix in (".png", ".txt")
    ]
    sheet = mode_sheet(results, picture_files(args.inputs))
    buffer = io.BytesIO()
    info = PngInfo()
    info.add_itxt(RECORDS, json.dumps([read_record(path) for path in results]))
    sheet.save(buffer, "PNG", pnginfo=info)
    write_atomic(args.sheet, buffer.getvalue())
    print(printable(args.sheet))
    return 0


if __name__ == "__main__":
    sys.exit(main())
