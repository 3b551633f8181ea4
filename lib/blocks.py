"""Data layers: residual blocks and resampling, for pictures (2-D maps) and for text (flat vectors).

Parameter names are the released checkpoint's, so that code and weights can be read side by side.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lib.ops import conv1x1, conv3x3, upsampled_conv


class Convolution(nn.Conv2d):
    """A convolution that knows the quick ways of 3x3 kernels with padding 1, and of 1x1."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        if (self.kernel_size, self.padding) == ((3, 3), (1, 1)):
            return conv3x3(x, self.weight, self.bias, self.stride[0])
        if (self.kernel_size, self.stride, self.padding) == ((1, 1), (1, 1), (0, 0)):
            return conv1x1(x, self.weight, self.bias)
        return super().forward(x)


class Pointwise(nn.Conv2d):
    """A 1x1 convolution applied to vectors: on a 1x1 map it is a linear layer.

    The weight keeps the convolution's shape (out, in, 1, 1), as the released files store it.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return F.linear(x, self.weight.flatten(1), self.bias)


class ResidualBlock(nn.Module):
    """`skip(x) + out(in(x) + proj(emb))`: where the timestep enters the image column.

    in = GroupNorm, SiLU, conv 3x3; out = GroupNorm, SiLU, dropout, conv 3x3 (zero at the start of
    training, so that a fresh block is the identity up to its skip).

    Args:
        channels_in, channels_out: widths; a 1x1 convolution is the skip where they differ.
        emb_dim: width of the time embedding.
        groups: groups of both GroupNorms (eps 1e-5).
        dropout: probability in training.
    """

    def __init__(
        self, channels_in: int, channels_out: int, emb_dim: int, groups: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.channels_out = channels_out
        self.in_layers = nn.Sequential(
            nn.GroupNorm(groups, channels_in), nn.SiLU(), self.conv(channels_in, channels_out)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_dim, channels_out))
        last = self.conv(channels_out, channels_out)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups, channels_out), nn.SiLU(), nn.Dropout(dropout), last
        )
        same = channels_in == channels_out
        self.skip_connection = nn.Identity() if same else self.skip(channels_in, channels_out)

    def conv(self, channels_in: int, channels_out: int) -> nn.Module:
        """The block's kind of convolution."""
        return Convolution(channels_in, channels_out, 3, padding=1)

    def skip(self, channels_in: int, channels_out: int) -> nn.Module:
        """The projection of the skip path where widths differ."""
        return Convolution(channels_in, channels_out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x (B, C, H, W), emb (B, E) -> (B, C', H, W)."""
        h = self.in_layers(x)
        h = h + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class FlatResidualBlock(ResidualBlock):
    """The residual block of the text column: the same on the flattened map, all 1x1.

    A text feature map is (B, C, S, 1): S tokens of width C. Flattening to C * S channels lets every
    token talk to every other here, where no context layer does it.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        emb_dim: int,
        groups: int,
        second_dim: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            channels_in * second_dim, channels_out * second_dim, emb_dim, groups, dropout
        )
        self.second_dim = second_dim

    def conv(self, channels_in: int, channels_out: int) -> nn.Module:
        """All convolutions are 1x1."""
        return Pointwise(channels_in, channels_out)

    skip = conv

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x (B, C, S, 1), emb (B, E) -> (B, C', S, 1)."""
        x = x.flatten(1)
        h = self.in_layers(x) + self.emb_layers(emb)
        h = self.skip_connection(x) + self.out_layers(h)
        return h.unflatten(1, (-1, self.second_dim, 1))


class Downsample(nn.Module):
    """Half the resolution by a 3x3 convolution of stride 2, padding 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = Convolution(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2))."""
        return self.op(x)


class Upsample(nn.Module):
    """Twice the resolution: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)."""
        return upsampled_conv(x, self.conv.weight, self.conv.bias)


class FlatLinear(nn.Linear):
    """A linear layer on a whole text feature map: what stands in for resampling in that column.

    Args:
        features_in: numbers in the input, whatever its shape.
        shape_out: shape of the output without batch, e.g. (C, S, 1), or (D,) for the latent.
    """

    def __init__(self, features_in: int, shape_out: tuple[int, ...]) -> None:
        features_out = 1
        for size in shape_out:
            features_out *= size
        super().__init__(features_in, features_out)
        self.shape_out = shape_out

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, *shape_out)."""
        return super().forward(x.flatten(1)).unflatten(1, self.shape_out)
