"""The released model's sizes with random weights, and diffusers' modules with the same numbers.

What a step costs does not depend on what the weights say. Matrices are drawn with a deviation of
`1 / sqrt(inputs)`, so that numbers keep their size from layer to layer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from lib.checkpoints import keymaps
from lib.components import build, components_for, named_tensors
from lib.devices import settle
from lib.model import VersatileDiffusion
from lib.specs import VD_FOUR_FLOW_V1_0 as SPEC

TEXT_TO_IMAGE = components_for(["t2i"])


def random_component(name: str, dtype: torch.dtype) -> nn.Module:
    """A component with random weights, laid out as `load` lays them out."""
    with torch.device("meta"):
        module = build(SPEC, name)
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for key, own, tied in named_tensors(module):
        if tied:
            continue
        if own.ndim < 2:
            value = 0.0 if key.endswith(("bias", "embedding")) else 1.0
            weights[key] = torch.full(own.shape, value, dtype=dtype)
        else:
            deviation = own[0].numel() ** -0.5
            weights[key] = torch.empty(own.shape, dtype=dtype)
            weights[key].normal_(0, deviation, generator=generator)
    module.load_state_dict(weights, assign=True)
    return settle(module.eval().requires_grad_(False))


def random_model(names: Sequence[str], dtype: torch.dtype) -> VersatileDiffusion:
    """A model of these components, without tokenizers."""
    return VersatileDiffusion(SPEC, {name: random_component(name, dtype) for name in names}).eval()


def diffusers_unet(vd: VersatileDiffusion, context: str = "text") -> nn.Module:
    """Their network for pictures, with our image column and these context layers."""
    from diffusers import UNet2DConditionModel

    unet = SPEC.unet
    crosses = unet.context_levels
    with torch.device("meta"):
        theirs = UNet2DConditionModel(
            block_out_channels=[unet.model_channels * m for m in unet.channel_mult],
            layers_per_block=list(unet.num_res_blocks),
            cross_attention_dim=unet.context_dim,
            attention_head_dim=unet.text_heads if context == "text" else unet.image_heads,
            down_block_types=[f"{'CrossAttn' * c}DownBlock2D" for c in crosses],
            up_block_types=[f"{'CrossAttn' * c}UpBlock2D" for c in reversed(crosses)],
        )
    parts = {name: vd.component(name) for name in ("time_embed", "image_data")}
    # in their image network, context layers have one name, whatever they look at
    parts["image_context"] = vd.component(f"{context}_context")
    return _filled(theirs, parts, "image_unet")


def diffusers_decoder(vd: VersatileDiffusion) -> nn.Module:
    """Their image VAE, of which the decoder has weights."""
    from diffusers import AutoencoderKL

    vae = SPEC.image_vae
    levels = len(vae.ch_mult)
    with torch.device("meta"):
        theirs = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * levels,
            up_block_types=["UpDecoderBlock2D"] * levels,
            block_out_channels=[vae.ch * m for m in vae.ch_mult],
            layers_per_block=vae.num_res_blocks,
            latent_channels=vae.z_channels,
        )
    return _filled(theirs, {"image_decoder": vd.component("image_decoder")}, "vae")


def _filled(theirs: nn.Module, parts: Mapping[str, nn.Module], layout: str) -> nn.Module:
    """Their module with our numbers; in the layout in memory that their loader gives them."""
    shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    weights = {}
    for component, module in parts.items():
        for name, tensor in module.state_dict().items():
            keys = keymaps.file_keys(layout, SPEC, component, name)
            key = next(key for key in keys if key in shapes)
            weights[key] = tensor.contiguous().reshape(shapes[key])
    theirs.load_state_dict(weights, assign=True, strict=layout != "vae")
    return theirs.eval().requires_grad_(False)


def in_turns(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, dict[str, float]]:
    """Time several things in turns of changing order, so that other work falls on all alike.

    Args:
        runs: name -> what to time; each is run once before.
        repeats: how often.

    Returns:
        Name -> medians: seconds passed ("wall"), and seconds of computing of all threads ("cpu"),
        which other processes change much less.
    """
    names = list(runs)
    for run in runs.values():
        run()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for r in range(repeats):
        for name in names[r % len(names) :] + names[: r % len(names)]:
            wall, cpu = time.perf_counter(), time.process_time()
            runs[name]()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: {
            "wall": statistics.median(wall for wall, _ in both),
            "cpu": statistics.median(cpu for _, cpu in both),
        }
        for name, both in seconds.items()
    }


def compared(times: Mapping[str, Mapping[str, float]], ours: str, theirs: str) -> dict[str, float]:
    """Ours / theirs, of both clocks."""
    return {
        f"{clock} ratio": times[ours][clock] / times[theirs][clock] for clock in ("wall", "cpu")
    }
