"""Where a model runs, and in what precision, when nobody says."""

from __future__ import annotations

import torch

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
