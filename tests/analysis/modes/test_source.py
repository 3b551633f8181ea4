"""What is started from and what is guided away from, against maths written out around `vd.eps`."""

import numpy as np
import pytest
import torch

from analysis.modes import (
    blend,
    describe,
    dual_guided,
    focus,
    image_to_text,
    image_variation,
    interpolate,
    latent_edit,
    text_to_image,
    text_variation,
)
from lib.images import to_pil
from lib.model import Context
from lib.noise import SampleNoise
from tests.conftest import drawing

A, B = "a large red circle", "a tiny striped star on gray"
QUIET = {"progress": False}
LATENTS = {"output": "latents", **QUIET}
MODES = {
    "t2i": lambda vd, **how: text_to_image(vd, A, **how),
    "i2i": lambda vd, **how: image_variation(vd, drawing(0), **how),
    "i2t": lambda vd, **how: image_to_text(vd, drawing(0), **how),
    "t2t": lambda vd, **how: text_variation(vd, A, **how),
    "dual": lambda vd, **how: dual_guided(vd, drawing(0), A, strength=0.4, **how),
    "describe": lambda vd, **how: describe(vd, drawing(0), A, strength=0.4, **how),
    "blend": lambda vd, **how: blend(vd, [drawing(0), drawing(1)], A, **how),
    "focus": lambda vd, **how: focus(vd, drawing(0), levels=0.2, **how),
    "interpolate": lambda vd, **how: interpolate(vd, A, B, frames=2, **how),
    "latent-edit": lambda vd, **how: latent_edit(vd, drawing(0), "red", "blue", **how),
}
TEXTS = ("i2t", "t2t", "describe")


def moved(vd, x, e, a, a_next):
    """One step of DDIM, written out."""
    x_0 = (x - (1 - a) ** 0.5 * e) / a**0.5
    return a_next**0.5 * x_0 + (1 - a_next) ** 0.5 * e


@torch.no_grad()
def by_hand(vd, x, contexts, nulls, scale, timesteps):
    """DDIM from x at the last of the timesteps, under `eps_null + s (eps - eps_null)`."""
    alpha_bar = vd.schedule.alpha_bar
    for t, t_next in zip(timesteps[::-1], [*timesteps[-2::-1], 0], strict=True):
        null = vd.eps(x, t, nulls)
        e = null + scale * (vd.eps(x, t, contexts) - null)
        x = moved(vd, x, e, alpha_bar[t].item(), alpha_bar[t_next].item())
    return x


# ------------------------------------------------------------------ starts


@pytest.mark.parametrize("mode", list(MODES))
def test_every_mode_starts_from_latents_and_from_what_they_encode(vd, mode):
    text = mode in TEXTS
    start = B if text else drawing(3)
    latents = vd.encode_text([B]) if text else vd.encode_image([drawing(3)])
    how = {"seed": 3, "steps": 4, "fidelity": 0.5, **LATENTS}
    given = MODES[mode](vd, start=start, **how)
    assert torch.allclose(given.tensors, MODES[mode](vd, start=latents, **how).tensors, atol=1e-4)
    one = MODES[mode](vd, start=latents.numpy(), **{**how, "fidelity": 1})
    assert torch.allclose(one.tensors, latents.expand_as(one.tensors), atol=1e-5)
    free = MODES[mode](vd, **{**how, "fidelity": 0})
    assert not torch.allclose(given.tensors, free.tensors, atol=1e-2)
    record = given.record_of(0)
    expected = B if text else {"size": [20, 14]}
    assert record["fidelity"] == 0.5
    assert record["start"] == expected or record["start"].items() >= expected.items()
    assert "start" not in free.record_of(0)


def test_a_start_is_noised_to_the_first_timestep_visited(vd):
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    timesteps = [k * 100 + 1 for k in range(10)][: int(10 * (1 - 0.35))]
    x_T = SampleNoise([7, 8]).normal((4, 8, 8))
    a = vd.schedule.alpha_bar[timesteps[-1]].item()
    contexts = [(vd.text_context([A, B]), 1.0)]
    nulls = [(vd.text_context([""]).repeat(2), 1.0)]
    x = a**0.5 * start + (1 - a) ** 0.5 * x_T
    expected = by_hand(vd, x, contexts, nulls, 2.5, timesteps)
    how = {"seed": 7, "steps": 10, "fidelity": 0.35, "scale": 2.5, **LATENTS}
    made = text_to_image(vd, [A, B], start=start, **how)
    assert torch.allclose(made.tensors, expected, atol=1e-5)


def test_one_start_serves_all_and_each_input_has_its_own(vd):
    how = {"seed": 7, "n": 2, "fidelity": 1, **LATENTS}
    both = vd.encode_image([drawing(1), drawing(2)])
    made = text_to_image(vd, [A, B], start=[drawing(1), drawing(2)], **how)
    assert torch.allclose(made.tensors, both[[0, 0, 1, 1]], atol=1e-5)
    made = text_to_image(vd, [A, B], start=drawing(1), **how)
    assert torch.allclose(made.tensors, both[[0] * 4], atol=1e-5)


def test_a_start_is_a_picture_or_numbers_in_any_form(vd, tmp_path):
    drawing(1).save(tmp_path / "x.png")
    np.save(tmp_path / "x.npy", vd.encode_image([drawing(1)]).numpy())
    pixels = torch.from_numpy(np.array(drawing(1))).permute(2, 0, 1)[None] / 255
    how = {"seed": 7, "fidelity": 0.6, **LATENTS}
    plain = text_to_image(vd, A, start=drawing(1), **how).tensors
    for start in (tmp_path / "x.png", str(tmp_path / "x.png"), tmp_path / "x.npy", pixels):
        assert torch.allclose(text_to_image(vd, A, start=start, **how).tensors, plain, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"start": "no.png"}, "There is no file no.png"),
        (
            {"start": torch.zeros(1, 4, 8, 9)},
            r"start: got shape \(1, 4, 8, 9\), need",
        ),
        ({"start": [drawing(0)] * 3}, "start has 3 for 2 inputs: give one, or one each"),
        ({"start": Context("image", torch.ones(1, 5, 16))}, "start is a context"),
        ({"start": Context("text", torch.ones(1, 32, 16))}, "takes 'image'"),
        ({"start": None}, "there is nothing to start from: give start=, pictures or latents"),
        ({"start": drawing(0), "fidelity": 0}, "give fidelity > 0, too, or leave it out"),
    ],
)
def test_what_cannot_be_started_from(vd, monkeypatch, given, message):
    monkeypatch.setattr(vd, "_eps", None)
    with pytest.raises(ValueError, match=message):
        text_to_image(vd, [A, B], **{"fidelity": 0.5, **QUIET, **given})


# ------------------------------------------------------------------ nulls


def nulls_of(vd, tmp_path):
    """Every form that a null of pictures takes -> the context it stands for."""
    picture = vd.image_context([drawing(5)])
    drawing(5).save(tmp_path / "null.png")
    np.save(tmp_path / "null.npy", picture.tokens.numpy())

    def plain(value):
        return vd.image_context(torch.full((1, 3, 16, 16), value))

    return [
        ("zeros", Context("image", torch.zeros(1, 5, 16))),
        ("black", plain(0.0)),
        ("grey", plain(0.5)),
        (drawing(5), picture),
        (tmp_path / "null.png", picture),
        (str(tmp_path / "null.npy"), picture),
        (picture, picture),
        (picture.tokens.numpy(), picture),
    ]


@pytest.mark.parametrize("k", range(8))
def test_a_null_is_what_is_guided_away_from(vd, tmp_path, k):
    null, context = nulls_of(vd, tmp_path)[k]
    timesteps = [1, 251, 501, 751]
    shown = [(vd.image_context([drawing(0), drawing(1)]), 1.0)]
    x = SampleNoise([7, 8]).normal((4, 8, 8))
    expected = by_hand(vd, x, shown, [(context.repeat(2), 1.0)], 4.0, timesteps)
    how = {"seed": 7, "steps": 4, "scale": 4, **LATENTS}
    made = image_variation(vd, [drawing(0), drawing(1)], null=null, **how)
    assert torch.allclose(made.tensors, expected, atol=2e-5)
    assert "null" in made.record_of(0) and "null" not in image_variation(
        vd, drawing(0), **how
    ).record_of(0)
    if k == 0:  # the model's own, where pictures are made
        plain = image_variation(vd, [drawing(0), drawing(1)], **how)
        assert torch.allclose(made.tensors, plain.tensors, atol=1e-5)


def test_texts_are_guided_away_from_black_and_from_what_is_given(vd):
    timesteps = [1, 251, 501, 751]
    x = SampleNoise([7]).normal((8,))
    shown = [(vd.image_context([drawing(0)]), 1.0)]
    how = {"seed": 7, "steps": 4, "scale": 4, **LATENTS}
    for null, value in ((None, 0.0), ("black", 0.0), ("grey", 0.5)):
        context = vd.image_context(torch.full((1, 3, 16, 16), value))
        expected = by_hand(vd, x, shown, [(context, 1.0)], 4.0, timesteps)
        made = image_to_text(vd, drawing(0), null=null, **how)
        assert torch.allclose(made.tensors, expected, atol=1e-4)


def test_null_and_negative_prompt_each_have_their_context(vd):
    timesteps = [1, 251, 501, 751]
    x = SampleNoise([7]).normal((4, 8, 8))
    mix = [(vd.text_context([A]), 0.4), (vd.image_context([drawing(0)]), 0.6)]
    black = vd.image_context(torch.zeros(1, 3, 16, 16))
    against = [(vd.text_context([B]), 0.4), (black, 0.6)]
    expected = by_hand(vd, x, mix, against, 3.0, timesteps)
    how = {"seed": 7, "steps": 4, "scale": 3, **LATENTS}
    made = dual_guided(vd, drawing(0), A, strength=0.4, null="black", negative_prompt=B, **how)
    assert torch.allclose(made.tensors, expected, atol=2e-5)
    assert (made.record_of(0)["null"], made.record_of(0)["negative_prompt"]) == ("black", B)


def test_a_null_and_a_negative_prompt_for_each_input(vd):
    how = {"seed": 3, "scale": 4, **LATENTS}
    both = {**how, "seed": [3, 3]}
    words = ["a heart", ""]
    made = text_to_image(vd, [A, B], negative_prompt=words, **both)
    for k, text in enumerate((A, B)):
        alone = text_to_image(vd, text, negative_prompt=words[k], **how)
        assert torch.allclose(made.tensors[k], alone.tensors[0], atol=1e-4)
        assert made.record_of(k)["negative_prompt"] == words[k]
    assert not torch.allclose(made.tensors[0], text_to_image(vd, A, **how).tensors[0], atol=1e-2)
    context = vd.text_context(["a heart"])
    for given in (context, context.tokens):
        made = text_to_image(vd, A, negative_prompt=given, **how)
        alone = text_to_image(vd, A, negative_prompt="a heart", **how)
        assert torch.allclose(made.tensors, alone.tensors, atol=1e-4)
    nulls = vd.image_context([drawing(5), drawing(6)])
    made = image_variation(vd, [drawing(0), drawing(1)], null=nulls, **both)
    for k in (0, 1):
        alone = image_variation(vd, drawing(k), null=drawing(5 + k), **how)
        assert torch.allclose(made.tensors[k], alone.tensors[0], atol=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"null": "white"}, "null is 'white': choose zeros, black or grey, or give a picture"),
        ({"null": Context("text", torch.ones(1, 32, 16))}, "takes 'image'"),
        ({"null": torch.ones(3, 16)}, r"shape \(3, 16\)"),
        ({"null": [drawing(0)] * 3}, "null has 3 for 1 inputs: give one, or one each"),
        ({"negative_prompt": "red " * 100}, "limit is 32"),
        ({"negative_prompt": Context("image", torch.ones(1, 5, 16))}, "takes 'text'"),
    ],
)
def test_what_cannot_be_guided_away_from(vd, monkeypatch, given, message):
    monkeypatch.setattr(vd, "_eps", None)
    with pytest.raises(ValueError, match=message):
        image_variation(vd, drawing(0), **given, **QUIET)


# ------------------------------------------------------------------ sizes and fits


@pytest.mark.parametrize("mode", [name for name in MODES if name not in TEXTS])
def test_pictures_of_another_shape(vd, mode):
    made = MODES[mode](vd, seed=3, steps=1, height=24, width=40, **QUIET)
    assert {image.size for image in made.images} == {(40, 24)}
    assert (made.record_of(0)["height"], made.record_of(0)["width"]) == (24, 40)
    wide = MODES[mode](vd, seed=3, steps=1, width=32, **QUIET)
    assert {image.size for image in wide.images} == {(32, 16)}


def test_a_start_is_brought_to_that_shape(vd):
    how = {"height": 24, "width": 40, "fidelity": 1, "start": drawing(0), **QUIET}
    (image,) = text_to_image(vd, A, **how).images
    (expected,) = to_pil(vd.decode_image(vd.encode_image([drawing(0)], height=24, width=40)))
    assert np.abs(np.asarray(image, int) - np.asarray(expected, int)).max() <= 1


@pytest.mark.parametrize("mode", TEXTS)
def test_texts_have_no_shape(vd, mode):
    with pytest.raises(TypeError, match="has no option height"):
        MODES[mode](vd, height=32, **QUIET)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"height": 30}, "height is 30, which tiny cannot make: .* choose a multiple of 4"),
        ({"width": 33}, "width is 33, which tiny cannot make"),
        ({"width": 4}, "width is 4: give a whole number from 8 to 8192"),
        ({"height": 10**9}, "height is 1000000000"),
    ],
)
def test_sizes_that_the_network_cannot_make(vd, monkeypatch, given, message):
    monkeypatch.setattr(vd, "_eps", None)
    with pytest.raises(ValueError, match=message):
        text_to_image(vd, A, **given, **QUIET)


@pytest.mark.parametrize("how", ["squeeze", "crop", "pad"])
def test_pictures_are_squeezed_cropped_or_padded(vd, how):
    """28 x 14, left half dark: a crop sees the middle, a pad white above and below."""
    picture = drawing(0, (28, 14))
    if how == "squeeze":
        square = picture
    elif how == "crop":
        square = picture.crop((7, 0, 21, 14))
    else:
        square = drawing(0, (28, 28))
        square.paste("white", (0, 0, 28, 28))
        square.paste(picture, (0, 7))
    options = {"seed": 3, "steps": 2, "fidelity": 0.5, **LATENTS}
    made = image_variation(vd, picture, fit=how, **options)
    expected = image_variation(vd, square, **options)
    assert made.record["fit"] == how
    difference = (made.tensors - expected.tensors).abs().mean().item()
    others = [
        (image_variation(vd, picture, fit=other, **options).tensors - made.tensors).abs().mean()
        for other in {"squeeze", "crop", "pad"} - {how}
    ]
    assert difference < 0.5 * min(others)
