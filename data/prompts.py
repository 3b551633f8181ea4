"""Prompts from a file: a line each, or the column that says what to make."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from lib.checks import parse_json

COLUMNS = ("prompt", "text", "caption", "title")


def prompts_in(path: str | Path) -> list[str]:
    """The prompts of a file, in its order; blank lines are passed over.

    | ending | prompts |
    |---|---|
    | .jsonl | of each line's object, the first of `COLUMNS` that it has; or a line's string |
    | .csv, .tsv | of each row, that column |
    | .json | a list of strings, or of such objects |
    | any other | each line |

    Raises:
        ValueError: no file, none of these columns, or no prompts; the sentence names what is there.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}: give the path of a file of prompts.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() in (".csv", ".tsv"):
            delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
            rows = list(csv.DictReader(io.StringIO(text), delimiter=delimiter))
        elif path.suffix.lower() == ".jsonl":
            rows = [parse_json(line) for line in text.splitlines() if line.strip()]
        elif path.suffix.lower() == ".json":
            rows = parse_json(text)
        else:
            rows = text.splitlines()
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as prompts ({error}).") from error
    prompts = [_prompt(path, row) for row in (rows if isinstance(rows, list) else [rows])]
    prompts = [prompt for prompt in prompts if prompt.strip()]
    if not prompts:
        raise ValueError(f"{path} holds no prompts: give at least one.")
    return prompts


def _prompt(path: Path, row: object) -> str:
    if isinstance(row, str):
        return row
    names = {str(name).strip().lower(): name for name in row} if isinstance(row, dict) else {}
    for column in COLUMNS:
        if column in names:
            return str(row[names[column]] or "")
    columns = ", ".join(names) or "no columns"
    raise ValueError(f"{path} has {columns}: name one of them {' or '.join(COLUMNS)}.")
