"""Recordings against lib's own attention, and what recording must not do."""

import pytest
import torch

from analysis.inside.heatmaps import heat_maps, token_indices, token_map
from analysis.inside.trace import attention_weights, trace
from lib.checkpoints import load
from lib.model import Context
from lib.noise import SampleNoise
from lib.ops import attention
from lib.sampler import ddim

TEXTS = ["a red circle above a blue circle", "a green star"]


def hooks_of(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def generate(vd, scale=2.0, data="image", steps=3, contexts=None, nulls=None):
    contexts = contexts or [(vd.text_context(TEXTS), 1.0)]
    x = SampleNoise(range(len(contexts[0][0]))).normal(vd.latent_shape(data))
    eps = vd.guided(contexts, data, scale, nulls)
    return [s.x for s in ddim(eps, x, vd.schedule, [1, 400, 900][:steps])][-1]


@pytest.fixture
def images(vd):
    return vd.image_context(torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)))


def test_outputs_are_the_same_and_hooks_go(vd):
    before = hooks_of(vd)
    joined = generate(vd)
    vd.shortcuts = False  # as a recording has it, which tells them apart
    plain = generate(vd)
    vd.shortcuts = True
    torch.testing.assert_close(joined, plain, rtol=1e-4, atol=1e-4)
    with trace(vd, self_attention=True, heads="all"):
        assert hooks_of(vd) > before
        traced = generate(vd)
    assert torch.equal(plain, traced)
    assert hooks_of(vd) == before


def test_columns_that_are_read_later_are_recorded_too(model_folder):
    lazy = load(model_folder)
    with trace(lazy, branches=["cond"]) as t:
        generate(lazy, scale=1.0, steps=1)
    assert "text_data" not in lazy.loaded, "what does not run is not read"
    blocks = [s for s in lazy.plan if s.op not in ("save", "load")]
    assert len(t.activations) == len(blocks)
    assert len(t.maps) == sum(s.op == "context" for s in blocks)
    assert hooks_of(lazy) == 0


def test_hooks_go_after_an_exception_too(vd):
    before = hooks_of(vd)
    with pytest.raises(RuntimeError, match="stop"), trace(vd):
        raise RuntimeError("stop")
    some = Context("text", torch.zeros(2, 5, 16))
    with pytest.raises(ValueError, match="weights must be positive"), trace(vd) as t:
        generate(vd, steps=1)
        generate(vd, contexts=[(some, -1.0)])
    assert hooks_of(vd) == before and t.maps and t.activations


@pytest.mark.parametrize("self_attention", [False, True])
@pytest.mark.parametrize("heads", ["mean", "all"])
def test_maps_are_distributions_over_tokens(vd, heads, self_attention):
    with trace(vd, heads=heads, self_attention=self_attention) as t:
        generate(vd)
    layers = sum(step.op == "context" for step in vd.plan)
    assert len(t.maps) == 3 * 2 * layers * (1 + self_attention)
    h = vd.spec.unet.text_heads
    for m in t.maps:
        n = m.size[0] * m.size[1]
        tokens = vd.spec.clip.text.positions if m.attends == "cross" else n
        assert m.weights.shape == ((2, n, tokens) if heads == "mean" else (2, h, n, tokens))
        assert m.weights.dtype == torch.float16
        assert torch.allclose(m.weights.float().sum(-1), torch.ones(()), atol=3e-3)
    kept = sum(m.weights.numel() * 2 for m in t.maps)
    assert kept <= t.used_bytes <= kept + 256 * len(t.activations)


def test_the_map_is_what_lib_weighs_values_by(vd):
    """With the identity as values, lib's attention returns the weights themselves."""
    module = vd.component("text_context").context_blocks[0].transformer_blocks[0].attn2
    g = torch.Generator().manual_seed(0)
    x, context = torch.randn(2, 6, 16, generator=g), torch.randn(2, 5, 16, generator=g)
    one_hot = torch.eye(5).repeat(1, module.heads).expand(2, -1, -1)
    out = attention(module.to_q(x), module.to_k(context), one_hot, module.heads)
    expected = out.view(2, 6, module.heads, 5).transpose(1, 2)
    assert torch.allclose(attention_weights(module, x, context, True), expected, atol=1e-6)
    mean = attention_weights(module, x, context, False)
    assert torch.allclose(mean, expected.mean(1), atol=1e-6)


def test_the_recorded_map_reproduces_the_layers_output(vd):
    """Weights times values, projected, is what the layer gave: the recording is of this call."""
    module = vd.component("text_context").context_blocks[1].transformer_blocks[0].attn2
    seen = []
    handle = module.register_forward_hook(lambda m, args, out: seen.append((args[1], out)))
    with trace(vd, heads="all", layers=[1]) as t:
        generate(vd, scale=1.0, steps=1)
    handle.remove()
    (context, out), (m,) = seen[0], t.maps
    values = module.to_v(context).unflatten(-1, (module.heads, -1)).transpose(1, 2)
    again = module.to_out((m.weights.float() @ values).transpose(1, 2).flatten(2))
    assert torch.allclose(again, out, atol=2e-2 * out.abs().max().item())


def test_steps_and_branches_are_told_apart(vd, images):
    with trace(vd) as t:
        generate(vd)
    assert [m.t for m in t.maps[:: len(t.maps) // 3]] == [900, 400, 1]
    assert {(m.step, m.t) for m in t.maps} == {(0, 900), (1, 400), (2, 1)}
    assert sum(m.branch == "null" for m in t.maps) == len(t.maps) / 2
    null = vd.null_context("text", "image", 2).tokens
    with trace(vd) as direct:
        vd.eps(torch.zeros(2, *vd.latent_shape("image")), 7, [(Context("text", null), 1.0)])
    assert {m.branch for m in direct.maps} == {"null"}
    assert {a.branch for a in direct.activations} == {"null"}


@pytest.mark.parametrize("data", ["image", "text"])
def test_null_pictures_are_known_for_both_kinds_of_data(vd, images, data):
    with trace(vd) as t:
        generate(vd, data=data, contexts=[(images, 1.0)])
    branches = [m.branch for m in t.maps]
    assert branches.count("null") == branches.count("cond") > 0
    assert {(m.data, m.kind) for m in t.maps} == {(data, "image")}


def test_a_negative_prompt_is_null_when_it_is_named(vd):
    negative = vd.text_context(["a blue square"]).repeat(2)
    for nulls, expected in (([], {"cond"}), ([negative], {"cond", "null"})):
        with trace(vd, nulls=nulls) as t:
            generate(vd, nulls=[negative])
        assert {m.branch for m in t.maps} == expected


def test_mixed_contexts_are_numbered(vd, images):
    contexts = [(vd.text_context(TEXTS), 0.3), (images, 0.7), (images, 0.1)]
    with trace(vd, branches=["cond"]) as t:
        generate(vd, contexts=contexts)
    assert {(m.context, m.kind, m.branch) for m in t.maps} == {
        (0, "text", "cond"),
        (1, "image", "cond"),
        (2, "image", "cond"),
    }
    assert {a.branch for a in t.activations} == {"cond"}


def test_activations_are_of_every_block_in_order(vd):
    shown = []
    handle = vd.image_data.register_forward_hook(lambda m, args, out: shown.append(out))
    with trace(vd) as t:
        generate(vd, scale=1.0, steps=1)
    handle.remove()
    blocks = [s for s in vd.plan if s.op not in ("save", "load")]
    names = [f"{'text_context' if s.op == 'context' else 'image_data'}.{s.index}" for s in blocks]
    assert [a.block for a in t.activations] == names
    data = [a for a in t.activations if a.block.startswith("image_data")]
    for a, y in zip(data, shown, strict=True):
        assert a.mean == pytest.approx(y.double().mean().item(), rel=1e-6, abs=1e-5)
        assert a.std == pytest.approx(y.double().std().item(), rel=1e-4)
        assert a.norm == pytest.approx((y[0].norm() + y[1].norm()).item() / 2, rel=1e-4)


def test_memory_is_bounded_and_averages_refuse_what_is_cut(vd):
    with trace(vd, max_bytes=20_000) as t:
        generate(vd)
    assert 0 < t.used_bytes <= 20_000 and not t.complete and t.maps
    with pytest.raises(ValueError, match="max_bytes"):
        token_map(t, [0])


def test_layers_choose_and_words_add_up(vd):
    with trace(vd, layers=[0, 2]) as t:
        generate(vd)
    assert {m.layer for m in t.maps} == {0, 2}
    tokens = vd.spec.clip.text.positions
    assert torch.allclose(token_map(t, range(tokens)), torch.ones(16, 16), atol=5e-3)
    maps = heat_maps(t, TEXTS[0], ["red", "circle", "red circle"])
    assert all(m.shape == (16, 16) and m.min() >= 0 for m in maps.values())
    both = token_indices(vd.tokenizers, TEXTS[0], "circle")
    red = token_indices(vd.tokenizers, TEXTS[0], "red")
    assert torch.allclose(maps["circle"], sum(token_map(t, [i]) for i in both), atol=1e-5)
    first = token_map(t, [*red, *both[: len(both) // 2]])
    assert torch.allclose(maps["red circle"], first, atol=1e-5)


def test_heat_map_is_the_mean_of_resized_maps(vd):
    with trace(vd, heads="all") as t:
        generate(vd)
    chosen = [m for m in t.maps if m.branch == "cond" and m.layer in (0, 1) and m.step == 1]
    expected = torch.zeros(16, 16)
    for m in chosen:
        share = m.weights[1].float().mean(0)[:, 3].view(1, 1, *m.size)
        expected += torch.nn.Upsample((16, 16), mode="bilinear")(share)[0, 0] / 2
    assert torch.allclose(token_map(t, [3], sample=1, layers=[0, 1], steps=[1]), expected)
    assert token_map(t, [3], size=(5, 9)).shape == (5, 9)


def test_tokens_of_words(vd):
    text = "A string, a RING and a ring's ringlet"
    for word, occurrences in (("ring", ["RING", "ring"]), ("a", ["A", "a", "a"])):
        found = token_indices(vd.tokenizers, text, word)
        spelled = vd.tokenizers.clip.convert_ids_to_tokens(
            [vd.tokenizers.clip_ids([text])[0, i].item() for i in found]
        )
        assert "".join(spelled).replace("</w>", "").lower() == "".join(occurrences).lower()
    for word in ("rin", "", "blue"):
        with pytest.raises(ValueError, match="choose from its words"):
            token_indices(vd.tokenizers, text, word)


def test_errors_say_what_to_do(vd, images):
    with pytest.raises(ValueError, match="heads"), trace(vd, heads="some"):
        pass
    for branches in ("cond", ["conditional"]):
        with pytest.raises(ValueError, match="branches"), trace(vd, branches=branches):
            pass
    with trace(vd) as t:
        generate(vd, contexts=[(images, 1.0)])
    with pytest.raises(ValueError, match="no words"):
        heat_maps(t, TEXTS[0], ["red"])
    with pytest.raises(ValueError, match="was recorded"):
        token_map(t, [0], context=1)
    with pytest.raises(ValueError, match="counted from 0"):
        token_map(t, [99])
