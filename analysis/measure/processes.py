"""Several processes, one evaluation: what each of them has to know of the others.

    torchrun --nproc-per-node 2 -m -- analysis evaluate --model vd-mini --n 1000 --seed 7

(`--` keeps torchrun from taking `--n` for an option of its own.)

Every process measures its share of the inputs into the same folder (`analysis.measure.rows`), so
they need to agree on little: what is missing, and when all of it is there. Without a launcher there
is one process, and everything here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

PATIENCE = timedelta(hours=24)
"""How long a process waits for a slower one before it gives up."""

T = TypeVar("T")


@contextmanager
def group() -> Iterator[None]:
    """Inside, the processes that a launcher started know each other; each has a GPU if it can.

    They talk through gloo, which needs no GPU: what is said is small.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """This process's number; 0 writes what only one may write, and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes measure together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait() -> None:
    """Until all processes have come here."""
    if dist.is_initialized():
        dist.barrier()


def agreed(value: T) -> T:
    """The value that process 0 has; the others' is dropped.

    Args:
        value: anything that can be pickled.
    """
    if not dist.is_initialized():
        return value
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]
