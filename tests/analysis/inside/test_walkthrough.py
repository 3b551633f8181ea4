"""Twins agree with the library on a random model, notice when it changes, and show the truth."""

import math
from xml.etree import ElementTree

import pytest
import torch

import analysis.inside.walkthrough as walkthrough
import analysis.inside.walkthrough_codes as codes
from analysis.inside.twins import agree, count_text
from analysis.modes.focus import Bands, focus_tokens
from lib.config import FLOWS
from lib.model import Context, VersatileDiffusion
from lib.noise import SampleNoise
from lib.optimus import OptimusDecoder
from lib.schedule import NoiseSchedule

TEXTS = ["a large red circle", "a tiny green star on gray"]


@pytest.fixture
def picture(vd):
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    return vd.image_context(pixels)


@pytest.fixture
def text(vd):
    return vd.text_context(TEXTS)


# ---------------------------------------------------------------------- plan


@pytest.mark.parametrize("flow", FLOWS)
def test_plan_counts_every_parameter_once(vd, flow):
    plan = walkthrough.plan_of(vd, flow)
    data, context = FLOWS[flow]
    modules = [vd.time_embed, vd.component(f"{data}_data"), vd.component(f"{context}_context")]
    assert plan.total == sum(p.numel() for m in modules for p in m.parameters())
    assert plan.steps[0].step.op == "time" and plan.steps[0].flows == tuple(FLOWS)
    assert [row.step for row in plan.steps[1:]] == list(vd.plan)
    for row in plan.steps:
        skips = row.step.op in ("save", "load")
        assert (row.component is None) == (row.parameters == 0) == skips
        if row.component == f"{data}_data":
            assert set(row.flows) == {f for f, kinds in FLOWS.items() if kinds[0] == data}
        if row.step.op == "context":
            assert set(row.flows) == {f for f, kinds in FLOWS.items() if kinds[1] == context}
    assert not any(m._forward_hooks for m in vd.modules())


def test_plan_notices_another_order(vd, monkeypatch):
    real, swapped = vd.eps, list(vd.plan)
    swapped[2], swapped[3] = swapped[3], swapped[2]

    def otherwise(self, x, t, contexts):
        with monkeypatch.context() as patch:
            patch.setattr(vd, "plan", swapped)
            return real(x, t, contexts)

    monkeypatch.setattr(VersatileDiffusion, "eps", otherwise)
    with pytest.raises(AssertionError, match="the plan says"):
        walkthrough.plan_of(vd, "t2i")
    with pytest.raises(ValueError, match="t2i, i2i"):
        walkthrough.plan_of(vd, "x2y")


# ---------------------------------------------------------------------- noise


@pytest.mark.parametrize("steps", [1, 7, 50, None])
def test_schedule_table(vd, steps):
    table = walkthrough.schedule_table(vd, steps)
    assert torch.allclose(table.signal**2 + table.noise**2, torch.ones(1000, dtype=torch.float64))
    assert torch.allclose(table.log_snr.sigmoid(), table.alpha_bar)
    assert table.alpha_prev[0] == table.alpha_bar[0]
    assert torch.equal(table.alpha_prev[1:], table.alpha[:-1])
    assert table.beta[0] == pytest.approx(8.5e-4) and table.beta[-1] == pytest.approx(1.2e-2)
    if steps == 50:
        assert table.timesteps == list(range(1, 1000, 20))
    assert table.timesteps == vd.schedule.timesteps(steps or vd.spec.steps)


def test_schedule_table_notices_other_betas(vd, monkeypatch):
    monkeypatch.setattr(vd, "schedule", NoiseSchedule(1000, 8.5e-4, 1.3e-2))
    with pytest.raises(AssertionError, match="alpha_bar"):
        walkthrough.schedule_table(vd)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("timesteps", [[1, 501, 981], [1]])
def test_ddim_step_term_by_term(vd, eta, timesteps):
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    eps = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    step = walkthrough.ddim_step(vd, x, eps, timesteps, eta, seeds=[5, 6])
    assert torch.equal(step.towards + step.direction + step.fresh, step.x_prev)
    assert (step.sigma > 0) == (eta > 0) == bool(step.fresh.any())
    again = math.sqrt(step.a) * step.x0 + math.sqrt(1 - step.a) * eps
    assert torch.allclose(again.float(), x, atol=1e-5)
    assert (step.t, step.t_prev) == (timesteps[-1], timesteps[-2] if len(timesteps) > 1 else 0)


def test_ddim_step_notices_another_sampler(vd, monkeypatch):
    real = walkthrough.ddim

    def wrong(eps, x, schedule, timesteps, eta, noise):
        return real(eps, x, schedule, [t + 1 for t in timesteps], eta, noise)

    monkeypatch.setattr(walkthrough, "ddim", wrong)
    x = torch.randn(1, 3)
    with pytest.raises(AssertionError, match="x0"):
        walkthrough.ddim_step(vd, x, x, [1, 501])


# ---------------------------------------------------------------------- contexts


@pytest.mark.parametrize("data", ["image", "text"])
@pytest.mark.parametrize("kind", ["image", "text"])
def test_guidance_vectors(vd, picture, text, data, kind):
    context = picture if kind == "image" else text
    x = SampleNoise([1, 2]).normal(vd.latent_shape(data))
    shown = walkthrough.guidance_vectors(vd, [(context, 1.0)], data, 3.0, x, [1, 400, 900])
    assert shown.t == [900, 400, 1] and shown.angle.shape == (3, 2)
    null = vd.null_context(kind, data, 2)
    a = vd.eps(x, 900, [(context, 1.0)]).flatten(1).double()
    b = vd.eps(x, 900, [(null, 1.0)]).flatten(1).double()
    root = a.shape[1] ** 0.5
    assert torch.allclose(shown.cond[0], a.norm(dim=1) / root, rtol=1e-4)
    assert torch.allclose(shown.difference[0], (a - b).norm(dim=1) / root, rtol=1e-3)
    cosine = torch.nn.functional.cosine_similarity(a, b)
    assert torch.allclose(torch.cos(torch.deg2rad(shown.angle[0])), cosine, atol=1e-5)
    # the triangle of cond, null and their difference closes
    law = shown.cond**2 + shown.null**2
    law -= 2 * shown.cond * shown.null * torch.cos(torch.deg2rad(shown.angle))
    assert torch.allclose(law, shown.difference**2, rtol=1e-4, atol=1e-8)


def test_guidance_vectors_notice_another_formula(vd, text, monkeypatch):
    x = SampleNoise([1, 2]).normal(vd.latent_shape("image"))
    with pytest.raises(ValueError, match="nothing to see"):
        walkthrough.guidance_vectors(vd, [(text, 1.0)], "image", 1, x)

    def without_scale(cond, null, scale):
        return lambda x, t: 2 * cond(x, t) - null(x, t)

    monkeypatch.setattr(walkthrough, "guided", without_scale)
    with pytest.raises(AssertionError, match="guided eps"):
        walkthrough.guidance_vectors(vd, [(text, 1.0)], "image", 3.0, x, [500])


@pytest.mark.parametrize("data", ["image", "text"])
def test_mixing_layer_by_layer(vd, picture, text, data):
    x = SampleNoise([1, 2]).normal(vd.latent_shape(data))
    mix = [(text, 1.0), (picture, 3.0)]
    mixing = walkthrough.mixing_layer_by_layer(vd, x, 300, mix)
    layers = mixing.layers
    assert torch.allclose(mixing.eps, vd.eps(x, 300, mix), atol=1e-4)
    assert [(m.layer, m.level) for m in layers] == [
        (s.index, s.level) for s in vd.plan if s.op == "context"
    ]
    for m in layers:
        assert m.weights.tolist() == [0.25, 0.75]
        assert torch.allclose(m.cosine[0, 0], torch.ones(2, dtype=torch.float64))
        assert torch.equal(m.cosine[0, 1], m.cosine[1, 0])
        a, b = m.change_norms * m.weights[:, None]  # |a + b|^2 by the law of cosines
        together = a**2 + b**2 + 2 * a * b * m.cosine[0, 1]
        assert torch.allclose(m.mixed_norm**2, together, rtol=1e-3)
    with pytest.raises(ValueError, match="positive"):
        walkthrough.mixing_layer_by_layer(vd, x, 300, [(text, -1.0)])


def test_mixing_notices_other_weights(vd, picture, text, monkeypatch):
    x = SampleNoise([1, 2]).normal(vd.latent_shape("image"))
    real = vd.eps

    def evenly(self, x, t, mix):
        return real(x, t, [(context, 1.0) for context, _ in mix])

    monkeypatch.setattr(VersatileDiffusion, "eps", evenly)
    with pytest.raises(AssertionError, match="mixed contexts"):
        walkthrough.mixing_layer_by_layer(vd, x, 300, [(text, 1.0), (picture, 5.0)])


# ---------------------------------------------------------------------- codes


def test_context_encoding_of_texts_and_pictures(vd):
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    text = walkthrough.context_encoding(vd, texts=TEXTS)
    image = walkthrough.context_encoding(vd, images=pixels)
    for shown in (text, image):
        ratio = shown.norms_before / shown.norms_after
        assert torch.allclose(ratio, shown.divisor[:, None].expand_as(ratio), rtol=1e-4)
        assert torch.allclose(shown.after * shown.divisor[:, None, None], shown.before, atol=1e-5)
        assert ((shown.norms_after - 1).abs() < 1e-5).any(dim=1).all()
    assert torch.allclose(image.norms_after[:, 0], torch.ones(2))
    features = text.pooled / text.divisor[:, None]
    assert torch.allclose(features, vd.text_features(TEXTS), atol=1e-5)
    with pytest.raises(ValueError, match="either"):
        walkthrough.context_encoding(vd)


def test_context_encoding_notices_another_normalisation(vd, monkeypatch):
    real = vd.text_context

    def doubled(self, texts):
        return Context("text", 2 * real(texts).tokens)

    monkeypatch.setattr(VersatileDiffusion, "text_context", doubled)
    with pytest.raises(AssertionError, match="text context"):
        walkthrough.context_encoding(vd, texts=TEXTS)


@pytest.mark.parametrize("level", [0.0, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("shape", [(2, 40, 24), (1, 9, 16)])
@pytest.mark.parametrize("bands", [Bands(), Bands(1, 1, 5), Bands(3, 2, 4)])
def test_focus_decomposition(level, shape, bands):
    tokens = torch.randn(shape, generator=torch.Generator().manual_seed(4)) + 0.2
    shown = walkthrough.focus_decomposition(tokens, level, bands)
    expected = torch.linalg.svdvals(tokens.double() - tokens.double().mean(-1, keepdim=True))
    assert torch.allclose(shown.spectrum, expected, atol=1e-5)
    assert torch.allclose(shown.share.sum(-1), torch.ones(shape[0], dtype=torch.float64))
    assert torch.allclose(sum(shown.bands.values()).float(), tokens, atol=1e-5)
    assert torch.allclose(
        shown.out.float(), focus_tokens(tokens, level, bands), rtol=1e-3, atol=1e-3
    )
    if bands == Bands():
        assert list(shown.bands) == ["mean", "0-1", "2-4", "5-19", "rest"]
    if level == 0.5:
        assert (shown.gain == 1).all() and torch.allclose(shown.rescale, torch.ones(()).double())


def test_focus_gains_at_the_ends():
    assert codes.focus_gain(0.0, 4).tolist() == [0, 0, 1, 1]
    style = codes.focus_gain(1.0, 25)
    assert style[:5].tolist() == pytest.approx([1] * 5, abs=1e-9)
    assert (style[5:] < 1e-9).all()
    assert codes.focus_gain(0.5, 25).tolist() == [1] * 25
    near = codes.focus_gain(0.5 + 1e-9, 25)
    assert near[:20].tolist() == pytest.approx([1] * 20, abs=1e-6) and not near[20:].any()


def test_focus_decomposition_notices_another_focus(monkeypatch):
    tokens = torch.randn(1, 12, 16)

    def otherwise(tokens, level, bands):
        return focus_tokens(tokens, 0.1, bands)

    monkeypatch.setattr(codes, "focus_tokens", otherwise)
    with pytest.raises(AssertionError, match="focus"):
        walkthrough.focus_decomposition(tokens, 0.8)


def test_optimus_entrances(vd):
    shown = walkthrough.optimus_entrances(vd, TEXTS)
    assert set(shown.logits) == {"both", "prefix", "embedding", "neither"}
    assert torch.allclose(shown.logits["both"], vd.text_decoder(shown.ids, shown.z), atol=1e-5)
    # without either entrance it is plain GPT-2 whose positions start at 1: z does not matter
    other = walkthrough.optimus_entrances(vd, TEXTS, torch.randn(2, vd.spec.text_vae.latent))
    assert torch.equal(shown.logits["neither"], other.logits["neither"])
    for name in ("both", "prefix", "embedding"):
        assert not torch.allclose(shown.logits[name], other.logits[name], atol=1e-3)
        assert not torch.allclose(shown.logits[name], shown.logits["neither"], atol=1e-3)
    row, length = shown.logits["both"][0], len(vd.tokenizers.gpt2_ids(TEXTS[:1])[0])
    loss = torch.nn.functional.cross_entropy(row[: length - 1], shown.ids[0, 1:length])
    assert shown.log_likelihood["both"][0].item() == pytest.approx(-loss.item(), rel=1e-4)


def test_optimus_notices_another_decoder(vd, monkeypatch):
    real = vd.text_decoder.forward
    monkeypatch.setattr(OptimusDecoder, "forward", lambda self, ids, z: real(ids, 2 * z))
    with pytest.raises(AssertionError, match="logits"):
        walkthrough.optimus_entrances(vd, TEXTS)


def test_agree_says_what_differs():
    one = torch.ones(2, 2)
    agree("it", one, one + 1e-6)
    for other in (one + 1e-3, one * float("nan"), torch.ones(2)):
        with pytest.raises(AssertionError, match="it: "):
            agree("it", one, other)


# ---------------------------------------------------------------------- tables


def cells(twin):
    """The table that a notebook shows of a twin, as rows of texts."""
    table = ElementTree.fromstring(twin._repr_html_())
    return [[cell.text or "" for cell in row] for row in table.iter("tr")]


def test_twins_show_themselves_as_tables(vd, picture, text):
    plan = walkthrough.plan_of(vd, "t2i")
    head, first, *others = cells(plan)
    assert head == ["step", "weights of", "level", "width", "parameters", "used by"]
    count = sum(p.numel() for p in vd.time_embed.parameters())
    width = vd.spec.unet.model_channels
    assert first == ["time", "time_embed", "", f"{width} > {4 * width}", count_text(count),
                     " ".join(FLOWS)]  # fmt: skip
    assert [row[0] for row in others] == [step.op for step in vd.plan]
    assert "shared by all flows" in plan._repr_html_()

    table = walkthrough.schedule_table(vd, 5)
    assert [row[0] for row in cells(table)[1:]] == ["801", "601", "401", "201", "1"]
    assert float(cells(table)[1][2]) == pytest.approx(vd.schedule.alpha_bar[801].item(), rel=1e-3)

    x = SampleNoise([1, 2]).normal(vd.latent_shape("image"))
    step = walkthrough.ddim_step(vd, x, 2 * x, [1, 501])
    lengths = {name: float(value) for name, value in cells(step)[1:]}
    assert lengths["eps"] == pytest.approx(2 * lengths["x_t"], rel=1e-3)
    assert lengths["sigma z"] == 0 and "t = 501" in step._repr_html_()

    shown = walkthrough.guidance_vectors(vd, [(text, 1.0)], "image", 3.0, x, [1, 400, 900])
    assert [row[0] for row in cells(shown)[1:]] == ["900", "400", "1"]
    assert float(cells(shown)[1][1]) == pytest.approx(shown.cond[0].mean().item(), rel=1e-3)

    mixing = walkthrough.mixing_layer_by_layer(vd, x, 300, [(text, 1.0), (picture, 3.0)])
    head, *rows = cells(mixing)
    assert head[3:5] == ["change by text 0", "change by image 1"]
    assert len(rows) == len(mixing.layers)

    head, *rows = cells(walkthrough.context_encoding(vd, texts=TEXTS))
    assert [row[0] for row in rows] == ["text", "text"] and head[3] == "divided by"
    bands = cells(walkthrough.focus_decomposition(torch.randn(1, 40, 24), 0.25))
    assert [row[0] for row in bands[1:]] == ["mean", "0-1", "2-4", "5-19", "rest"]
    shown = walkthrough.optimus_entrances(vd, ["a <b> & c", TEXTS[0]])
    head, first, _ = cells(shown)
    assert head == ["text", "both", "prefix", "embedding", "neither"] and first[0] == "a <b> & c"
    assert float(first[1]) == pytest.approx(shown.log_likelihood["both"][0].item(), rel=1e-3)


def test_counts_read_well():
    numbers = (999, 1000, 267_200_000, 1_030_000_000)
    assert [count_text(n) for n in numbers] == ["999", "1.0 K", "267.2 M", "1.03 B"]
