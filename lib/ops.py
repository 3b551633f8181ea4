"""Pure functions that several networks share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

SHORT = 256 * 256
"""Up to this many query-key pairs a head, a CPU computes and trains faster with three plain matrix
operations than with the fused kernel; `python -m benchmarks.attention` prints by how much."""


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Multi-head scaled dot-product attention: `softmax(q k^T / sqrt(d)) v` in every head.

    Args:
        q: (B, N, heads * d) queries.
        k: (B, M, heads * d) keys.
        v: (B, M, heads * d) values.
        heads: number of heads; the width must be a multiple of it.

    Returns:
        (B, N, heads * d).

    Source: Vaswani et al. 2017, equation 1.
    """
    q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k, v))
    if q.device.type == "cpu" and q.shape[2] * k.shape[2] <= SHORT:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        out = scores.softmax(dim=-1) @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v)
    return rearrange(out, "b h n d -> b n (h d)")


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
