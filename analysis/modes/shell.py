"""What commands share: the model, and what was passed over of folders."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.folders import Skipped

INCOMPLETE = 1
"""Exit status where some pictures of a folder could not be done, and the rest was."""


def add_model_options(parser: argparse.ArgumentParser, document: str = ": the records") -> None:
    """Options of every command that loads a model; `document` says what --json prints."""
    add = parser.add_argument_group("model and messages").add_argument
    add("--model", default="vd-mini", help="name or path of the model (default: %(default)s)")
    add("--lora", action="append", metavar="PATH", help="an adapter to merge (training --lora)")
    add("--device", help="cpu, cuda, cuda:1, mps (default: the best one here)")
    add("--dtype", choices=("float32", "float16", "bfloat16"), help="default: by the hardware")
    add("--json", action="store_true", help=f"print one JSON document{document}")
    add("--quiet", action="store_true", help="no progress bar, no warnings")


def load_model(args: argparse.Namespace) -> Any:
    """The model of the options; its components are read when something first requires them."""
    set_warnings(args)
    import torch

    from lib.checkpoints import load

    dtype = None if args.dtype is None else getattr(torch, args.dtype)
    device = args.device
    if device is None and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        device = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    vd = load(args.model, device=device, dtype=dtype)
    for path in args.lora or ():
        from lib.checkpoints.lora import merge_lora

        merge_lora(vd, path)
    return vd


def share_of(told: str | None) -> tuple[int, int]:
    """Number of this process among those that share a job, and how many they are.

    Args:
        told: "I/N", or None: as torchrun and accelerate tell their processes (RANK, WORLD_SIZE).

    Raises:
        ValueError: no such share.
    """
    text = told or f"{os.environ.get('RANK', 0)}/{os.environ.get('WORLD_SIZE', 1)}"
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise ValueError(
            f"share is {text!r}: give I/N, the I-th of N processes counted from 0, such as 0/4."
        )
    return int(number), int(count)


def set_warnings(args: argparse.Namespace) -> None:
    """Warnings go to stderr, unless --quiet."""
    level = logging.ERROR if args.quiet else logging.WARNING
    logging.basicConfig(level=level, format="warning: %(message)s")


def name_passed_over(
    broken: Mapping[str, str], others: Sequence[Skipped], args: argparse.Namespace
) -> int:
    """Name on stderr, unless --quiet, what was not done.

    Args:
        broken: picture -> why.
        others: files that are no pictures, or (`failed`) could not be opened.
        args: options of the command.

    Returns:
        The command's exit status: `INCOMPLETE` if a picture could not be read, otherwise 0.
    """
    from data.folders import Skipped, count_and_name, shown

    skipped = [*(Skipped(shown(name), why) for name, why in broken.items()), *others]
    if skipped and not args.quiet:
        print(f"passed over {count_and_name(skipped)}", file=sys.stderr)
    return INCOMPLETE if broken or any(item.failed for item in others) else 0
