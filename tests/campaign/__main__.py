"""The campaign from the shell; its exit status is 1 if anything came out badly."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

CHUNK = 100
"""Inputs a process."""


def main(argv: list[str] | None = None) -> int:
    """Try, count, tell."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    add = parser.add_argument
    add("--minutes", type=float, default=1.0, help="begin no further round after that long")
    add("--seed", type=int, default=0, help="of everything that is drawn")
    add("--only", nargs="+", metavar="KIND", help="these kinds (default: all)")
    add("--round", type=int, default=1000, help="inputs of all kinds between looks at the time")
    add("--kept", type=Path, help="folder for inputs that fail (default: a temporary one)")
    args = parser.parse_args(argv)
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

    from tqdm import tqdm

    from tests.campaign import table

    tqdm.monitor_interval = 0  # no thread of its own: a fork may not happen while one holds a lock

    began = time.monotonic()
    counted = table.Table()
    kept = args.kept or Path(tempfile.mkdtemp(prefix="campaign-"))
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, (kind, outcome) in enumerate(outcomes(args, Path(folder), kept, began), 1):
            bad = counted.bad
            counted.add(kind, outcome)
            if counted.bad > bad:
                print(counted.failures[-1], flush=True)
            if number % 500 == 0:
                print(f"{number:,} in {time.monotonic() - began:.0f} s", file=sys.stderr)
    print(f"\n{counted}\n\nseed {args.seed}, {time.monotonic() - began:.0f} s")
    return 1 if counted.bad else 0


def outcomes(args: argparse.Namespace, folder: Path, kept: Path, began: float) -> Iterator[tuple]:
    """All kinds, round by round, until the time is over."""
    from tests.campaign import kills, places, worker, world
    from tests.campaign.kinds import KINDS

    here = world.build(folder)
    processes = {**kills.STORIES, **places.PLACES}
    names = args.only or [*KINDS, *processes]
    total = sum(kind.share for name, kind in KINDS.items() if name in names)
    round_ = 0
    while not round_ or time.monotonic() - began < 60 * args.minutes:
        for name in names:
            seed = args.seed * 1_000_003 + round_
            if name in processes:
                for outcome in processes[name](here, seed):
                    yield name, outcome
                continue
            kind = KINDS[name]
            left = round(args.round * kind.share / total)
            for part in range(0, left, CHUNK):
                where = kept / name.replace(" ", "-")
                where.mkdir(exist_ok=True)
                run = partial(kind.run, here)
                count = min(CHUNK, left - part)
                for outcome in worker.chunk(run, kind.inputs(here), count, seed + part, where):
                    yield name, outcome
        round_ += 1


if __name__ == "__main__":
    sys.exit(main())
