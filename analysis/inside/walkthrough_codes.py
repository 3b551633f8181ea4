"""Show-your-work twins of codes: CLIP's contexts, what focus does to them, Optimus' latent.

See `analysis.inside.walkthrough`, which has all twins under one name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache

from analysis.inside.twins import Twin, agree
from analysis.modes.focus import RELEASED, Bands, focus_tokens
from lib.clip import preprocess_images
from lib.model import VersatileDiffusion
from lib.optimus import CACHE

ENTRANCES = ("both", "prefix", "embedding", "neither")

# ---------------------------------------------------------------------- contexts


@dataclass(frozen=True, eq=False)
class ContextEncoding(Twin):
    """A context before and after its normalisation.

    Attributes:
        kind: "text" or "image".
        before: (B, N, D) projected tokens, W h.
        pooled: (B, D) the one that CLIP compares: at the end of the text, or the class token.
        divisor: (B,) its length.
        after: (B, N, D) the context, before / divisor.
        norms_before, norms_after: (B, N) lengths of the tokens.
    """

    kind: str
    before: Tensor
    pooled: Tensor
    divisor: Tensor
    after: Tensor
    norms_before: Tensor
    norms_after: Tensor

    def rows(self) -> list[dict[str, Any]]:
        """A line a sample."""
        return [
            {
                "context": self.kind,
                "tokens": norms.shape[0],
                "width": self.after.shape[2],
                "divided by": divisor,
                "shortest": norms.min(),
                "longest": norms.max(),
            }
            for divisor, norms in zip(self.divisor, self.norms_after, strict=True)
        ]


@torch.no_grad()
def context_encoding(
    vd: VersatileDiffusion,
    texts: Sequence[str] | None = None,
    images: Sequence[Image.Image] | Tensor | None = None,
) -> ContextEncoding:
    """How texts, or pictures, become contexts.

        context = W h / |W h_pooled|

    h (B, N, width) are CLIP's last hidden states after its final norm (for pictures: that norm on
    *every* token), W its projection. All tokens of a sample are divided by the same number, the
    length of its pooled token: so that one has length 1, and the others keep their proportions.

    Args:
        vd: a model with the CLIP tower of that kind.
        texts, images: one of the two.

    Raises:
        ValueError: both or neither are given.
        AssertionError: `vd.text_context` / `vd.image_context` gives something else.
    """
    if (texts is None) == (images is None):
        raise ValueError("Give either texts or images to encode.")
    if texts is not None:
        kind, lib = "text", vd.text_context(texts).tokens
        ids = vd.tokenizers.clip_ids(list(texts)).to(vd.device)
        h = vd.clip_text.text_model(input_ids=ids).last_hidden_state
        before = h @ vd.clip_text.text_projection.weight.T
        end = [row.index(vd.spec.clip.text.eos) for row in ids.tolist()]
    else:
        kind, lib = "image", vd.image_context(images).tokens
        pixels = preprocess_images(images, vd.spec.clip).to(vd.device, vd.dtype)
        # transformers' own forward; the library goes through its parts, to let a mask in
        h = vd.clip_vision.vision_model(pixel_values=pixels).last_hidden_state
        h = vd.clip_vision.vision_model.post_layernorm(h)
        before = h @ vd.clip_vision.visual_projection.weight.T
        end = [0] * len(before)
    pooled = torch.stack([tokens[i] for tokens, i in zip(before, end, strict=True)])
    divisor = pooled.float().pow(2).sum(dim=-1).sqrt()
    after = before / divisor[:, None, None].to(before)
    agree(f"{kind} context", after, lib)
    norms = [x.float().norm(dim=-1) for x in (before, after)]
    return ContextEncoding(kind, before, pooled, divisor, after, *norms)


# ---------------------------------------------------------------------- focus


@dataclass(frozen=True, eq=False)
class FocusDecomposition(Twin):
    """What focus takes apart and how it puts it together again.

    Attributes:
        level: of focus.
        spectrum: (B, R) singular values of the centred tokens, R = min(N, D).
        share: (B, R) of their variance, sums to 1.
        gain: (R,) what each component is multiplied by.
        bands: "mean", then numbers of components such as "0-1", "2-4", "5-19", and "rest" ->
            (B, N, D); they sum to the tokens. Semantics (level < 1/2) weakens the first of them;
            style (> 1/2) weakens the last and drops the rest; the mean and what lies between stay.
        rescale: (B,) factor that brings back the standard deviation.
        out: (B, N, D) what `focus_tokens` returns.
    """

    level: float
    spectrum: Tensor
    share: Tensor
    gain: Tensor
    bands: dict[str, Tensor]
    rescale: Tensor
    out: Tensor

    def title(self) -> str:
        """At which level."""
        return f"focus {self.level:g}"

    def rows(self) -> list[dict[str, Any]]:
        """A line a band, means over the batch."""
        return [
            {"components": name, "norm": band.flatten(1).norm(dim=1)}
            for name, band in self.bands.items()
        ]


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
def focus_decomposition(
    tokens: Tensor, level: float = 0.5, parts: Bands = RELEASED
) -> FocusDecomposition:
    """Focus by projectors instead of a singular value decomposition.

        X - mean = sum_i s_i u_i v_i^T,   and   s_i v_i^T = u_i^T (X - mean),

    so with the eigenvectors u_i of (X - mean)(X - mean)^T, component i is `u_i u_i^T (X - mean)`:
    the v_i are never needed. Then `out = rescale (mean + sum_i gain_i component_i)`.

    Args:
        tokens: (B, N, D) local tokens (an image context without its class token).
        level: 0 (semantics) ... 0.5 ... 1 (style).
        parts: which components fade (`analysis.modes.focus.bands_of` a model).

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
    return FocusDecomposition(level, values.sqrt(), share, gain, bands, rescale, out)


# ---------------------------------------------------------------------- Optimus


@dataclass(frozen=True, eq=False)
class OptimusEntrances(Twin):
    """GPT-2's predictions with the latent coming in by both, one or none of its entrances.

    Attributes:
        texts: what was scored.
        ids: (B, L) tokens, <BOS> first.
        z: (B, latent), not scaled.
        logits: "both", "prefix" (only), "embedding" (only), "neither" -> (B, L, vocab).
        log_likelihood: the same names -> (B,) mean log p of the text's tokens after <BOS>.
    """

    texts: list[str]
    ids: Tensor
    z: Tensor
    logits: dict[str, Tensor]
    log_likelihood: dict[str, Tensor]

    def title(self) -> str:
        """What the numbers are."""
        return "mean log-likelihood of a token, by the latent's entrances"

    def rows(self) -> list[dict[str, Any]]:
        """A line a text."""
        return [
            {"text": text, **{name: values[k] for name, values in self.log_likelihood.items()}}
            for k, text in enumerate(self.texts)
        ]


@torch.no_grad()
def optimus_entrances(
    vd: VersatileDiffusion, texts: Sequence[str], latents: Tensor | None = None
) -> OptimusEntrances:
    """What each of the two entrances of the latent z into GPT-2 tells it.

        embedding   inputs = wte(ids) + linear_emb(z)             a bias on every token
        prefix      layer l starts with key = value = linear(z)_l  a memory to look up

    Args:
        vd: a model with the text VAE.
        texts: read by the encoder, and scored.
        latents: (B, latent) scaled latents to decode instead of the texts' own.

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
    return OptimusEntrances(list(texts), ids, z, logits, likelihood)
