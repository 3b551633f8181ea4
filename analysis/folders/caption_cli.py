"""The command line of automatic captions: `python -m analysis caption FOLDER`."""

from __future__ import annotations

import argparse
import json
import sys

from analysis.modes import image_to_text
from analysis.modes.options import Option
from analysis.modes.shell import add_model_options, load_model, name_passed_over, set_warnings

_EXAMPLE = """\
examples:
  python -m analysis caption photos/
  python -m analysis caption photos/ --format sidecar --out photos/ --n 8
  python -m analysis caption photos/ --format webdataset --out shards/ --shard-size 5000

A stopped command goes on when it is started again; another --format costs no generation. Where some
pictures could not be captioned, the others are, and the exit status is 1.
"""
_OF_A_FOLDER = ("n", "seed", "context", "start", "fidelity", "latents", "noise", "output")
"""Options of image-to-text that are of single inputs, or that a folder has in another way."""


def sampling_options() -> dict[str, Option]:
    """The options of image-to-text that captions take, too."""
    options = image_to_text.mode.options
    return {name: option for name, option in options.items() if name not in _OF_A_FOLDER}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m analysis caption`."""
    parser.epilog = _EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="pictures, also in subfolders")
    formats = ("sidecar", "jsonl", "csv", "webdataset")
    add("--format", choices=formats, default="sidecar", help="default: %(default)s")
    add("--out", metavar="DIR", help="captions go there (default: output/caption/FOLDER's name)")
    add("--n", type=int, default=4, help="candidates a picture, ranked by CLIP (default: 4)")
    add("--seed", type=int, default=0, help="chooses the candidates (default: 0)")
    add("--shard-size", type=int, default=1000, help="samples a webdataset shard (default: 1000)")
    again = "caption also what is done, and replace captions that somebody else has written"
    add("--again", action="store_true", help=again)
    group = parser.add_argument_group("how candidates are made")
    for name, option in sampling_options().items():
        option.add_to(group, name)
    add_model_options(parser, ": record and captions")


def run(args: argparse.Namespace) -> int:
    """Caption, as the command line asks; prints where the captions are.

    Returns:
        0, or 1 if some pictures could not be captioned.

    Raises:
        ValueError, OSError: with one sentence that says what is wrong.
    """
    from analysis.folders.caption import caption_folder, check_options
    from data.folders import pictures_below, shown

    set_warnings(args)
    check_options(args.format, args.n, args.seed, args.shard_size)
    pictures_below(args.folder)  # before the model is loaded
    try:
        done = caption_folder(
            load_model(args),
            args.folder,
            args.out,
            form=args.format,
            n=args.n,
            seed=args.seed,
            shard_size=args.shard_size,
            again=args.again,
            progress=not args.quiet,
            **{name: getattr(args, name) for name in sampling_options() if hasattr(args, name)},
        )
    except KeyboardInterrupt:
        print("what was captioned is kept: the same command goes on from here", file=sys.stderr)
        raise
    if args.json:
        document = {
            "out": str(done.out),
            **done.record,
            "captions": [r.describe() for r in done.rows],
        }
        print(json.dumps(document, indent=2))
    else:
        counts = f"{len(done.rows)} captioned ({done.new} of them now), {len(done.broken)} broken"
        kept = f", {len(done.kept)} left with the captions they have" if done.kept else ""
        print(f"{shown(done.out)}  {counts}{kept}")
    return name_passed_over(done.broken, done.others, args)
