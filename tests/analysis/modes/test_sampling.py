"""Steps, seeds and random numbers: the steps yield what a mode decodes; the released code's noise,
against a manual replay with torch's global generator.
"""

import pytest
import torch

from analysis.modes import (
    describe,
    dual_guided,
    focus,
    image_to_text,
    image_variation,
    interpolate,
    latent_edit,
    text_to_image,
    text_variation,
)
from analysis.modes import sampling as sampling_module
from analysis.modes.sampling import seeds_of
from lib.images import to_pil
from lib.sampler import Step, ddim
from tests.analysis.modes.test_mix import same
from tests.conftest import drawing

A, B = "a large red circle", "a tiny striped star on gray"
JOBS = {
    "t2i": lambda vd, how: text_to_image.job(vd, [A, B], n=2, **how),
    "i2i": lambda vd, how: image_variation.job(vd, drawing(0), n=2, fidelity=0.3, **how),
    "i2t": lambda vd, how: image_to_text.job(vd, drawing(0), n=2, **how),
    "t2t": lambda vd, how: text_variation.job(vd, A, n=2, fidelity=0.3, **how),
    "focus": lambda vd, how: focus.job(vd, drawing(0), levels=[0.2, 1.0], **how),
}


@pytest.mark.parametrize("sampler", ["ddim", "heun"])
@pytest.mark.parametrize("mode", list(JOBS))
def test_the_last_step_is_the_output(vd, mode, sampler):
    how = {"seed": 3, "steps": 5, "sampler": sampler, "eta": 0.5 * (sampler == "ddim")}
    steps = list(JOBS[mode](vd, how).steps())
    timesteps = JOBS[mode](vd, how).how[0].timesteps(vd.schedule)
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
    calls, eps = [], vd._eps
    monkeypatch.setattr(vd, "_eps", lambda x, t, *mix: calls.append(t) or eps(x, t, *mix))
    steps = text_to_image.job(vd, A, seed=3, steps=10, scale=1).steps()
    assert not calls
    assert next(steps).t == 901 and next(steps).t == 801
    assert calls == [901, 801]


def test_no_step_is_left(vd):
    assert list(image_variation.job(vd, drawing(0), seed=3, fidelity=1).steps()) == []


def test_a_strip_of_weights_is_one_value_after_the_other(vd):
    job = dual_guided.job(vd, drawing(0), A, strength=[0.0, 1.0], n=2, seed=3)
    steps = list(job.steps())
    assert [step.i for step in steps] == [0, 1, 2, 3] * 2
    alone = list(text_to_image.job(vd, A, n=2, seed=3).steps())
    assert torch.allclose(steps[-1].x, alone[-1].x, atol=1e-4)
    assert torch.allclose(list(job.steps([3]))[-1].x, alone[-1].x[1:], atol=1e-4)


@pytest.mark.parametrize("output", ["pil", "tensor"])
@pytest.mark.parametrize(
    ("mode", "given"), [(text_to_image, A), (text_variation, A), (image_to_text, drawing(0))]
)
def test_overflow_in_the_decoder_is_said_not_saved(vd, mode, given, output):
    """Latents that are large, but finite: where no step is left, they are decoded as they are."""
    data = "image" if mode is text_to_image else "text"
    huge = torch.full((1, *vd.latent_shape(data)), 1e30)
    how = {"fidelity": 1, "start": huge, "progress": False}
    assert mode(vd, given, output="latents", **how).tensors.isfinite().all()
    with pytest.raises(FloatingPointError, match="Sampling left the range of torch"):
        mode(vd, given, output=output, **how)


@pytest.mark.parametrize(
    ("spacing", "timesteps"),
    [
        ("exact", [k * 1000 // 30 + 1 for k in range(30)]),
        ("released", list(range(1, 1000, 33))[:31]),
    ],
)
def test_thirty_steps_are_thirty_or_those_of_the_released_code(vd, spacing, timesteps):
    """The released code takes `range(0, 1000, 1000 // 30)`, one later each."""
    job = text_to_image.job(vd, A, seed=3, steps=30, spacing=spacing, scale=1)
    assert [step.t for step in job.steps()] == timesteps[::-1]
    assert (job.record_of(0)["steps"], job.record_of(0)["spacing"]) == (30, spacing)


def test_seeds_of_all_kinds():
    assert seeds_of(5, 2, 3) == [5, 6, 7, 8, 9, 10]
    assert seeds_of(5, 2, 3, "official") == [5, 6, 7, 5, 6, 7]
    assert seeds_of([7], 2, 1) == [7, 7]  # a list is not counted on
    assert seeds_of([9, 4, 4], 2, 3) == [9, 4, 4, 9, 4, 4]
    assert seeds_of([1, 2, 3, 6, 5, 4], 2, 3) == [1, 2, 3, 6, 5, 4]
    drawn = seeds_of(None, 2, 1)
    assert drawn[1] == drawn[0] + 1 != seeds_of(None, 2, 1)[1]
    with pytest.raises(ValueError, match=r"There are 2 seeds for 6 samples: give one, 3 \(one for"):
        seeds_of([1, 2], 2, 3)


def test_a_list_of_seeds_is_samples_of_those_seeds(vd):
    options = {"n": 2, "output": "latents", "progress": False}
    made = text_to_image(vd, [A, B], seed=[40, 7], **options)
    assert made.seeds == [40, 7, 40, 7]
    each = text_to_image(vd, [A, B], seed=[40, 7, 11, 40], **options)
    alone = text_to_image(vd, B, seed=40, output="latents", progress=False)
    assert torch.allclose(made.tensors[2], alone.tensors[0], atol=1e-4)
    assert torch.allclose(each.tensors[3], alone.tensors[0], atol=1e-4)
    assert torch.allclose(each.tensors[:2], made.tensors[:2], atol=1e-4)


# ------------------------------------------------------------------ the released code's noise


OFFICIAL = {"noise": "official", "output": "latents", "progress": False}


class GlobalNoise:
    """What `torch.randn` gives a batch, as the released code asks it."""

    def __init__(self, seed, batch):
        self.batch = batch
        torch.manual_seed(seed + 100)

    def normal(self, shape):
        return torch.randn(self.batch, *shape)


def replay(vd, context, data, scale, seed, n, steps, eta):
    noise = GlobalNoise(seed, n)
    x = noise.normal(vd.latent_shape(data))
    eps = vd.guided([(context.repeat(n), 1.0)], data, scale)
    for step in ddim(eps, x, vd.schedule, vd.schedule.timesteps(steps), eta, noise):
        x = step.x
    return x


def close(a, b):
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_the_whole_batch_is_one_draw(vd, eta, batch_size):
    options = {"seed": 20, "steps": 5, "eta": eta, "batch_size": batch_size, **OFFICIAL}
    made = text_to_image(vd, A, n=3, scale=2, **options)
    expected = replay(vd, vd.text_context([A]), "image", 2, 20, 3, 5, eta)
    assert close(made.tensors, expected)
    made = image_to_text(vd, drawing(0), n=3, scale=2, **options)
    expected = replay(vd, vd.image_context([drawing(0)]), "text", 2, 20, 3, 5, eta)
    assert close(made.tensors, expected)


def test_every_input_is_a_batch_of_its_own(vd):
    options = {"seed": 20, "n": 3, "eta": 0.5, **OFFICIAL}
    both = text_to_image(vd, [A, B], batch_size=4, **options)
    assert both.seeds == [20, 21, 22] * 2
    for k, text in enumerate((A, B)):
        assert close(both.tensors[3 * k : 3 * k + 3], text_to_image(vd, text, **options).tensors)
    assert not close(both.tensors[:3], both.tensors[3:])


def test_some_of_a_job_are_what_they_are_in_the_whole(vd):
    job = text_to_image.job(vd, [A, B], n=3, seed=20, eta=0.5, noise="official", output="latents")
    (some,) = job.run([4, 2], progress=False)
    assert close(some.tensors, job.result(progress=False).tensors[[4, 2]])


def test_the_record_is_enough_to_make_it_again(vd):
    made = text_to_image(vd, [B, A], seed=20, n=3, **OFFICIAL)
    record = made.record_of(4)
    assert (record["noise"], record["seed"]) == ("official", 21)
    assert (record["noise_seed"], record["noise_batch"]) == (20, 3)
    again = text_to_image(
        vd, record["prompt"], seed=record["noise_seed"], n=record["noise_batch"], **OFFICIAL
    )
    row = record["seed"] - record["noise_seed"]
    assert close(again.tensors[[row]], made.tensors[[4]])
    plain = text_to_image(vd, A, seed=20, progress=False).record
    assert plain["noise"] == "sample" and "noise_batch" not in plain


@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_applications_have_it_too(vd, batch_size):
    options = {"seed": 7, "n": 2, "batch_size": batch_size, **OFFICIAL}
    strip = dual_guided(vd, drawing(0), A, strength=[0.5, 1.0], **options)
    assert strip.seeds == [7, 8, 7, 8]
    assert close(strip.tensors[2:], text_to_image(vd, A, seed=7, n=2, **OFFICIAL).tensors)
    words = describe(vd, [drawing(0), drawing(1)], A, strength=1.0, **options)
    assert close(words.tensors[:2], words.tensors[2:])  # one text, one draw
    film = interpolate(vd, A, B, frames=2, **options)
    assert close(film.tensors[[0, 2]], text_to_image(vd, A, seed=7, n=2, **OFFICIAL).tensors)


def test_latent_edit_draws_its_texts_alike(vd, monkeypatch):
    said = []

    denoise = sampling_module.denoise

    def spy(vd, data, condition, noise, *rest):
        for step in denoise(vd, data, condition, noise, *rest):
            yield step
        said.append(step.x)

    monkeypatch.setattr(sampling_module, "denoise", spy)
    latent_edit(vd, drawing(0), add="star", seed=7, n=3, batch_size=2, **OFFICIAL)
    context = vd.image_context([drawing(0)])
    expected = replay(vd, context, "text", vd.spec.scale_image, 7, 3, vd.spec.steps, 0)
    assert close(torch.cat(said), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda vd: text_to_image(vd, A, noise="cuda"), "noise is 'cuda': choose sample or off"),
        (lambda vd: interpolate(vd, A, noise="official"), "film between latents"),
    ],
)
def test_where_there_is_none(vd, monkeypatch, make, message):
    monkeypatch.setattr(vd, "_eps", None)
    with pytest.raises(ValueError, match=message):
        make(vd)


def test_seeds_with_gaps_are_no_draw(vd):
    with pytest.raises(ValueError, match="count on by one"):
        text_to_image.job(vd, A, n=2, seed=[20, 30], noise="official")
    assert text_to_image.job(vd, [A, B], n=2, seed=[20, 21], noise="official").whole == [20, 21]
