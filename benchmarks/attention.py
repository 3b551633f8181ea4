"""Plain matrix operations against the fused attention kernel, forward and backward, on this CPU.

    python -m benchmarks.attention [--threads 1] [--repeats 20]

Prints one line a shape: how many times faster the plain form is (above 1: plain wins). Both are
timed in turns within one run, under bfloat16 autocast where the CPU has it; the median counts.
`lib.ops.SHORT` is the number of query-key pairs up to which `lib.ops.attention` takes the plain
form on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from unittest import mock

import torch

from lib import ops
from lib.devices import cpu_has_bfloat16

SHAPES = ((64, 64), (64, 32), (64, 65), (16, 32), (256, 256), (1024, 1024))


def seconds(pairs_limit: int, queries: int, keys: int) -> float:
    """Time of one forward and backward pass at batch 32, 4 heads of 16."""
    q = torch.randn(32, queries, 64, requires_grad=True)
    k, v = (torch.randn(32, keys, 64, requires_grad=True) for _ in range(2))
    with mock.patch.object(ops, "SHORT", pairs_limit):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16()):
            out = ops.attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), heads=4)
        out.float().sum().backward()
        return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"queries x keys   fused / plain   ({args.threads} thread(s), batch 32, 4 heads of 16)")
    for queries, keys in SHAPES:
        plain, fused = [], []
        for _ in range(args.repeats):
            plain.append(seconds(1 << 40, queries, keys))
            fused.append(seconds(0, queries, keys))
        ratio = statistics.median(fused[2:]) / statistics.median(plain[2:])
        print(f"{queries:>6} x {keys:<6} {ratio:>13.2f}")


if __name__ == "__main__":
    main()
