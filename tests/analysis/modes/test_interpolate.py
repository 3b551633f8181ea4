"""Films: slerp by its geometry, ends that are the flows' own results, and GIFs that read back."""

import io
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from analysis.modes import image_to_text, image_variation, text_to_image
from analysis.modes.interpolate import between, interpolate, slerp
from analysis.results import Saved
from analysis.results.films import film, save_film
from analysis.results.outputs import read_record, save
from lib.model import Context
from lib.noise import SampleNoise
from tests.analysis.modes.test_mix import same
from tests.conftest import drawing

A, B = "a tiny striped star on gray", "a large red circle"
QUIET = {"progress": False}


def test_slerp_goes_along_the_circle():
    a, b = torch.tensor([2.0, 0, 0]), torch.tensor([0.0, 2, 0])
    for u in (0, 0.25, 0.5, 1):
        angle = u * math.pi / 2
        expected = torch.tensor([2 * math.cos(angle), 2 * math.sin(angle), 0])
        assert torch.allclose(slerp(a, b, u), expected, atol=1e-6)
    assert torch.allclose(between(a, b, 0.5, "lerp"), torch.tensor([1.0, 1, 0]))


def test_slerp_of_parallel_opposite_and_zero_vectors_is_straight():
    a = torch.tensor([[1.0, 2], [1, 2], [0, 0]])
    b = torch.tensor([[3.0, 6], [-1, -2], [2, 4]])
    assert torch.allclose(slerp(a, b, 0.5)[0], torch.tensor([2.0, 4]))
    assert torch.allclose(slerp(a, b, 0.25)[1], torch.tensor([0.5, 1]), atol=1e-6)
    assert slerp(a, b, 0.5).isfinite().all()


def test_slerp_keeps_the_spread_of_noise_and_lerp_does_not():
    a, b = SampleNoise([0, 1]).normal((50_000,))
    assert slerp(a, b, 0.5).std().item() == pytest.approx(1, abs=0.02)
    assert between(a, b, 0.5, "lerp").std().item() == pytest.approx(0.5**0.5, abs=0.02)


@pytest.mark.parametrize("method", ["slerp", "lerp"])
def test_between_contexts(vd, method):
    options = {"seed": 5, **QUIET}
    made = interpolate(vd, A, B, frames=3, method=method, **options)
    assert made.seeds == [5] * 3
    a, b = (vd.text_context([text]).tokens for text in (A, B))
    middle = Context("text", between(a, b, 0.5, method))
    assert same(made.images[:1], text_to_image(vd, A, **options).images)
    assert same(made.images[1:2], text_to_image(vd, context=middle, **options).images)
    assert same(made.images[2:], text_to_image(vd, B, **options).images)


def test_between_pictures(vd, picture_files):
    made = interpolate(vd, *picture_files, frames=2, seed=5, **QUIET)
    assert same(made.images[1:], image_variation(vd, picture_files[1], seed=5, **QUIET).images)
    record = made.record_of(0)
    assert (record["input"]["file"], record["input_to"]["file"]) == ("a.png", "b.png")
    options = {"seed": 5, "temperature": 0, **QUIET}
    texts = interpolate(vd, drawing(0), drawing(1), frames=2, makes="text", **options).texts
    assert texts[:1] == image_to_text(vd, drawing(0), **options).texts


def test_between_latents(vd):
    made = interpolate(vd, A, frames=3, n=2, seed=5, batch_size=4, **QUIET)
    ends = text_to_image(vd, A, n=3, seed=5, **QUIET).images
    assert same([made.images[k] for k in (0, 2, 3, 5)], [ends[k] for k in (0, 1, 1, 2)])
    a, b = SampleNoise([5, 6]).normal((math.prod(vd.latent_shape("image")),))
    middle = slerp(a, b, 0.5).reshape(1, *vd.latent_shape("image"))
    expected = text_to_image(vd, A, seed=5, latents=middle, **QUIET)
    assert same(made.images[1:2], expected.images)


def test_records_and_films_on_disk(vd, tmp_path):
    made = interpolate(vd, A, B, frames=4, seed=5, **QUIET)
    paths = save(made, tmp_path)
    record = read_record(paths[1])
    expected = {"prompt": A, "prompt_to": B, "position": 1 / 3, "between": "contexts"}
    assert record.items() >= {**expected, "method": "slerp", "strip": "position"}.items()
    told = [Saved(path, read_record(path), new=True) for path in paths]
    for order in (told, told[::-1]):  # as when some lay there already
        path = save_film(order, tmp_path)
    assert path == tmp_path / "films" / "0002_a-tiny-striped-star-on-gray_seed5.gif"
    assert read_record(path.with_suffix(".json"))["of"][3] == f"interpolate/{paths[3].name}"
    with Image.open(path) as image:
        assert (image.n_frames, image.size, image.info["duration"]) == (6, (16, 16), 150)
        assert image.info["loop"] == 0


def test_film_once_and_what_is_none():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "lime", "blue")]
    with Image.open(io.BytesIO(film(frames, back=False))) as image:
        assert image.n_frames == 3
        image.seek(2)
        assert image.convert("RGB").getpixel((0, 0)) == (0, 0, 255)
    for bad in (frames[:1], [frames[0], Image.new("RGB", (5, 4))]):
        with pytest.raises(ValueError, match="two or more pictures of one size"):
            film(bad)
    with pytest.raises(ValueError, match="seconds is 0"):
        film(frames, seconds=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"second": drawing(0)}, "One end is a text"),
        ({"frames": 1}, "frames is 1: give a whole number from 2 to 10000"),
        ({"method": "cubic"}, "choose slerp or lerp"),
        ({"makes": "text", "height": 16}, "A text has no height"),
        ({"makes": "sound"}, "choose image or text"),
        ({"second": " "}, "prompt is empty"),
        ({"first": Path("no.png"), "second": None}, "There is no file no.png"),
        ({"second": None, "latents": torch.zeros(1, 4, 8, 8)}, "what is interpolated"),
        ({"first": Context("text", torch.ones(2, 32, 16)), "second": None}, "An end is one"),
    ],
)
def test_bad_input(vd, monkeypatch, given, message):
    monkeypatch.setattr(vd, "_eps", None)
    with pytest.raises(ValueError, match=message):
        interpolate(vd, **({"first": A, "second": B, **QUIET} | given))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            Context("image", torch.ones(1, 5, 16)),
            Context("image", torch.ones(1, 7, 16)),
            r"7, 16\): give \(samples, 5, 16\)",
        ),
        (A, Context("text", torch.ones(1, 7, 16)), r"7, 16\): give \(samples, 32, 16\)"),
        (Context("image", torch.ones(1, 7, 16)), drawing(0), r"7, 16\): give \(samples, 5, 16\)"),
        (A, Context("text", torch.ones(1, 32, 8)), r"shape \(1, 32, 8\)"),
    ],
)
def test_contexts_of_another_shape_than_the_models(vd, monkeypatch, first, second, message):
    for name in ("eps", "text_context", "image_context"):
        monkeypatch.setattr(vd, name, None)
    with pytest.raises(ValueError, match=message):
        interpolate(vd, first, second, seed=1, **QUIET)


def test_an_end_may_be_precomputed(vd):
    for first, second, context in (
        (A, B, vd.text_context([B])),
        (drawing(0), drawing(1), vd.image_context([drawing(1)])),
    ):
        plain = interpolate(vd, first, second, frames=3, seed=5, steps=2, **QUIET)
        given = interpolate(vd, first, context, frames=3, seed=5, steps=2, **QUIET)
        assert same(given.images, plain.images)


def test_a_picture_s_file_is_not_taken_for_a_prompt(vd, picture_files):
    with pytest.raises(ValueError, match="also a picture's file: give Path"):
        interpolate(vd, str(picture_files[0]), "a red circle", seed=1, progress=False)
