"""The generator of steps: what it yields is what a mode decodes."""

import pytest
import torch

from analysis.modes.applications import Options
from analysis.modes.flows import flow_job
from analysis.modes.mix import dual_job
from analysis.modes.variation import focus_job
from lib.images import to_pil
from lib.sampler import Step
from tests.analysis.modes.test_mix import same
from tests.conftest import drawing

A, B = "a large red circle", "a tiny striped star on gray"
JOBS = {
    "t2i": lambda vd, how: flow_job(vd, "t2i", [A, B], n=2, **how),
    "i2i": lambda vd, how: flow_job(vd, "i2i", drawing(0), n=2, fidelity=0.3, **how),
    "i2t": lambda vd, how: flow_job(vd, "i2t", drawing(0), n=2, **how),
    "t2t": lambda vd, how: flow_job(vd, "t2t", A, n=2, fidelity=0.3, **how),
    "focus": lambda vd, how: focus_job(vd, drawing(0), [0.2, 1.0], "focus", 0.0, Options(**how)),
}


@pytest.mark.parametrize("sampler", ["ddim", "heun"])
@pytest.mark.parametrize("mode", list(JOBS))
def test_the_last_step_is_the_output(vd, mode, sampler):
    how = {"seed": 3, "steps": 10, "sampler": sampler, "eta": 0.5 * (sampler == "ddim")}
    steps = list(JOBS[mode](vd, how).steps())
    timesteps = JOBS[mode](vd, how).how.timesteps(vd.schedule)
    assert [(step.i, step.t) for step in steps] == list(enumerate(timesteps[::-1]))
    made = JOBS[mode](vd, {**how, "output": "latents"}).result(progress=False)
    assert torch.equal(steps[-1].x.cpu(), made.tensors)
    assert all(isinstance(step, Step) and step.x0.shape == step.eps.shape for step in steps)
    if mode == "t2i":
        pictures = JOBS[mode](vd, how).result(progress=False).images
        assert same(to_pil(vd.decode_image(steps[-1].x)), pictures)


def test_some_samples(vd):
    job = JOBS["t2i"](vd, {"seed": 3, "eta": 0.5})
    whole, some = (list(job.steps(only)) for only in (None, [3, 1]))
    for one, other in zip(whole, some, strict=True):
        assert torch.allclose(one.x[[3, 1]], other.x, atol=1e-4)


def test_one_may_stop(vd, monkeypatch):
    calls, eps = [], vd.eps
    monkeypatch.setattr(vd, "eps", lambda x, t, contexts: calls.append(t) or eps(x, t, contexts))
    steps = flow_job(vd, "t2i", A, seed=3, steps=10, scale=1).steps()
    assert not calls
    assert next(steps).t == 901 and next(steps).t == 801
    assert calls == [901, 801]


def test_no_step_is_left(vd):
    assert list(flow_job(vd, "i2i", drawing(0), seed=3, fidelity=1).steps()) == []


def test_a_series_is_one_job_after_the_other(vd):
    series = dual_job(vd, "dual", drawing(0), A, [0.0, 1.0], None, None, Options(n=2, seed=3))
    steps = list(series.steps())
    assert [step.i for step in steps] == [0, 1, 2, 3] * 2
    alone = list(flow_job(vd, "t2i", A, n=2, seed=3).steps())
    assert torch.allclose(steps[-1].x, alone[-1].x, atol=1e-4)
    assert torch.allclose(list(series.steps([3]))[-1].x, alone[-1].x[1:], atol=1e-4)


@pytest.mark.parametrize("output", ["pil", "tensor"])
@pytest.mark.parametrize(("flow", "given"), [("t2i", A), ("t2t", A), ("i2t", drawing(0))])
def test_overflow_in_the_decoder_is_said_not_saved(vd, flow, given, output):
    """One step of such guidance leaves latents that are large but finite."""
    how = {"seed": 3, "steps": 1, "scale": 1e30}
    assert flow_job(vd, flow, given, output="latents", **how).result(False).tensors.isfinite().all()
    told = r"Sampling left the range of torch.float32 \(scale 1e\+30, 1 steps\): use float32"
    with pytest.raises(FloatingPointError, match=told):
        flow_job(vd, flow, given, output=output, **how).result(progress=False)
