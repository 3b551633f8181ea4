"""Where a model runs, in what precision, and how its numbers lie in memory, when nobody says."""

from __future__ import annotations

import ctypes
import mmap
import sys
from functools import cache

import torch
from torch import Tensor, nn

from lib.ops import LARGE

BIG = 200_000_000
"""Parameters from which on half precision is worth its rounding (see `choose_dtype`)."""


def choose_device(device: torch.device | str | None = None) -> torch.device:
    """The device asked for, or the best one here: cuda, mps, cpu.

    torch knows more kinds of device than these, but some of them only by name, and `meta` holds no
    numbers: none of the others is taken.

    Raises:
        ValueError: not such a device, or not one of this machine.
    """
    counts = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    if device is None:
        return torch.device(next(kind for kind, count in counts.items() if count))
    try:
        chosen = torch.device(device)
        count = counts[chosen.type]
    except (KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"device is {device!r}: choose cpu, cuda, cuda:1, ... or mps.") from error
    if (chosen.index or 0) >= count:
        here = ["cpu", *(f"cuda:{i}" for i in range(counts["cuda"])), *["mps"] * counts["mps"]]
        raise ValueError(
            f"device is {device!r}, but this machine has no {chosen}: choose {', '.join(here)}."
        )
    return chosen


def choose_dtype(device: torch.device, parameters: int) -> torch.dtype:
    """The precision of the weights when nobody chose one.

    Half precision is for models that are slow or large without it; a small one gains nothing and
    would lose parity. Among halves: float16 where hardware multiplies it, because the released
    half-precision weights are float16; bfloat16 on a CPU, and only where the CPU has it natively
    (emulated, it is slower than float32).

    | device | up to `BIG` parameters | more |
    |---|---|---|
    | cuda, mps | float32 | float16 |
    | cpu with bfloat16 instructions | float32 | bfloat16 |
    | other | float32 | float32 |
    """
    if parameters <= BIG:
        return torch.float32
    if device.type in ("cuda", "mps"):
        return torch.float16
    return torch.bfloat16 if device.type == "cpu" and cpu_has_bfloat16() else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16, AMX, or Arm's BF16)."""
    read = getattr(torch.cpu, "get_capabilities", None)
    able = read() if read is not None else {}
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))


def settle(module: nn.Module) -> nn.Module:
    """Lay the weights of a component that was read out as its device computes fastest with them.

    Kernels of convolutions have their channels last, and maps follow them: positions of a map are
    then tokens without a copy, and a CPU need not turn every kernel around before every use. Small
    networks gain nothing, and keep the order of their sums.

    Args:
        module: changed in place; its values stay.
    """
    if not any(p.numel() >= LARGE and p.device.type != "mps" for p in module.parameters()):
        return module
    for convolution in (m for m in module.modules() if isinstance(m, nn.Conv2d)):
        was = convolution.weight.data
        convolution.weight.data = was.contiguous(memory_format=torch.channels_last)
        if convolution.weight.data_ptr() != was.data_ptr():
            release(was)
    if any(p.device.type == "cpu" for p in module.parameters()):
        keep_freed_memory()
    return module


def release(tensor: Tensor) -> None:
    """Give back the memory of a tensor that is a part of a mapped file and is not needed any more.

    What was read stays in memory until the whole file is closed, otherwise. Nothing is lost: the
    pages are read again if somebody looks at them. Other tensors are left alone.
    """
    if sys.platform != "linux" or tensor.device.type != "cpu":
        return
    page = mmap.PAGESIZE
    start = -(-tensor.data_ptr() // page) * page  # whole pages only: neighbours are in use
    end = (tensor.data_ptr() + tensor.nbytes) // page * page
    if end > start and _is_of_a_file(start):
        advise = ctypes.CDLL(None).madvise
        advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def _is_of_a_file(address: int) -> bool:
    """Whether an address of this process lies in a mapped file (neither torch nor Python knows)."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            limits, _, _, _, inode = line.split()[:5]
            low, high = (int(limit, 16) for limit in limits.split("-"))
            if low <= address < high:
                return inode != "0"
    return False


_keeping: list[bool] = []  # not empty once this process keeps what it frees


@cache
def keep_freed_memory() -> None:
    """Let this process keep what it frees, for its next large tensors (glibc only).

    A network asks for the same few large tensors again and again. By default each of them comes
    fresh from the system, which fills it with zeros, page by page: a tenth of a step.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return
    trim_threshold, mmap_threshold = -1, -3  # names of options in malloc.h
    mallopt(trim_threshold, 2**30)  # a model that is deleted still goes back
    mallopt(mmap_threshold, 2**25)  # the most there is; larger holes are never filled again
    _keeping.append(True)


def give_back_freed_memory() -> None:
    """Let the system have what `keep_freed_memory` kept: other work with other tensors follows."""
    if _keeping:
        ctypes.CDLL(None).malloc_trim(0)
