"""Focus: properties that follow from its definition, the released code's numbers, and the mode."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from analysis.modes import focus, image_variation
from analysis.modes.color import match_color
from analysis.modes.focus import (
    RELEASED,
    Bands,
    bands_of,
    focus_context,
    focus_first_release,
    focus_tokens,
    top_components,
)
from analysis.results.outputs import read_record, save
from lib.model import Context
from tests.analysis.modes.test_mix import same
from tests.conftest import drawing

QUIET = {"progress": False}
GOLDEN = load_file(Path(__file__).parents[2] / "fixtures" / "golden.safetensors")


@pytest.fixture
def tokens() -> torch.Tensor:
    """Three samples with very different spectra and scales."""
    g = torch.Generator().manual_seed(5)
    x = torch.randn(3, 64, 48, generator=g)
    spread = torch.tensor([0.5, 2.0, 8.0])[:, None] ** (-torch.arange(48) / 16)
    return x * spread[:, None] * torch.tensor([0.1, 1.0, 30.0])[:, None, None] + 0.3


def centred_spectrum(x: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(x - x.mean(-1, keepdim=True))


@pytest.mark.parametrize("name", [n for n in GOLDEN if n.startswith("rank.") and n[5] in "01"])
def test_released_numbers(name):
    out = focus_tokens(GOLDEN["rank.input"], float(name.removeprefix("rank.")))
    assert (out - GOLDEN[name]).abs().max() < 2e-3


def test_neutral_is_the_identity(tokens):
    assert torch.equal(focus_tokens(tokens, 0.5), tokens)
    assert torch.equal(focus_first_release(tokens, 0), tokens)


@pytest.mark.parametrize("level", [0.0, 0.2, 0.45, 0.55, 0.8, 1.0])
def test_every_sample_is_the_same_alone_and_keeps_its_spread(tokens, level):
    out = focus_tokens(tokens, level)
    for i in range(3):
        assert torch.allclose(
            out[i], focus_tokens(tokens[i : i + 1], level)[0], rtol=1e-4, atol=1e-4
        )
    assert torch.allclose(out.std(dim=(1, 2)), tokens.std(dim=(1, 2)), rtol=1e-4)


def test_full_semantics_removes_the_two_largest_components(tokens):
    mean = tokens.mean(-1, keepdim=True)
    u, s, v = torch.linalg.svd(tokens - mean, full_matrices=False)
    s[:, :2] = 0
    expected = mean + u @ torch.diag_embed(s) @ v
    out = focus_tokens(tokens, 0.0)
    ratio = tokens.std(dim=(1, 2)) / expected.std(dim=(1, 2))
    assert torch.allclose(out, expected * ratio[:, None, None], rtol=1e-3, atol=1e-3)


def test_full_style_keeps_five_components(tokens):
    spectrum = centred_spectrum(focus_tokens(tokens, 1.0))
    assert (spectrum[:, 5:] < 1e-4 * spectrum[:, :1]).all()
    assert (spectrum[:, 4] > 1e-3 * spectrum[:, 0]).all()


def test_bands_say_which_components_fade(tokens):
    few = Bands(content=1, style=1, rank=5)
    before, style = centred_spectrum(tokens), centred_spectrum(focus_tokens(tokens, 1.0, few))
    assert (style[:, 1:] < 1e-4 * style[:, :1]).all()
    mean = tokens.mean(-1, keepdim=True)
    u, s, v = torch.linalg.svd(tokens - mean, full_matrices=False)
    s[:, 0] = 0
    expected = mean + u @ torch.diag_embed(s) @ v
    ratio = tokens.std(dim=(1, 2)) / expected.std(dim=(1, 2))
    assert torch.allclose(
        focus_tokens(tokens, 0.0, few), expected * ratio[:, None, None], rtol=1e-3, atol=1e-3
    )
    # on the way to style components 1 to 4 fade, the later the more, and the rest is gone
    part = centred_spectrum(focus_tokens(tokens, 0.6, few))
    gain = part[:, :5] / before[:, :5]
    assert (gain.diff(dim=1) < 0).all() and (part[:, 5:] < 1e-4 * before[:, :1]).all()


def test_the_bands_of_a_model():
    assert bands_of("vd-four-flow-v1-0") == bands_of("anything") == RELEASED == Bands(2, 5, 20, 10)
    assert bands_of("vd-mini").style == 1 and bands_of("vd-emoji").style == 8
    for wrong in ({"content": 0}, {"style": 20}, {"rank": 5}, {"alone": 0}):
        with pytest.raises(ValueError, match="rank above style"):
            Bands(**wrong)


def test_zeros_stay_zeros():
    zeros = torch.zeros(2, 30, 16)
    for level in (0.0, 0.3, 0.7, 1.0):
        assert torch.equal(focus_tokens(zeros, level), zeros)


def test_fewer_tokens_than_components():
    x = torch.randn(2, 9, 16)
    assert focus_tokens(x, 0.1).isfinite().all() and focus_tokens(x, 0.9).isfinite().all()


def test_half_precision_in_half_precision_out(tokens):
    out = focus_tokens(tokens.half(), 0.2)
    assert out.dtype is torch.float16 and out.isfinite().all()


@pytest.mark.parametrize(("level", "rank"), [(1, 10), (2, 2)])
def test_first_release_keeps_the_largest(tokens, level, rank):
    out = focus_first_release(tokens, level)
    assert torch.equal(out, top_components(tokens, rank))
    spectrum, before = centred_spectrum(out), centred_spectrum(tokens)
    assert torch.allclose(spectrum[:, :rank], before[:, :rank], rtol=1e-4)
    assert (spectrum[:, rank:] < 1e-4 * before[:, :1]).all()
    assert torch.allclose(out.mean(-1), tokens.mean(-1), atol=1e-4)


@pytest.mark.parametrize(("level", "dropped"), [(-1, 1), (-2, 2)])
def test_first_release_drops_the_largest_and_all_beyond_fifty(level, dropped):
    x = torch.randn(2, 80, 70, generator=torch.Generator().manual_seed(1))
    spectrum, before = centred_spectrum(focus_first_release(x, level)), centred_spectrum(x)
    kept = 50 - dropped
    assert torch.allclose(spectrum[:, :kept], before[:, dropped:50], rtol=1e-4)
    assert (spectrum[:, kept:] < 1e-4 * before[:, :1]).all()


def test_the_class_token_stays(tokens):
    out = focus_context(tokens, 0.1)
    assert torch.equal(out[:, 0], tokens[:, 0])
    assert torch.equal(out[:, 1:], focus_tokens(tokens[:, 1:], 0.1))


@pytest.mark.parametrize("level", [-0.1, 1.01, float("nan")])
def test_levels_outside_are_refused(tokens, level):
    with pytest.raises(ValueError, match="focus is"):
        focus_tokens(tokens, level)


def test_wrong_arguments(tokens):
    with pytest.raises(ValueError, match="level is 3"):
        focus_first_release(tokens, 3)
    with pytest.raises(ValueError, match="shape"):
        focus_tokens(tokens[0], 0.2)


# ------------------------------------------------------------------ the mode


@pytest.mark.parametrize(("scheme", "neutral"), [("focus", 0.5), ("first_release", 0)])
def test_neutral_is_a_plain_variation(vd, scheme, neutral):
    for fidelity in (0, 0.5):
        options = {"n": 2, "seed": 3, "fidelity": fidelity, **QUIET}
        plain = image_variation(vd, drawing(0), **options)
        made = focus(vd, drawing(0), levels=neutral, scheme=scheme, **options)
        assert same(plain.images, made.images)


@pytest.mark.parametrize(("scheme", "levels"), [("focus", [0.1, 0.9]), ("first_release", [-1, 2])])
def test_levels_turn_the_context(vd, scheme, levels):
    tokens = vd.image_context([drawing(0)]).tokens
    strip = focus(vd, drawing(0), levels=levels, scheme=scheme, seed=3, **QUIET)
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
    whole = focus(vd, [drawing(0), drawing(1)], n=2, seed=7, **options)
    assert whole.seeds == [7] * 3 + [8] * 3 + [9] * 3 + [10] * 3
    small = focus(vd, [drawing(0), drawing(1)], n=2, seed=7, batch_size=5, **options)
    assert same(whole.images, small.images)
    alone = focus(vd, drawing(1), seed=10, **{**options, "levels": 1})
    assert same(alone.images, whole.images[11:])


def test_records_are_enough(vd, tmp_path):
    strip = focus(vd, drawing(0), n=2, seed=3, levels=[0.25, 0.75], **QUIET)
    path = save(strip, tmp_path)[3]
    record = read_record(path)
    assert path.parent.name == "focus"
    assert record.items() >= {"strip": "level", "level": 0.75, "seed": 4, "scheme": "focus"}.items()
    again = focus(vd, drawing(0), seed=record["seed"], levels=record["level"], **QUIET)
    assert same(again.images, strip.images[3:])


def test_given_latents_serve_the_whole_strip(vd):
    latents = torch.randn(1, *vd.latent_shape("image"))
    made = focus(vd, drawing(0), levels=[0.5, 0.5], latents=latents, **QUIET)
    assert same(made.images[:1], made.images[1:])


@pytest.mark.parametrize("method", ["mean_std", "histogram"])
def test_colours_are_matched_with_each_samples_own_input(vd, tmp_path, method):
    inputs, options = [drawing(0), drawing(1)], {"n": 2, "levels": [0, 1], "seed": 3, **QUIET}
    options["batch_size"] = 3  # as rounding may differ between batches, and a match enlarges it
    plain = focus(vd, inputs, **options)
    options |= {"color_match": 0.25, "color_method": method}
    made = focus(vd, inputs, **options)
    for k, image in enumerate(plain.images):
        assert same([match_color(image, inputs[k // 4], 0.25, method)], made.images[k : k + 1])
    assert not same(plain.images, made.images)
    record = read_record(save(made, tmp_path)[0])
    assert (record["color_match"], record["color_method"]) == (0.25, method)
    options |= {"levels": 0.5}
    assert same(focus(vd, inputs, **options).images, varied(vd, inputs, options))


def varied(vd, inputs, options):
    return image_variation(vd, inputs, **{k: v for k, v in options.items() if k != "levels"}).images


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"color_match": 2}, "color_match is 2"),
        ({"color_match": 0.5, "color_method": "paint"}, "color_method is 'paint'"),
        ({"images": Context("image", torch.ones(1, 5, 16)), "color_match": 0.5}, "themselves"),
        ({"levels": 1.5}, "level is 1.5: the scheme 'focus' has the numbers from 0 to 1"),
        ({"levels": 3, "scheme": "first_release"}, "levels is 3: give a number from -2 to 2"),
        (
            {"levels": 0.5, "scheme": "first_release"},
            "has the whole numbers from -2",
        ),
        ({"scheme": "new"}, "scheme is 'new': choose focus or first_release"),
        ({"fidelity": 2}, "fidelity is 2"),
        ({"bands": (1, 2)}, r"bands is \(1, 2\): give Bands"),
        ({"bands": ["a", "b", "c", "d"]}, "give Bands"),
        ({"latents": torch.zeros(2, 4, 8, 8)}, r"need \(1, 4, 8, 8\)"),
        (
            {"images": Context("image", torch.ones(1, 5, 16)), "fidelity": 0.5},
            "nothing to start from",
        ),
    ],
)
def test_bad_input(vd, monkeypatch, given, message):
    monkeypatch.setattr(vd, "_eps", None)
    with pytest.raises(ValueError, match=message):
        focus(vd, **({"images": drawing(0), **QUIET} | given))
