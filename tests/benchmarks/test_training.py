"""The two loops train networks of one size, and the document has what the table shows."""

import json

import torch

from benchmarks import training


def test_our_loop_and_theirs_train_the_same_network():
    found = training.measure(2, 1, 1, torch.device("cpu"))
    assert json.loads(json.dumps(found)) == found
    sizes = found["parameters"].values()
    assert len(found["parameters"]) == 3 and max(sizes) - min(sizes) < 0.01 * min(sizes)
    for kind, rates in found["samples_a_second"].items():
        assert found["speedup"][kind] == rates["ours"] / rates["diffusers"]
        assert all(rate > 0 for rate in rates.values())


def test_a_step_learns():
    """On one batch each loop's loss falls: it is a training step, not only its time."""
    torch.manual_seed(0)
    step, _ = training.theirs(2, torch.device("cpu"), coders=False)
    losses = [step(False) for _ in range(12)]
    assert sum(losses[-4:]) < sum(losses[:4])
