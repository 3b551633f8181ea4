"""Several processes, one model: data-parallel training with torch's own launcher.

    python -m torch.distributed.run --nproc-per-node 2 -m training flows --threads 1

Without a launcher there is one process and every function here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


def start(device: str = "cpu") -> str:
    """Join the group if a launcher started this process, and is not joined yet.

    Args:
        device: what was asked for: "cpu", "cuda" or "mps".

    Returns:
        This process's own device: of several GPUs, that of its number on this machine.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return device
    cuda = device.startswith("cuda")
    if not dist.is_initialized():
        # the first process may encode the cache or measure for long while the others wait
        dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(hours=3))
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    return device


def rank() -> int:
    """This process's number; 0 reads the clock and writes the files."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait() -> None:
    """Until all processes have come here."""
    if dist.is_initialized():
        dist.barrier()


def anywhere(flag: bool) -> bool:
    """Whether the flag is set in any process; all of them ask at the same moment."""
    if world() == 1:
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    told = torch.tensor([float(flag)], device=device)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return bool(told)


@torch.no_grad()
def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace every gradient by its mean over the processes: one message for all of them.

    A parameter that no loss touched in any process (its flow has no share) has no gradient
    anywhere, and is left out everywhere.
    """
    if world() == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    flat /= world()
    for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad))
