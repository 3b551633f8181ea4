"""Arguments that commands have in common, and numbers as arguments."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of every command that generates."""
    add = parser.add_argument
    add("--model", default="vd-mini", help="name or path of the model (default: %(default)s)")
    add("--n", type=number(int, 1), default=1, help="samples of each input (default: 1)")
    add("--seed", type=number(int, 0), help="of the first sample, the next ones count on")
    add("--steps", type=number(int, 1), help="sampling steps (default: the model's)")
    add("--scale", type=number(float, 0), help="guidance scale (default: the model's)")
    add("--negative", metavar="TEXT", help="a text to be guided away from")
    add("--sampler", default="ddim", help="ddim, dpmpp_2m or heun (default: %(default)s)")
    add("--eta", type=number(float, 0, 1), default=0.0, help="0...1: share of fresh noise a step")
    add(
        "--interval",
        type=number(float, 0),
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="guide from timestep LOW to HIGH only (default: always)",
    )
    add(
        "--noise",
        choices=("sample", "official"),
        default="sample",
        help="official: the released code's, one draw for the n samples of an input",
    )
    add(
        "--as",
        dest="output",
        choices=("pil", "tensor", "latents"),
        default="pil",
        help="pil: pictures and texts; tensor, latents: numbers, saved as .safetensors",
    )
    add("--out", default="output", metavar="DIR", help="results go to DIR/MODE (default: output)")
    add("--device", help="cpu, cuda, cuda:1, mps (default: the best one here)")
    add("--dtype", choices=("float32", "float16", "bfloat16"), help="default: by the hardware")
    add("--batch", type=number(int, 1), help="samples in memory at a time")
    add("--again", action="store_true", help="make also what lies in the output folder already")
    add("--sheet", action="store_true", help="save a contact sheet of the pictures in DIR/sheets")
    add("--json", action="store_true", help="print one JSON document: the records, with paths")
    add("--quiet", action="store_true", help="no progress bar, no warnings")


def number(kind: type, low: float, high: float = math.inf) -> Callable[[str], Any]:
    """A type for argparse: an int or a float from `low` to `high`."""
    what = "a whole number" if kind is int else "a number"
    until = " on" if high == math.inf else f" to {high:g}"

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} from {low:g}{until}")
        return value

    return read
