"""Tables of captioned pictures: JSON lines, CSV and its like, with the columns that people have."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data.entries import (
    CAPTION_COLUMNS,
    PICTURE_COLUMNS,
    Item,
    captions_of,
    lines,
    plain,
    value_of,
)
from data.folders import LIST_BYTES, Skipped, files_below, read_file, shown
from data.names import folder_of_pictures, listed, merged
from lib.checks import parse_json

TABLES = (".jsonl", ".csv", ".tsv", ".txt")
_DELIMITERS = ",\t;|"
_HEADER = 2**16
_WANTED = (
    f"give the picture as {', '.join(PICTURE_COLUMNS[:4])} or {PICTURE_COLUMNS[5]}, the caption as "
    f"{', '.join(CAPTION_COLUMNS[:2])} or {CAPTION_COLUMNS[3]}"
)


def read_tables(path: Path, outside: bool = False) -> Iterator[Item]:
    """Rows of `metadata.jsonl` or `.csv` of all subfolders, or of other tables that fit.

    Rows of the same picture are one entry with all their captions.

    Raises:
        ValueError: there is no such file, or one that cannot be read.
    """
    files = tables_of(path) if path.is_dir() else [path]
    if not files:
        raise ValueError(
            f"{shown(path)} has no metadata.jsonl or metadata.csv, and no other table that fits: "
            f"{_WANTED}."
        )
    top = path if path.is_dir() else path.parent
    return merged(item for file in files for item in _read_table(file, top, outside))


def _read_table(file: Path, top: Path, outside: bool) -> Iterator[Item]:
    rows = _json_rows(file) if file.suffix.lower() == ".jsonl" else _csv_rows(file)
    captions: dict[str, list[Any]] = {}
    columns: dict[str, None] = {}
    lost: list[Skipped] = []
    for where, row in rows:
        name = None
        if isinstance(row, dict):
            columns |= dict.fromkeys(row)
            name = value_of(row, PICTURE_COLUMNS)
        if isinstance(name, str):
            captions.setdefault(name, []).extend([*captions_of(row), row])
        else:
            why = f"is no row ({row})" if isinstance(row, str) else "names no picture"
            lost.append(Skipped(where, why))
    if columns and not fits(columns):
        there = ", ".join(map(shown, list(columns)[:10]))
        yield Skipped(shown(file.relative_to(top)), f"has the columns {there}: {_WANTED}")
        return
    yield from lost
    root, _ = folder_of_pictures(file, captions)
    yield from listed(captions, root, top, file.parent.relative_to(top).as_posix(), outside)


def fits(columns: Iterable[str]) -> bool:
    """Whether a table's plain column names hold a picture's and a caption's."""
    row = dict.fromkeys(columns, "x")
    return bool(value_of(row, PICTURE_COLUMNS) and captions_of(row))


def tables_of(folder: Path) -> list[Path]:
    """All `metadata.jsonl`, else all `metadata.csv`, else other tables of one kind that fit."""
    for name in ("metadata.jsonl", "metadata.csv"):
        if files := files_below(folder, name):
            return files
    for ending in TABLES:
        others = [file for file in sorted(folder.glob(f"[!.]*{ending}")) if file.is_file()]
        if files := [file for file in others if fits(columns_of(file))]:
            return files
    return []


def columns_of(file: Path) -> list[str]:
    """Plain names of a table's columns; none where it is no table."""
    try:
        with file.open("rb") as opened:
            head = opened.readline(_HEADER)
        if file.suffix.lower() == ".jsonl":
            row = parse_json(head.decode("utf-8-sig"))
            return [plain(key) for key in row] if isinstance(row, dict) else []
        first = lines(head)[0] if head else ""
    except (OSError, ValueError):
        return []
    return _header(first)[1] if any(mark in first for mark in _DELIMITERS) else []


def _header(line: str) -> tuple[str, list[str]]:
    """A table's delimiter and columns: those that fit, or the most."""
    rows = []
    for delimiter in _DELIMITERS:
        try:
            row = next(csv.reader([line], delimiter=delimiter), [])
        except csv.Error:
            row = []
        rows.append((delimiter, [plain(column) for column in row]))
    return next((row for row in rows if fits(row[1])), max(rows, key=lambda row: len(row[1])))


def _json_rows(file: Path) -> Iterator[tuple[str, Any]]:
    for i, line in enumerate(io.BytesIO(read_list(file)), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line.decode("utf-8-sig"))
        except ValueError as error:
            row = str(error)
        yield (
            f"{file.name}, line {i}",
            {plain(key): row[key] for key in row} if isinstance(row, dict) else row,
        )


def _csv_rows(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        text = read_list(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown(file)} is not UTF-8 ({error}): save it as UTF-8.") from error
    delimiter, columns = _header(text[:_HEADER].partition("\n")[0].rstrip("\r"))
    table = csv.DictReader(
        io.StringIO(text, newline=""), columns, delimiter=delimiter, skipinitialspace=True
    )
    next(table, None)  # the header
    while True:
        where = f"{file.name}, line {table.line_num + 1}"
        try:
            row: Any = {key: value for key, value in next(table).items() if key is not None}
        except StopIteration:
            return
        except csv.Error as error:
            row = str(error)
        yield where, row


def read_list(file: Path) -> bytes:
    """The bytes of a list.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return read_file(file, LIST_BYTES)
    except OSError as error:
        raise ValueError(f"{shown(file)} cannot be read ({error.strerror}).") from error
