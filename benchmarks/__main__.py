"""Timings behind choices, each a command that prints its ratios side by side.

    python -m benchmarks guided-step --dtype bf16 --threads 2
    python -m benchmarks startup --json

Results and what follows from them stand in `benchmarks/README.md`.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from typing import Any

from lib.__main__ import Parser, status_of
from lib.checks import whole_number

COMMANDS = {
    "guided-step": ("benchmarks.steps", "guided_step"),
    "operations": ("benchmarks.steps", "operations"),
    "halves": ("benchmarks.steps", "halves"),
    "text-to-image": ("benchmarks.steps", "text_to_image"),
    "scaling": ("benchmarks.steps", "scaling"),
    "captions": ("benchmarks.captions", "captions"),
    "memory": ("benchmarks.memory", "memory"),
    "load": ("benchmarks.memory", "loading"),
    "startup": ("benchmarks.startup", "startup"),
    "training": ("benchmarks.training", "training"),
}
"""Name -> (module, function from options to numbers by name)."""

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def lines(values: dict[str, Any], indent: int = 0) -> list[str]:
    """Numbers by name, one a line."""
    rows = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += [" " * indent + name, *lines(value, indent + 2)]
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            rows.append(f"{' ' * indent}{name:<{30 - indent}} {shown}")
    return rows


def main(argv: list[str] | None = None) -> int:
    """Run one benchmark, print its numbers; the exit status is that of `status_of`."""
    parser = Parser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=COMMANDS)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--whole", action="store_true", help="text-to-image: also a whole run")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    return status_of(lambda: _run(args), "Try --dtype fp16.")


def _run(args: argparse.Namespace) -> int:
    if args.threads is not None:
        whole_number("threads", args.threads, 1, 1024)
    whole_number("repeats", args.repeats, 1, 10_000)
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    args.dtype = getattr(torch, DTYPES[args.dtype])
    module, function = COMMANDS[args.name]
    values = {
        "benchmark": args.name,
        "torch": torch.__version__,
        "dtype": str(args.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        **getattr(import_module(module), function)(args),
    }
    print(json.dumps(values) if args.json else "\n".join(lines(values)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
