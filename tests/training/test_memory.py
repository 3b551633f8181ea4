"""Less memory, the same numbers: activations computed twice, weights divided over processes."""

import itertools
import json
import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lib.config import FLOWS
from tests.training import children
from tests.training.tiny_flows import flows_stage
from tests.training.tiny_stages import folder_samples, worldly
from training import loop, memory, parallel
from training.autoencoder import AutoencoderStage
from training.clip import ClipStage
from training.optimus import OptimusStage
from training.stage import Recipe, generator

ACCUMULATED = {1: 2, 2: 1}
"""Batches a step of so many processes: always two."""


def divide(model, folder, shard: bool, stop: bool = False) -> None:
    """Train the flows in the group of this process, if there is one."""
    parallel.start()
    loop.native_bf16 = lambda device: False
    stage = flows_stage(model, folder / "out", accumulate=ACCUMULATED[parallel.world()])
    usual, calls = stage.loss, []

    def loss(step, rng):
        calls.append(step)
        if stop and step == 1 and calls.count(1) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return usual(step, rng)

    stage.loss = loss
    loop.train(stage, folder, shard=shard)
    parallel.wait()


def numbers(folder) -> dict[int, dict[str, float]]:
    """Losses and norm of each step, the mean over processes that were there at the step."""
    logs = [path.read_text().splitlines() for path in (folder / "flows").glob("log*.jsonl")]
    steps: dict[int, list[dict[str, float]]] = {}
    for line in itertools.chain(*logs):
        steps.setdefault(json.loads(line)["step"], []).append(json.loads(line))
    names = ("loss", "norm", *FLOWS)
    return {k: {n: np.mean([x[n] for x in rows]) for n in names} for k, rows in steps.items()}


def same(a, b) -> None:
    """Two runs had the same losses and norms, and left the same weights."""
    first, second = numbers(a), numbers(b)
    assert first.keys() == second.keys()
    for step, values in first.items():
        norms = values.pop("norm"), second[step].pop("norm")
        assert norms[0] == pytest.approx(norms[1], rel=1e-3)
        assert values == pytest.approx(second[step], rel=1e-5)
    files = sorted(path.name for path in (a / "out").glob("*.safetensors"))
    assert len(files) == 5
    for name in files:
        x, y = (load_file(folder / "out" / name) for folder in (a, b))
        assert all(torch.allclose(x[key], y[key], atol=1e-3) for key in x)


@pytest.fixture(scope="module")
def whole(model_folder, tmp_path_factory):
    """What one process makes of two batches a step."""
    folder = tmp_path_factory.mktemp("whole")
    assert children.run(divide, model_folder, folder, False) == [0]
    return folder


def test_divided_weights_train_the_model_of_one_process(whole, model_folder, tmp_path):
    assert children.run(divide, model_folder, tmp_path, True, processes=2) == [0, 0]
    same(whole, tmp_path)
    a, b = (torch.load(f / "flows" / "checkpoint.pt", weights_only=True) for f in (whole, tmp_path))
    assert a["fingerprint"] == b["fingerprint"]
    for name, value in a["modules"].items():
        assert torch.allclose(value, b["modules"][name], atol=2e-5)


@pytest.mark.parametrize("order", [(True, False), (False, True)])
def test_divided_or_not_one_goes_on_where_the_other_stopped(whole, model_folder, tmp_path, order):
    first, second = ((2 if shard else 1) for shard in order)
    ends = children.run(divide, model_folder, tmp_path, order[0], True, processes=first)
    assert all(ends)
    assert torch.load(tmp_path / "flows" / "checkpoint.pt", weights_only=True)["step"] == 2
    assert not any(children.run(divide, model_folder, tmp_path, order[1], processes=second))
    same(whole, tmp_path)


def test_only_flows_of_several_processes_are_divided(model_folder, tmp_path):
    with pytest.raises(ValueError, match="divides the diffuser over processes: give it"):
        loop.train(flows_stage(model_folder, tmp_path), tmp_path, shard=True)


def gradients(stage, again: bool) -> dict[str, torch.Tensor]:
    if again:
        memory.recompute(stage.modules)
    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.nbytes) or t, lambda t: t
    ):
        kept: list[int] = []
        loss, _ = stage.loss(3, generator(0, 3))
    loss.backward()
    found = {n: p.grad for n, p in stage.modules.named_parameters() if p.grad is not None}
    return found | {"bytes": torch.tensor(float(sum(kept)))}


@pytest.mark.parametrize("name", ["flows", "autoencoder", "clip", "optimus"])
def test_recomputed_activations_give_the_same_gradients(name, vd, model_folder, tmp_path):
    samples = folder_samples(tmp_path / "pictures")
    sizes = worldly(vd, samples, tmp_path / "model")
    recipe = Recipe(steps=4, batch=3, lr=1e-3)

    def stage():
        if name == "flows":
            return flows_stage(model_folder, tmp_path)
        if name == "autoencoder":
            return AutoencoderStage(sizes[0], samples, samples, tmp_path, recipe)
        kind = ClipStage if name == "clip" else OptimusStage
        return kind(*sizes, samples, samples, tmp_path, recipe)

    usual, twice = gradients(stage(), False), gradients(stage(), True)
    assert usual.keys() == twice.keys() and len(usual) > 10
    assert twice.pop("bytes") < usual.pop("bytes")
    for key, value in usual.items():
        assert torch.allclose(value, twice[key], atol=1e-6), key
