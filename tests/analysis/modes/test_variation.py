"""Focus as a mode: levels, strips and batches."""

import pytest
import torch

from analysis.modes.color import match_color
from analysis.modes.focus import focus_context, focus_first_release
from analysis.modes.generate import image_variation
from analysis.modes.variation import focused
from analysis.results.outputs import read_record, save
from lib.model import Context
from tests.analysis.modes.test_mix import same
from tests.conftest import drawing

QUIET = {"progress": False}


@pytest.mark.parametrize(("scheme", "neutral"), [("focus", 0.5), ("first_release", 0)])
def test_neutral_is_a_plain_variation(vd, scheme, neutral):
    for fidelity in (0, 0.5):
        options = {"n": 2, "seed": 3, "fidelity": fidelity, **QUIET}
        plain = image_variation(vd, drawing(0), **options)
        made = focused(vd, drawing(0), levels=neutral, scheme=scheme, **options)
        assert same(plain.images, made.images)


@pytest.mark.parametrize(("scheme", "levels"), [("focus", [0.1, 0.9]), ("first_release", [-1, 2])])
def test_levels_turn_the_context(vd, scheme, levels):
    tokens = vd.image_context([drawing(0)]).tokens
    strip = focused(vd, drawing(0), levels=levels, scheme=scheme, seed=3, **QUIET)
    for k, level in enumerate(levels):
        if scheme == "focus":
            turned = focus_context(tokens, level)
        else:
            turned = torch.cat([tokens[:, :1], focus_first_release(tokens[:, 1:], level)], dim=1)
        assert level == 0.9 or not torch.allclose(turned, tokens, atol=1e-3)  # no component 5
        expected = image_variation(vd, context=Context("image", turned), seed=3, **QUIET)
        assert same(expected.images, strip.images[k : k + 1])


def test_samples_are_the_same_alone_and_in_any_batch(vd):
    options = {"levels": [0, 0.5, 1], "scale": 4, **QUIET}
    whole = focused(vd, [drawing(0), drawing(1)], n=2, seed=7, **options)
    assert whole.seeds == [7] * 3 + [8] * 3 + [9] * 3 + [10] * 3
    small = focused(vd, [drawing(0), drawing(1)], n=2, seed=7, batch_size=5, **options)
    assert same(whole.images, small.images)
    alone = focused(vd, drawing(1), seed=10, **{**options, "levels": 1})
    assert same(alone.images, whole.images[11:])


def test_records_are_enough(vd, tmp_path):
    strip = focused(vd, drawing(0), n=2, seed=3, levels=[0.25, 0.75], **QUIET)
    path = save(strip, tmp_path)[3]
    record = read_record(path)
    assert path.parent.name == "focus"
    assert record.items() >= {"strip": "level", "level": 0.75, "seed": 4, "scheme": "focus"}.items()
    again = focused(vd, drawing(0), seed=record["seed"], levels=record["level"], **QUIET)
    assert same(again.images, strip.images[3:])


def test_given_latents_serve_the_whole_strip(vd):
    latents = torch.randn(1, *vd.latent_shape("image"))
    made = focused(vd, drawing(0), levels=[0.5, 0.5], latents=latents, **QUIET)
    assert same(made.images[:1], made.images[1:])


@pytest.mark.parametrize("method", ["mean_std", "histogram"])
def test_colours_are_matched_with_each_samples_own_input(vd, tmp_path, method):
    inputs, options = [drawing(0), drawing(1)], {"n": 2, "levels": [0, 1], "seed": 3, **QUIET}
    options["batch_size"] = 3  # as rounding may differ between batches, and a match enlarges it
    plain = focused(vd, inputs, **options)
    options |= {"color_match": 0.25, "color_method": method}
    made = focused(vd, inputs, **options)
    for k, image in enumerate(plain.images):
        assert same([match_color(image, inputs[k // 4], 0.25, method)], made.images[k : k + 1])
    assert not same(plain.images, made.images)
    record = read_record(save(made, tmp_path)[0])
    assert (record["color_match"], record["color_method"]) == (0.25, method)
    options |= {"levels": 0.5}
    assert same(focused(vd, inputs, **options).images, varied(vd, inputs, options))


def varied(vd, inputs, options):
    return image_variation(vd, inputs, **{k: v for k, v in options.items() if k != "levels"}).images


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"color_match": 2}, "color_match is 2"),
        ({"color_match": 0.5, "color_method": "paint"}, "color_method is 'paint'"),
        ({"images": Context("image", torch.ones(1, 5, 16)), "color_match": 0.5}, "themselves"),
        ({"levels": 1.5}, "level is 1.5: give a number from 0 to 1"),
        ({"levels": 3, "scheme": "first_release"}, "level is 3: give a number from -2 to 2"),
        ({"levels": 0.5, "scheme": "first_release"}, "level is 0.5: give a whole number from -2"),
        ({"scheme": "new"}, "scheme is 'new': choose focus or first_release"),
        ({"fidelity": 2}, "fidelity is 2"),
        ({"latents": torch.zeros(2, 4, 8, 8)}, r"shape \(1, 4, 8, 8\)"),
        ({"images": Context("image", torch.ones(1, 5, 16)), "fidelity": 0.5}, "themselves"),
    ],
)
def test_bad_input(vd, monkeypatch, given, message):
    monkeypatch.setattr(vd, "eps", None)
    with pytest.raises(ValueError, match=message):
        focused(vd, **({"images": drawing(0), **QUIET} | given))
