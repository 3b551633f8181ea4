"""Blends: weights, focus, masks and text against contexts put together by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.modes import image_variation, text_to_image
from analysis.modes.focus import BANDS, Bands, focus_context
from analysis.modes.masks import Mask
from analysis.modes.mix import blend, dual_guided
from analysis.results.outputs import read_record, save
from lib.model import Context
from tests.analysis.modes.test_mix import same
from tests.conftest import drawing

QUIET = {"progress": False}
HALF = torch.zeros(16, 16)
HALF[:, :8] = 1


def of_tokens(vd, *parts, **options):
    context = Context("image", torch.cat(parts, dim=1))
    return image_variation(vd, context=context, **options, **QUIET).images


def test_one_picture_alone_is_a_variation(vd):
    plain = image_variation(vd, drawing(0), n=3, seed=2, **QUIET)
    assert same(blend(vd, drawing(0), n=3, seed=2, **QUIET).images, plain.images)


def test_weights_focus_and_masks_written_out(vd):
    a, b, c = drawing(0), drawing(1), drawing(2)
    made = blend(
        vd, [a, b, c], weights=[1, 0.5, 0], focus=[0.2, 0.5, 1], masks=[None, HALF, None],
        n=2, seed=4, **QUIET,
    )  # fmt: skip
    first = focus_context(vd.image_context([a]).tokens, 0.2)
    second = vd.image_context([b], HALF[None, None]).tokens * 0.5
    expected = of_tokens(vd, first, second, seed=4)
    assert same(made.images[:1], expected)
    assert not same(made.images[:1], blend(vd, [a, b], seed=4, **QUIET).images)


def test_null_zeros_of_any_length_are_the_same(vd):
    x = torch.randn(2, *vd.latent_shape("image"))
    short, long = (Context("image", torch.zeros(2, n, 16)) for n in (5, 15))
    assert torch.allclose(vd.eps(x, 301, [(short, 1.0)]), vd.eps(x, 301, [(long, 1.0)]), atol=1e-5)


def test_what_a_mask_hides_changes_nothing(vd):
    """The right half of a picture is hidden where the encoder looks at patches of their own."""
    a = drawing(0, (16, 16))
    b = a.copy()
    b.paste((0, 0, 0), (8, 0, 16, 16))
    tokens = [vd.image_context([picture], HALF[None, None]).tokens for picture in (a, b)]
    right = torch.tensor([1, 3])  # patches of 8 x 8, after the class token
    assert torch.allclose(tokens[0][:, right + 1], torch.zeros(1, 2, 16))
    plain = [vd.image_context([picture]).tokens for picture in (a, b)]
    assert (tokens[0] - tokens[1]).abs().max() < 1e-5 < (plain[0] - plain[1]).abs().max()


def test_text_is_mixed_in_and_the_ends_are_without_it_and_alone(vd):
    options = {"seed": 4, **QUIET}
    pictures = [drawing(0), drawing(1)]
    plain = blend(vd, pictures, **options)
    for text, strength in (("a ring", 0), ("", 0.5), (None, 1)):
        made = blend(vd, pictures, text, strength=strength, **options)
        assert same(made.images, plain.images)
    assert same(
        blend(vd, pictures, "a ring", strength=1, **options).images,
        text_to_image(vd, "a ring", **options).images,
    )
    assert same(
        blend(vd, pictures[0], "a ring", strength=0.3, **options).images,
        dual_guided(vd, pictures[0], "a ring", strength=0.3, **options).images,
    )


def test_batches_and_records(vd, tmp_path, picture_files):
    mask = tmp_path / "mask.png"
    Image.fromarray((HALF.numpy() * 255).astype(np.uint8)).save(mask)
    options = {"masks": [mask, None], "weights": [1, 2], "n": 3, "seed": 1, **QUIET}
    whole = blend(vd, picture_files, "a ring", strength=0.4, **options)
    small = blend(vd, picture_files, "a ring", strength=0.4, batch_size=2, **options)
    assert same(whole.images, small.images)
    record = read_record(save(whole, tmp_path)[0])
    assert [part["file"] for part in record["blended"]] == ["a.png", "b.png"]
    assert [part["weight"] for part in record["blended"]] == [1.0, 2.0]
    assert record["blended"][0]["mask"]["file"] == "mask.png"
    assert (record["mode"], record["prompt"], record["strength"]) == ("blend", "a ring", 0.4)


def test_contexts_may_be_precomputed(vd):
    options = {"weights": [1, 0.5], "seed": 4, **QUIET}
    plain = blend(vd, [drawing(0), drawing(1)], **options)
    both = vd.image_context([drawing(0), drawing(1)])
    assert (plain.record_of(0)["scale_text"], plain.record_of(0)["scale_image"]) == (None, 1.5)
    for images in (both, [drawing(0), Context("image", both.tokens[1:])]):
        made = blend(vd, images, **options)
        assert same(made.images, plain.images)
        assert made.record_of(0)["blended"][1]["kind"] == "image"


def test_one_mask_is_for_all(vd):
    pictures = [drawing(0), drawing(1)]
    one = blend(vd, pictures, masks=HALF, seed=4, **QUIET)
    assert same(one.images, blend(vd, pictures, masks=[HALF, HALF], seed=4, **QUIET).images)
    white = Image.new("L", (16, 16), 255)
    plain = blend(vd, pictures, seed=4, **QUIET)
    assert same(blend(vd, pictures, masks=white, seed=4, **QUIET).images, plain.images)


def test_focus_is_the_model_s_own(vd, monkeypatch):
    few = Bands(1, 1, 2)
    monkeypatch.setitem(BANDS, vd.spec.name, few)
    tokens = focus_context(vd.image_context([drawing(0)]).tokens, 0.9, few)
    made = blend(vd, drawing(0), focus=0.9, seed=4, **QUIET)
    assert same(made.images, of_tokens(vd, tokens, seed=4))


def test_masks_of_every_form_are_the_same(tmp_path):
    picture = Image.fromarray((HALF.numpy() * 255).astype(np.uint8))
    picture.save(tmp_path / "mask.png")
    for given in (picture, tmp_path / "mask.png", HALF, HALF[None]):
        assert torch.equal(Mask.of(given).weights, HALF[None, None])
    mask = Mask.of(HALF)
    assert mask.at(2, 4).tolist() == [[[[1, 1, 0, 0]] * 2]]
    assert mask.at(1, 1).item() == 0.5
    assert mask.at(32, 32).shape == (1, 1, 32, 32)
    row = mask.at(8, 8, feather=1)[0, 0, 3]
    assert row[:3].tolist() == [1, 1, 1]
    assert 1 > row[3] > row[4] > 0 == row[5:].sum()


def test_masks_are_fitted_as_pictures_are():
    """Whole pixels are cropped, or added, where the middle square of a picture is."""
    wide = torch.arange(12).reshape(2, 6) / 11
    mask = Mask.of(wide)
    assert mask.fitted("squeeze") is mask
    assert torch.equal(mask.fitted("crop").weights[0, 0], wide[:, 2:4])
    padded = mask.fitted("pad").weights[0, 0]
    assert padded.shape == (6, 6) and torch.equal(padded[2:4], wide) and padded.sum() == wide.sum()
    assert torch.equal(mask.fitted("crop", 1, 2).weights[0, 0], wide[:, 1:5])
    assert torch.equal(Mask.of(wide.T).fitted("crop").weights[0, 0], wide.T[2:4])
    assert mask.fitted("pad", 2, 1).weights.shape[2:] == (12, 6)


def test_a_cropped_picture_is_masked_where_it_was_cropped(vd):
    wide, mask = drawing(0, (32, 16)), torch.zeros(16, 32)
    mask[:, :14] = 1
    made = blend(vd, wide, masks=mask, fit="crop", seed=4, **QUIET)
    middle = wide.crop((8, 0, 24, 16))
    assert same(made.images, blend(vd, middle, masks=mask[:, 8:24], seed=4, **QUIET).images)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weights": [1, 2, 3]}, "3 values for weights, 2 pictures"),
        ({"weights": [0, 0]}, "All pictures have weight 0"),
        ({"weights": [-1, 1]}, "weights is -1"),
        ({"focus": 2}, "focus is 2"),
        ({"masks": [None] * 3}, "3 values for masks, 2 pictures"),
        ({"masks": [None, torch.full((4, 4), 2.0)]}, "mask has values outside"),
        ({"masks": [None, torch.zeros(2, 4, 4)]}, "mask has shape"),
        ({"masks": [None, "no.png"]}, "There is no file no.png"),
        ({"text": "red " * 100}, "limit is 32"),
        ({"strength": 2}, "strength is 2"),
        ({"text": ["a", "b"]}, "takes one"),
        ({"images": []}, "no picture"),
        ({"masks": 5}, "picture is of type int: give a PIL picture or"),
        ({"masks": np.zeros((2, 4, 4))}, r"mask has shape \(2, 4, 4\)"),
        ({"masks": torch.zeros(2, 4, 4)}, r"mask has shape \(2, 4, 4\)"),
        ({"masks": "no.png"}, "There is no file no.png"),
        ({"scale": 2, "scale_text": 3}, "not both"),
        ({"images": [drawing(0), Context("text", torch.ones(1, 4, 16))]}, "takes 'image'"),
        ({"images": [drawing(0), Context("image", torch.ones(2, 5, 16))]}, "of one sample"),
        (
            {"images": [drawing(0), Context("image", torch.ones(1, 5, 16))], "masks": HALF},
            "Picture 2 is given as its context",
        ),
    ],
)
def test_bad_input(vd, monkeypatch, given, message):
    monkeypatch.setattr(vd, "_eps", None)
    with pytest.raises(ValueError, match=message):
        blend(vd, **({"images": [drawing(0), drawing(1)], **QUIET} | given))
