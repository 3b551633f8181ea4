"""Colour match against the statistics it promises."""

import numpy as np
import pytest
from PIL import Image

from analysis.modes.color import match_color, match_histogram, match_mean_std


def pixels(seed: int, shape: tuple[int, int] = (12, 9)) -> np.ndarray:
    return np.random.default_rng(seed).uniform(60, 180, size=(*shape, 3))


def picture(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(values).astype(np.uint8))


def test_mean_and_std_are_the_references():
    x, reference = pixels(0), pixels(1, (5, 7))
    out = match_mean_std(x, reference)
    np.testing.assert_allclose(out.mean((0, 1)), reference.mean((0, 1)))
    np.testing.assert_allclose(out.std((0, 1)), reference.std((0, 1)))
    for c in range(3):  # an affine map: what the picture shows is untouched
        assert np.corrcoef(out[..., c].ravel(), x[..., c].ravel())[0, 1] > 1 - 1e-12


def test_flat_channel_only_moves_to_the_mean():
    reference = pixels(1)
    out = match_mean_std(np.full((4, 4, 3), 0.1), reference)
    np.testing.assert_allclose(out, np.broadcast_to(reference.mean((0, 1)), out.shape))


def test_histogram_of_equal_size_is_the_references():
    x, reference = pixels(0), pixels(1)
    out = match_histogram(x, reference)
    for c in range(3):
        np.testing.assert_allclose(np.sort(out[..., c], None), np.sort(reference[..., c], None))
        assert (np.argsort(out[..., c], None) == np.argsort(x[..., c], None)).all()


def test_histogram_of_a_flat_picture_is_the_median():
    reference = np.repeat(np.arange(5.0), 3).reshape(5, 1, 3)
    np.testing.assert_allclose(match_histogram(np.ones((4, 4, 3)), reference), 2)


@pytest.mark.parametrize("method", ["mean_std", "histogram"])
def test_keep_mixes(method):
    x, reference = picture(pixels(0)), picture(pixels(1))
    matched, half = (
        np.asarray(match_color(x, reference, keep, method), dtype=float) for keep in (0, 0.5)
    )
    assert np.abs(half - (matched + np.asarray(x)) / 2).max() <= 1  # rounding
    assert np.asarray(match_color(x, reference, 1, method)).tolist() == np.asarray(x).tolist()


def test_values_are_clipped_not_wrapped():
    dark = picture(np.tile(np.array([0.0, 255.0]), (6, 3)).reshape(6, 6, 1).repeat(3, 2))
    light = picture(np.tile(np.array([250.0, 255.0]), (6, 3)).reshape(6, 6, 1).repeat(3, 2))
    spread = picture(pixels(3))
    assert np.asarray(match_color(spread, dark)).min() == 0
    assert np.asarray(match_color(spread, light)).min() > 200


@pytest.mark.parametrize(
    "arguments", [{"keep": -0.1}, {"keep": 1.5}, {"keep": "x"}, {"method": "none"}]
)
def test_bad_input(arguments):
    with pytest.raises(ValueError, match=r"color_match is|color_method is"):
        match_color(picture(pixels(0)), picture(pixels(1)), **arguments)
