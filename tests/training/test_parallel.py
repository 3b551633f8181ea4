"""Two processes that train together hold one model, and it is the one a single process would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import os
import signal
import sys
from pathlib import Path
import numpy as np
import torch
from torch import nn
from training import parallel
from training.loop import train
from training.stage import Recipe, Stage

class Toy(Stage):
    name = "toy"
    def __init__(self, batch):
        self.recipe = Recipe(steps=6, batch=batch, lr=0.05, warmup=1, ema=0.9)
        torch.manual_seed(0)
        self.modules = nn.ModuleDict({"a": nn.Linear(3, 1)})
    def loss(self, step, rng):
        # the same eight rows whatever the number of processes: each takes its part of them
        rows = np.random.default_rng(step).normal(size=(8, 3))
        if "STOP" in os.environ and step == 3 and parallel.rank() == 1:
            os.kill(os.getpid(), signal.SIGINT)
        share = np.array_split(rows, parallel.world())[parallel.rank()]
        x = torch.from_numpy(share).float()
        return (self.modules["a"](x) - x.sum(1, keepdim=True)).square().mean(), {}

assert parallel.start() == parallel.start("cpu") == "cpu"  # every stage starts, one group is made
torch.set_num_threads(1)
stage = Toy(8 // parallel.world())
out = Path(sys.argv[1])
train(stage, out)
torch.save(stage.modules.state_dict(), out / f"rank{parallel.rank()}.pt")
"""


SHARED = """
import os
import signal
import sys
from pathlib import Path
import torch
from torch import nn
from training import loop, parallel
from training.stage import Recipe, Stage

loop.native_bf16 = lambda device: False

class Toy(Stage):
    name = "toy"
    stopped = False
    def __init__(self):
        accumulate = 2 // parallel.world()
        self.recipe = Recipe(steps=6, batch=4, lr=0.05, warmup=1, ema=0.9, accumulate=accumulate)
        torch.manual_seed(0)
        self.modules = nn.ModuleDict({"a": nn.Linear(3, 1)})
    def loss(self, step, rng):
        if "STOP" in os.environ and step == 3 and not self.stopped:
            self.stopped = True  # a second one would interrupt at once
            os.kill(os.getpid(), signal.SIGINT)
        x = torch.from_numpy(rng.normal(size=(4, 3))).float()
        noise = 0.1 * torch.randn(4, 1)
        return (self.modules["a"](x) - x.sum(1, keepdim=True) + noise).square().mean(), {}

parallel.start()
torch.set_num_threads(1)
stage = Toy()
loop.train(stage, Path(sys.argv[1]))
torch.save(stage.modules.state_dict(), Path(sys.argv[1]) / f"rank{parallel.rank()}.pt")
"""

LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def launch(folder, *prefix, code=PROGRAM, **environment):
    program = folder / "program.py"
    program.write_text(code)
    return subprocess.run(
        [sys.executable, *prefix, str(program), str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        timeout=300,
    )


def ranks(folder):
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_processes_train_the_model_of_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, prefix in ((one, ()), (two, LAUNCHER)):
        folder.mkdir()
        assert launch(folder, *prefix).returncode == 0
    single = torch.load(one / "rank0.pt", weights_only=True)
    first, second = ranks(two)
    for name, value in single.items():
        assert torch.equal(first[name], second[name])
        # bfloat16 rounds each half batch on its own
        assert torch.allclose(first[name], value, atol=0.02)
    assert (two / "toy" / "measured.json").exists()


def test_a_process_that_is_stopped_stops_the_others_after_the_same_step(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    assert launch(whole, *LAUNCHER).returncode == 0
    assert launch(parts, *LAUNCHER, STOP="1").returncode != 0
    kept = torch.load(parts / "toy" / "checkpoint.pt", weights_only=True)
    assert kept["step"] == 4
    assert launch(parts, *LAUNCHER).returncode == 0
    for a, b in zip(ranks(whole), ranks(parts), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("begun_by", [1, 2])
def test_what_one_process_began_two_go_on_with_and_the_other_way_round(tmp_path, begun_by):
    """One process that accumulates two batches is two processes: the same gradients, to 1e-5."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    first, second = ((), LAUNCHER) if begun_by == 1 else (LAUNCHER, ())
    assert launch(whole, code=SHARED).returncode == 0
    assert launch(parts, *first, code=SHARED, STOP="1").returncode != 0
    assert torch.load(parts / "toy" / "checkpoint.pt", weights_only=True)["step"] == 4
    assert launch(parts, *second, code=SHARED).returncode == 0
    a, b = (torch.load(folder / "rank0.pt", weights_only=True) for folder in (whole, parts))
    for name, value in a.items():
        assert torch.allclose(value, b[name], atol=1e-5)
