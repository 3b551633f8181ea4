"""Two processes that train together hold one model, and it is the one a single process would."""

import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import sys
from pathlib import Path
import numpy as np
import torch
from torch import nn
from training import parallel
from training.loop import Recipe, Stage, train

class Toy(Stage):
    name = "toy"
    def __init__(self, batch):
        self.recipe = Recipe(steps=6, batch=batch, lr=0.05, warmup=1, ema=0.9)
        torch.manual_seed(0)
        self.modules = nn.ModuleDict({"a": nn.Linear(3, 1)})
    def loss(self, step, rng):
        # the same eight rows whatever the number of processes: each takes its part of them
        rows = np.random.default_rng(step).normal(size=(8, 3))
        share = np.array_split(rows, parallel.world())[parallel.rank()]
        x = torch.from_numpy(share).float()
        return (self.modules["a"](x) - x.sum(1, keepdim=True)).square().mean(), {}

parallel.start()
torch.set_num_threads(1)
stage = Toy(8 // parallel.world())
out = Path(sys.argv[1])
train(stage, out)
torch.save(stage.modules.state_dict(), out / f"rank{parallel.rank()}.pt")
"""


def test_two_processes_train_the_model_of_one(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    one, two = tmp_path / "one", tmp_path / "two"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for folder, prefix in ((one, []), (two, launcher)):
        folder.mkdir()
        command = [sys.executable, *prefix, str(program), str(folder)]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    single = torch.load(one / "rank0.pt", weights_only=True)
    ranks = [torch.load(two / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for name, value in single.items():
        assert torch.equal(ranks[0][name], ranks[1][name])
        # bfloat16 rounds each half batch on its own
        assert torch.allclose(ranks[0][name], value, atol=0.02)
    assert (two / "toy" / "measured.json").exists()
