"""Context layers: where a feature map looks at itself and at what conditions it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lib.ops import attention, for_each_half, in_heads


class Attention(nn.Module):
    """Self- (context = x) or cross-attention; queries, keys and values have no bias.

    No bias on keys and values means that an all-zero context gives all-zero values: cross-attention
    then returns exactly `to_out`'s bias, whatever the query asks.
    """

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor, kept: Kept | None = None) -> Tensor:
        """x (B, N, C), context (B, M, D) -> (B, N, C)."""
        if kept is None:
            k, v = self.to_k(context), self.to_v(context)
        else:
            if self not in kept:
                both = self.to_k(context), self.to_v(context)
                kept[self] = tuple(in_heads(y, self.heads).contiguous() for y in both)
            k, v = kept[self]
        return self.to_out(attention(self.to_q(x), k, v, self.heads))


Kept = dict[Attention, tuple[Tensor, Tensor]]
"""Keys and values of one context, (B, heads, M, d), by the layer that reads it: the same at every
step of a run."""


class GEGLU(nn.Module):
    """`a * gelu(b)` with `[a, b] = proj(x)` (Shazeer 2020)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., inner)."""
        a, b = self.proj(x).chunk(2, dim=-1)
        return a * F.gelu(b)


class FeedForward(nn.Module):
    """GEGLU to four times the width and back.

    Tokens do not see each other here. A CPU takes them in parts whose eight times wider numbers
    stay in its cache.
    """

    TOKENS = 512

    def __init__(self, width: int) -> None:
        super().__init__()
        # index 1 is the released code's dropout of zero: it keeps the parameter names
        self.net = nn.Sequential(
            GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        if x.device.type != "cpu" or x.shape[1] <= self.TOKENS:
            return self.net(x)
        parts = x.flatten(0, 1).split(self.TOKENS)
        return torch.cat([self.net(part) for part in parts]).view_as(x)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward; each after a LayerNorm, each residual."""

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.attn1 = Attention(width, width, heads)
        self.attn2 = Attention(width, context_width, heads)
        self.ff = FeedForward(width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x: Tensor, context: Tensor, kept: Kept | None = None) -> Tensor:
        """x (B, N, C), context (B, M, D) -> (B, N, C); B of x may be a part of the context's."""
        y = self.norm1(x)
        x = for_each_half(x + self.attn1(y, y), len(context))
        x = x + self.attn2(self.norm2(x), context, kept=kept)
        return x + self.ff(self.norm3(x))


class ContextLayer(nn.Module):
    """One step of a context column: a transformer block on the map's positions, with a residual.

    `x + proj_out(block(proj_in(GroupNorm(x)), context))`; positions of the map are the tokens, so
    the layer takes 2-D picture maps and the (B, C, S, 1) maps of text alike. `proj_out` starts at
    zero: a fresh layer is the identity.

    Args:
        width: channels of the map.
        context_width: width D of the context tokens.
        heads: attention heads.
        groups: groups of the GroupNorm (eps 1e-6).

    Source: Rombach et al. 2022 (spatial transformer); Xu et al. 2022, section 3.2.
    """

    def __init__(self, width: int, context_width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, context_width, heads)])
        self.proj_out = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Tensor, context: Tensor, kept: Kept | None = None) -> Tensor:
        """x (B, C, H, W), context (B, M, D) -> (B, C, H, W), as the block has it."""
        height = x.shape[2]
        # a linear layer would copy its weights for every sample if tokens had strides
        h = rearrange(self.norm(x), "b c h w -> b (h w) c").contiguous()
        # a 1x1 convolution is a linear layer on tokens: no second layout of the map is needed
        h = F.linear(h, self.proj_in.weight.flatten(1), self.proj_in.bias)
        for block in self.transformer_blocks:
            h = block(h, context, kept=kept)
        h = F.linear(h, self.proj_out.weight.flatten(1), self.proj_out.bias)
        return for_each_half(x, len(h)) + rearrange(h, "b (h w) c -> b c h w", h=height)
