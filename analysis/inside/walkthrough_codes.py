"""Show-your-work twins of contexts and codes: mixing, CLIP's contexts, focus, Optimus' latent.

See `analysis.inside.walkthrough`, which has all twins under one name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import DynamicCache

from analysis.inside.twins import Twin, agree
from analysis.modes.focus import RELEASED, Bands, focus_tokens
from lib.clip import preprocess_images
from lib.model import Mix, VersatileDiffusion
from lib.optimus import CACHE

ENTRANCES = ("both", "prefix", "embedding", "neither")

# ---------------------------------------------------------------------- mixing


@torch.no_grad()
def mixing_layer_by_layer(vd: VersatileDiffusion, x: Tensor, t: int, contexts: Mix) -> Twin:
    """Run the plan by hand and look at every context layer.

        h + sum_k w_k (layer_k(h, c_k) - h)  =  sum_k w_k layer_k(h, c_k),   sum_k w_k = 1

    The left side is how it is computed here, the right side how the library does.

    Args:
        vd: the model.
        x: (B, C, h, w) or (B, D) noisy latent.
        t: its timestep.
        contexts: what conditions, with weights.

    Returns:
        layers: in running order, each with
            layer, level: its number, and its level of the plan, 0 the finest;
            weights: (K,) normalised;
            map_norm: (B,) norm of the map h before it;
            change_norms: (K, B) norms of layer_k(h, c_k) - h, before weighting;
            mixed_norm: (B,) norm of the mixed change;
            cosine: (K, K, B) between the contexts' changes: 1 where they pull the same way.
        eps: the prediction, like x.

    Raises:
        ValueError: as `vd.eps`.
        AssertionError: `vd.eps` predicts something else.
    """
    lib = vd.eps(x, t, contexts)
    data = vd.component("image_data" if x.ndim == 4 else "text_data")
    columns = [vd.component(f"{context.kind}_context") for context, _ in contexts]
    tokens = [context.tokens.to(x.device, vd.dtype) for context, _ in contexts]
    weights = torch.tensor([float(weight) for _, weight in contexts], dtype=torch.float64)
    weights = weights / weights.sum()
    emb = vd.time_embed(torch.full((len(x),), t, device=x.device))

    h, skips, layers = x.to(vd.dtype), [], []
    for step in vd.plan:
        if step.op == "save":
            skips.append(h)
        elif step.op == "load":
            h = torch.cat([h, skips.pop()], dim=1)
        elif step.op != "context":
            h = data(step.index, h, emb)
        else:
            pairs = zip(columns, tokens, strict=True)
            changes = torch.stack([column(step.index, h, c) - h for column, c in pairs])
            mixed = torch.einsum("k,k...->...", weights.to(changes), changes)
            flat = changes.cpu().double().flatten(2)  #                        (K, B, C H W)
            layers.append(
                SimpleNamespace(
                    layer=step.index,
                    level=step.level,
                    weights=weights,
                    map_norm=h.cpu().double().flatten(1).norm(dim=1),
                    change_norms=flat.norm(dim=2),
                    mixed_norm=mixed.cpu().double().flatten(1).norm(dim=1),
                    cosine=F.cosine_similarity(flat[:, None], flat[None], dim=3),
                )
            )
            h = h + mixed
    agree("eps under mixed contexts", h.to(x.dtype), lib)
    changed = [f"change by {context.kind} {k}" for k, (context, _) in enumerate(contexts)]
    rows = [
        {
            "layer": at.layer,
            "level": at.level,
            "norm of the map": at.map_norm,
            **dict(zip(changed, at.change_norms, strict=True)),
            "mixed change": at.mixed_norm,
            **({"cosine": at.cosine[0, 1]} if len(contexts) > 1 else {}),
        }
        for at in layers
    ]
    return Twin(rows, layers=layers, eps=h.to(x.dtype))


# ---------------------------------------------------------------------- contexts


@torch.no_grad()
def context_encoding(
    vd: VersatileDiffusion,
    texts: Sequence[str] | None = None,
    images: Sequence[Image.Image] | Tensor | None = None,
) -> Twin:
    """How texts, or pictures, become contexts.

        context = W h / |W h_pooled|

    h (B, N, width) are CLIP's last hidden states after its final norm (for pictures: that norm on
    *every* token), W its projection. All tokens of a sample are divided by the same number, the
    length of its pooled token: so that one has length 1, and the others keep their proportions.

    Args:
        vd: a model with the CLIP tower of that kind.
        texts, images: one of the two.

    Returns:
        before: (B, N, D) projected tokens, W h.
        pooled: (B, D) the one that CLIP compares: at the end of the text, or the class token.
        divisor: (B,) its length.
        after: (B, N, D) the context, before / divisor.
        norms_before, norms_after: (B, N) lengths of the tokens.

    Raises:
        ValueError: both or neither are given.
        AssertionError: `vd.text_context` / `vd.image_context` gives something else.
    """
    if (texts is None) == (images is None):
        raise ValueError("Give either texts or images to encode.")
    if texts is not None:
        kind, lib = "text", vd.text_context(texts).tokens
        ids = vd.tokenizers.clip_ids(list(texts)).to(vd.device)
        h = vd.clip_text.text_model(ids)
        before = h @ vd.clip_text.text_projection.weight.T
        end = [row.index(vd.spec.clip.text.eos) for row in ids.tolist()]
    else:
        kind, lib = "image", vd.image_context(images).tokens
        pixels = preprocess_images(images, vd.spec.clip).to(vd.device, vd.dtype)
        h = vd.clip_vision.vision_model(pixels)
        before = h @ vd.clip_vision.visual_projection.weight.T
        end = [0] * len(before)
    pooled = torch.stack([tokens[i] for tokens, i in zip(before, end, strict=True)])
    divisor = pooled.float().pow(2).sum(dim=-1).sqrt()
    after = before / divisor[:, None, None].to(before)
    agree(f"{kind} context", after, lib)
    norms_before, norms_after = (x.float().norm(dim=-1) for x in (before, after))
    rows = [
        {
            "context": kind,
            "tokens": len(lengths),
            "width": after.shape[2],
            "divided by": by,
            "shortest": lengths.min(),
            "longest": lengths.max(),
        }
        for by, lengths in zip(divisor, norms_after, strict=True)
    ]
    return Twin(
        rows, before=before, pooled=pooled, divisor=divisor, after=after,
        norms_before=norms_before, norms_after=norms_after,
    )  # fmt: skip


# ---------------------------------------------------------------------- focus


def focus_gain(level: float, count: int, bands: Bands = RELEASED) -> Tensor:
    """Gain of component i = 0 ... count - 1 at a focus level.

        l < 1/2:  y + (1 - y) i / c,                  y from 1 - c (l = 0) to 1 (l = 1/2)
        l > 1/2:  y + (1 - y) (r - 1 - i) / (r - k),  y from k - r (l = 1) to 1 (l = 1/2)

    both cut to 0 ... 1, y exponential in l, and 0 from i = r on. c, k, r are content, style and
    rank of the bands: 2, 5, 20 in the released code. Source: `analysis.modes.focus.focus_tokens`.
    """
    if level == 0.5:
        return torch.ones(count, dtype=torch.float64)
    c, k, r = bands.content, bands.style, bands.rank
    end, lowest = (0.0, 1.0 - c) if level < 0.5 else (1.0, float(k - r))
    t, t0 = math.exp(2 * level - 1), math.exp(2 * end - 1)
    y = lowest + (1 - lowest) * (t - t0) / (1 - t0)
    gain = []
    for i in range(count):
        ramp = i / c if level < 0.5 else (r - 1 - i) / (r - k)
        gain.append(0.0 if level > 0.5 and i >= r else min(1.0, max(0.0, y + (1 - y) * ramp)))
    return torch.tensor(gain, dtype=torch.float64)


@torch.no_grad()
def focus_decomposition(tokens: Tensor, level: float = 0.5, parts: Bands = RELEASED) -> Twin:
    """Focus by projectors instead of a singular value decomposition.

        X - mean = sum_i s_i u_i v_i^T,   and   s_i v_i^T = u_i^T (X - mean),

    so with the eigenvectors u_i of (X - mean)(X - mean)^T, component i is `u_i u_i^T (X - mean)`:
    the v_i are never needed. Then `out = rescale (mean + sum_i gain_i component_i)`.

    Args:
        tokens: (B, N, D) local tokens (an image context without its class token).
        level: 0 (semantics) ... 0.5 ... 1 (style).
        parts: which components fade (`analysis.modes.focus.bands_of` a model).

    Returns:
        level: as given.
        spectrum: (B, R) singular values of the centred tokens, R = min(N, D).
        share: (B, R) of their variance, sums to 1.
        gain: (R,) what each component is multiplied by.
        bands: "mean", then numbers of components such as "0-1", "2-4", "5-19", and "rest" ->
            (B, N, D); they sum to the tokens. Semantics (level < 1/2) weakens the first of them;
            style (> 1/2) weakens the last and drops the rest; the mean and what lies between stay.
        rescale: (B,) factor that brings back the standard deviation.
        out: (B, N, D) what `focus_tokens` returns.

    Raises:
        AssertionError: `focus_tokens` gives something else.
    """
    lib = focus_tokens(tokens, level, parts)
    x = tokens.cpu().double()
    mean = x.mean(dim=-1, keepdim=True)
    values, vectors = torch.linalg.eigh((x - mean) @ (x - mean).mT)
    count = min(x.shape[1:])
    values, u = values.flip(-1)[:, :count].clamp(min=0), vectors.flip(-1)[:, :, :count]
    gain = focus_gain(level, count, parts)

    bands = {"mean": mean.expand_as(x)}
    edges = sorted({0, parts.content, parts.style, parts.rank})
    for start, end in zip(edges, [*edges[1:], count], strict=True):
        name = f"{start}-{end - 1}" if start < parts.rank and end - start > 1 else str(start)
        name = name if start < parts.rank else "rest"
        bands[name] = u[:, :, start:end] @ (u[:, :, start:end].mT @ (x - mean))
    agree("sum of the bands", sum(bands.values()), x)

    out = mean + (u * gain) @ (u.mT @ (x - mean))
    now = out.std(dim=(1, 2))
    rescale = torch.where(now > 0, x.std(dim=(1, 2)) / now.clamp(min=1e-30), 1.0)
    out = out * rescale[:, None, None]
    agree("focus", out, lib, 1e-3 if tokens.dtype == torch.float32 else None)
    share = values / values.sum(dim=-1, keepdim=True).clamp(min=1e-30)
    rows = [{"components": k, "norm": band.flatten(1).norm(dim=1)} for k, band in bands.items()]
    return Twin(
        rows, f"focus {level:g}", level=level, spectrum=values.sqrt(), share=share, gain=gain,
        bands=bands, rescale=rescale, out=out,
    )  # fmt: skip


# ---------------------------------------------------------------------- Optimus


@torch.no_grad()
def optimus_entrances(
    vd: VersatileDiffusion, texts: Sequence[str], latents: Tensor | None = None
) -> Twin:
    """What each of the two entrances of the latent z into GPT-2 tells it.

        embedding   inputs = wte(ids) + linear_emb(z)             a bias on every token
        prefix      layer l starts with key = value = linear(z)_l  a memory to look up

    Args:
        vd: a model with the text VAE.
        texts: read by the encoder, and scored.
        latents: (B, latent) scaled latents to decode instead of the texts' own.

    Returns:
        ids: (B, L) tokens, <BOS> first.
        z: (B, latent), not scaled.
        logits: "both", "prefix" (only), "embedding" (only), "neither" -> (B, L, vocab).
        log_likelihood: the same names -> (B,) mean log p of the text's tokens after <BOS>.

    Raises:
        AssertionError: `vd.text_decoder` gives something else with both.
    """
    vd.require("text_decoder")
    decoder, words = vd.text_decoder, vd.tokenizers
    scaled = vd.encode_text(texts) if latents is None else latents
    z = scaled.to(vd.device, vd.dtype) / vd.spec.text_vae.scale
    ids = words.gpt2_ids(texts).to(vd.device)
    plain, bias = decoder.gpt2.transformer.wte(ids), decoder.linear_emb(z)[:, None]
    positions = torch.arange(1, ids.shape[1] + 1, device=vd.device)[None]

    logits = {}
    for name in ENTRANCES:
        cache = DynamicCache()
        if name in ("both", "prefix"):
            config = decoder.cfg
            for layer, part in enumerate(decoder.linear(z).chunk(config.gpt2_layers, dim=-1)):
                key = part.view(len(z), config.gpt2_heads, 1, -1)  # one position, cut into heads
                cache.update(key, key, layer)
        inputs = plain + bias if name in ("both", "embedding") else plain
        run = decoder.gpt2(inputs_embeds=inputs, position_ids=positions, **{CACHE: cache})
        logits[name] = run.logits
    agree("logits of the text decoder", logits["both"], decoder(ids, z))

    target = ids[:, 1:].cpu()
    counts = (target != words.pad).double()
    likelihood = {}
    for name, values in logits.items():
        log_p = values[:, :-1].cpu().double().log_softmax(-1).gather(-1, target[..., None])[..., 0]
        likelihood[name] = (log_p * counts).sum(dim=1) / counts.sum(dim=1)
    rows = [
        {"text": text, **{name: values[k] for name, values in likelihood.items()}}
        for k, text in enumerate(texts)
    ]
    title = "mean log-likelihood of a token, by the latent's entrances"
    return Twin(rows, title, ids=ids, z=z, logits=logits, log_likelihood=likelihood)
