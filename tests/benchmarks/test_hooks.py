"""The benchmark of hook points compares what it says: the same runs, with and without them."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from analysis.inside.trace import trace
from benchmarks import hooks


def test_without_hook_points_nothing_can_be_recorded(vd):
    for name in vd.available:  # read now: a recording looks at what is there
        vd.component(name)
    modules = hooks.hooked(vd)
    own = [module.__call__.__func__ for module in vd.modules()]
    # the embedding of time, a data and a context column of both kinds, and all attention
    assert len(modules) == 1 + 4 + sum(type(m).__name__ == "Attention" for m in vd.modules())
    with trace(vd) as blind:
        bare = hooks.sample(vd, 2, hooks.without_hook_points(modules))
    assert not blind.maps and not blind.activations
    with trace(vd) as seeing:
        assert torch.equal(hooks.sample(vd, 2, nullcontext()), bare)
    assert seeing.maps and seeing.activations
    with pytest.raises(ZeroDivisionError), hooks.without_hook_points(modules):
        assert modules[0].__call__.__func__ is not nn.Module.__call__
        raise ZeroDivisionError
    assert [module.__call__.__func__ for module in vd.modules()] == own
    for module in vd.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_every_kind_is_run_as_often(vd):
    seconds = hooks.measure(vd, steps=1, repeats=3)
    assert {name: len(runs) for name, runs in seconds.items()} == {
        "none": 3, "off": 3, "on": 3, "on, self": 3,
    }  # fmt: skip
    assert hooks.ratios({"none": [1, 2, 4], "off": [2, 2, 2]}, "off") == (0.75, 1, 1.5)


def test_a_run_that_computes_something_else_is_an_error(vd, monkeypatch):
    found = iter(range(9))
    monkeypatch.setattr(hooks, "sample", lambda *args: torch.full((1,), float(next(found))))
    with pytest.raises(RuntimeError, match="'off' another picture"):
        hooks.measure(vd, steps=1, repeats=2)


def test_the_table(model_folder, capsys):
    threads = torch.get_num_threads()
    try:
        hooks.main(["--model", str(model_folder), "--steps", "1", "--repeats", "2"])
    finally:
        torch.set_num_threads(threads)
    head, *lines = capsys.readouterr().out.splitlines()
    assert "2 runs each" in head
    assert [line[:10].strip() for line in lines] == ["off", "on", "on, self"]
