"""Focus: properties that follow from its definition, and the released code's numbers."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from analysis.modes.focus import (
    RELEASED,
    Bands,
    bands_of,
    focus,
    focus_context,
    focus_first_release,
    top_components,
)

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
    out = focus(GOLDEN["rank.input"], float(name.removeprefix("rank.")))
    assert (out - GOLDEN[name]).abs().max() < 2e-3


def test_neutral_is_the_identity(tokens):
    assert torch.equal(focus(tokens, 0.5), tokens)
    assert torch.equal(focus_first_release(tokens, 0), tokens)


@pytest.mark.parametrize("level", [0.0, 0.2, 0.45, 0.55, 0.8, 1.0])
def test_every_sample_is_the_same_alone_and_keeps_its_spread(tokens, level):
    out = focus(tokens, level)
    for i in range(3):
        assert torch.allclose(out[i], focus(tokens[i : i + 1], level)[0], rtol=1e-4, atol=1e-4)
    assert torch.allclose(out.std(dim=(1, 2)), tokens.std(dim=(1, 2)), rtol=1e-4)


def test_full_semantics_removes_the_two_largest_components(tokens):
    mean = tokens.mean(-1, keepdim=True)
    u, s, v = torch.linalg.svd(tokens - mean, full_matrices=False)
    s[:, :2] = 0
    expected = mean + u @ torch.diag_embed(s) @ v
    out = focus(tokens, 0.0)
    ratio = tokens.std(dim=(1, 2)) / expected.std(dim=(1, 2))
    assert torch.allclose(out, expected * ratio[:, None, None], rtol=1e-3, atol=1e-3)


def test_full_style_keeps_five_components(tokens):
    spectrum = centred_spectrum(focus(tokens, 1.0))
    assert (spectrum[:, 5:] < 1e-4 * spectrum[:, :1]).all()
    assert (spectrum[:, 4] > 1e-3 * spectrum[:, 0]).all()


def test_bands_say_which_components_fade(tokens):
    few = Bands(content=1, style=1, rank=5)
    before, style = centred_spectrum(tokens), centred_spectrum(focus(tokens, 1.0, few))
    assert (style[:, 1:] < 1e-4 * style[:, :1]).all()
    mean = tokens.mean(-1, keepdim=True)
    u, s, v = torch.linalg.svd(tokens - mean, full_matrices=False)
    s[:, 0] = 0
    expected = mean + u @ torch.diag_embed(s) @ v
    ratio = tokens.std(dim=(1, 2)) / expected.std(dim=(1, 2))
    assert torch.allclose(
        focus(tokens, 0.0, few), expected * ratio[:, None, None], rtol=1e-3, atol=1e-3
    )
    # on the way to style components 1 to 4 fade, the later the more, and the rest is gone
    part = centred_spectrum(focus(tokens, 0.6, few))
    gain = part[:, :5] / before[:, :5]
    assert (gain.diff(dim=1) < 0).all() and (part[:, 5:] < 1e-4 * before[:, :1]).all()


def test_the_bands_of_a_model():
    assert bands_of("vd-four-flow-v1-0") == bands_of("anything") == RELEASED == Bands(2, 5, 20, 10)
    assert bands_of("vd-mini").style == 1
    for wrong in ({"content": 0}, {"style": 20}, {"rank": 5}, {"alone": 0}):
        with pytest.raises(ValueError, match="rank above style"):
            Bands(**wrong)


def test_zeros_stay_zeros():
    zeros = torch.zeros(2, 30, 16)
    for level in (0.0, 0.3, 0.7, 1.0):
        assert torch.equal(focus(zeros, level), zeros)


def test_fewer_tokens_than_components():
    x = torch.randn(2, 9, 16)
    assert focus(x, 0.1).isfinite().all() and focus(x, 0.9).isfinite().all()


def test_half_precision_in_half_precision_out(tokens):
    out = focus(tokens.half(), 0.2)
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
    assert torch.equal(out[:, 1:], focus(tokens[:, 1:], 0.1))


@pytest.mark.parametrize("level", [-0.1, 1.01, float("nan")])
def test_levels_outside_are_refused(tokens, level):
    with pytest.raises(ValueError, match="focus is"):
        focus(tokens, level)


def test_wrong_arguments(tokens):
    with pytest.raises(ValueError, match="level is 3"):
        focus_first_release(tokens, 3)
    with pytest.raises(ValueError, match="shape"):
        focus(tokens[0], 0.2)
