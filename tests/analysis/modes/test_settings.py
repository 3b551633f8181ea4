"""The released code's noise, against a manual replay with torch's global generator."""

import pytest
import torch

from analysis.modes.applications import Options
from analysis.modes.edit import edit, latent_edit
from analysis.modes.flows import flow_job
from analysis.modes.generate import image_to_text, text_to_image
from analysis.modes.interpolate import interpolate
from analysis.modes.mix import describe, dual_guided
from analysis.modes.sampling import denoise
from analysis.modes.settings import Sampling
from lib.sampler import ddim
from tests.conftest import drawing

A, B = "a large red circle", "a tiny striped star on gray"
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
    for step in ddim(eps, x, vd.schedule, vd.schedule.ddim_timesteps(steps), eta, noise):
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
    job = flow_job(vd, "t2i", [A, B], n=3, seed=20, eta=0.5, noise="official", output="latents")
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

    def spy(vd, data, condition, noise, *rest):
        for step in denoise(vd, data, condition, noise, *rest):
            yield step
        said.append(step.x)

    monkeypatch.setattr("analysis.modes.edit.denoise", spy)
    latent_edit(vd, drawing(0), add="star", seed=7, n=3, batch_size=2, **OFFICIAL)
    context = vd.image_context([drawing(0)])
    expected = replay(vd, context, "text", vd.spec.scale_image, 7, 3, vd.spec.steps, 0)
    assert close(torch.cat(said), expected)


def test_options_are_those_of_flows(vd):
    assert Options(noise="official").sampling(vd, 2.0).record()["noise"] == "official"
    assert Sampling(4, 2.0, noise="official").seeds(5, 2, 3) == [5, 6, 7, 5, 6, 7]
    assert Sampling(4, 2.0).seeds(5, 2, 3) == [5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda vd: text_to_image(vd, A, noise="cuda"), "noise is 'cuda': choose sample or off"),
        (lambda vd: interpolate(vd, A, noise="official"), "film between latents"),
        (lambda vd: edit(vd, drawing(0), A, B, noise="official"), "nothing in it is random"),
    ],
)
def test_where_there_is_none(vd, monkeypatch, make, message):
    monkeypatch.setattr(vd, "eps", None)
    with pytest.raises(ValueError, match=message):
        make(vd)


def test_seeds_with_gaps_are_no_draw(vd):
    from dataclasses import replace

    job = flow_job(vd, "t2i", A, n=2, seed=20, noise="official")
    with pytest.raises(ValueError, match="count on by one"):
        replace(job, seeds=[20, 30])
