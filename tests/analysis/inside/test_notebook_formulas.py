"""Every formula of the notebook, as it stands there, against the code that it is about.

`states` notes a formula's TeX at the test that computes it; the last test holds the list against
the notebook, so that no formula is printed there without a test, and no test is left behind.
Arithmetic here is plain and in float64 where that is possible.
"""

import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from analysis.folders.search import find, update_index
from analysis.inside.heatmaps import heat_maps, token_indices
from analysis.inside.trace import trace
from analysis.modes import blend, dual_guided, edit, latent_edit, text_to_image
from analysis.modes.color import match_color, match_mean_std
from analysis.modes.edit import without
from analysis.modes.focus import bands_of, focus_context, focus_tokens
from analysis.modes.interpolate import slerp
from analysis.modes.options import Settings
from analysis.modes.sampling import Conditions, denoise
from lib import unet
from lib.clip import preprocess_images
from lib.model import VersatileDiffusion
from lib.noise import SampleNoise
from lib.sampler import ddim, ddim_inversion
from tests.conftest import drawing

NOTEBOOK = Path(__file__).resolve().parents[3] / "run_inference_analyse.ipynb"
TEXTS = ["a large red circle", "a tiny green star on gray"]
T, S = 601, 401
"""A timestep, and the one that a step leads to."""

tested: list[str] = []


def states(*formulas):
    """Note that a test computes these formulas, given as in the notebook."""
    tested.extend(" ".join(formula.split()) for formula in formulas)
    return lambda test: test


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(a, b, tolerance=1e-5):
    a, b = (x.detach().double() for x in (a, b))
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * b.abs().max())


@pytest.fixture
def x(vd):
    return randn(1, *vd.latent_shape("image"), seed=7)


@pytest.fixture
def text(vd):
    return vd.text_context(TEXTS[:1])


@pytest.fixture
def picture(vd):
    return vd.image_context([drawing(3)])


# ---------------------------------------------------------------------- flows


@states(
    r"""\hat\epsilon = \epsilon_\theta(x_t, t, \varnothing)
    + s\,\bigl(\epsilon_\theta(x_t, t, c) - \epsilon_\theta(x_t, t, \varnothing)\bigr)"""
)
def test_guidance(vd, x, text):
    null = vd.text_context([""])
    eps = [vd.eps(x, T, [(c, 1.0)]) for c in (text, null)]
    assert close(vd.guided([(text, 1.0)], "image", 3.0)(x, T), eps[1] + 3 * (eps[0] - eps[1]))


@states(
    r"""\hat\epsilon = \epsilon_\theta(x_t, t, c_\text{negative})
    + s\,\bigl(\epsilon_\theta(x_t, t, c) - \epsilon_\theta(x_t, t, c_\text{negative})\bigr)"""
)
def test_a_negative_prompt_is_what_guidance_leads_away_from(vd, text):
    how = {"seed": 4, "steps": 1, "scale": 3.0}
    (step,) = text_to_image.job(vd, TEXTS[0], negative_prompt=TEXTS[1], **how).steps()
    noise = SampleNoise([4]).normal(vd.latent_shape("image"))
    negative = vd.text_context(TEXTS[1:])
    eps = [vd.eps(noise, step.t, [(c, 1.0)]) for c in (text, negative)]
    assert close(step.eps, eps[1] + 3 * (eps[0] - eps[1]))


@states(
    r"""\hat x_0 = \frac{x_t - \sqrt{1-\bar\alpha_t}\,\hat\epsilon}{\sqrt{\bar\alpha_t}},\qquad
    x_{t'} = \sqrt{\bar\alpha_{t'}}\,\hat x_0 + \sqrt{1-\bar\alpha_{t'}}\,\hat\epsilon"""
)
def test_a_step(vd, x):
    eps = randn(*x.shape, seed=8)
    step = next(ddim(lambda x_t, t: eps, x, vd.schedule, [S, T]))
    a, b = (vd.schedule.alpha_bar[t] for t in (T, S))
    x_0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
    assert close(step.x0, x_0) and close(step.x, b.sqrt() * x_0 + (1 - b).sqrt() * eps)


@states(
    r"k = \lfloor S\,(1-f)\rfloor",
    r"x_{t_k} = \sqrt{\bar\alpha_{t_k}}\,x_0 + \sqrt{1-\bar\alpha_{t_k}}\,\epsilon",
)
@pytest.mark.parametrize(("fidelity", "k"), [(0.0, 10), (0.25, 7), (0.7, 3), (0.95, 0), (1.0, 0)])
def test_fidelity(vd, text, fidelity, k):
    how = Settings(steps=10, scale=1.0, fidelity=fidelity)
    timesteps = how.timesteps(vd.schedule)
    assert timesteps == vd.schedule.timesteps(10)[:k]
    if 0 < k < 10:
        shape = vd.latent_shape("image")
        x_0, eps = randn(1, *shape, seed=5), SampleNoise([4]).normal(shape)
        a = vd.schedule.alpha_bar[timesteps[-1]]
        start = a.sqrt() * x_0 + (1 - a).sqrt() * eps
        conditions = Conditions([(text, 1.0)])
        step = next(denoise(vd, "image", conditions, SampleNoise([4]), how, start=x_0))
        assert close((a.sqrt() * step.x0 + (1 - a).sqrt() * step.eps), start)


@states(r"x' = \kappa\,x + (1-\kappa)\left(\frac{x-\mu_x}{\sigma_x}\,\sigma_y + \mu_y\right)")
def test_color_match():
    rng = np.random.default_rng(2)
    x, y = (rng.integers(90, 160, (9, 8, 3)).astype(np.uint8) for _ in range(2))
    made = np.asarray(match_color(Image.fromarray(x), Image.fromarray(y), 0.3), dtype=float)
    for c in range(3):
        a, b = (v[..., c].astype(float).ravel().tolist() for v in (x, y))
        mean = [sum(v) / len(v) for v in (a, b)]
        std = [
            (sum((w - m) ** 2 for w in v) / len(v)) ** 0.5
            for v, m in zip((a, b), mean, strict=True)
        ]
        full = [(v - mean[0]) / std[0] * std[1] + mean[1] for v in a]
        mixed = [0.3 * v + 0.7 * w for v, w in zip(a, full, strict=True)]
        assert np.abs(made[..., c].ravel() - mixed).max() <= 0.5 + 1e-9  # rounded to 8 bit
        matched = match_mean_std(x.astype(float), y.astype(float))[..., c]
        np.testing.assert_allclose(matched.ravel(), full)


# ---------------------------------------------------------------------- applications


@states(
    r"X' = r\,\Bigl(\mu + \sum_i g_i\,s_i\,u_i v_i^\top\Bigr)",
    r"""g_i = \max\Bigl(0,\ y + (1-y)\,\frac{i}{c}\Bigr)\ \text{ for } i < c,\qquad
    g_i = \max\Bigl(0,\ y + (1-y)\,\frac{n-1-i}{n-k}\Bigr)\ \text{ for } k \le i < n""",
    r"y_1 = 1 - c",
    r"y_1 = k - n",
    r"y = y_1 + (1-y_1)\,\frac{e^{2\ell-1} - e^{2\ell_1-1}}{1 - e^{2\ell_1-1}}",
)
@pytest.mark.parametrize("level", [0.0, 0.2, 0.45, 0.55, 0.8, 1.0])
@pytest.mark.parametrize("bands", [bands_of("vd-four-flow-v1-0"), bands_of("vd-mini")])
def test_focus(level, bands):
    c, k, n = bands.content, bands.style, bands.rank
    end, y_1 = (0, 1 - c) if level < 0.5 else (1, k - n)
    y = y_1 + (1 - y_1) * (np.exp(2 * level - 1) - np.exp(2 * end - 1)) / (1 - np.exp(2 * end - 1))
    X = randn(30, 24, seed=1).numpy() * 0.9 ** np.arange(24) + 0.1
    mu = X.mean(axis=1, keepdims=True)
    u, s, v = np.linalg.svd((X - mu).astype(np.float64), full_matrices=False)
    total = np.zeros(X.shape)
    for i in range(len(s)):
        gain = 1.0
        if level < 0.5 and i < c:
            gain = max(0, y + (1 - y) * i / c)
        if level > 0.5 and i >= k:
            gain = max(0, y + (1 - y) * (n - 1 - i) / (n - k)) if i < n else 0.0
        total += gain * s[i] * np.outer(u[:, i], v[i])
    made = focus_tokens(torch.from_numpy(X)[None].float(), level, bands)[0].numpy()
    r = X.std() / (mu + total).std()
    np.testing.assert_allclose(made, r * (mu + total), atol=2e-5)
    assert made.std() == pytest.approx(X.std(), rel=1e-5)


@states(
    r"""h' = w\,L_\text{text}(h, c_\text{text})
    + (1-w)\,L_\text{picture}(h, c_\text{picture})""",
    r"s = w\,s_\text{text} + (1-w)\,s_\text{picture}",
)
def test_dual_guidance(vd, text, picture):
    w, h = 0.3, randn(1, vd.spec.unet.model_channels, 8, 8)
    job = dual_guided.job(
        vd, image_context=picture, text_context=text, strength=w, scale_text=4, scale_image=2
    )  # fmt: skip
    assert job.how[0].scale == pytest.approx(0.3 * 4 + 0.7 * 2)
    contexts = job.condition(job.samples).contexts
    columns = [
        (vd.component(f"{context.kind}_context"), context.tokens, weight)
        for context, weight in contexts
    ]
    expected = w * vd.component("text_context")(0, h, text.tokens)
    expected = expected + (1 - w) * vd.component("image_context")(0, h, picture.tokens)
    assert close(unet.mix(columns, 0, h), expected)


@states(r"c = \bigl[\,w_1\,F_{\ell_1}(c_1),\ w_2\,F_{\ell_2}(c_2),\ \dots\bigr]")
def test_blend(vd):
    given, weights, levels = [drawing(1), drawing(2)], [1.0, 0.4], [0.2, 0.8]
    job = blend.job(vd, given, weights=weights, focus=levels)
    ((context, _),) = job.condition(job.samples).contexts
    parts = [
        w * focus_context(vd.image_context([image]).tokens, level)
        for image, w, level in zip(given, weights, levels, strict=True)
    ]
    assert close(context.tokens, torch.cat(parts, dim=1))


@states(
    r"""x_t = \sqrt{\bar\alpha_t}\ \frac{x_{t'} - \sqrt{1-\bar\alpha_{t'}}\,\epsilon}
    {\sqrt{\bar\alpha_{t'}}} + \sqrt{1-\bar\alpha_t}\,\epsilon,\qquad
    \epsilon = \epsilon_\theta(x_t, t, c_\text{source})"""
)
def test_inversion_solves_its_equation(vd, x):
    def field(x_t, t):  # changes slowly, as a trained network does; the random one need not
        return torch.tanh(x_t / 5 + t / 1000)

    at = x
    for step in ddim_inversion(field, x, vd.schedule, [1, S, T], iterations=60):
        a, b = (vd.schedule.alpha_bar[t] for t in (step.t, {1: 0, S: 1, T: S}[step.t]))
        eps = field(step.x, step.t)
        clean = (at - (1 - b).sqrt() * eps) / b.sqrt()
        assert close(step.x, a.sqrt() * clean + (1 - a).sqrt() * eps)
        at = step.x


@states(
    r"""\hat\epsilon = \epsilon_\theta(x_t, t, c_\text{source})
    + s\,\bigl(\epsilon_\theta(x_t, t, c_\text{target}) - \epsilon_\theta(x_t, t, c_\text{source})
    \bigr)""",
    r"\hat\epsilon_m = m\,\hat\epsilon + (1-m)\,\epsilon",
)
def test_edit_leads_from_source_to_target_inside_the_mask(vd, x):
    mask = (torch.arange(16) < 8).float().expand(16, 16)
    job = edit.job(vd, drawing(1), *TEXTS, mask=mask, iterations=2, steps=4, scale=2.5)
    made = job.condition(job.samples)
    source, target = (vd.text_context([one]) for one in TEXTS)
    start = vd.encode_image([drawing(1)])
    timesteps = vd.schedule.timesteps(4)
    plain = vd.guided([(source, 1.0)], "image", 1.0)
    path = {s.t: s.eps for s in ddim_inversion(plain, start, vd.schedule, timesteps, 2)}
    t = timesteps[2]
    before, after = (vd.eps(x, t, [(c, 1.0)]) for c in (source, target))
    hat = before + 2.5 * (after - before)
    eps = vd.guided(made.contexts, "image", job.how[0].scale, made.nulls)
    assert close(eps(x, t), hat)
    m = torch.zeros(1, 1, 8, 8)
    m[..., :4] = 1
    assert close(made.around(eps)(x, t), m * hat + (1 - m) * path[t])


@states(
    r"""z' = z - (z \cdot u)\,u + E(\text{add}),\qquad
    u = \frac{E(\text{remove})}{\lVert E(\text{remove})\rVert}"""
)
def test_latent_edit(vd, monkeypatch):
    read = []
    decode = VersatileDiffusion.decode_text
    monkeypatch.setattr(
        VersatileDiffusion,
        "decode_text",
        lambda self, z, **how: read.append(z) or decode(self, z, **how),
    )
    job = latent_edit.job(
        vd, drawing(1), "red", "a star", strength=0.5, rank=3, tries=0, seed=3, steps=2
    )  # fmt: skip
    job.condition(job.samples)
    z, edited = read
    remove, add = vd.encode_text(["red"]), vd.encode_text(["a star"])
    u = remove / remove.norm()
    expected = z - (z @ u.T) * u + add
    assert close(edited, expected, 1e-4)
    assert close(without(z, remove), z - (z @ u.T) * u, 1e-4)


@states(r"z' = z + E(c') - E(c)")
def test_latent_edit_in_a_sentence(vd, monkeypatch):
    read = []
    monkeypatch.setattr(
        VersatileDiffusion,
        "decode_text",
        lambda self, z, **how: read.append(z) or ["a red circle"] * len(z),
    )
    job = latent_edit.job(vd, drawing(1), "red", "blue", strength=0.5, rank=3, seed=3, steps=2)
    job.condition(job.samples)
    z, edited = read
    after, before = vd.encode_text(["a blue circle"]), vd.encode_text(["a red circle"])
    assert close(edited, z + after - before, 1e-4)


@states(
    r"""\operatorname{slerp}(a, b, u) = \frac{\sin\,(1-u)\,\theta}{\sin\theta}\,a
    + \frac{\sin u\,\theta}{\sin\theta}\,b"""
)
def test_slerp():
    a, b, u = randn(1, 40, seed=1), randn(1, 40, seed=2), 0.3
    theta = torch.arccos((a @ b.T) / (a.norm() * b.norm()))
    expected = torch.sin((1 - u) * theta) / torch.sin(theta) * a
    expected = expected + torch.sin(u * theta) / torch.sin(theta) * b
    assert close(slerp(a, b, u), expected)
    unit = [v / v.norm() for v in (a, b)]
    assert slerp(*unit, 0.5).norm().item() == pytest.approx(1, abs=1e-5)
    assert torch.lerp(*unit, 0.5).norm() < 0.95  # what the text says of the straight line


# ---------------------------------------------------------------------- the inside


@states(
    r"""\bar\alpha_t = \prod_{s \le t} (1-\beta_s),\qquad
    x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon"""
)
def test_schedule(vd, x):
    product, first, last = 1.0, 8.5e-4**0.5, 1.2e-2**0.5
    for s in range(T + 1):
        product *= 1 - (first + (last - first) * s / 999) ** 2  # beta, linear in its root
    assert vd.schedule.alpha_bar[T].item() == pytest.approx(product, rel=1e-9)
    eps = randn(*x.shape, seed=3)
    noised = vd.schedule.add_noise(x, T, eps)
    assert close(noised, product**0.5 * x + (1 - product) ** 0.5 * eps)


@states(
    r"""\sum_k w_k\,L_k(h, c_k) = h + \sum_k w_k\,\bigl(L_k(h, c_k) - h\bigr),\qquad
    \sum_k w_k = 1"""
)
def test_a_mix_is_the_map_and_a_mix_of_changes(vd, text, picture):
    h = randn(1, vd.spec.unet.model_channels, 8, 8)
    given = [("text", text, 3.0), ("image", picture, 1.0)]  # weights of any size: 3/4 and 1/4
    mixed = unet.mix([(vd.component(f"{k}_context"), c.tokens, w) for k, c, w in given], 0, h)
    changes = [w / 4 * (vd.component(f"{k}_context")(0, h, c.tokens) - h) for k, c, w in given]
    assert close(mixed, h + sum(changes))


@states(r"c_i = \frac{W h_i}{\lVert W h_\text{pooled} \rVert}")
def test_contexts_are_divided_by_one_length(vd):
    pixels = preprocess_images([drawing(4)], vd.spec.clip)
    vision = vd.clip_vision
    h = vision.vision_model(pixels)
    projected = h @ vision.visual_projection.weight.T
    expected = projected / projected[:, :1].pow(2).sum(-1, keepdim=True).sqrt()  # the class token
    assert close(vd.image_context([drawing(4)]).tokens, expected)
    words = vd.text_context(TEXTS).tokens
    ids = vd.tokenizers.clip_ids(TEXTS)
    h = vd.clip_text.text_model(ids)
    projected = h @ vd.clip_text.text_projection.weight.T
    for k, row in enumerate(ids.tolist()):
        pooled = projected[k, row.index(vd.spec.clip.text.eos)]
        assert close(words[k], projected[k] / pooled.norm())


@states(r"e'_i = e(w_i) + A z,\qquad k^{(l)}_0 = v^{(l)}_0 = B_l\,z")
@torch.no_grad()
def test_two_entrances(vd):
    decoder, z = vd.text_decoder, randn(1, vd.spec.text_vae.latent)
    ids = vd.tokenizers.gpt2_ids(TEXTS[:1])
    gpt2 = decoder.gpt2.transformer
    assert len(gpt2.h) == 1  # so one block, by hand, is all of it
    block, heads = gpt2.h[0], decoder.cfg.gpt2_heads
    h = gpt2.wte(ids) + z @ decoder.linear_emb.weight.T + gpt2.wpe.weight[1 : ids.shape[1] + 1]
    memory = (z @ decoder.linear.weight.T)[:, None]
    q, k, v = block.attn.c_attn(block.ln_1(h)).chunk(3, dim=-1)
    k, v = torch.cat([memory, k], dim=1), torch.cat([memory, v], dim=1)
    out = []
    for q_h, k_h, v_h in zip(*(y.chunk(heads, dim=-1) for y in (q, k, v)), strict=True):
        scores = q_h @ k_h.mT / q_h.shape[-1] ** 0.5
        later = torch.ones(scores.shape[-2:]).triu(2).bool()  # one position stands in front
        out.append(scores.masked_fill(later, -torch.inf).softmax(-1) @ v_h)
    h = h + block.attn.c_proj(torch.cat(out, dim=-1))
    h = gpt2.ln_f(h + block.mlp(block.ln_2(h)))
    assert close(decoder(ids, z), h @ gpt2.wte.weight.T, 1e-4)


@states(r"H_w(p) = \frac{1}{M} \sum_{m=1}^{M}\ \sum_{i \in w} A^{(m)}_i(p)")
def test_heat_maps(vd, x, text):
    with trace(vd, layers=[0], branches=["cond"]) as recording:
        for t in (T, S):
            vd.eps(x, t, [(text, 1.0)])
    tokens = token_indices(vd.tokenizers, TEXTS[0], "red")
    shares = [m.weights[0].float()[:, tokens].sum(dim=-1) for m in recording.maps]
    assert len(shares) == 2
    made = heat_maps(recording, TEXTS[0], ["red"], size=recording.maps[0].size)["red"]
    assert close(made.flatten(), sum(shares) / 2)


# ---------------------------------------------------------------------- practical uses


@states(
    r"""\operatorname{score}(x) = \sum_i w_i\,\langle q_i, x\rangle
    - \sum_j v_j\,\langle n_j, x\rangle"""
)
def test_search_scores(vd, picture_files, tmp_path):
    index = tmp_path / "index"
    update_index(vd, picture_files[0].parent, index, precision="float32", progress=False)
    like = drawing(9)
    found = find(
        vd, index, texts=(TEXTS[0], 1.0), images=(like, 3.0), without=(TEXTS[1], 0.4), k=2
    )  # fmt: skip
    words, queried = vd.text_features(TEXTS), vd.image_features([like])[0]
    for hit, path in zip(found.hits, found.paths, strict=True):
        with Image.open(path) as image:
            vector = vd.image_features([image.convert("RGB")])[0]
        score = 0.25 * words[0] @ vector + 0.75 * queried @ vector - 0.4 * words[1] @ vector
        assert hit.score == pytest.approx(score.item(), abs=1e-5)


# ---------------------------------------------------------------------- all of them


def printed():
    """Formulas of the notebook's prose: all displayed ones, and in a line those that equate."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    for cell in cells:
        if cell.cell_type != "markdown":
            continue
        prose = re.sub(r"```.*?```|`[^`]*`", "", cell.source, flags=re.DOTALL)
        yield from re.findall(r"\$\$(.+?)\$\$", prose, re.DOTALL)
        inline = re.findall(r"\$([^$]+)\$", re.sub(r"\$\$.+?\$\$", "", prose, flags=re.DOTALL))
        # "f = 0" names a case and says nothing of the code
        yield from (f for f in inline if "=" in f and not re.search(r"=\s*-?[\d.]+$", f))


def test_every_formula_of_the_notebook_is_computed_above():
    bare = [re.sub(r"\s+", "", formula) for formula in tested]
    assert len(set(bare)) == len(bare)
    found = {re.sub(r"\s+", "", formula): formula for formula in printed()}
    assert {formula for bare_one, formula in found.items() if bare_one not in bare} == set()
    assert set(bare) - found.keys() == set()
