"""The command line of visual search: `python -m analysis search index|query`."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from analysis.modes.shell import add_model_options, load_model, name_passed_over, set_warnings

_WEIGHED = re.compile(r"(?s)(.*\S)\s*::\s*([0-9.eE+-]+)\s*")
_EXAMPLE = """\
examples:
  python -m analysis search index photos/
  python -m analysis search query --text "a red circle" --k 8
  python -m analysis search query --image photo.png --text "at night::0.5" --not "a person"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m analysis search`."""
    layout: dict[str, Any] = {
        "epilog": _EXAMPLE,
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }
    parser.epilog, parser.formatter_class = layout.values()
    actions = parser.add_subparsers(dest="action", metavar="index|query", required=True)
    what = "index a folder of pictures, or bring its index up to date"
    index = actions.add_parser("index", help=what, description=f"I{what[1:]}.", **layout)
    add = index.add_argument
    add("folder", metavar="FOLDER", help="pictures, also in subfolders")
    add("--batch", type=int, default=32, help="pictures encoded at a time (default: %(default)s)")
    add("--precision", choices=("float16", "float32"), help="of the vectors (default: float16)")
    add("--verify", action="store_true", help="compare contents, not only sizes and times")

    what = "find pictures by text, picture, or a mix"
    query = actions.add_parser("query", help=what, description=f"F{what[1:]}.", **layout)
    add = query.add_argument
    many: dict[str, Any] = {"action": "append", "default": []}
    add("--text", metavar="TEXT[::WEIGHT]", help="what they show; may be repeated", **many)
    add("--image", metavar="PATH[::WEIGHT]", help="what they are like; may be repeated", **many)
    away = "text or picture file to keep away from, weight 0.5 if none is given; may be repeated"
    add("--not", dest="without", metavar="TEXT|PATH[::WEIGHT]", help=away, **many)
    add("--k", type=int, default=12, help="how many to find (default: %(default)s)")
    balance = "let texts and pictures count alike, however widely their cosines spread"
    add("--balance", action="store_true", help=balance)
    add("--no-sheet", action="store_true", help="save no contact sheet")

    for sub in (index, query):
        add = sub.add_argument
        add("--index", metavar="DIR", help="where the index is kept (default: OUT/search/index)")
        add("--out", default="output", metavar="DIR", help="results: DIR/search (default: output)")
        library = "how to search: auto takes usearch above 200,000 pictures, if it is installed"
        add("--library", choices=("auto", "exact", "usearch"), default="auto", help=library)
        add_model_options(sub, "")


def run(args: argparse.Namespace) -> int:
    """Index or query, as the command line asks.

    Returns:
        0, or 1 if some pictures could not be indexed.

    Raises:
        ValueError, OSError: with one sentence that says what is wrong.
    """
    set_warnings(args)
    index = Path(args.out, "search", "index") if args.index is None else Path(args.index)
    return (_index if args.action == "index" else _query)(args, index)


def _index(args: argparse.Namespace, index: Path) -> int:
    from analysis.folders.indexing import update_index
    from analysis.folders.neighbours import choose
    from data.folders import others_below, pictures_below, shown

    pictures_below(args.folder)  # before the model is loaded
    choose(args.library, 0)
    began = time.perf_counter()
    try:
        update = update_index(
            load_model(args),
            args.folder,
            index,
            batch_size=args.batch,
            precision=args.precision,
            verify=args.verify,
            library=args.library,
            progress=not args.quiet,
        )
    except KeyboardInterrupt:
        print("what was encoded is kept: the same command goes on from here", file=sys.stderr)
        raise
    if args.json:
        document = {"index": str(index), **vars(update), "seconds": time.perf_counter() - began}
        print(json.dumps(document, indent=2))
    else:
        kinds = ("new", "changed", "removed", "unchanged", "broken")
        counts = ", ".join(f"{len(getattr(update, kind))} {kind}" for kind in kinds)
        print(f"{shown(index)}  {counts}; {update.encoded} encoded")
    return name_passed_over(update.broken, others_below(args.folder), args)


def _query(args: argparse.Namespace, index: Path) -> int:
    from analysis.folders.neighbours import choose
    from analysis.folders.search import AWAY, as_result, check_text, find
    from analysis.folders.vectors import read_index
    from analysis.results.outputs import prepare, save
    from data.folders import shown
    from data.pictures import Picture

    texts = [(check_text(what), w) for what, w in (_weighed(text, 1.0) for text in args.text)]
    images = [(Picture.of(what), w) for what, w in (_weighed(path, 1.0) for path in args.image)]
    without = [
        (Picture.of(what) if _is_picture(what) else check_text(what), w)
        for what, w in (_weighed(away, AWAY) for away in args.without)
    ]
    if not texts and not images:
        raise ValueError("There is nothing to look for: give --text or --image.")
    choose(args.library, len(read_index(index)))
    prepare(args.out, "search")
    vd = load_model(args)
    hits = find(
        vd, index, texts=texts, images=images, without=without, k=args.k, balance=args.balance,
        library=args.library,
    )  # fmt: skip
    sheet = None if args.no_sheet else save(as_result(hits), args.out)[0]
    if args.json:
        rows = [
            {"path": shown(path), "score": hit.score, "cosines": hit.cosines}
            for path, hit in zip(hits.paths, hits.hits, strict=True)
        ]
        document = {**hits.record, "hits": rows, "sheet": None if sheet is None else str(sheet)}
        print(json.dumps(document, indent=2))
        return 0
    for path, hit in zip(hits.paths, hits.hits, strict=True):
        print(f"{hit.score:.4f}  {shown(path)}")
    if sheet is not None:
        print(sheet)
    return 0


def _weighed(word: str, weight: float) -> tuple[str, float]:
    """`what::0.5` -> ("what", 0.5)."""
    match = _WEIGHED.fullmatch(word)
    if match is None:
        return word, weight
    try:
        value = float(match[2])
    except ValueError as error:
        raise ValueError(f"{word!r} ends in ::{match[2]}: give a number after ::.") from error
    if not 0 < value < float("inf"):
        raise ValueError(f"{word!r} has the weight {match[2]}: give one above 0.")
    return match[1], value


def _is_picture(word: str) -> bool:
    """Whether a --not means a file; one that is missing shall not be taken for a text."""
    from data.folders import picture_endings

    path = Path(word)
    return path.suffix.lower() in picture_endings() or (len(word) < 256 and path.is_file())
