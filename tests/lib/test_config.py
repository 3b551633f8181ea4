"""Sizes: what is refused, and that nothing is which the networks would take."""

from itertools import product

import pytest

from lib.config import UNetConfig
from lib.unet import ContextColumn, plan

SIZES = {"model_channels": 2, "channel_mult": (3, 4, 8), "norm_groups": 2, "context_dim": 6}


def config(heads: int, levels: tuple[bool, ...], blocks: tuple[int, ...] = (1, 1, 1)) -> UNetConfig:
    return UNetConfig(
        **SIZES,
        context_levels=levels,
        num_res_blocks=blocks,
        image_heads=heads,
        text_heads=heads,
    )


@pytest.mark.parametrize("levels", list(product([True, False], repeat=3)))
@pytest.mark.parametrize("blocks", [(1, 1, 1), (1, 1, 0), (1, 0, 0), (0, 0, 0)])
def test_heads_divide_the_widths_of_context_layers_only(levels, blocks):
    """Widths are 6, 8, 16, and 2 before the first block."""
    widths = {s.width_in for s in plan(config(1, levels, blocks)) if s.op == "context"}
    for heads in (2, 3, 4, 6, 8, 16):
        if all(width % heads == 0 for width in widths):
            ContextColumn("image", config(heads, levels, blocks))
        else:
            with pytest.raises(ValueError, match=f"into {heads} heads: choose .* the middle"):
                config(heads, levels, blocks)


@pytest.mark.parametrize("kind", ["image_heads", "text_heads"])
def test_there_is_a_head(kind):
    with pytest.raises(ValueError, match="into 0 heads"):
        UNetConfig(**{kind: 0})
