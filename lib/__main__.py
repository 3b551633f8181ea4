"""`python -m lib COMMAND ...`: files of weights, and what to expect of them.

    python -m lib inspect pretrained/vd-four-flow-v1-0-fp16.pth
    python -m lib convert vd-four-flow-v1-0 pretrained/vd --dtype bfloat16
    python -m lib convert vd-mini out --layout diffusers
    python -m lib download vd-four-flow-v1-0
    python -m lib doctor

Exit status: as `status_of` says; 1 also if the doctor found a fault.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lib.files import NAMES, printable, system_said

if TYPE_CHECKING:
    from lib.config import ModelSpec

DTYPES = ("float32", "float16", "bfloat16")


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one sentence, and options have their whole names."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is; exit status 2."""
        self.exit(2, f"error: {message} ({self.prog} --help shows what is allowed)\n")


def status_of(run: Callable[[], int], smaller: str = "", stopped: str = "interrupted") -> int:
    """Run a command of any of our programs; its exit status, and a sentence where it is not 0.

    | exit status | |
    |---|---|
    | 0 | done |
    | 1 | the machine would not (disk full, out of memory, no download), or some work failed |
    | 2 | a wrong request: the sentence says what was given, what is allowed, what to do |
    | 130 | interrupted; what was finished is saved |

    Args:
        run: the command, with its arguments.
        smaller: what takes less memory.
        stopped: what to say when it is interrupted.
    """
    try:
        return run()
    except KeyboardInterrupt:
        return complain(stopped, 130)
    except BrokenPipeError:  # whoever read our output has gone; nothing more can be said to them
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ValueError as error:
        return complain(f"error: {error}", 2)
    except OSError as error:
        return complain(f"error: {system_said(error)}", 2 if error.errno in NAMES else 1)
    except FloatingPointError as error:
        return complain(f"error: {error}", 1)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
            raise
        cause = str(error).splitlines()[0] if str(error) else "out of memory."
        return complain(f"error: {cause} {smaller}", 1)


def complain(sentence: str, status: int) -> int:
    """Say what is wrong, in one line; returns the status."""
    print(printable(" ".join(sentence.split()), sys.stderr.encoding), file=sys.stderr)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    args = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.ERROR if args.quiet else logging.WARNING, format="%(message)s"
    )
    return status_of(lambda: args.run(args))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m lib",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    sizes = {
        "metavar": "CONFIG.json",
        "help": "sizes, for files of another model",
    }

    def command(name: str, run: Callable[[Any], int], what: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=what, description=f"{what.capitalize()}.")
        sub.set_defaults(run=run)
        sub.add_argument("--quiet", action="store_true", help="no progress bar, no remarks")
        return sub

    inspect = command("inspect", _inspect, "what files hold, and what they can do")
    inspect.add_argument("model", metavar="MODEL", help="a file, a folder, or a model's name")
    inspect.add_argument("--config", **sizes)
    convert = command("convert", _convert, "write a model in another layout or precision")
    add = convert.add_argument
    add("source", metavar="SRC", help="a file, a folder, or a model's name")
    add("destination", metavar="DST", help="a new folder; for official a new file")
    layouts = ("own", "diffusers", "official")
    add("--layout", choices=layouts, default="own", help="(default: own)")
    add("--dtype", choices=DTYPES, help="of the weights (default: as they are)")
    what = "for diffusers: also a UNet2DConditionModel with the text context layers"
    add("--text-to-image", action="store_true", help=what)
    add("--config", **sizes)
    download = command("download", _download, "put official files into pretrained/")
    what = "vd-four-flow-v1-0 for all it needs, or one file's name"
    download.add_argument("name", metavar="NAME", help=what)
    doctor = command("doctor", _doctor, "what is here, what works, memory and speed")
    doctor.add_argument("--device", help="cpu, cuda, cuda:1, ... or mps (default: the best one)")
    return parser


def _spec(args: argparse.Namespace) -> ModelSpec | None:
    from lib.checks import parse_json
    from lib.config import ModelSpec

    if args.config is None:
        return None
    try:
        return ModelSpec.from_dict(parse_json(Path(args.config).read_bytes()))
    except (OSError, ValueError) as error:
        raise ValueError(f"{args.config} is no configuration of a model ({error}).") from error


def _inspect(args: argparse.Namespace) -> int:
    from lib.checkpoints.inspecting import inspect

    _say(*inspect(args.model, _spec(args)).lines())
    return 0


def _convert(args: argparse.Namespace) -> int:
    import torch

    from lib.checkpoints.converting import convert

    dtype = None if args.dtype is None else getattr(torch, args.dtype)
    convert(
        args.source,
        args.destination,
        args.layout,
        dtype=dtype,
        text_to_image=args.text_to_image,
        spec=_spec(args),
        progress=not args.quiet,
    )
    _say(args.destination)
    return 0


def _download(args: argparse.Namespace) -> int:
    from lib.checkpoints.hub import download

    paths = download(args.name, progress=not args.quiet)
    _say(*(paths or ["everything is here already"]))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from lib.checkpoints.doctor import diagnose

    good = True
    for fine, line in diagnose(args.device):
        good &= fine
        if not (args.quiet and fine):
            _say(line if fine else f"! {line.lstrip()}")
    return 0 if good else 1


def _say(*lines: object) -> None:
    for line in lines:
        print(printable(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
