"""The image VAE (`kl-f8`): a picture of H x W pixels becomes a map of H/8 x W/8 x 4 numbers.

An autoencoder whose latent is a Gaussian per position, held near N(0, 1) by a very small KL term
(Rombach et al. 2022, section 3.1): compression first, a generative model never. Encoder and decoder
are two modules, because text-to-image needs only the second.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lib.config import KLConfig
from lib.ops import attention, silu, upsampled_conv


class ResnetBlock(nn.Module):
    """`skip(x) + conv2(silu(norm2(conv1(silu(norm1(x))))))`, GroupNorm eps 1e-6, no time."""

    def __init__(self, channels_in: int, channels_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels_in, eps=1e-6)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, channels_out, eps=1e-6)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        if channels_in != channels_out:
            self.nin_shortcut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(silu(self.norm2(h)))
        skip = self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x
        return h + skip if torch.is_grad_enabled() else h.add_(skip)


class MiddleAttention(nn.Module):
    """Single-head self-attention over all positions, residual: the VAE's only global step."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        h = self.norm(x)
        q, k, v = (rearrange(f(h), "b c h w -> b (h w) c") for f in (self.q, self.k, self.v))
        out = rearrange(attention(q, k, v, heads=1), "b (h w) c -> b c h w", h=x.shape[2])
        return x + self.proj_out(out)


class Middle(nn.Module):
    """Resnet block, attention, resnet block at the coarsest level."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, groups)
        self.attn_1 = MiddleAttention(channels, groups)
        self.block_2 = ResnetBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nn.Module):
    """Stride-2 3x3 convolution after one row and column of zeros at the bottom right."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/2, W/2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest neighbour to twice the side, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)."""
        return upsampled_conv(x, self.conv.weight, self.conv.bias)


class Level(nn.Module):
    """The blocks of one resolution and the resampling that leaves it."""

    def __init__(self, widths: list[int], groups: int, resample: nn.Module | None, up: bool):
        super().__init__()
        self.block = nn.ModuleList([ResnetBlock(a, b, groups) for a, b in pairwise(widths)])
        self.resample = "upsample" if up else "downsample"
        if resample is not None:
            self.add_module(self.resample, resample)

    def __iter__(self) -> Iterator[nn.Module]:
        """What it does, one after the other.

        Whoever runs a level as a whole holds its input until its end: 134 MB at 512 x 512 pixels.
        """
        yield from self.block
        if self.resample in self._modules:
            yield self._modules[self.resample]


class KLEncoder(nn.Module):
    """Pictures to the posterior `N(mean, exp(logvar))` of their latents."""

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        groups = config.norm_groups
        widths = [config.ch * mult for mult in config.ch_mult]
        last = len(widths) - 1
        self.patch = config.patch
        self.conv_in = nn.Conv2d(3 * config.patch**2, config.ch, 3, padding=1)
        self.down = nn.ModuleList()
        width = config.ch
        for level, out in enumerate(widths):
            each = [width] + [out] * config.num_res_blocks
            self.down.append(Level(each, groups, Downsample(out) if level != last else None, False))
            width = out
        self.mid = Middle(width, groups)
        self.norm_out = nn.GroupNorm(groups, width, eps=1e-6)
        self.conv_out = nn.Conv2d(width, 2 * config.z_channels, 3, padding=1)
        self.quant_conv = nn.Conv2d(2 * config.z_channels, 2 * config.embed_dim, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) in [0, 1] -> mean and log-variance, each (B, C, H/f, W/f), unscaled.

        The log-variance is clamped to [-30, 20], as the released code does.
        """
        h = self.conv_in(F.pixel_unshuffle(2 * images - 1, self.patch))
        for step in chain.from_iterable(self.down):
            h = step(h)
        h = self.conv_out(silu(self.norm_out(self.mid(h))))
        mean, logvar = self.quant_conv(h).chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)


class KLDecoder(nn.Module):
    """Latents back to pictures."""

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        groups = config.norm_groups
        widths = [config.ch * mult for mult in config.ch_mult]
        width = widths[-1]
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.z_channels, 1)
        self.conv_in = nn.Conv2d(config.z_channels, width, 3, padding=1)
        self.mid = Middle(width, groups)
        levels = []
        for level in reversed(range(len(widths))):
            out = widths[level]
            each = [width] + [out] * (config.num_res_blocks + 1)
            levels.append(Level(each, groups, Upsample(out) if level else None, True))
            width = out
        # stored finest first, as the released checkpoint numbers them; run coarsest first
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = nn.GroupNorm(groups, width, eps=1e-6)
        self.patch = config.patch
        self.conv_out = nn.Conv2d(width, 3 * config.patch**2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Unscaled latents (B, C, h, w) -> images (B, 3, f h, f w), about [0, 1], not clamped."""
        h = self.mid(self.conv_in(self.post_quant_conv(z)))
        for step in chain.from_iterable(reversed(self.up)):
            h = step(h)
        out = self.conv_out(silu(self.norm_out(h)))
        return (F.pixel_shuffle(out, self.patch) + 1) / 2

    def decode(self, z: Tensor) -> Tensor:
        """`clamp((y + 1) / 2, 0, 1)`: the picture itself."""
        return self.forward(z).clamp(0, 1)


def sample_posterior(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """`z = mean + exp(logvar / 2) * noise` (Kingma and Welling 2014, section 2.4)."""
    return mean + torch.exp(0.5 * logvar) * noise


def kl_to_standard_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """`KL(N(mean, exp(logvar)) || N(0, 1)) = (mean^2 + exp(logvar) - 1 - logvar) / 2`, summed.

    Args:
        mean, logvar: (B, ...).

    Returns:
        (B,) nats.
    """
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)
