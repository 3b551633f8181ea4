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
    add("--scale", type=number(float, 0), help="guidance scale (default: the mode's)")
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
        "--latents",
        nargs="+",
        metavar="FILE",
        help="initial latents, .safetensors: one a sample, instead of the seeds' noise",
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


def context_argument(parser: argparse.ArgumentParser, option: str, instead: str) -> None:
    """Option of a precomputed context, in place of what it would be encoded from."""
    parser.add_argument(
        option,
        nargs="+",
        metavar="FILE",
        help=f"precomputed tokens, .safetensors (samples, tokens, width), instead of {instead}",
    )


def color_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of a colour match (`analysis.modes.color`)."""
    parser.add_argument(
        "--color-match",
        type=number(float, 0, 1),
        metavar="KEEP",
        help="put the input's colours on the result, which keeps this share of its own (0...1)",
    )
    parser.add_argument(
        "--color-method",
        choices=("mean_std", "histogram"),
        default="mean_std",
        help="how colours are matched (default: %(default)s)",
    )


def temperature_argument(parser: argparse.ArgumentParser) -> None:
    """Option of all that makes texts."""
    parser.add_argument(
        "--temperature",
        type=number(float, 0),
        metavar="T",
        help="of decoding texts: 0 takes the most likely word (default: the model's)",
    )


def number(kind: type, low: float, high: float = math.inf) -> Callable[[str], Any]:
    """A type for argparse: an int or a float from `low` to `high`."""
    what = "a whole number" if kind is int else "a number"
    until = " on" if high == math.inf else f" to {high:g}"

    def read(text: str) -> Any:
        try:
            value = kind(text)
            fits = math.isfinite(value) and low <= value <= high
        except (ValueError, OverflowError):  # no number, or one with hundreds of digits
            fits = False
        if not fits:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} from {low:g}{until}")
        return value

    return read
