"""`python -m data emoji DEST`: prepare the drawings of `data.emoji` again from their packages."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lib.__main__ import Parser, status_of


def main(argv: list[str] | None = None) -> int:
    """Prepare, and say what there is; returns the exit status (`lib.__main__.status_of`)."""
    parser = Parser(prog="python -m data", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    emoji = commands.add_parser(
        "emoji",
        help="drawings of several artists, with names in English and French",
        description="Draws the set again from pinned npm packages (needs npm and resvg-py).",
    )
    add = emoji.add_argument
    add("dest", type=Path, metavar="DEST", help="folder, made if it is not there")
    add("--packages", type=Path, metavar="DIR", help="npm archives that lie there already")
    add(
        "--share-alike",
        action="store_true",
        help="also two sets under CC BY-SA 4.0: a model made of them falls under that licence",
    )
    args = parser.parse_args(argv)
    return status_of(lambda: _prepare(args))


def _prepare(args: argparse.Namespace) -> int:
    from data.emoji.prepare import prepare

    drawings = prepare(args.dest, args.packages, args.share_alike)
    artists = ", ".join(f"{artist.name}" for artist in drawings.artists)
    print(f"{args.dest}: {len(drawings)} drawings of {len(drawings.concepts)} things by {artists}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
