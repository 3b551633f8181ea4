"""How inputs differ from good ones: bytes changed, values exchanged, numbers out of range."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

_EDITS = ("flip", "cut", "insert", "remove", "repeat", "overwrite")
_RUNS = (
    b"\xff" * 4,
    b"\x00" * 8,
    b"\x7f\xff\xff\xff",
    b"\x80",
    b"{",
    b"[" * 2000,
    b"\n",
    b"\r",
    b'"',
)
_EDIT = st.tuples(
    st.sampled_from(_EDITS),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 64),
    st.one_of(st.binary(min_size=1, max_size=12), st.sampled_from(_RUNS)),
)
EDITS = st.lists(_EDIT, min_size=1, max_size=4)
"""Changes of a file's bytes, for `edited`."""

ODD_TEXT = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(), max_size=20),  # also halves of surrogate pairs
    st.sampled_from(
        ["", " ", "\0", "x" * 5000, "../secret.png", "/dev/zero", "a\\b.png", "é" * 70]
    ),
    st.sampled_from(["é.png", "e\u0301.png", "0.png", "sub/../1.png", "con", ".", "..", "~", "-x"]),
)
NUMBERS = st.one_of(
    st.sampled_from([-1, 0, 1, 2, 3, 7, 2**31, 2**63, 10**9, 10**30, 0.5, 1e-30, 1e300, -0.0]),
    st.sampled_from([float("nan"), float("inf"), float("-inf")]),
    st.integers(-5, 70),
    st.floats(),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, ODD_TEXT),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)
"""What a value of a JSON file may be exchanged for."""
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["set", "set", "set", "delete", "add"]), st.integers(0, 10**6), VALUES
    ),
    min_size=1,
    max_size=3,
)
"""Changes of what a JSON file says, for `exchanged`."""
WORDS = st.one_of(
    st.sampled_from(["-1", "0", "1", "2", "3", "0.5", "1e-9", "nan", "inf", "1e400", "9" * 5000]),
    st.sampled_from(["", "x", "1e3", "0x10", "٣", "1,2", "1,2,", "true", "None", "3.0", "１"]),
    st.integers(-(2**70), -1).map(str),
    st.floats(0, 1).map(str),
    st.text(max_size=8),
)
"""Words of a command line where a number belongs; none of them asks for much."""


def edited(data: bytes, edits: list[tuple[str, float, int, bytes]]) -> bytes:
    """A file's bytes after some changes."""
    for kind, where, count, payload in edits:
        at = int(where * len(data))
        if kind == "flip" and data:
            data = data[:at] + bytes([data[at] ^ (1 + count)]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + payload + data[at:]
        elif kind == "remove":
            data = data[:at] + data[at + count :]
        elif kind == "repeat":
            data = data[: at + count] + data[at:]
        else:
            data = data[:at] + payload + data[at + len(payload) :]
    return data


def exchanged(value: Any, changes: list[tuple[str, int, Any]]) -> Any:
    """A JSON value in which some values are others, are gone, or are added."""
    value = copy.deepcopy(value)
    for kind, which, new in changes:
        places = list(_places(value))
        if not places:
            return new
        inside, key = places[which % len(places)]
        if kind == "set":
            inside[key] = new
        elif kind == "delete":
            del inside[key]
        elif isinstance(inside, dict):
            inside[f"{key}x"] = new
        else:
            inside.append(new)
    return value


def _places(value: Any) -> Any:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(pairs):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from _places(inner)


def as_json(value: Any) -> bytes:
    """The text of a JSON file, however odd its values."""
    return json.dumps(value).encode(errors="surrogatepass")
