"""What hook points cost: a sampling run without a recording, against one where there are none.

    python -m benchmarks.hooks [--model vd-mini] [--steps 10] [--repeats 12] [--threads 1]

The same model samples the same picture, in turns of changing order within one process, so that
whatever else the machine does falls on all of them:

    none      every module that `analysis.inside.trace` hooks runs its `forward` directly: what is
              called there is no `torch.nn.Module.__call__`, which looks for hooks, any more
    off       as the model is, after a recording that has ended
    on        during a recording of cross-attention and activations
    on, self  and of self-attention

Printed are ratios to `none`, run by run: median, and the quarter and three quarter points. "off" at
1.00 within its spread means that hook points are free. The latents of all runs are compared, too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache

import torch
from torch import Tensor, nn

from analysis.inside.trace import trace
from analysis.modes import text_to_image
from lib.checkpoints import load
from lib.model import VersatileDiffusion

PROMPT = "a large red circle above a small blue square"


def hooked(vd: VersatileDiffusion) -> list[nn.Module]:
    """The modules that a recording with everything puts hooks on."""
    with trace(vd, self_attention=True):
        return [m for m in vd.modules() if m._forward_hooks or m._forward_pre_hooks]


@contextmanager
def without_hook_points(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Inside the block these modules' `forward` is what a call runs."""
    kinds = [type(module) for module in modules]
    for module, kind in zip(modules, kinds, strict=True):
        module.__class__ = _bare(kind)
    try:
        yield
    finally:
        for module, kind in zip(modules, kinds, strict=True):
            module.__class__ = kind


@cache
def _bare(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (kind,), {"__call__": kind.forward})


def sample(vd: VersatileDiffusion, steps: int, around: AbstractContextManager) -> Tensor:
    """x_0 of one picture, guided."""
    with around:
        for step in text_to_image.job(vd, PROMPT, seed=20, steps=steps).steps():
            x = step.x
    return x


def measure(vd: VersatileDiffusion, steps: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of every run of each kind; run r of all kinds is done together.

    Raises:
        RuntimeError: runs that do not compute the same.
    """
    vd.shortcuts = False  # as a recording has it: what is compared is the hooks
    modules = hooked(vd)
    kinds: dict[str, Callable[[], Tensor]] = {
        "none": lambda: sample(vd, steps, without_hook_points(modules)),
        "off": lambda: sample(vd, steps, nullcontext()),
        "on": lambda: sample(vd, steps, trace(vd)),
        "on, self": lambda: sample(vd, steps, trace(vd, self_attention=True)),
    }
    expected = {name: run() for name, run in kinds.items()}  # and all is warm
    for name, x in expected.items():
        if not torch.equal(x, expected["none"]):
            raise RuntimeError(f"With hook points {name!r} another picture is computed.")
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    names = list(kinds)
    for r in range(repeats):
        turn = r % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            kinds[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios(seconds: dict[str, list[float]], name: str) -> tuple[float, float, float]:
    """A quarter, the middle and three quarters of the run-by-run ratios to "none"."""
    each = [a / b for a, b in zip(seconds[name], seconds["none"], strict=True)]
    low, middle, high = statistics.quantiles(each, n=4, method="inclusive")
    return low, middle, high


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vd-mini")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    vd = load(args.model, flows=["t2i"], encoders=False)
    seconds = measure(vd, args.steps, args.repeats)
    middle = statistics.median(seconds["none"])
    print(
        f"hook points   time / none   quarters        (none: {middle:.3f} s; {args.steps} steps, "
        f"{args.repeats} runs each, {args.threads} thread(s), {vd.device.type})"
    )
    for name in list(seconds)[1:]:
        low, median, high = ratios(seconds, name)
        print(f"{name:<13} {median:>11.3f}   {low:.3f} ... {high:.3f}")


if __name__ == "__main__":
    main()
