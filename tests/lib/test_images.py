"""Pictures of every mode become what a person would see on white paper."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from lib.images import FITS, color_and_alpha, fit, to_pil, to_rgb, to_tensor

PROFILED = Path(__file__).resolve().parents[1] / "fixtures" / "icc"


def pixel(image: Image.Image) -> tuple[int, int, int]:
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGB", (2, 2), (1, 2, 3)), (1, 2, 3)),
        (Image.new("L", (2, 2), 77), (77, 77, 77)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (255, 0, 0, 51)), (255, 204, 204)),
        (Image.new("LA", (2, 2), (0, 51)), (204, 204, 204)),
        (Image.new("La", (2, 2), (0, 51)), (204, 204, 204)),
        (Image.new("RGBa", (2, 2), (51, 0, 0, 51)), (255, 204, 204)),
        (Image.new("HSV", (2, 2), (0, 255, 255)), (255, 0, 0)),
        (Image.new("YCbCr", (2, 2), (255, 128, 128)), (255, 255, 255)),
        (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("I;16", (2, 2), 65535), (255, 255, 255)),
        (Image.new("I;16", (2, 2), 128 * 257), (128, 128, 128)),
        (Image.new("I", (2, 2), 200), (200, 200, 200)),
        (Image.new("I", (2, 2), 100 * 257), (100, 100, 100)),
        (Image.new("F", (2, 2), 0.2), (51, 51, 51)),
        (Image.new("F", (2, 2), 51.0), (51, 51, 51)),
    ],
)
def test_modes(image, expected):
    assert pixel(to_rgb(image)) == expected


def test_palette_with_and_without_transparency():
    image = Image.new("P", (2, 2), 1)
    image.putpalette([9, 9, 9, 10, 200, 30] + [0] * 750)
    assert pixel(to_rgb(image)) == (10, 200, 30)
    image.info["transparency"] = 1
    assert pixel(to_rgb(image)) == (255, 255, 255)


def test_16_bit_png_from_disk():
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "PNG")
    found = np.asarray(to_rgb(Image.open(file)))
    assert np.array_equal(found[..., 0].ravel(), np.arange(256))


def test_exif_rotation_is_applied():
    image = Image.new("RGB", (4, 2))
    image.getexif()[0x0112] = 6
    assert to_rgb(image).size == (2, 4)


def test_a_transparent_grey_of_16_bit():
    image = Image.fromarray(np.array([[0, 257], [514, 65535]], np.uint16))
    image.info["transparency"] = 257
    assert np.asarray(to_rgb(image))[..., 0].tolist() == [[0, 255], [2, 255]]


# ------------------------------------------------------------------ profiles


@pytest.mark.parametrize("name", ["p3", "prophoto"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_of_a_profile_become_srgb(name, mode):
    """The files hold one picture, written in three colour spaces."""
    wanted = np.asarray(to_rgb(Image.open(PROFILED / "srgb.png")), int)
    image = Image.open(PROFILED / f"{name}.png")
    profile = image.info["icc_profile"]
    assert np.abs(np.asarray(image.convert("RGB"), int) - wanted).max() > 15
    image = image.quantize() if mode == "P" else image.convert(mode)
    image.info["icc_profile"] = profile
    converted = to_rgb(image)
    assert np.abs(np.asarray(converted, int) - wanted).max() <= 2
    assert np.array_equal(np.asarray(to_rgb(converted)), np.asarray(converted)), "only once"


def noise(mode: str) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def test_srgb_is_left_to_the_last_bit():
    """Whoever wrote the profile, with whatever rounding."""
    image, profile = noise("RGB"), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    image.info["icc_profile"] = profile.tobytes()
    assert np.array_equal(np.asarray(to_rgb(image)), np.asarray(image))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "LAB", "I;16"])
def test_profiles_that_cannot_be_used_are_left_alone(mode):
    image = Image.new("I;16", (2, 2), 9999) if mode == "I;16" else noise("RGB").convert(mode)
    plain = np.asarray(to_rgb(image))
    other = Image.open(PROFILED / "prophoto.png").info["icc_profile"]
    for profile in (b"", b"nonsense", other[:200], *([] if mode == "RGB" else [other])):
        image.info["icc_profile"] = profile
        assert np.array_equal(np.asarray(to_rgb(image)), plain)


# ------------------------------------------------------------------ squares


def test_a_square_of_a_picture_that_is_none():
    """Left half red, right half blue, 40 x 20."""
    image = Image.new("RGB", (40, 20), (255, 0, 0))
    image.paste((0, 0, 255), (20, 0, 40, 20))
    squeezed, cropped, padded = (np.asarray(fit(image, 20, how)) for how in FITS)
    red, blue, white = [255, 0, 0], [0, 0, 255], [255, 255, 255]
    assert np.array_equal(squeezed, np.asarray(image.resize((20, 20), Image.BICUBIC)))
    assert squeezed[0, 0].tolist() == red and squeezed[-1, -1].tolist() == blue
    assert np.array_equal(cropped, np.asarray(image)[:, 10:30])
    assert padded[4].tolist() == [white] * 20 and padded[15].tolist() == [white] * 20
    assert padded[5, 0].tolist() == red and padded[14, -1].tolist() == blue


@pytest.mark.parametrize("how", FITS)
def test_squares_and_strips_of_any_size(how):
    square = noise("RGB").resize((8, 8))
    assert fit(square, 8, how) is square
    assert np.array_equal(np.asarray(fit(square, 5, how)), np.asarray(square.resize((5, 5), 3)))
    for size in ((1, 200), (200, 1), (3, 2)):
        assert fit(Image.new("RGB", size), 16, how).size == (16, 16)


def test_another_fit_is_one_sentence():
    with pytest.raises(ValueError, match="fit is 'stretch': choose squeeze, crop, pad"):
        fit(Image.new("RGB", (2, 3)), 2, "stretch")


def test_coverage_lies_beside_the_colours():
    colors, alpha = color_and_alpha(Image.new("RGBA", (2, 2), (9, 8, 7, 6)))
    assert (pixel(colors), alpha.getpixel((0, 0))) == ((9, 8, 7), 6)
    assert color_and_alpha(Image.new("L", (2, 2)))[1] is None


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("cat.png", "Got a str"),
        (Image.new("RGB", (0, 3)), "empty"),
        (Image.new("F", (2, 2), -1.0), "rescale"),
        (Image.new("F", (2, 2), float("nan")), "rescale"),
        (Image.new("I", (2, 2), 70000), "rescale"),
    ],
)
def test_errors(image, message):
    with pytest.raises(ValueError, match=message):
        to_rgb(image)


def test_tensors_are_rounded_to_8_bit():
    tensor = torch.tensor([0.0, 0.1, 1.0]).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    pictures = to_pil(tensor)
    assert [p.size for p in pictures] == [(5, 4)] * 2
    assert pixel(pictures[1]) == (0, 26, 255)
    torch.testing.assert_close(to_tensor(pictures), tensor, atol=0.5 / 255, rtol=0)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 4, 4), r"give \(B, 3, H, W\)"),
        (torch.zeros(1, 4, 4, 3), r"give \(B, 3, H, W\)"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "divide by 255"),
        (torch.full((1, 3, 4, 4), 2.0), r"in \[0, 1\]"),
        (torch.full((1, 3, 4, 4), torch.nan), r"in \[0, 1\]"),
        (Image.new("RGB", (2, 2)), "list of PIL"),
        ("cat.png", "list of PIL"),
        (["cat.png"], "Got a str"),
        (7, "list of PIL"),
    ],
)
def test_lists_and_tensors_are_checked(images, message):
    with pytest.raises(ValueError, match=message):
        to_pil(images)
