"""Pure functions that several networks share."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

SHORT = 256 * 256
"""Up to this many query-key pairs a head, a CPU computes and trains faster with three plain matrix
operations than with the fused kernel; `python -m benchmarks.attention` prints by how much."""
ROWS = 512
"""Queries that `_by_rows` takes together: 512 x 4096 scores are 4 MB, which stay in the cache."""
TINY = 1e-30
"""Sum of weights below which, or above whose inverse, it is not sure that these, or their products
with values, are what they should be."""
LANES = 16
"""Numbers of a vector register: a matrix product is as fast at width 48 as at 40, or faster."""
LARGE = 2_000_000
"""Numbers of one weight from which on a network is large (see `lib.devices.settle`)."""
FEW = 512
"""Up to so many pixels a CPU convolves faster with a large kernel by a matrix product: torch turns
a kernel around before every use, which takes longer then than to use it."""
LARGE_MAP = 32 * 32
"""Pixels of a map from which on `upsampled_conv` is worth making its transposed kernel."""


def attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False, fused: bool = False
) -> Tensor:
    """Multi-head scaled dot-product attention: `softmax(q k^T / sqrt(d)) v` in every head.

    Args:
        q: (B, N, heads * d) queries.
        k, v: (B, M, heads * d) keys and values, or `in_heads` already.
        heads: number of heads; the width must be a multiple of it.
        causal: query i sees keys 0 ... i only.
        fused: take torch's fused kernel in any case: what CLIP's contexts were always made by.

    Returns:
        (B, N, heads * d).

    Source: Vaswani et al. 2017, equation 1.
    """
    q, k, v = (x if x.ndim == 4 else in_heads(x, heads) for x in (q, k, v))
    on_cpu = q.device.type == "cpu" and not fused
    learns = any(x.requires_grad for x in (q, k, v))
    if on_cpu and q.shape[2] * k.shape[2] <= SHORT:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        out = scores.softmax(dim=-1) @ v
    elif on_cpu and q.dtype == torch.bfloat16 and not (causal or learns):
        out = _by_rows(q, k, v)
    else:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return rearrange(out, "b h n d -> b n (h d)")


def in_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads * d) -> (B, heads, N, d)."""
    return rearrange(x, "b n (h d) -> b h n d", h=heads)


def _by_rows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same in bfloat16 on a CPU: head by head, `ROWS` queries at a time, no gradients.

    torch's fused kernel leaves most of a CPU's bfloat16 instructions unused here (see
    `benchmarks/README.md`). Weights are `2^s` with `s = q k^T log2(e) / sqrt(d)`, and one more
    column of values, of ones, gives their sum: no pass over the weights looks for the largest score
    or divides. Where that is near an end of a float's range, the head is done again by the safe
    softmax.

    Args:
        q: (B, heads, N, d).
        k, v: (B, heads, M, d).

    Returns:
        (B, heads, N, d).
    """
    width = v.shape[-1]
    q = q * (width**-0.5 / math.log(2))
    v = F.pad(F.pad(v, (0, 1), value=1.0), (0, -(width + 1) % LANES))
    out = q.new_empty(*q.shape[:-1], v.shape[-1])
    scores = q.new_empty(min(ROWS, q.shape[2]), k.shape[2])
    for heads in zip(*(x.flatten(0, 1) for x in (q, k.mT.contiguous(), v, out)), strict=True):
        _one_head(*heads, scores, torch.exp2)
        sums = heads[-1][:, width]
        if not ((sums > TINY) & (sums < 1 / TINY)).all():
            _one_head(*heads, scores, _softmax2)
    return out[..., :width] / out[..., width : width + 1]


def _one_head(q: Tensor, k: Tensor, v: Tensor, out: Tensor, scores: Tensor, weigh: Any) -> None:
    for rows, result in zip(q.split(ROWS), out.split(ROWS), strict=True):
        weights = scores[: len(rows)]
        torch.mm(rows, k, out=weights)  # (rows, M)
        weigh(weights, out=weights)
        torch.mm(weights, v, out=result)  # (rows, d)


def _softmax2(scores: Tensor, out: Tensor) -> Tensor:
    """`2^s / sum 2^s` in every row."""
    return torch.softmax(scores * math.log(2), dim=-1, out=out)


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1) -> Tensor:
    """A 3x3 convolution with padding 1.

    A CPU does it for `FEW` pixels as one matrix product of all windows, (pixels, 9 C) by (9 C, C'),
    if the kernel is large and has its channels last (`lib.devices.settle`).

    Args:
        x: (B, C, H, W).
        weight, bias: (C', C, 3, 3) and (C',).
        stride: step between windows.

    Returns:
        (B, C', ceil(H / stride), ceil(W / stride)).
    """
    kernel = weight.permute(0, 2, 3, 1)
    few = x.shape[0] * x.shape[2] * x.shape[3] <= FEW * stride**2 and weight.numel() >= LARGE
    if not few or x.device.type != "cpu" or weight.requires_grad or not kernel.is_contiguous():
        return F.conv2d(x, weight, bias, stride=stride, padding=1)
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    return _as_product(padded, kernel, bias, stride).permute(0, 3, 1, 2)


def _as_product(x: Tensor, kernel: Tensor, bias: Tensor | None, stride: int = 1) -> Tensor:
    """A convolution without padding, channels last: (B, H, W, C) by (C', k, k, C)."""
    side = kernel.shape[1]
    windows = x.unfold(1, side, stride).unfold(2, side, stride)  # (B, H', W', C, k, k)
    return F.linear(windows.permute(0, 1, 2, 4, 5, 3).flatten(3), kernel.flatten(1), bias)


def conv1x1(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 1x1 convolution: a linear layer on pixels, if these lie one after the other.

    Args:
        x: (B, C, H, W).
        weight, bias: (C', C, 1, 1) and (C',).

    Returns:
        (B, C', H, W).
    """
    pixels = x.permute(0, 2, 3, 1)
    if x.device.type != "cpu" or not pixels.is_contiguous():
        return F.conv2d(x, weight, bias)
    return F.linear(pixels, weight.flatten(1), bias).permute(0, 3, 1, 2)


def upsampled_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Nearest neighbour to twice the side, then a 3x3 convolution.

    Every output pixel sees at most 2x2 different input pixels, so a CPU does without the larger
    map: 16 products a pixel of the small one instead of 36. With large kernels by four 2x2
    convolutions, one for each pixel of the four that come of one; large maps under small kernels by
    the transposed 4x4 kernel that is the 3x3 kernel spread over 2x2 ones.

    Args:
        x: (B, C, H, W).
        weight, bias: (C', C, 3, 3) and (C',).

    Returns:
        (B, C', 2H, 2W).
    """
    plain = x.device.type != "cpu" or weight.requires_grad
    if not plain and weight.numel() >= LARGE:
        return _four_convolutions(x, weight, bias)
    if plain or x.shape[2] * x.shape[3] < LARGE_MAP:
        return conv3x3(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, bias)
    kernel = weight.flip(2, 3).transpose(0, 1).float()
    for axis in (2, 3):
        none = torch.zeros_like(kernel.narrow(axis, 0, 1))
        kernel = torch.cat([kernel, none], axis) + torch.cat([none, kernel], axis)
    return F.conv_transpose2d(x, kernel.to(x.dtype), bias, stride=2, padding=1)


def _four_convolutions(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Pixel (2 y + i, 2 x + j) sees rows y - 1 + i and y + i, and columns likewise."""
    batch, _, height, width = x.shape
    few = batch * height * width <= FEW
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    out = x.new_empty(batch, height, 2, width, 2, len(weight))
    for i, rows in enumerate(_halved(weight.permute(0, 2, 3, 1), 1)):
        for j, kernel in enumerate(_halved(rows, 2)):
            part = padded[:, i : i + height + 1, j : j + width + 1]
            if few:
                out[:, :, i, :, j] = _as_product(part, kernel, bias)
            else:
                made = F.conv2d(part.permute(0, 3, 1, 2), kernel.permute(0, 3, 1, 2), bias)
                out[:, :, i, :, j] = made.permute(0, 2, 3, 1)
    return out.view(batch, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)


def _halved(kernel: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Three taps on doubled pixels as two on the pixels: of the first of a pair, of the second."""
    first, middle, last = kernel.unbind(axis)
    pairs = (first, middle + last), (first + middle, last)
    return tuple(torch.stack(pair, axis) for pair in pairs)


def silu(x: Tensor) -> Tensor:
    """`x sigmoid(x)`; without gradients in the place of x, which nobody else may need any more.

    At 512 x 512 pixels each map of the image VAE has up to 134 MB.
    """
    return F.silu(x, inplace=not torch.is_grad_enabled())


def for_each_half(x: Tensor, batch: int) -> Tensor:
    """x (B, ...) once for every half of a batch that is B or a multiple of it."""
    # a copy by `repeat` would not have its channels last any more
    return x if len(x) == batch else torch.cat([x] * (batch // len(x)))


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding of timesteps, cosine half first.

    `emb[i] = cos(t w_i)`, `emb[dim/2 + i] = sin(t w_i)` with `w_i = max_period^(-i / (dim/2))`.

    Args:
        t: (B,) timesteps, integers or floats.
        dim: even width of the embedding.
        max_period: the slowest wave's period divided by 2 pi.

    Returns:
        (B, dim) in float32.
    """
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(-math.log(max_period) * index / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
