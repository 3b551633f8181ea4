"""Two processes that train together hold one model, and it is the one a single process would."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.training import children
from tests.training.tiny_flows import flows_stage
from training import loop, parallel
from training.stage import Recipe, Stage

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


class Toy(Stage):
    """Linear regression; of one process two batches are a step, of two one each."""

    name = "toy"

    def __init__(self, stop: int | None = None) -> None:
        accumulate = 2 // parallel.world()
        self.recipe = Recipe(steps=6, batch=4, lr=0.05, warmup=1, ema=0.9, accumulate=accumulate)
        self.stop, self.stopped = stop, False
        torch.manual_seed(0)
        self.modules = nn.ModuleDict({"a": nn.Linear(3, 1)})

    def loss(self, step, rng):
        if step == 3 and self.stop == parallel.rank() and not self.stopped:
            self.stopped = True  # a second one would interrupt at once
            os.kill(os.getpid(), signal.SIGINT)
        x = torch.from_numpy(rng.normal(size=(4, 3))).float()
        noise = 0.1 * torch.randn(4, 1)
        return (self.modules["a"](x) - x.sum(1, keepdim=True) + noise).square().mean(), {}


def train_toy(out: Path, stop: int | None = None) -> None:
    assert parallel.start() == parallel.start("cpu") == "cpu"  # every stage starts, one group
    loop.native_bf16 = lambda device: False
    stage = Toy(stop)
    loop.train(stage, out)
    torch.save(stage.modules.state_dict(), out / f"rank{parallel.rank()}.pt")
    parallel.wait()


def ranks(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What one process and two make of it, never stopped."""
    folders = [tmp_path_factory.mktemp(f"whole-{n}") for n in (1, 2)]
    for processes, folder in enumerate(folders, 1):
        assert not any(children.run(train_toy, folder, processes=processes))
    return folders


def test_two_processes_train_the_model_of_one(whole):
    """One process that accumulates two batches is two processes: the same weights, to 1e-5."""
    single = torch.load(whole[0] / "rank0.pt", weights_only=True)
    first, second = ranks(whole[1])
    for name, value in single.items():
        assert torch.equal(first[name], second[name])
        assert torch.allclose(first[name], value, atol=1e-5)
    assert (whole[1] / "toy" / "measured.json").exists()


def test_a_process_that_is_stopped_stops_the_others_after_the_same_step(whole, tmp_path):
    assert all(children.run(train_toy, tmp_path, 1, processes=2))
    kept = torch.load(tmp_path / "toy" / "checkpoint.pt", weights_only=True)
    assert kept["step"] == 4
    assert not any(children.run(train_toy, tmp_path, processes=2))
    for a, b in zip(ranks(whole[1]), ranks(tmp_path), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("begun_by", [1, 2])
def test_what_one_process_began_two_go_on_with_and_the_other_way_round(whole, tmp_path, begun_by):
    assert all(children.run(train_toy, tmp_path, 0, processes=begun_by))
    assert torch.load(tmp_path / "toy" / "checkpoint.pt", weights_only=True)["step"] == 4
    assert not any(children.run(train_toy, tmp_path, processes=3 - begun_by))
    a, b = (torch.load(folder / "rank0.pt", weights_only=True) for folder in (whole[0], tmp_path))
    for name, value in a.items():
        assert torch.allclose(value, b[name], atol=1e-5)


def test_torch_s_launcher_starts_the_command():
    """As the README says it; what two processes do is tested above, without its seconds."""
    command = [sys.executable, *LAUNCHER, "-m", "--", "training", "flows", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0
    assert done.stdout.count("usage: python -m training") == 2


# ---------------------------------------------------------------------- gradients of the flows


def keep_gradients(model: Path, folder: Path, batch: int) -> None:
    """Gradients of the flows' first step, in file `world-rank.pt`.

    One process draws the batches of both and puts them together, so its batch is twice as large.
    """
    parallel.start()
    stage = flows_stage(model, folder / "out", batch=batch)
    draw, world = stage._draw, parallel.world()

    def both(flow, cache, size, rng, asks=False, same=0.0):
        """What two processes draw, or this one's half of it."""
        halves = [draw(flow, cache, size * world // 2, np.random.default_rng(k)) for k in (0, 1)]
        if world == 2:
            return halves[parallel.rank()]
        fields = {
            name: None
            if value is None
            else torch.cat([value, getattr(halves[1], name)])
            if isinstance(value, torch.Tensor)
            else np.concatenate([value, getattr(halves[1], name)])
            for name, value in vars(halves[0]).items()
        }
        return type(halves[0])(**fields)

    def noise(like):
        """The same of each half, whoever has it."""
        shape = (len(like) * world // 2, *like.shape[1:])
        halves = [torch.randn(shape, generator=torch.Generator().manual_seed(k)) for k in (0, 1)]
        return halves[parallel.rank()] if world == 2 else torch.cat(halves)

    stage._draw, torch.randn_like = both, noise
    stage.loss(0, np.random.default_rng(0))[0].backward()
    parameters = list(stage.modules.parameters())
    parallel.average_gradients(parameters)
    torch.save([p.grad for p in parameters], folder / f"{world}-{parallel.rank()}.pt")
    parallel.wait()


def test_gradients_of_two_processes_are_those_of_one_with_twice_the_batch(model_folder, tmp_path):
    assert children.run(keep_gradients, model_folder, tmp_path, 8) == [0]
    assert children.run(keep_gradients, model_folder, tmp_path, 4, processes=2) == [0, 0]
    names = ("1-0.pt", "2-0.pt", "2-1.pt")
    one, first, second = (torch.load(tmp_path / name, weights_only=True) for name in names)
    assert len(one) > 100 and any(grad.abs().max() > 0.01 for grad in one)
    for a, b, c in zip(one, first, second, strict=True):
        assert torch.equal(b, c)
        assert torch.allclose(a, b, atol=1e-5, rtol=1e-4)
