"""A page to compare results on: `python -m analysis gallery` writes `output/index.html`.

One file that needs no server and no network. It holds what is known of every result as data, and
the pictures stay where they are: they are linked, relative to the page.

    gallery_page/page.html    what the page consists of
                 style.css    how it looks, by day and by night
                 filters.js   what is known and asked for, kept in the address
                 list.js      groups of results
                 look.js      a closer look, the comparison
                 keys.js      keys, and the start

Everything that was saved (`outputs`) is shown, in folders of any depth, and so are pictures and
texts that lost their record, with what their names say. What cannot be read is named, not hidden.
Prompts and file names are foreign text: the data is one block of JSON in which no tag can end or
begin, the script makes text nodes of it, and a policy in the page's head lets no other script run
and nothing be fetched from elsewhere.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import json
import math
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from PIL import Image

from analysis.results.outputs import OUT, VOLATILE, read_record
from data.folders import shown
from lib.files import is_being_written, printable, write_atomic

PAGE = "index.html"
KINDS = {".txt": "text", ".mp4": "film"}
KINDS |= dict.fromkeys((".png", ".gif", ".jpg", ".jpeg", ".webp"), "picture")
"""What a page can show, by ending. Of other files only those that have a record are listed."""
LONGEST = 20_000
"""Characters that are shown of a text that has no record; records hold theirs in full."""

_FOLDER = Path(__file__).with_name("gallery_page")
_FILES = ("page.html", "style.css", "filters.js", "list.js", "look.js", "keys.js")
_NUMBERED = re.compile(r"\d{4,}_.*\.json")
_SEED = re.compile(r"_seed(\d+)$")
_UNREADABLE = (OSError, SyntaxError, ValueError, RecursionError, Image.DecompressionBombError)
_EXACT = 2**53
"""From here on JavaScript's numbers skip integers, so larger ones travel as text."""

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Shown:
    """A result as the page shows it.

    Attributes:
        name: its path below the folder, with "/" on every system; tells results apart.
        title: its prompt, or its input's name, or its own.
        settings: its record, flat.
        kind: "picture", "text", "film", or "file", which can only be linked.
        size: of a picture: width and height in pixels.
        text: of a text: what it says.
        note: what is odd about it, as a sentence, or "".
    """

    name: str
    title: str
    settings: dict[str, Scalar]
    kind: str
    size: tuple[int, int] | None = None
    text: str | None = None
    note: str = ""


@dataclass
class Collection:
    """What lies in a folder of results.

    Attributes:
        folder: where.
        results: by folder and number.
        reports: of evaluations: each its settings, flat, and "name" and "json", its files' paths.
        problems: a sentence for everything that could not be read.
    """

    folder: Path
    results: list[Shown] = field(default_factory=list)
    reports: list[dict[str, Scalar]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def write_gallery(out: str | Path = OUT) -> tuple[Path, Collection]:
    """Write `out/index.html`, whole or not at all; an older page is replaced.

    Args:
        out: folder of all results.

    Returns:
        The page's path, and what it shows.

    Raises:
        ValueError: there is no such folder.
        OSError: the page could not be written.
    """
    found = collect(out)

    path = Path(out) / PAGE
    write_atomic(path, page(found))
    return path, found


# ---------------------------------------------------------------------- what there is


def collect(out: str | Path = OUT) -> Collection:
    """Everything in a folder that the page can show, and what is wrong with the rest.

    Hidden files and folders are passed over, and so is what an evaluation keeps beside its report.

    Raises:
        ValueError: there is no such folder.
    """
    out = Path(out)
    if not out.is_dir():
        raise ValueError(
            f"There is no folder {shown(out)!r}: make results first, or say where they are (--out)."
        )
    found = Collection(out)
    for folder, below, names in os.walk(out, onerror=lambda e: found.problems.append(str(e))):
        below[:] = sorted(name for name in below if not name.startswith("."))
        here = Path(folder)
        if here != out and "report.json" in names:
            below.clear()
            _add_report(found, here)
        else:
            _add_results(found, here, sorted(n for n in names if not n.startswith(".")))
    return found


def _add_report(found: Collection, folder: Path) -> None:
    path = folder / "report.json"
    try:
        protocol = read_record(path)["protocol"]
        about = {"run": protocol["run"], "model": protocol["model"]["name"]}
        about |= {key: protocol.get(key) for key in ("settings", "finished")}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        found.problems.append(f"{shown(path)} is damaged, or no report of an evaluation.")
    else:
        text = path.with_suffix(".md")
        files = {"json": path, "name": text if text.is_file() else path}
        names = {key: file.relative_to(found.folder).as_posix() for key, file in files.items()}
        found.reports.append(flat(about) | names)


def _add_results(found: Collection, folder: Path, names: list[str]) -> None:
    records = {Path(name).stem for name in names if _NUMBERED.fullmatch(name)}
    results = set()
    for name in names:
        path = folder / name
        kind = KINDS.get(path.suffix.lower())
        if kind is None and path.stem in records and path.suffix != ".json":
            kind = "file"
        if kind is None or not path.is_file():
            continue
        results.add(path.stem)
        try:
            found.results.append(_result(found, path, kind))
        except _UNREADABLE as error:
            found.problems.append(f"{shown(path)} is passed over, it cannot be read ({error}).")
    for stem in sorted(records - results):
        if is_being_written(folder / stem):
            continue
        found.problems.append(f"{shown(folder / stem)}.json is a record whose result is missing.")


def _result(found: Collection, path: Path, kind: str) -> Shown:
    place = path.parent.relative_to(found.folder)
    known: dict[str, Any] = {"mode": place.name or "other"}
    record, note = _record(found, path)
    if len(place.parts) > 1:
        known["folder"] = place.parent.as_posix()
    if not isinstance(record.get("mode", known["mode"]), str):
        del record["mode"]
    settings = flat({**known, **record, "file": path.name})
    source = PurePath(str(settings.get("input.file") or "")).stem
    title = str(settings.get("prompt") or source or path.stem)
    name = path.relative_to(found.folder).as_posix()
    size = text = None
    if kind == "picture":
        with Image.open(path) as image:  # reads no more than the head
            size = image.size
    elif kind == "text":
        text = settings.pop("text", None)
        if not isinstance(text, str):
            with path.open(encoding="utf-8", errors="replace") as file:
                text = file.read(LONGEST)
    return Shown(name, title, settings, kind, size, text, note)


def _record(found: Collection, path: Path) -> tuple[dict[str, Any], str]:
    """The record beside a result, or in it, or what its name says; a sentence if not the first."""
    beside = path.with_suffix(".json")
    lost = "It has no record: only its name is known."
    if beside.is_file():
        try:
            return read_record(beside), ""
        except (ValueError, RecursionError) as error:
            deep = f"The record of {shown(path)} is damaged (nested too deeply)."
            found.problems.append(str(error) if isinstance(error, ValueError) else deep)
            lost = "Its record is damaged: only its name is known."
    try:
        if path.suffix.lower() == ".png":
            return read_record(path), "The record beside it is lost: this is the one inside of it."
    except (ValueError, RecursionError):
        pass  # a picture from elsewhere
    seed = _SEED.search(path.stem)
    return {"seed": int(seed[1])} if seed else {}, lost


def flat(record: dict[str, Any]) -> dict[str, Scalar]:
    """A record without nesting, so that two can be compared key by key.

    {"model": {"name": "x"}, "blended": [{"weight": 1.0}]} is {"model.name": "x",
    "blended.1.weight": 1}. Lists of plain values stay together, as one text; whole numbers are
    integers, whoever wrote them.
    """
    return dict(_leaves(record, ""))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Scalar]]:
    if isinstance(value, list) and any(isinstance(one, (dict, list)) for one in value):
        value = {str(i): one for i, one in enumerate(value, 1)}
    if isinstance(value, dict) and (value or not path):
        for key, below in value.items():
            yield from _leaves(below, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        yield path, ", ".join(str(_scalar(one)) for one in value) or "none"
    else:
        yield path, "none" if value == {} else _scalar(value)


def _scalar(value: Scalar) -> Scalar:
    if isinstance(value, (bool, str)) or value is None:
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    whole = int(value)
    if whole == value:
        return whole if abs(whole) < _EXACT else str(whole)
    return value


# ---------------------------------------------------------------------- the page


def packed(found: Collection) -> dict[str, Any]:
    """What the page holds, with each name and each value of a setting written once.

    A result's "record" counts in pairs into "keys" and "values". Values are told apart by their
    JSON: 1, "1" and true are three.
    """
    keys: dict[str, int] = {}
    values: dict[str, int] = {}
    results = []
    for one in found.results:
        about = {"id": one.name, "url": url(one.name), "title": one.title, "kind": one.kind}
        more = {"size": one.size, "text": one.text, "note": one.note or None}
        about |= {name: value for name, value in more.items() if value is not None}
        record: list[int] = []
        for key, value in one.settings.items():
            record.append(keys.setdefault(key, len(keys)))
            record.append(values.setdefault(json.dumps(value), len(values)))
        beside = str(PurePath(one.name).with_suffix(".json"))
        about |= {"json": url(beside)} if (found.folder / beside).is_file() else {}
        results.append({**about, "record": record})
    files = ("name", "json")
    reports = [one | {key: url(str(one[key])) for key in files} for one in found.reports]
    return {
        "folder": found.folder.resolve().name,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "volatile": VOLATILE,
        "keys": list(keys),
        "values": [json.loads(value) for value in values],
        "results": results,
        "reports": reports,
        "problems": found.problems,
    }


def url(name: str) -> str:
    """A path below the page as a relative URL, whatever bytes it has: "100% #1.png" works, too."""
    return quote(os.fsencode(name.replace(os.sep, "/")))


def embedded(data: Any) -> str:
    """Data as JSON that may stand between <script> and </script>: ASCII, and without < > &."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"})


def page(found: Collection) -> str:
    """The whole page as text."""
    template, style, *scripts = ((_FOLDER / name).read_text(encoding="utf-8") for name in _FILES)
    script = "\n".join(scripts)
    only = (hashlib.sha256(text.encode()).digest() for text in (style, script))
    styles, scripts = (f"'sha256-{base64.b64encode(digest).decode()}'" for digest in only)
    parts = {
        "title": html.escape(shown(f"Results in {found.folder.resolve().name}")),
        "policy": f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src 'self' file: "
        f"data:; media-src 'self' file:; style-src {styles}; script-src {scripts}",
        "style": style,
        "script": script,
        "data": embedded(packed(found)),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


# ---------------------------------------------------------------------- the command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m analysis gallery`."""
    parser.epilog = "example:\n  python -m analysis gallery --out output"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--out", default=OUT, metavar="DIR", help="folder of all results (default: %(default)s)")
    add("--quiet", action="store_true", help="do not name what could not be read")


def run(args: argparse.Namespace) -> int:
    """Write the page and tell its path; what could not be read goes to stderr. Returns 0.

    Raises:
        ValueError, OSError: with one sentence that says what is wrong.
    """
    path, found = write_gallery(args.out)
    for problem in () if args.quiet else found.problems:
        print(f"warning: {printable(problem, sys.stderr.encoding)}", file=sys.stderr)
    counts = {"result": len(found.results), "evaluation": len(found.reports)}
    told = ", ".join(f"{n} {what}{'' if n == 1 else 's'}" for what, n in counts.items())
    print(f"{printable(path)}  {told}")
    return 0
