"""What lies in a folder of results, as the page of `gallery` shows it.

Everything that was saved (`outputs`) is listed, in folders of any depth, and so are pictures and
texts that lost their record, with what their names say. What cannot be read is named, not hidden.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from PIL import Image

from analysis.results.outputs import OUT, read_record
from data.folders import shown
from lib.files import is_being_written

EXAMPLES = Path(__file__).parents[2] / "assets" / "pictures"
"""Where inputs are looked for by default: the pictures that come with the project."""
SMALL = 256
"""Longest side, in pixels, of the copies of inputs that a page holds."""
KINDS = {".txt": "text", ".mp4": "film"}
KINDS |= dict.fromkeys((".png", ".gif", ".jpg", ".jpeg", ".webp"), "picture")
"""What a page can show, by ending. Of other files only those that have a record are listed."""
LONGEST = 20_000
"""Characters that are shown of a text that has no record; records hold theirs in full."""

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

    def inputs(self) -> list[tuple[str, str]]:
        """Name and SHA-256 of each picture it was made from."""
        kept = self.settings
        names = [key.removesuffix("sha256") + "file" for key in kept if key.endswith(".sha256")]
        pairs = [(kept.get(name), kept[f"{name[:-4]}sha256"]) for name in names]
        return list(dict.fromkeys(pair for pair in pairs if all(isinstance(v, str) for v in pair)))


@dataclass
class Listing:
    """What lies in a folder of results.

    Attributes:
        folder: where.
        results: by mode, folder and number.
        inputs: of those that were found, SHA-256 -> {"name", "size", "url": a small copy}.
        reports: of evaluations: each its settings, flat, and "name" and "json", its files' paths.
        problems: a sentence for everything that could not be read.
    """

    folder: Path
    results: list[Shown] = field(default_factory=list)
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    reports: list[dict[str, Scalar]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def collect(out: str | Path = OUT, order: Sequence[str] = ()) -> Listing:
    """Everything in a folder that the page can show, and what is wrong with the rest.

    Hidden files and folders are passed over, and so is what an evaluation keeps beside its report.

    Args:
        out: the folder.
        order: modes that come first, in that order; others follow by name.

    Raises:
        ValueError: there is no such folder.
    """
    out = Path(out)
    if not out.is_dir():
        raise ValueError(
            f"There is no folder {shown(out)!r}: make results first, or say where they are (--out)."
        )
    listing = Listing(out)
    for folder, below, names in os.walk(out, onerror=lambda e: listing.problems.append(str(e))):
        below[:] = sorted(name for name in below if not name.startswith("."))
        here = Path(folder)
        if here != out and "report.json" in names:
            below.clear()
            _add_report(listing, here)
        else:
            _add_results(listing, here, sorted(n for n in names if not n.startswith(".")))
    rank = {mode: i for i, mode in enumerate(order)}
    listing.results.sort(key=lambda result: rank.get(result.settings["mode"], len(rank)))
    return listing


def _add_report(listing: Listing, folder: Path) -> None:
    path = folder / "report.json"
    try:
        protocol = read_record(path)["protocol"]
        about = {"run": protocol["run"], "model": protocol["model"]["name"]}
        about |= {key: protocol.get(key) for key in ("settings", "finished")}
    except (ValueError, KeyError, TypeError, AttributeError):
        listing.problems.append(f"{shown(path)} is damaged, or no report of an evaluation.")
    else:
        text = path.with_suffix(".md")
        files = {"json": path, "name": text if text.is_file() else path}
        names = {key: file.relative_to(listing.folder).as_posix() for key, file in files.items()}
        listing.reports.append(flat(about) | names)


def _add_results(listing: Listing, folder: Path, names: list[str]) -> None:
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
            listing.results.append(_result(listing, path, kind))
        except _UNREADABLE as error:
            listing.problems.append(f"{shown(path)} is passed over, it cannot be read ({error}).")
    for stem in sorted(records - results):
        if is_being_written(folder / stem):
            continue
        listing.problems.append(f"{shown(folder / stem)}.json is a record whose result is missing.")


def add_inputs(listing: Listing, places: Iterable[str | Path]) -> None:
    """Look for the pictures that results were made from, by name; their content decides."""
    wanted: dict[str, set[str]] = {}
    for result in listing.results:
        for name, digest in result.inputs():
            wanted.setdefault(name, set()).add(digest)
    for place in map(Path, places if wanted else ()):
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            name = shown(path.name)
            missing = wanted.get(name, set()) - listing.inputs.keys()
            try:
                if missing and path.is_file():
                    digest = hashlib.sha256(data := path.read_bytes()).hexdigest()
                    if digest in missing:
                        listing.inputs[digest] = {"name": name, **_small_copy(path, data)}
            except _UNREADABLE as error:
                listing.problems.append(f"{shown(path)} cannot be shown as an input ({error}).")


def _small_copy(path: Path, data: bytes) -> dict[str, Any]:
    """A picture of at most SMALL pixels a side, in a URL; small ones pixel by pixel."""
    from data.pictures import open_picture  # torch takes seconds

    image, buffer = open_picture(path, data), io.BytesIO()
    kind = "PNG" if max(image.size) <= SMALL else "JPEG"
    image.thumbnail((SMALL, SMALL))
    image.save(buffer, kind, quality=85)
    copy = base64.b64encode(buffer.getvalue()).decode()
    return {"size": image.size, "url": f"data:image/{kind.lower()};base64,{copy}"}


def _result(listing: Listing, path: Path, kind: str) -> Shown:
    place = path.parent.relative_to(listing.folder)
    known: dict[str, Any] = {"mode": place.name or "other"}
    record, note = _record(listing, path)
    if len(place.parts) > 1:
        known["folder"] = place.parent.as_posix()
    if not isinstance(record.get("mode", known["mode"]), str):
        del record["mode"]
    settings = flat({**known, **record, "file": path.name})
    source = PurePath(str(settings.get("input.file") or "")).stem
    title = str(settings.get("prompt") or source or path.stem)
    name = path.relative_to(listing.folder).as_posix()
    size = text = None
    if kind == "picture":
        size = _size(path)
    elif kind == "text":
        text = settings.pop("text", None)
        if not isinstance(text, str):
            with path.open(encoding="utf-8", errors="replace") as file:
                text = file.read(LONGEST)
    return Shown(name, title, settings, kind, size, text, note)


def _size(path: Path) -> tuple[int, int]:
    """Width and height; reads no more than the head, but of files that have something odd there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a browser shows very large pictures, too
            with Image.open(path) as image:
                return image.size
    except _UNREADABLE:
        from data.decode import decode, read  # torch takes seconds

        return decode(path, read(path), lambda image: image.size)


def _record(listing: Listing, path: Path) -> tuple[dict[str, Any], str]:
    """The record beside a result, or in it, or what its name says; a sentence if not the first."""
    beside = path.with_suffix(".json")
    lost = "It has no record: only its name is known."
    if beside.is_file():
        try:
            return read_record(beside), ""
        except ValueError as error:
            listing.problems.append(str(error))
            lost = "Its record is damaged: only its name is known."
    try:
        if path.suffix.lower() == ".png":
            return read_record(path), "The record beside it is lost: this is the one inside of it."
    except ValueError:
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
    if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        value = {str(i): item for i, item in enumerate(value, 1)}
    if isinstance(value, dict) and (value or not path):
        for key, below in value.items():
            yield from _leaves(below, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        yield path, ", ".join(str(_scalar(item)) for item in value) or "none"
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
