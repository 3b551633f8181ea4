"""Pictures of every mode become what a person would see on white paper."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from lib.images import to_pil, to_rgb, to_tensor


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
