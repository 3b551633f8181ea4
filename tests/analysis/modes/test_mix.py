"""Picture and text together, on a model of random weights, against what is written out."""

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.modes import image_to_text, image_variation, text_to_image, text_variation
from analysis.modes.mix import STRENGTH, describe, dual_guided
from analysis.results.outputs import read_record, save
from lib.images import to_pil
from lib.model import Context
from lib.noise import SampleNoise
from lib.sampler import ddim
from tests.conftest import drawing

TEXT = "a tiny striped star on gray"
QUIET = {"progress": False}


def pixels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image, dtype=int) for image in images])


def same(a: list[Image.Image], b: list[Image.Image]) -> bool:
    """Up to what rounding may do to an 8-bit value."""
    return np.abs(pixels(a) - pixels(b)).max() <= 1


@pytest.mark.parametrize("empty", [None, "", "  "])
def test_ends_of_the_strength_are_the_flows(vd, empty):
    options = {"n": 2, "seed": 3, **QUIET}
    strip = dual_guided(vd, drawing(0), TEXT, strength=[0, 1], **options)
    pictures = image_variation(vd, drawing(0), **options).images
    assert same(strip.images[:2], pictures)
    assert same(strip.images[2:], text_to_image(vd, TEXT, **options).images)
    assert same(dual_guided(vd, drawing(0), empty, strength=0.7, **options).images, pictures)
    options["temperature"] = 0
    strip = describe(vd, drawing(0), TEXT, strength=[0, 1], **options)
    assert strip.texts[:2] == image_to_text(vd, drawing(0), **options).texts
    assert strip.texts[2:] == text_variation(vd, TEXT, **options).texts
    assert describe(vd, drawing(0), empty, strength=1, **options).texts == strip.texts[:2]


@torch.no_grad()
def test_mix_and_guidance_written_out(vd):
    s = 0.3
    mix = [(vd.text_context([TEXT]), s), (vd.image_context([drawing(0)]), 1 - s)]
    eps = vd.guided(mix, "image", s * 4 + (1 - s) * 1.5)
    x = SampleNoise([5]).normal(vd.latent_shape("image"))
    for step in ddim(eps, x, vd.schedule, vd.schedule.timesteps(4)):
        x = step.x
    made = dual_guided(vd, drawing(0), TEXT, strength=s, scale_text=4, seed=5, **QUIET)
    assert same(made.images, to_pil(vd.decode_image(x)))
    assert made.record_of(0)["scale"] == pytest.approx(s * 4 + (1 - s) * 1.5)


@torch.no_grad()
def test_describe_written_out(vd):
    mix = [(vd.text_context([TEXT]), 0.5), (vd.image_context([drawing(0)]), 0.5)]
    eps = vd.guided(mix, "text", 1.75)
    x = SampleNoise([5]).normal(vd.latent_shape("text"))
    for step in ddim(eps, x, vd.schedule, vd.schedule.timesteps(4)):
        x = step.x
    made = describe(vd, drawing(0), TEXT, seed=5, temperature=0, **QUIET)
    assert made.texts == vd.decode_text(x, temperature=0)


def test_samples_are_the_same_alone_and_in_any_batch(vd):
    texts = [TEXT, "a ring"]
    options = {"strength": [0.2, 0.8], **QUIET}
    whole = dual_guided(vd, [drawing(0), drawing(1)], texts, n=2, seed=7, **options)
    assert whole.seeds == [7, 8, 9, 10] * 2
    small = dual_guided(vd, [drawing(0), drawing(1)], texts, n=2, seed=7, batch_size=3, **options)
    assert same(whole.images, small.images)
    alone = dual_guided(vd, drawing(1), texts[1], n=2, seed=9, **options)
    assert same(alone.images, [whole.images[k] for k in (2, 3, 6, 7)])


def test_one_picture_serves_all_texts(vd):
    made = dual_guided(vd, drawing(0), [TEXT, "a ring"], seed=1, strength=0.9, **QUIET)
    assert [record["prompt"] for record in made.record["samples"]] == [TEXT, "a ring"]
    assert not same(made.images[:1], made.images[1:])


def test_records_say_all_and_a_strip_has_a_row_a_seed(vd, tmp_path):
    strip = dual_guided(vd, drawing(0), TEXT, n=2, seed=3, strength=[0, 0.5, 1], **QUIET)
    paths = save(strip, tmp_path)
    assert paths[3].parent.name == "dual"
    record = read_record(paths[3])
    expected = {"strip": "strength", "strength": 0.5, "seed": 4, "scale_text": 2.0, "prompt": TEXT}
    assert record.items() >= {**expected, "scale_image": 1.5, "scale": 1.75}.items()
    keys = ("strength", "seed", "scale_text", "scale_image", "steps", "sampler")
    again = dual_guided(vd, drawing(0), TEXT, **{key: record[key] for key in keys}, **QUIET)
    assert same(again.images, strip.images[3:4])
    assert strip.sheet().width > strip.sheet().height


def test_precomputed_contexts(vd):
    options = {"strength": 0.4, "seed": 3, **QUIET}
    contexts = vd.image_context([drawing(0)]), vd.text_context([TEXT])
    plain = dual_guided(vd, drawing(0), TEXT, **options)
    given = dual_guided(vd, *contexts, **options)
    assert same(plain.images, given.images)
    assert {"image_context", "text_context"} <= given.record["samples"][0].keys()


def test_negative_prompt_steers_the_text_and_the_picture_alone(vd):
    for strength in (0, 0.5, 1):
        options = {"strength": strength, "seed": 3, "scale": 4, "n": 3, **QUIET}
        plain = dual_guided(vd, drawing(0), TEXT, **options)
        assert not same(
            plain.images,
            dual_guided(vd, drawing(0), TEXT, negative_prompt="a heart", **options).images,
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strength": 1.5}, "strength is 1.5: give a number from 0 to 1"),
        ({"strength": []}, "strength has 0 values: give at least one"),
        ({"strength": "half"}, "strength is 'half'"),
        ({"scale_text": -1}, "scale_text is -1"),
        ({"scale": -1}, "scale is -1"),
        ({"images": []}, "no picture"),
        ({"texts": ["a", " "]}, "Prompt 2 of 2 is empty"),
        ({"texts": "red " * 100}, "limit is 32"),
        ({"images": [drawing(0)] * 2, "texts": ["a"] * 3}, "2 images and 3 texts"),
        ({"texts": Context("image", torch.ones(1, 5, 16))}, "kind 'image'"),
        ({"negative_prompt": 3}, "prompts is of type int"),
        ({"n": 0}, "n is 0"),
        ({"sampler": "heun", "eta": 0.5}, "heun is deterministic"),
    ],
)
def test_bad_input(vd, monkeypatch, given, message):
    monkeypatch.setattr(vd, "_eps", None)
    with pytest.raises(ValueError, match=message):
        dual_guided(vd, **({"images": drawing(0), "texts": TEXT, **QUIET} | given))


def test_a_strips_sheet_is_in_order_whatever_the_results_order(vd):
    strip = dual_guided(vd, drawing(0), TEXT, n=2, seed=3, strength=[1, 0, 0.5], **QUIET)
    sheet = strip.sheet(labels=None, cell=16, gap=0)
    assert sheet.size == (48, 32)
    shown = [sheet.crop((x, y, x + 16, y + 16)) for y in (0, 16) for x in (0, 16, 32)]
    # by strength, then seed, as they were made: (1, 3) (1, 4) (0, 3) (0, 4) (0.5, 3) (0.5, 4)
    expected = [strip.images[k] for k in (2, 4, 0, 3, 5, 1)]
    assert [image.tobytes() for image in shown] == [image.tobytes() for image in expected]
    assert strip.sheet(labels=list("abcdef")).size == strip.sheet(labels=list("ghijkl")).size


def test_an_unknown_option_is_named_with_those_there_are(vd):
    with pytest.raises(TypeError, match=r"no option stesp: .*seed, steps, spacing, scale"):
        dual_guided(vd, drawing(0), TEXT, stesp=3, **QUIET)


@pytest.mark.parametrize("scale", ["scale_text", "scale_image"])
def test_one_scale_for_both_or_one_for_each(vd, scale):
    with pytest.raises(ValueError, match="not both"):
        dual_guided(vd, drawing(0), TEXT, scale=3, **{scale: 2}, **QUIET)
    record = dual_guided(vd, drawing(0), TEXT, scale=3, seed=1, **QUIET).record_of(0)
    assert (record["scale"], record["scale_text"], record["scale_image"]) == (3, 3, 3)


def test_records_hold_no_scale_that_had_no_effect(vd):
    strip = dual_guided(vd, drawing(0), TEXT, strength=[0, 0.5, 1], seed=1, **QUIET)
    records = [strip.record_of(k) for k in range(3)]
    assert [record["scale_text"] for record in records] == [None, 2.0, 2.0]
    assert [record["scale_image"] for record in records] == [1.5, 1.5, None]


@pytest.mark.parametrize("several", [torch.tensor([0.0, 1.0]), np.array([0, 1]), range(2), (0, 1)])
def test_values_of_a_strip_in_any_form(several):
    assert STRENGTH.check("strength", several) == [0.0, 1.0]
    assert STRENGTH.check("strength", several[1]) == [1.0]
    with pytest.raises(ValueError, match="strength is"):
        STRENGTH.check("strength", "ab")
