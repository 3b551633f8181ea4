"""What a shell command costs before, and until, its one picture is there."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from typing import Any


def startup(args: Namespace) -> dict[str, Any]:
    """From Enter to the end: `--help`, torch's import, all imports of a command, and a picture."""
    with tempfile.TemporaryDirectory() as folder:
        picture = ["-m", "analysis", "t2i", "--steps", "20", "--seed", "1", "--quiet", "--out"]
        runs = {
            "--help": ["-m", "analysis", "t2i", "--help"],
            "import torch": ["-c", "import torch"],
            "imports of a command": ["-c", "import analysis.cli, analysis.modes, lib.checkpoints"],
            "a picture of vd-mini": [*picture, folder, "a large red circle"],
        }
        result = {name: [] for name in runs}
        for _ in range(args.repeats):
            for name, command in runs.items():
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                start = time.perf_counter()
                subprocess.run([sys.executable, *command], check=True, capture_output=True)
                wall = time.perf_counter() - start
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                result[name].append((wall, cpu))
    return {
        name: {
            "wall": statistics.median(wall for wall, _ in both),
            "cpu": statistics.median(cpu for _, cpu in both),
        }
        for name, both in result.items()
    }
