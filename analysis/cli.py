"""The command line: `python -m analysis COMMAND ...`, derived from the table of modes.

Results are saved as they are made; their paths go to stdout, progress and messages to stderr.

The exit status is as `lib.__main__.status_of` says.

torch takes seconds to import. Whatever needs it is imported when a command runs, so that `--help`
and a misspelt option answer at once.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.modes.shell import add_model_options, load_model, name_passed_over, share_of
from analysis.modes.table import MODES, Input, Mode
from lib.__main__ import Parser, complain, status_of
from lib.files import system_said

if TYPE_CHECKING:
    from analysis.modes.job import Job
    from analysis.results.outputs import Saved

PROG = "python -m analysis"

ELSEWHERE = {
    "evaluate": ("analysis.measure.evaluate", "measure a model"),
    "publish": ("analysis.measure.publish", "put measured numbers into README and model card"),
    "search": ("analysis.folders.search_cli", "find pictures by text, picture, or a mix of both"),
    "caption": ("analysis.folders.caption_cli", "caption the pictures of a folder"),
    "gallery": ("analysis.results.gallery", "write a page to compare results on"),
}
"""Commands that have a module of their own, with `add_arguments(parser)` and `run(args)`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    for stream in (sys.stdout, sys.stderr):  # names of files may hold what a console cannot print
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    argv = list(sys.argv[1:] if argv is None else argv)

    def run() -> int:
        args = build_parser(argv[0] if argv else "").parse_args(argv)
        return args.run(args)

    return status_of(run, "Try a smaller --batch, or --dtype float16.")


def build_parser(command: str = "") -> argparse.ArgumentParser:
    """All commands; only `command` has its options, so that the others cost nothing."""
    parser = Parser(prog=PROG, description="Versatile Diffusion from the shell.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, mode in MODES.items():
        sub = commands.add_parser(
            name,
            help=mode.summary,
            description=(mode.function.__doc__ or "").partition("\n\nArgs:")[0],
            epilog=f"example:\n  {PROG} {mode.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == command:
            _add_mode(sub, mode)
            sub.set_defaults(run=run_mode)
    for name, (module, what) in ELSEWHERE.items():
        sub = commands.add_parser(name, help=what, description=what.capitalize() + ".")
        if name == command:
            there = importlib.import_module(module)
            there.add_arguments(sub)
            sub.set_defaults(run=there.run, modes=tuple(MODES))
    return parser


def add_options(parser: argparse.ArgumentParser, mode: Mode, without: Sequence[str] = ()) -> None:
    """A mode's options as flags; those not given on the command line are not in its namespace."""
    group = parser.add_argument_group("what is made, and how")
    for name, option in mode.options.items():
        if name not in without:
            option.add_to(group, name)


def _add_mode(parser: argparse.ArgumentParser, mode: Mode) -> None:
    for name, item in mode.inputs.items():
        _add_input(parser, name, item)
    if any(item.kind == "any" for item in mode.inputs.values()):
        parser.add_argument(
            "--pictures", action="store_true", help="what is given are picture files, not texts"
        )
    if any(item.kind == "text" and not item.flag for item in mode.inputs.values()):
        parser.add_argument(
            "--prompts",
            metavar="FILE",
            help="prompts from a file: .txt (a line each), .jsonl, .csv",
        )
    add_options(parser, mode)
    add = parser.add_argument_group("results").add_argument
    add("--out", default="output", metavar="DIR", help="results go to DIR/MODE (default: output)")
    add("--again", action="store_true", help="make also what lies in the output folder already")
    add(
        "--share",
        metavar="I/N",
        help="make only every N-th result from the I-th (0 to N - 1) on, as one of N machines that "
        "write into one folder; processes of torchrun and accelerate share without being told",
    )
    add("--sheet", action="store_true", help="save a contact sheet of the pictures in DIR/sheets")
    add("--film", choices=("gif", "mp4"), help="save the pictures as a film in DIR/films, too")
    add_model_options(parser)


def _add_input(parser: argparse.ArgumentParser, name: str, item: Input) -> None:
    metavar = {"image": "PATH", "text": "TEXT"}.get(item.kind, "TEXT")
    if item.flag:
        action = "append" if item.many else "store"
        parser.add_argument(
            item.flag, dest=name, metavar=metavar, help=item.help, action=action, default=None
        )
        return
    nargs = "*" if item.many else ("?" if item.default is not ... else None)
    what = "; folders are the pictures in them" if item.kind == "image" else ""
    parser.add_argument(name, nargs=nargs, metavar=metavar, help=item.help + what)


def run_mode(args: argparse.Namespace) -> int:
    """One of the modes: check the inputs, load the model, make, save, tell."""
    from analysis.results.outputs import prepare

    mode = MODES[args.command]
    values = vars(args)
    inputs = {name: _opened(args, name, item) for name, item in mode.inputs.items()}
    inputs = {name: value for name, value in inputs.items() if value not in (None, [])}
    options = {name: values[name] for name in mode.options if name in values}
    film = args.film
    if options.get("output", "pil") != "pil" and (args.sheet or film):
        raise ValueError("--sheet and --film need pictures: leave them out, or --as.")
    if film:
        if mode.data(options) != "image":
            raise ValueError("--film is for pictures: leave it out, or make some.")
        from analysis.results.films import check_film

        check_film(film)
    args.share = share_of(args.share)
    if args.share[1] > 1 and (args.sheet or film):
        raise ValueError("--sheet and --film show all results: make them when all are there.")
    if args.share[1] > 1 and values.get("seed") is None:
        raise ValueError("Processes that share a job draw no seed of their own: give --seed.")
    prepare(args.out, args.command)
    vd = load_model(args)
    try:
        job = mode.function.job(vd, **inputs, **options)
    except TypeError as error:  # an input that is needed
        raise ValueError(f"{error}") from error
    return run_job(job, args)


def _opened(args: argparse.Namespace, name: str, item: Input) -> Any:
    """What a command names as an input: texts as they are, pictures found and looked at."""
    value = getattr(args, name)
    if item.kind == "text" or (item.kind == "any" and not args.pictures):
        words = value if isinstance(value, list) else [] if value is None else [value]
        if not item.flag and getattr(args, "prompts", None):
            from data.prompts import prompts_in

            if words:
                raise ValueError("Both prompts and --prompts were given: give one of them.")
            return prompts_in(args.prompts)
        for word in words:
            _refuse_file(word)
        if item.many or not words:
            return words or None
        return words[0]
    if not value:
        return None
    from data.pictures import Picture, read_pictures

    if not item.many:
        return Picture.of(value)
    good, args.skipped = read_pictures(value)
    return good


def _refuse_file(word: str) -> None:
    """ValueError if a text is the path of a file: it is rarely meant as a prompt."""
    try:
        is_file = len(word) < 255 and Path(word).is_file()
    except (OSError, ValueError):
        is_file = False
    if is_file:
        raise ValueError(
            f"{word!r} is a text here, but also a file: give --prompts {word} for the prompts in "
            "it, --pictures where pictures are allowed, or write the text differently."
        )


def run_job(job: Job, args: argparse.Namespace) -> int:
    """Make a job's samples, save them, and tell: paths, or one JSON document."""
    from analysis.modes.job import make
    from analysis.results.outputs import save_sheet

    saved: list[Saved] = []

    def report(result: Saved) -> None:
        saved.append(result)
        if not args.json:
            text = f"  {result.record['text']}" if "text" in result.record else ""
            print(f"{result.path}{'' if result.new else '  (was there)'}{text}", flush=True)

    extras: dict[str, Path] = {}
    trouble: BaseException | None = None
    try:
        how = {"again": args.again, "progress": not args.quiet, "share": args.share}
        make(job, args.out, report=report, **how)
        if args.sheet and job.data == "image":
            extras["sheet"] = save_sheet(saved, args.out)
        if args.film:
            from analysis.results.films import save_film

            extras["film"] = save_film(saved, args.out, kind=args.film)
    except (KeyboardInterrupt, OSError) as error:
        trouble = error
    if args.json:
        document = {
            "mode": job.mode,
            "results": [{"path": str(s.path), "new": s.new, **s.record} for s in saved],
            "interrupted": isinstance(trouble, KeyboardInterrupt),
            **{name: str(path) for name, path in extras.items()},
        }
        print(json.dumps(document, indent=2), flush=True)
    else:
        for path in extras.values():
            print(path)
    skipped = name_passed_over({}, getattr(args, "skipped", []), args)
    if trouble is None:
        return skipped
    if isinstance(trouble, BrokenPipeError):
        raise trouble
    seed = getattr(args, "seed", None) or job.seeds[0]
    seed = ",".join(map(str, seed)) if isinstance(seed, list) else seed
    stopped = isinstance(trouble, KeyboardInterrupt)
    what = "interrupted" if stopped else f"error: {system_said(trouble)}"
    rest = f"{len(saved)} of {len(job)} results are saved"
    return complain(
        f"{what}; {rest}, and the same command with --seed {seed} makes the others",
        130 if stopped else 1,
    )
