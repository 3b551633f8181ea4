"""The released model's sizes with random weights, and diffusers' modules with the same numbers.

What a step costs does not depend on what the weights say. Matrices are drawn with a deviation of
`1 / sqrt(inputs)`, so that numbers keep their size from layer to layer.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from lib import devices
from lib.checkpoints import keymaps
from lib.components import build, components_for, named_tensors
from lib.config import ModelSpec
from lib.devices import settle
from lib.model import VersatileDiffusion
from lib.specs import VD_FOUR_FLOW_V1_0 as SPEC

TEXT_TO_IMAGE = components_for(["t2i"])


def random_component(name: str, dtype: torch.dtype, spec: ModelSpec | None = None) -> nn.Module:
    """A component with random weights, laid out as `load` lays them out."""
    with torch.device("meta"):
        module = build(spec or SPEC, name)
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


def random_model(
    names: Sequence[str], dtype: torch.dtype, spec: ModelSpec | None = None
) -> VersatileDiffusion:
    """A model of these components, without tokenizers."""
    spec = spec or SPEC
    parts = {name: random_component(name, dtype, spec) for name in names}
    return VersatileDiffusion(spec, parts).eval()


def diffusers_unet(vd: VersatileDiffusion, context: str = "text") -> nn.Module:
    """Their network for pictures, with our image column and these context layers."""
    from diffusers import UNet2DConditionModel

    unet = vd.spec.unet
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
    return _filled(theirs, parts, "image_unet", vd.spec)


def diffusers_decoder(vd: VersatileDiffusion) -> nn.Module:
    """Their image VAE, of which the decoder has weights."""
    from diffusers import AutoencoderKL

    vae = vd.spec.image_vae
    levels = len(vae.ch_mult)
    with torch.device("meta"):
        theirs = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * levels,
            up_block_types=["UpDecoderBlock2D"] * levels,
            block_out_channels=[vae.ch * m for m in vae.ch_mult],
            layers_per_block=vae.num_res_blocks,
            latent_channels=vae.z_channels,
        )
    return _filled(theirs, {"image_decoder": vd.component("image_decoder")}, "vae", vd.spec)


def _filled(
    theirs: nn.Module, parts: Mapping[str, nn.Module], layout: str, spec: ModelSpec
) -> nn.Module:
    """Their module with our numbers; in the layout in memory that their loader gives them."""
    shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    weights = {}
    for component, module in parts.items():
        for name, tensor in module.state_dict().items():
            keys = keymaps.file_keys(layout, spec, component, name)
            key = next(key for key in keys if key in shapes)
            weights[key] = tensor.contiguous().reshape(shapes[key])
    theirs.load_state_dict(weights, assign=True, strict=layout != "vae")
    return theirs.eval().requires_grad_(False)


class Clocks(NamedTuple):
    """Seconds that something took: passed ("wall"), and of computing of all threads ("cpu")."""

    wall: float
    cpu: float


class Apart:
    """A function in a process of its own, which keeps its memory as its users' processes do.

    Our networks change how their process treats freed memory (`lib.devices.keep_freed_memory`).
    Beside them others would have that, too, which they do not have at home.

    Args:
        make: called there once, without our way with memory: returns the function.
    """

    def __init__(self, make: Callable[[], Callable[..., Any]]) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        args = (there, make, torch.get_num_threads())
        self._process = context.Process(target=_serve, args=args, daemon=True)
        self._process.start()
        there.close()  # or the end of that process would not be seen here

    def __call__(self, *args: Any) -> tuple[Any, Clocks]:
        """What the function returns, and what it took there.

        Raises:
            MemoryError: the process ended; what else it complains of stands on its stderr.
        """
        try:
            self._here.send(args)
            return self._here.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join()
            how = self._process.exitcode
            raise MemoryError(
                f"The process of the other network ended with {how}: where nothing else is said, "
                "its memory was not enough."
            ) from error


def _serve(there: Any, make: Callable[[], Callable[..., Any]], threads: int) -> None:
    torch.set_num_threads(threads)
    devices.keep_freed_memory = lambda: None
    function = make()
    while True:
        try:
            args = there.recv()
        except EOFError:  # the process that asks has ended
            return
        wall, cpu = time.perf_counter(), time.process_time()
        made = function(*args)
        there.send((made, Clocks(time.perf_counter() - wall, time.process_time() - cpu)))


def in_turns(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, dict[str, float]]:
    """Time several things in turns of changing order, so that other work falls on all alike.

    Args:
        runs: name -> what to time; each is run once before. What returns `Clocks` last was timed
            where it ran.
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
            made = runs[name]()
            clocks = Clocks(time.perf_counter() - wall, time.process_time() - cpu)
            apart = isinstance(made, tuple) and isinstance(made[-1], Clocks)
            seconds[name].append(made[-1] if apart else clocks)
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
