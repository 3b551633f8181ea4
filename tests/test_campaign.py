"""A short campaign with a fixed seed; `python -m tests.campaign --minutes 60` is a long one."""

import os
import subprocess
import sys
from pathlib import Path

from tests.campaign.kinds import KINDS

STORIES = ("kills of texts", "kills of an index", "processes side by side")


def test_nothing_ends_in_a_traceback_hangs_or_is_lost(tmp_path):
    command = [sys.executable, "-m", "tests.campaign", "--minutes", "0", "--round", "140"]
    ended = subprocess.run(
        [*command, "--only", *KINDS, *STORIES, "--kept", str(tmp_path / "kept")],
        cwd=Path(__file__).resolve().parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (whole,) = (line for line in ended.stdout.splitlines() if "**all**" in line)
    tried, *_, traceback, hang, loss, leftover = (
        int(cell.replace(",", "")) for cell in whole.strip("| ").split("|")[1:]
    )
    assert tried > 120 and (traceback, hang, loss, leftover) == (0, 0, 0, 0)
