"""The command line: `python -m analysis COMMAND ...`.

Results are saved as they are made; their paths go to stdout, progress and messages to stderr.

| exit status | |
|---|---|
| 0 | done |
| 1 | the machine would not: disk full, out of memory, a download that failed |
| 2 | bad input; one sentence says what was given, what is allowed, what to do |
| 130 | interrupted; what was finished is saved |

torch takes seconds to import. Whatever needs it is imported when a command runs, so that `--help`
and a misspelt option answer at once.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from analysis.arguments import (
    add_common_arguments,
    color_arguments,
    context_argument,
    number,
    temperature_argument,
)
from analysis.commands import APPLICATIONS, open_files, options_of

if TYPE_CHECKING:
    from pathlib import Path

    from analysis.results import Saved
    from analysis.modes.sampling import Job
    from analysis.modes.series import Series

PROG = "python -m analysis"


@dataclass(frozen=True)
class Flow:
    """A flow as a command.

    Attributes:
        what: what it makes, in a line.
        takes, makes: "text" or "image".
        example: a command's arguments.
    """

    what: str
    takes: str
    makes: str
    example: str


FLOWS = {
    "t2i": Flow(
        what="pictures from texts",
        takes="text",
        makes="image",
        example='t2i "a large red circle above a small blue square" --n 4 --seed 20',
    ),
    "i2i": Flow(
        what="variations of pictures",
        takes="image",
        makes="image",
        example="i2i photo.png folder/ --n 2 --fidelity 0.3 --seed 20",
    ),
    "i2t": Flow(
        what="texts that say what pictures show",
        takes="image",
        makes="text",
        example="i2t photo.png --n 3 --seed 20",
    ),
    "t2t": Flow(
        what="variations of texts",
        takes="text",
        makes="text",
        example='t2t "a small green star on a gray background" --n 3 --seed 20',
    ),
}

ELSEWHERE = {
    "evaluate": ("analysis.measure.evaluate", "measure a model on scenes"),
    "search": ("analysis.folders.search_cli", "find pictures by text, picture, or a mix of both"),
    "caption": ("analysis.folders.caption_cli", "caption the pictures of a folder"),
    "gallery": ("analysis.results.gallery", "write a page to compare results on"),
}
"""Commands that have a module of their own, with `add_arguments(parser)` and `run(args)`."""


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one sentence."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is; exit status 2."""
        self.exit(2, f"error: {message} ({self.prog} --help shows what is allowed)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        args = build_parser(argv[0] if argv else "").parse_args(argv)
        return args.run(args)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except BrokenPipeError:  # whoever read our output has gone; nothing more can be said to them
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ValueError as error:
        return _complain(f"error: {error}", 2)
    except (OSError, FloatingPointError) as error:
        return _complain(f"error: {error}", 1)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
            raise
        told = str(error).splitlines()[0] if str(error) else "out of memory"
        return _complain(f"error: {told} Try a smaller --batch, or --dtype float16.", 1)


def build_parser(command: str = "") -> argparse.ArgumentParser:
    """All commands; one that has a module of its own has its options only if it is `command`."""
    parser = Parser(prog=PROG, description="Versatile Diffusion from the shell.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, flow in FLOWS.items():
        sub = commands.add_parser(
            name,
            help=flow.what,
            description=f"Make {flow.what}.",
            epilog=f"example:\n  {PROG} {flow.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_flow_arguments(sub, flow)
        sub.set_defaults(run=run_flow)
    for name, application in APPLICATIONS.items():
        sub = commands.add_parser(
            name,
            help=application.what,
            description=f"Make {application.what}.",
            epilog=f"example:\n  {PROG} {application.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        application.arguments(sub)
        add_common_arguments(sub)
        sub.set_defaults(run=run_application)
    for name, (module, what) in ELSEWHERE.items():
        sub = commands.add_parser(name, help=what, description=what.capitalize() + ".")
        if name == command:
            there = importlib.import_module(module)
            there.add_arguments(sub)
            sub.set_defaults(run=there.run)
    return parser


def run_flow(args: argparse.Namespace) -> int:
    """One of the four flows: check the inputs, load what is needed, make, save, tell."""
    from analysis.modes.flows import flow_job
    from analysis.modes.given_tensors import read_context, read_latents
    from analysis.results.outputs import prepare
    from data.pictures import picture_files, pictures
    from lib.checks import texts

    flow = FLOWS[args.command]
    inputs: list[Any] | None = None
    context = None if args.context is None else read_context(args.context, flow.takes)
    if args.inputs and context is not None:
        raise ValueError(f"Both inputs and --context were given: give the {flow.takes}s or that.")
    if context is None and flow.takes == "text":
        inputs = texts(args.inputs, "prompt")
    elif context is None:
        inputs = pictures(picture_files(args.inputs))
    latents = None if args.latents is None else read_latents(args.latents, flow.makes)
    prepare(args.out, args.command)
    extra = ()
    if args.negative and flow.takes == "image":
        extra = ("clip_text", "text_context")
    vd = load_model(args, encoders=getattr(args, "fidelity", 0) > 0, extra=extra)
    names = ("fidelity", "color_match", "color_method", "temperature")
    job = flow_job(
        vd,
        args.command,
        inputs,
        n=args.n,
        seed=args.seed,
        steps=args.steps,
        scale=args.scale,
        negative_prompt=args.negative,
        sampler=args.sampler,
        eta=args.eta,
        interval=None if args.interval is None else tuple(args.interval),
        noise=args.noise,
        output=args.output,
        context=context,
        latents=latents,
        batch_size=args.batch,
        **{name: getattr(args, name) for name in names if hasattr(args, name)},
    )
    return run_job(job, args)


def run_application(args: argparse.Namespace) -> int:
    """One of the applications: load what is needed, check the inputs, make, save, tell."""
    from analysis.results.outputs import prepare

    application = APPLICATIONS[args.command]
    open_files(args)
    options = options_of(args, application.makes(args))
    prepare(args.out, args.command)
    flows, extra = application.needs(args)
    if args.negative:
        extra = (*extra, "clip_text", "text_context")
    vd = load_model(args, encoders=False, extra=extra, flows=flows)
    return run_job(application.job(vd, args, options), args)


def load_model(
    args: argparse.Namespace,
    encoders: bool,
    extra: Sequence[str] = (),
    flows: Sequence[str] | None = None,
) -> Any:
    """The model of the common options, with the components of its flows and `extra` ones."""
    import torch

    from lib.checkpoints.weights import load

    logging.basicConfig(
        level=logging.ERROR if args.quiet else logging.WARNING, format="warning: %(message)s"
    )
    dtype = None if args.dtype is None else getattr(torch, args.dtype)
    return load(
        args.model,
        flows=[args.command] if flows is None else flows,
        encoders=encoders,
        components=extra,
        device=args.device,
        dtype=dtype,
    )


def run_job(job: Job | Series, args: argparse.Namespace) -> int:
    """Make a job's samples, save them, and tell: paths, or one JSON document."""
    from analysis.modes.batch import make
    from analysis.results.outputs import save_sheet

    kind = getattr(args, "film", None)
    if args.output != "pil" and (args.sheet or kind):
        raise ValueError(
            f"--sheet and --film need pictures, --as {args.output} makes none: leave one out."
        )
    told: list[Saved] = []

    def report(saved: Saved) -> None:
        told.append(saved)
        if not args.json:
            text = f"  {saved.record['text']}" if "text" in saved.record else ""
            print(f"{saved.path}{'' if saved.new else '  (was there)'}{text}", flush=True)

    sheet: Path | None = None
    film: Path | None = None
    trouble: BaseException | None = None
    try:
        make(job, args.out, again=args.again, progress=not args.quiet, report=report)
        if args.sheet and job.data == "image":
            sheet = save_sheet(told, args.out)
        if kind:
            from analysis.results.films import save_film

            film = save_film(told, args.out, kind=kind)
    except (KeyboardInterrupt, OSError) as error:
        trouble = error
    if args.json:
        results = [{"path": str(s.path), "new": s.new, **s.record} for s in told]
        document = {
            "mode": job.mode,
            "results": results,
            "interrupted": isinstance(trouble, KeyboardInterrupt),
        }
        extras = {"sheet": sheet, "film": film}
        document |= {name: str(path) for name, path in extras.items() if path is not None}
        print(json.dumps(document, indent=2), flush=True)
    else:
        for path in (sheet, film):
            if path is not None:
                print(path)
    if trouble is None:
        return 0
    if isinstance(trouble, BrokenPipeError):
        raise trouble
    what = "interrupted" if isinstance(trouble, KeyboardInterrupt) else f"error: {trouble}"
    rest = f"{len(told)} of {len(job)} results are saved"
    return _complain(
        f"{what}; {rest}, and the same command with --seed {job.seeds[0]} makes the others",
        130 if isinstance(trouble, KeyboardInterrupt) else 1,
    )


def _add_flow_arguments(parser: argparse.ArgumentParser, flow: Flow) -> None:
    if flow.takes == "text":
        parser.add_argument("inputs", nargs="*", metavar="TEXT", help="one or more prompts")
    else:
        parser.add_argument(
            "inputs", nargs="*", metavar="PATH", help="pictures, or folders of pictures"
        )
    context_argument(parser, "--context", f"{flow.takes}s")
    if flow.takes == flow.makes:
        parser.add_argument(
            "--fidelity",
            type=number(float, 0, 1),
            default=0.0,
            metavar="F",
            help="0 (only the content) to 1 (the input itself): how late to start from the input",
        )
    if flow.takes == flow.makes == "image":
        color_arguments(parser)
    if flow.makes == "text":
        temperature_argument(parser)
    add_common_arguments(parser)


def _complain(message: str, status: int) -> int:
    print(" ".join(message.split()), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
