"""A page to compare results on: `python -m analysis gallery` writes `output/index.html`.

One file that needs no server and no network. It holds what is known of every result as data, and
the pictures stay where they are: they are linked, relative to the page. Beside a result stand the
pictures it was made from. Records say what they were, not where they lay, so they are looked for
by name and content, and small copies of them are kept in the page.

    gallery_page/page.html    what the page consists of
                 style.css    how it looks, by day and by night
                 filters.js   what is known and asked for, kept in the address
                 list.js      groups of results
                 look.js      a closer look, the comparison
                 keys.js      keys, and the start

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
import os
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from analysis.results.collection import EXAMPLES, Listing, add_inputs, collect
from analysis.results.outputs import OUT, VOLATILE
from data.folders import shown
from lib.checks import parse_json
from lib.files import printable, write_atomic

PAGE = "index.html"
_FOLDER = Path(__file__).with_name("gallery_page")
_FILES = ("page.html", "style.css", "filters.js", "list.js", "look.js", "keys.js")


def write_gallery(
    out: str | Path = OUT,
    inputs: Iterable[str | Path] = (EXAMPLES,),
    order: Sequence[str] = (),
) -> tuple[Path, Listing]:
    """Write `out/index.html`, whole or not at all; an older page is replaced.

    Args:
        out: folder of all results.
        inputs: picture files, and folders of them, that results may have been made from; results
            themselves are looked through, too.
        order: modes that come first, in that order; others follow by name.

    Returns:
        The page's path, and what it shows.

    Raises:
        ValueError: there is no such folder.
        OSError: the page could not be written.
    """
    listing = collect(out, order)
    add_inputs(listing, [*inputs, out])
    path = Path(out) / PAGE
    try:
        write_atomic(path, page(listing))
    except OSError as error:
        raise OSError(
            f"{shown(path)} could not be written ({error.strerror or error}): free some space or "
            "say where else the results are (--out); an older page is as it was."
        ) from error
    return path, listing


# ---------------------------------------------------------------------- the page


def packed(listing: Listing) -> dict[str, Any]:
    """What the page holds, with each name and each value of a setting written once.

    A result's "record" counts in pairs into "keys" and "values". Values are told apart by their
    JSON: 1, "1" and true are three.
    """
    keys: dict[str, int] = {}
    values: dict[str, int] = {}
    places = {digest: i for i, digest in enumerate(listing.inputs)}
    results = []
    for result in listing.results:
        record: list[int] = []
        for key, value in result.settings.items():
            record.append(keys.setdefault(key, len(keys)))
            record.append(values.setdefault(json.dumps(value), len(values)))
        beside = str(PurePath(result.name).with_suffix(".json"))
        about = {
            "id": result.name,
            "url": url(result.name),
            "title": result.title,
            "kind": result.kind,
            "size": result.size,
            "text": result.text,
            "note": result.note or None,
            "json": url(beside) if (listing.folder / beside).is_file() else None,
            "inputs": [places[digest] for _, digest in result.inputs() if digest in places],
            "record": record,
        }
        results.append({name: value for name, value in about.items() if value is not None})
    files = ("name", "json")
    reports = [report | {key: url(str(report[key])) for key in files} for report in listing.reports]
    return {
        "folder": listing.folder.resolve().name,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "volatile": VOLATILE,
        "keys": list(keys),
        "values": [parse_json(value) for value in values],
        "results": results,
        "inputs": list(listing.inputs.values()),
        "reports": reports,
        "problems": listing.problems,
    }


def url(name: str) -> str:
    """A path below the page as a relative URL, whatever bytes it has: "100% #1.png" works, too."""
    return quote(os.fsencode(name.replace(os.sep, "/")))


def embedded(data: Any) -> str:
    """Data as JSON that may stand between <script> and </script>: ASCII, and without < > &."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"})


def page(listing: Listing) -> str:
    """The whole page as text."""
    template, style, *scripts = ((_FOLDER / name).read_text(encoding="utf-8") for name in _FILES)
    script = "\n".join(scripts)
    only = (hashlib.sha256(text.encode()).digest() for text in (style, script))
    styles, scripts = (f"'sha256-{base64.b64encode(digest).decode()}'" for digest in only)
    parts = {
        "title": html.escape(shown(f"Results in {listing.folder.resolve().name}")),
        "policy": f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src 'self' file: "
        f"data:; media-src 'self' file:; style-src {styles}; script-src {scripts}",
        "style": style,
        "script": script,
        "data": embedded(packed(listing)),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


# ---------------------------------------------------------------------- the command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m analysis gallery`."""
    parser.epilog = "example:\n  python -m analysis gallery --out output --inputs photos"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--out", default=OUT, metavar="DIR", help="folder of all results (default: %(default)s)")
    inputs = "pictures that results were made from, and folders of them, to be shown beside them"
    add(
        "--inputs",
        nargs="+",
        default=[EXAMPLES],
        metavar="PATH",
        help=f"{inputs} (default: the examples that come with the project)",
    )
    add("--quiet", action="store_true", help="do not name what could not be read")


def run(args: argparse.Namespace) -> int:
    """Write the page and tell its path; what could not be read goes to stderr. Returns 0.

    Args:
        args: options of the command, and `modes`, in the order in which they are shown.

    Raises:
        ValueError, OSError: with one sentence that says what is wrong.
    """
    path, listing = write_gallery(args.out, args.inputs, args.modes)
    for problem in () if args.quiet else listing.problems:
        print(f"warning: {printable(problem, sys.stderr.encoding)}", file=sys.stderr)
    counts = {"result": len(listing.results), "evaluation": len(listing.reports)}
    numbers = ", ".join(f"{n} {what}{'' if n == 1 else 's'}" for what, n in counts.items())
    print(f"{printable(path)}  {numbers}")
    return 0
