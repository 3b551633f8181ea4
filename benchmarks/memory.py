"""Peak memory and loading at the released model's size, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from benchmarks.full_size import TEXT_TO_IMAGE, random_model
from lib.checkpoints.saving import save

CHILD = """
import json, sys, time
start = time.perf_counter()
import torch
from lib.checkpoints import load
from lib.contexts import Context
folder, dtype, steps = sys.argv[1], getattr(torch, sys.argv[2]), int(sys.argv[3])
def peak():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9
marks = {"imports": (time.perf_counter() - start, peak())}
def mark(name):
    marks[name] = (time.perf_counter() - start, peak())
vd = load(folder, flows="t2i", encoders=False, dtype=dtype, device="cpu")
mark("load")
if steps:
    text = vd.spec.clip.text
    ids = torch.full((2, text.positions), text.eos)
    ids[0, 1:9], ids[:, 0] = 7, text.bos
    with torch.no_grad():
        given, null = (Context("text", c[None]) for c in vd.clip_text(ids))
    eps = vd.guided([(given, 1.0)], "image", 7.5, [null])
    mark("CLIP")
    x = torch.randn(1, 4, 64, 64)
    with torch.no_grad():
        for k in range(steps):
            eps(x, 500 - k)
    mark("guided steps")
    vd.decode_image(x)
    mark("decode")
print(json.dumps(marks))
"""


def memory(args: Namespace, steps: int = 2) -> dict[str, Any]:
    """Load, CLIP, guided steps and decoding of a 512 x 512 picture, from files of both halves.

    The peak is the system's `VmHWM`: all that was in memory at once, libraries and mapped pages of
    files included. `VmHWM` is Linux's.
    """
    result = {}
    with tempfile.TemporaryDirectory() as temporary:
        vd = random_model(TEXT_TO_IMAGE, torch.float16)
        folders = {}
        for dtype in (torch.bfloat16, torch.float16):
            name = str(dtype).removeprefix("torch.")
            folders[name] = Path(temporary) / name
            save(vd, folders[name], dtype)
        del vd
        wanted = str(args.dtype).removeprefix("torch.")
        for name, folder in folders.items():
            command = [sys.executable, "-c", CHILD, str(folder), wanted, str(steps)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            marks = json.loads(done.stdout.splitlines()[-1])
            result[f"from {name} files"] = {
                "seconds until": {k: v[0] for k, v in marks.items()},
                "peak GB until": {k: v[1] for k, v in marks.items()},
            }
    return result


def loading(args: Namespace) -> dict[str, Any]:
    """Reading the components of text-to-image only."""
    return memory(args, steps=0)
