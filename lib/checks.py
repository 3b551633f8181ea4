"""Checks of what people give: numbers, texts and JSON, before any compute.

Bad input is a `ValueError` of one sentence: what was given, what is allowed, what to do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

DEEPEST = 100
"""Levels of lists and objects that JSON may have."""


def whole_number(name: str, value: Any, low: int = 1, high: float = math.inf) -> int:
    """Return `value` as an int; ValueError unless it is a whole number from `low` to `high`."""
    good = isinstance(value, Integral) and not isinstance(value, bool)
    if not (good and low <= value <= high):
        until = "on" if high == math.inf else f"to {high}"
        raise ValueError(f"{name} is {_shown(value)}: give a whole number from {low} {until}.")
    return int(value)


def number(name: str, value: Any, low: float = 0.0, high: float = math.inf) -> float:
    """Return `value` as a float; ValueError unless it is a finite number from `low` to `high`."""
    good = isinstance(value, Real) and not isinstance(value, bool)
    try:
        exact = float(value) if good else math.nan
    except OverflowError:  # a whole number of hundreds of digits
        exact = math.inf
    if not (math.isfinite(exact) and low <= exact <= high):
        until = "on" if high == math.inf else f"to {high:g}"
        raise ValueError(f"{name} is {_shown(value)}: give a number from {low:g} {until}.")
    return exact


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def texts(given: Any, what: str = "text") -> list[str]:
    """One text or many.

    Raises:
        ValueError: none, or one of them is empty, no text, or not valid Unicode.
    """
    given = [given] if isinstance(given, str) else listed(given, what)
    if not given:
        raise ValueError(f"There is no {what}: give at least one.")
    for i, text in enumerate(given, start=1):
        which = f"The {what}" if len(given) == 1 else f"{what.capitalize()} {i} of {len(given)}"
        if not isinstance(text, str):
            raise ValueError(f"{which} is of type {type(text).__name__}: give a string.")
        if not text.strip():
            raise ValueError(f"{which} is empty: say what to make, in at least one word.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{which} is not valid Unicode ({error}): write it anew.") from error
    return list(given)


def listed(given: Any, what: str) -> list[Any]:
    """What was given as a list; ValueError unless it is a sequence or can be gone through."""
    if isinstance(given, (bytes, dict)) or not isinstance(given, (Sequence, Iterable)):
        raise ValueError(f"{what} is of type {type(given).__name__}: give one, or a list.")
    return list(given)


def parse_json(data: bytes | str) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is none, or nested deeper than anybody means: what is read here can be
            written again, whoever calls.
    """
    try:
        value = json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [part for part in level if isinstance(part, (dict, list))]
        if not level:
            return value
        level = [x for part in level for x in (part.values() if isinstance(part, dict) else part)]
    raise ValueError("it is nested too deeply")


def read_json(path: Path, otherwise: str = "copy it again") -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: it is damaged; the sentence ends with what to do `otherwise`.
    """
    try:
        values = parse_json(path.read_bytes())
        if isinstance(values, dict):
            return values
        why: object = "not a JSON object"
    except ValueError as error:  # not JSON, not text, or absurdly deep
        why = error
    raise ValueError(f"{path} is damaged ({why}): {otherwise}.")
