"""The model's own properties: mixing, null contexts, and what it says to bad input."""

import pytest
import torch
from PIL import Image

from lib.model import Context, VersatileDiffusion
from lib.noise import SampleNoise
from lib.transformer import Attention


@pytest.fixture
def noisy(vd):
    return {kind: SampleNoise([1, 2]).normal(vd.latent_shape(kind)) for kind in ("image", "text")}


@pytest.fixture
def contexts(vd):
    texts = ["a red circle", "a blue square"]
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return {"text": vd.text_context(texts), "image": vd.image_context(images)}


@pytest.mark.parametrize("data", ["image", "text"])
@pytest.mark.parametrize("kind", ["image", "text"])
def test_equal_contexts_mix_to_themselves(vd, noisy, contexts, data, kind):
    single = vd.eps(noisy[data], 301, [(contexts[kind], 1.0)])
    mixed = vd.eps(noisy[data], 301, [(contexts[kind], 0.2), (contexts[kind], 5.0)])
    assert single.shape == noisy[data].shape
    assert torch.allclose(single, mixed, atol=1e-5)


@pytest.mark.parametrize("data", ["image", "text"])
def test_only_the_ratio_of_weights_counts(vd, noisy, contexts, data):
    pair = [contexts["text"], contexts["image"]]
    a = vd.eps(noisy[data], 301, list(zip(pair, (0.3, 0.7), strict=True)))
    b = vd.eps(noisy[data], 301, list(zip(pair, (3.0, 7.0), strict=True)))
    swapped = vd.eps(noisy[data], 301, list(zip(pair[::-1], (0.7, 0.3), strict=True)))
    other = vd.eps(noisy[data], 301, list(zip(pair, (0.7, 0.3), strict=True)))
    assert torch.allclose(a, b, atol=1e-5)
    assert torch.allclose(a, swapped, atol=1e-5)
    assert not torch.allclose(a, other, atol=1e-4)


@pytest.mark.parametrize("data", ["image", "text"])
def test_samples_of_a_batch_do_not_touch(vd, noisy, contexts, data):
    both = vd.eps(noisy[data], torch.tensor([301, 41]), [(contexts["text"], 1.0)])
    alone = vd.eps(noisy[data][1:], 41, [(contexts["text"][1:], 1.0)])
    assert torch.allclose(both[1:], alone, atol=1e-5)


def test_an_all_zero_context_returns_the_output_bias():
    layer = Attention(8, 6, heads=2)
    out = layer(torch.randn(2, 5, 8), torch.zeros(2, 3, 6))
    assert torch.allclose(out, layer.to_out[0].bias.expand_as(out))


def test_null_contexts(vd):
    zeros = vd.null_context("image", "image", 2)
    assert zeros.tokens.shape == (2, vd.spec.clip.vision.tokens, vd.spec.clip.projection)
    assert not zeros.tokens.any()
    black = vd.image_context([Image.new("RGB", (16, 16))])
    assert torch.equal(vd.null_context("image", "text", 1).tokens, black.tokens)
    grey = vd.image_context(torch.full((1, 3, 16, 16), 0.5))
    for data in ("image", "text"):
        assert torch.equal(vd.null_context("text", data, 1).tokens, vd.text_context([""]).tokens)
        for name, tokens in (("zeros", zeros.tokens), ("black", black.tokens[[0, 0]])):
            assert torch.equal(vd.null_context("image", data, 2, name).tokens, tokens)
        assert torch.equal(vd.null_context("image", data, 1, "grey").tokens, grey.tokens)
    assert not torch.allclose(grey.tokens, black.tokens, atol=1e-3)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_picture_may_have_any_sides_that_its_networks_can_halve(vd, kind):
    unit = vd.spec.size_unit
    shape = vd.latent_shape("image", height=unit, width=3 * unit)
    assert shape[2] == 3 * shape[1]
    context = vd.null_context(kind, "image", 2)
    x = SampleNoise([1, 2]).normal(shape)
    eps = vd.guided([(context, 1.0)], "image", 3.0)(x, 301)
    assert eps.shape == x.shape and eps.isfinite().all()
    assert vd.decode_image(x).shape == (2, 3, unit, 3 * unit)
    z = vd.encode_image([Image.new("RGB", (50, 7))], SampleNoise([1]), unit, 3 * unit)
    assert z.shape == (1, *shape)
    with pytest.raises(ValueError, match=f"height is {unit + 1}.*multiple of {unit}"):
        vd.latent_shape("image", height=unit + 1)
    with pytest.raises(ValueError, match="width is 0"):
        vd.latent_shape("image", width=0)
    with pytest.raises(ValueError, match="A text has no height"):
        vd.latent_shape("text", height=unit)
    odd = torch.zeros(2, shape[0], vd.latent_shape("image")[1] + 1, shape[2])
    with pytest.raises(ValueError, match="halve"):
        vd.eps(odd, 301, [(context, 1.0)])


def test_guidance_uses_the_null_contexts(vd, noisy, contexts):
    conditions = [(contexts["text"], 1.0)]
    eps = vd.guided(conditions, "image", 3.0)(noisy["image"], 301)
    cond = vd.eps(noisy["image"], 301, conditions)
    null = vd.eps(noisy["image"], 301, [(vd.null_context("text", "image", 2), 1.0)])
    assert torch.allclose(eps, null + 3 * (cond - null), atol=1e-5)


def calls_of(vd, monkeypatch):
    """How many samples each prediction conditions."""
    sizes, eps = [], vd._eps
    monkeypatch.setattr(
        vd, "_eps", lambda x, t, m, k=None: sizes.append(len(m[0][0])) or eps(x, t, m, k)
    )
    return sizes


@pytest.mark.parametrize("data", ["image", "text"])
def test_both_halves_are_one_small_batch(vd, noisy, contexts, data, monkeypatch):
    mix = [(contexts["text"], 0.3), (contexts["image"], 1.7)]
    monkeypatch.setattr(vd, "shortcuts", False)
    apart = vd.guided(mix, data, 3.0)(noisy[data], 301)
    monkeypatch.setattr(vd, "shortcuts", True)
    sizes = calls_of(vd, monkeypatch)
    eps = vd.guided(mix, data, 3.0)
    torch.testing.assert_close(eps(noisy[data], 301), apart, rtol=0, atol=1e-5)
    monkeypatch.setattr("lib.model.TOGETHER", 2 * noisy[data].numel() - 1)
    torch.testing.assert_close(eps(noisy[data], 301), apart, rtol=0, atol=1e-5)
    assert sizes == [4, 2, 2]


def test_halves_share_what_stands_before_the_first_context(vd, noisy, contexts, monkeypatch):
    """Nothing differs there: its layers see each sample once, others twice."""
    monkeypatch.setattr(vd, "shortcuts", True)
    seen = {}

    def look(name):
        return lambda module, args, output: seen.setdefault(name, []).append(len(output))

    first, last = vd.image_data.data_blocks[0], vd.image_data.data_blocks[-1]
    hooks = [m.register_forward_hook(look(n)) for n, m in (("first", first), ("last", last))]
    t = torch.tensor([301, 10])  # each sample may stand at a timestep of its own
    joined = vd.guided([(contexts["text"], 1.0)], "image", 3.0)(noisy["image"], t)
    for hook in hooks:
        hook.remove()
    assert seen == {"first": [2], "last": [4]}
    alone = [
        vd.guided([(contexts["text"][k : k + 1], 1.0)], "image", 3.0)(
            noisy["image"][k : k + 1], int(t[k])
        )
        for k in range(2)
    ]
    torch.testing.assert_close(joined, torch.cat(alone), rtol=0, atol=1e-5)


def test_keys_of_contexts_are_computed_once_a_run(vd, noisy, contexts, monkeypatch):
    """And again for another run, for who looks on, and where gradients flow."""
    monkeypatch.setattr(vd, "shortcuts", True)
    calls = []
    layer = vd.component("text_context").context_blocks[0].transformer_blocks[0].attn2
    hook = layer.to_k.register_forward_hook(lambda *_: calls.append(1))
    mix, x = [(contexts["text"], 0.3), (contexts["text"], 0.7)], noisy["image"]
    with torch.no_grad():
        eps = vd.guided(mix, "image", 3.0)
        first = [eps(x, t) for t in (301, 10)]
        assert len(calls) == 2  # one of each context
        again = [vd.guided(mix, "image", 3.0)(x, t) for t in (301, 10)]
        assert len(calls) == 6
    vd.guided(mix, "image", 1.0)(x, 301)
    assert len(calls) == 8
    hook.remove()
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b)


def test_tokens_of_other_lengths_stay_two_halves(vd, noisy, contexts, monkeypatch):
    short = Context("text", contexts["text"].tokens[:, :3])
    sizes = calls_of(vd, monkeypatch)
    guided = vd.guided([(contexts["text"], 1.0)], "image", 3.0, [short])(noisy["image"], 301)
    assert sizes == [2, 2]
    cond, null = (vd.eps(noisy["image"], 301, [(c, 1.0)]) for c in (contexts["text"], short))
    torch.testing.assert_close(guided, null + 3 * (cond - null), rtol=0, atol=1e-5)


def test_nulls_of_another_precision_lose_nothing(vd, noisy, contexts):
    """Numbers that float16 does not have stay what they are beside a float16 context."""
    null = Context("text", contexts["text"].tokens + 1e5)
    half = Context("text", contexts["text"].tokens.half())
    guided = vd.guided([(half, 1.0)], "image", 3.0, [null])(noisy["image"], 301)
    cond, away = (vd.eps(noisy["image"], 301, [(c, 1.0)]) for c in (half, null))
    torch.testing.assert_close(guided, away + 3 * (cond - away), rtol=0, atol=1e-4)


def test_batches_that_differ_are_told_as_they_were_given(vd, noisy, contexts):
    one = Context("text", contexts["text"].tokens[:1])
    with pytest.raises(ValueError, match=r"^2 latents but 1 text contexts"):
        vd.guided([(one, 1.0)], "image", 3.0)(noisy["image"], 301)


def test_pooled_tokens_have_length_one(vd, contexts):
    assert torch.allclose(contexts["image"].tokens[:, 0].norm(dim=-1), torch.ones(2), atol=1e-5)
    features = vd.text_features(["a red circle"])
    distances = (contexts["text"].tokens[0] - features).norm(dim=-1)
    assert distances.min().item() == pytest.approx(0, abs=1e-4)


def test_latents_are_scaled_and_the_posterior_is_sampled_on_demand(vd):
    images = [Image.new("L", (30, 20), 200), Image.new("RGBA", (16, 16), (255, 0, 0, 128))]
    mean = vd.encode_image(images)
    assert mean.shape == (2, *vd.latent_shape("image"))
    drawn = vd.encode_image(images, noise=SampleNoise([1, 2]))
    assert torch.equal(drawn, vd.encode_image(images, noise=SampleNoise([1, 2])))
    assert not torch.equal(mean, drawn)
    decoded = vd.decode_image(mean)
    assert decoded.shape == (2, 3, 16, 16)
    assert decoded.min() >= 0 and decoded.max() <= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda vd, x, c: vd.eps(x, 1, []), "at least one"),
        (lambda vd, x, c: vd.guided([(c, 1.0)], "image", 2, [c, c]), "1 contexts but 2 nulls"),
        (
            lambda vd, x, c: vd.guided([(c, 1.0)], "image", 2, [c.repeat(2)])(x, 1),
            "^2 latents but 4 text contexts",
        ),
        (
            lambda vd, x, c: vd.guided([(c[:1], 1.0)], "image", 2, [c])(x[:1], 1),
            "^1 latents but 2 text contexts",
        ),
        (lambda vd, x, c: vd.eps(x, 1, [(c, 0.0)]), "weights must be positive"),
        (lambda vd, x, c: vd.eps(x, 1, [(c[:1], 1.0)]), "2 latents but 1 text contexts"),
        (lambda vd, x, c: vd.eps(x[:, :1], 1, [(c, 1.0)]), "x has shape"),
        (lambda vd, x, c: vd.eps(x, 1, [(Context("text", c.tokens[..., :3]), 1.0)]), "3 wide"),
        (lambda vd, x, c: Context("sound", c.tokens), "'image' or 'text', not 'sound'"),
        (lambda vd, x, c: Context("text", c.tokens[0]), "give \\(B, tokens, width\\)"),
        (lambda vd, x, c: vd.null_context("image", "image", 1, "white"), "zeros, black, grey"),
        (lambda vd, x, c: vd.null_context("text", "image", 1, "black"), "none for a text"),
        (lambda vd, x, c: vd.latent_shape("sound"), "no latent of kind 'sound'"),
        (lambda vd, x, c: vd.encode_image(torch.rand(1, 3, 15, 16)), "multiples of 2"),
        (lambda vd, x, c: vd.text_context(["red " * 50]), "the limit is 32"),
    ],
)
def test_bad_input_is_one_sentence(vd, noisy, contexts, call, message):
    with pytest.raises(ValueError, match=message):
        call(vd, noisy["image"], contexts["text"])


def test_a_component_that_was_not_loaded_says_how_to_load_it(vd):
    part = VersatileDiffusion(vd.spec, {"image_decoder": vd.image_decoder})
    assert part.loaded == ("image_decoder",)
    with pytest.raises(ValueError, match=r"needs clip_text, .* without \(it has image_decoder\)"):
        part.text_context(["a red circle"])
    with pytest.raises(ValueError, match="needs text_context"):
        part.text_context_column  # noqa: B018
    with pytest.raises(ValueError, match="Unknown components"):
        VersatileDiffusion(vd.spec, {"engine": vd.image_decoder})


@pytest.mark.parametrize("kind", ["image", "text"])
def test_overflow_in_a_decoder_is_said(vd, kind):
    latents = torch.full((2, *vd.latent_shape(kind)), 1e30)
    latents[0] = 0
    decode = {"image": vd.decode_image, "text": lambda z: vd.decode_text(z, temperature=0)}[kind]
    decode(latents[:1])
    with pytest.raises(FloatingPointError, match=r"left the range of torch\.float32: use float32"):
        decode(latents)
