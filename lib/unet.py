"""The four-flow UNet: one plan of steps, run by any data column with any contexts.

A UNet is usually one tower. Here its layers come in three groups (Xu et al. 2022, section 3.2):

    global    the time embedding, shared by every flow
    data      residual blocks and resampling, chosen by what is generated (image or text)
    context   transformer blocks, chosen by what conditions (image or text)

Both data columns and both context columns follow the *same* plan, built once by `plan`: so a data
column never knows which context column runs beside it, and `run` is the only loop there is. Two
data times two context columns give the four flows; several contexts at once are mixed at every
context layer (`mix`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.blocks import Downsample, FlatLinear, FlatResidualBlock, ResidualBlock, Upsample
from lib.config import UNetConfig
from lib.ops import for_each_half, timestep_embedding
from lib.transformer import ContextLayer, Kept


@dataclass(frozen=True)
class PlanStep:
    """One step: what is done, by which block of its column, at which level, between which widths.

    Attributes:
        op: "in", "residual", "down", "up", "out" (data column), "context" (context column), or
            "save" / "load" (the skip stack; no parameters).
        index: the block's number in its column, in running order; -1 for save and load.
        level: 0 is the finest; "down" and "up" carry the level they start from.
        width_in, width_out: channels before and after.
    """

    op: str
    index: int
    level: int
    width_in: int
    width_out: int


def plan(config: UNetConfig) -> tuple[PlanStep, ...]:
    """The order of steps that all four columns share.

    In, save; per level (residual, [context], save) x n, then down, save except at the last; middle
    residual, context, residual; upward per level (load, residual, [context]) x (n + 1), then up
    except at level 0; out.

    Source: Xu et al. 2022, figure 3; the numbering is the released checkpoint's.
    """
    steps: list[PlanStep] = []
    counts = {"data": 0, "context": 0}
    widths = [config.model_channels * mult for mult in config.channel_mult]
    last = len(widths) - 1

    def add(op: str, level: int, width_in: int, width_out: int) -> None:
        column = "context" if op == "context" else "data"
        index = -1 if op in ("save", "load") else counts[column]
        counts[column] += index >= 0
        steps.append(PlanStep(op, index, level, width_in, width_out))

    skips = [config.model_channels]
    width = config.model_channels
    add("in", 0, 0, width)
    add("save", 0, width, width)
    for level, level_width in enumerate(widths):
        for _ in range(config.num_res_blocks[level]):
            add("residual", level, width, level_width)
            width = level_width
            if config.context_levels[level]:
                add("context", level, width, width)
            add("save", level, width, width)
            skips.append(width)
        if level != last:
            add("down", level, width, width)
            add("save", level + 1, width, width)
            skips.append(width)

    add("residual", last, width, width)
    add("context", last, width, width)
    add("residual", last, width, width)

    for level in reversed(range(len(widths))):
        for _ in range(config.num_res_blocks[level] + 1):
            skip = skips.pop()
            add("load", level, width, width + skip)
            add("residual", level, width + skip, widths[level])
            width = widths[level]
            if config.context_levels[level]:
                add("context", level, width, width)
        if level != 0:
            add("up", level, width, width)
    add("out", 0, width, 0)
    return tuple(steps)


class TimeEmbed(nn.Sequential):
    """The global layers: sinusoid of the timestep, then Linear, SiLU, Linear to 4x the width."""

    def __init__(self, config: UNetConfig) -> None:
        width = config.model_channels
        super().__init__(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))

    def forward(self, t: Tensor) -> Tensor:
        """t (B,) timesteps -> (B, 4 * model_channels)."""
        first = self[0]
        return super().forward(timestep_embedding(t, first.in_features).to(first.weight.dtype))


class DataColumn(nn.Module):
    """The layers chosen by what is generated.

    Args:
        kind: "image" (latents (B, C, h, w)) or "text" (latents (B, D), maps (B, width, S, 1)).
        config: sizes.
    """

    def __init__(self, kind: str, config: UNetConfig) -> None:
        super().__init__()
        build = _image_block if kind == "image" else _text_block
        steps = [s for s in plan(config) if s.op not in ("context", "save", "load")]
        self.data_blocks = nn.ModuleList([build(step, config) for step in steps])

    def forward(self, index: int, h: Tensor, emb: Tensor) -> Tensor:
        """Run block `index` on the map h; only residual blocks look at the time embedding."""
        block = self.data_blocks[index]
        return block(h, emb) if isinstance(block, ResidualBlock) else block(h)


class ContextColumn(nn.Module):
    """The layers chosen by what conditions; runs beside either data column.

    Args:
        kind: "image" or "text": only the number of heads may differ between the two.
        config: sizes.
    """

    def __init__(self, kind: str, config: UNetConfig) -> None:
        super().__init__()
        heads = config.image_heads if kind == "image" else config.text_heads
        self.context_blocks = nn.ModuleList(
            [
                ContextLayer(step.width_in, config.context_dim, heads, config.norm_groups)
                for step in plan(config)
                if step.op == "context"
            ]
        )

    def forward(self, index: int, h: Tensor, tokens: Tensor, kept: Kept | None = None) -> Tensor:
        """Run layer `index` on the map h under context tokens (B, M, D)."""
        return self.context_blocks[index](h, tokens, kept=kept)


Given = tuple[ContextColumn, Tensor, float]
"""What conditions: who reads it, tokens (B, M, D), weight."""


def mix(
    contexts: Sequence[Given], index: int, h: Tensor, kept: Sequence[Kept] | None = None
) -> Tensor:
    """Attention-level mixing: `h = sum_k w_k layer_k(h, c_k)` with weights that sum to 1.

    Each layer already contains its residual, so equal layers and contexts leave the sum unchanged
    whatever the weights.
    """
    if len(contexts) == 1:
        column, tokens, _ = contexts[0]
        return column(index, h, tokens, kept=kept and kept[0])
    total = sum(weight for _, _, weight in contexts)
    mixed = None
    for k, (column, tokens, weight) in enumerate(contexts):
        part = column(index, h, tokens, kept=kept and kept[k]) * (weight / total)
        mixed = part if mixed is None else mixed + part
    return mixed


def run(
    steps: Sequence[PlanStep],
    data: DataColumn,
    contexts: Sequence[Given],
    x: Tensor,
    emb: Tensor,
    kept: Sequence[Kept] | None = None,
) -> Tensor:
    """Run a data column with any number of contexts: the one loop behind all flows.

    Args:
        steps: the plan both kinds of column were built from.
        data: what is generated.
        contexts: what conditions, at least one.
        x: noisy latent, (B, C, h, w) or (B, D). Tokens may be of several such batches, one after
            the other: what stands before the first context layer is computed once for all.
        emb: (B, 4 * model_channels) time embedding.
        kept: of each context, what its layers have computed of it already, or will.

    Returns:
        Predicted noise, like x, for every sample of the tokens.
    """
    h = x
    skips: list[Tensor] = []
    for step in steps:
        if step.op == "save":
            skips.append(h)
        elif step.op == "load":
            h = torch.cat([h, for_each_half(skips.pop(), len(h))], dim=1)
        elif step.op == "context":
            h = mix(contexts, step.index, h, kept)
            emb = for_each_half(emb, len(h))
        else:
            h = data(step.index, h, emb)
    return h


def _image_block(step: PlanStep, config: UNetConfig) -> nn.Module:
    if step.op == "in":
        return nn.Conv2d(config.image_channels, step.width_out, 3, padding=1)
    if step.op == "residual":
        return ResidualBlock(
            step.width_in, step.width_out, 4 * config.model_channels, config.norm_groups
        )
    if step.op == "down":
        return Downsample(step.width_in)
    if step.op == "up":
        return Upsample(step.width_in)
    last = nn.Conv2d(step.width_in, config.image_channels, 3, padding=1)
    return _output(step.width_in, config.norm_groups, last)


def _text_block(step: PlanStep, config: UNetConfig) -> nn.Module:
    shape = (step.width_out, config.second_dim, 1)
    if step.op == "in":
        return FlatLinear(config.text_dim, shape)
    if step.op == "residual":
        return FlatResidualBlock(
            step.width_in,
            step.width_out,
            4 * config.model_channels,
            config.norm_groups,
            config.second_dim,
        )
    if step.op in ("down", "up"):
        return FlatLinear(step.width_in * config.second_dim, shape)
    last = FlatLinear(step.width_in * config.second_dim, (config.text_dim,))
    return _output(step.width_in, config.norm_groups, last)


def _output(width: int, groups: int, last: nn.Module) -> nn.Sequential:
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.GroupNorm(groups, width), nn.SiLU(), last)
