"""Denoising steps and whole pictures at the released model's size, against diffusers' modules."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import full_size
from benchmarks.full_size import (
    TEXT_TO_IMAGE,
    Apart,
    compared,
    diffusers_decoder,
    diffusers_unet,
    in_turns,
    random_model,
)
from lib import ops
from lib.checkpoints import load
from lib.config import FLOWS, ModelSpec
from lib.contexts import Context, stacked
from lib.model import VersatileDiffusion
from lib.sampler import dpmpp_2m

SCALE = 7.5
LATENT = (4, 64, 64)
DIFFUSER = ("time_embed", "image_data", "text_context")


def contexts(vd: VersatileDiffusion, batch: int = 1) -> tuple[Context, Context]:
    """Random tokens, and others to guide away from."""
    generator = torch.Generator().manual_seed(1)
    shape = (batch, vd.spec.clip.text.positions, vd.spec.clip.projection)
    draw = (torch.randn(shape, generator=generator).to(vd.device, vd.dtype) for _ in range(2))
    return tuple(Context("text", tokens) for tokens in draw)


@torch.no_grad()
def our_step(vd: VersatileDiffusion, x: Tensor, given: Context, null: Context) -> Tensor:
    """A guided prediction."""
    return vd.guided([(given, 1.0)], "image", SCALE, [null])(x, 500)


@torch.no_grad()
def their_step(unet: nn.Module, x: Tensor, given: Context, null: Context) -> Tensor:
    """The same, as diffusers' pipelines do it: both halves in one batch."""
    tokens = torch.cat([null.tokens, given.tokens])
    noise = unet(torch.cat([x, x]).to(tokens.dtype), 500, tokens).sample.to(x.dtype)
    away, there = noise.chunk(2)
    return away + SCALE * (there - away)


def their_stepper(dtype: torch.dtype, spec: ModelSpec) -> Callable[..., Tensor]:
    """`their_step` of diffusers' network with the numbers of `random_model`."""
    return partial(their_step, diffusers_unet(random_model(DIFFUSER, dtype, spec)))


def guided_step(args: Namespace) -> dict[str, Any]:
    """A guided step of a 512 x 512 picture, and how far it is from float32.

    Each network has a process of its own, with the memory settings that its users have.
    """
    theirs = Apart(partial(their_stepper, args.dtype, full_size.SPEC))
    vd = random_model(DIFFUSER, args.dtype)
    x = torch.randn(1, *LATENT, generator=torch.Generator().manual_seed(2))
    both = contexts(vd)
    eps = {"ours": our_step(vd, x, *both), "diffusers": theirs(x, *both)[0]}
    runs = {"ours": lambda: our_step(vd, x, *both), "diffusers": lambda: theirs(x, *both)}
    times = in_turns(runs, args.repeats)
    result = {"seconds": times, **compared(times, "ours", "diffusers")}
    if args.dtype != torch.float32:
        exact = diffusers_unet(vd).float()
        exact = their_step(exact, x, *(Context("text", c.tokens.float()) for c in both))
        result["error"] = {n: ((e - exact).norm() / exact.norm()).item() for n, e in eps.items()}
        result["error ratio"] = result["error"]["ours"] / result["error"]["diffusers"]
    return result


def text_to_image(args: Namespace) -> dict[str, Any]:
    """A 512 x 512 picture: ours with `dpmpp_2m` at 20 steps, theirs with DDIM at 50.

    The parts (CLIP, one guided step, decoding) are timed in turns, and summed up; `--whole` also
    runs ours from ids of tokens to pixels, once.
    """
    vd = random_model(TEXT_TO_IMAGE, args.dtype)
    unet, vae = diffusers_unet(vd), diffusers_decoder(vd)
    text = vd.spec.clip.text
    ids = torch.full((1, text.positions), text.eos)
    ids[:, :5] = torch.tensor([text.bos, 7, 8, 9, 10])
    x = torch.randn(1, *LATENT, generator=torch.Generator().manual_seed(2))
    both = contexts(vd)

    @torch.no_grad()
    def encode() -> Tensor:
        return vd.clip_text(ids)

    @torch.no_grad()
    def their_picture() -> Tensor:
        return (vae.decode(x.to(args.dtype) / vd.spec.image_vae.scale).sample / 2 + 0.5).clamp(0, 1)

    times = in_turns({"CLIP": encode}, args.repeats)
    times |= in_turns(
        {
            "step": lambda: our_step(vd, x, *both),
            "diffusers step": lambda: their_step(unet, x, *both),
        },
        args.repeats,
    )
    times |= in_turns(
        {"decode": lambda: vd.decode_image(x), "diffusers decode": their_picture}, args.repeats
    )
    parts = dict(times)
    for clock in ("wall", "cpu"):
        part = {name: value[clock] for name, value in parts.items()}
        ours = 2 * part["CLIP"] + 20 * part["step"] + part["decode"]
        theirs = 2 * part["CLIP"] + 50 * part["diffusers step"] + part["diffusers decode"]
        times.setdefault("picture", {})[clock] = ours
        times.setdefault("diffusers picture", {})[clock] = theirs
    result = {"seconds": times, **compared(times, "picture", "diffusers picture")}
    if args.whole:
        result["seconds"] |= in_turns({"whole": lambda: _whole(vd, ids, x)}, 1)
    return result


@torch.no_grad()
def halves(args: Namespace) -> dict[str, Any]:
    """Both halves of guidance of vd-mini as one batch, against two, by flow and batch size."""
    vd = load("vd-mini", device="cpu")
    result = {}
    for flow in ("t2i", "i2t"):
        data, kind = FLOWS[flow]
        for batch in (1, 4, 16, 64):
            null = vd.null_context(kind, data, batch)
            both = [(null, 1.0)], [(Context(kind, torch.randn_like(null.tokens)), 1.0)]
            x = torch.randn(batch, *vd.latent_shape(data))
            one = partial(vd.eps, torch.cat([x, x]), 500, stacked(*both))
            runs = {"one": one, "two": lambda x=x, both=both: [vd.eps(x, 500, c) for c in both]}
            times = in_turns(runs, args.repeats)
            result[f"{flow} {batch}"] = compared(times, "one", "two")
    return {"one batch / two": result}


CONVOLVED = ((1, 2560, 1280, 8), (1, 2560, 1280, 16), (2, 1280, 1280, 8))
"""Batch, channels in and out, side of maps."""
UPSAMPLED = ((2, 1280, 1280, 16), (2, 640, 640, 32))
ATTENDED = (8, 4096, 40)
"""Heads, tokens, and width of a head."""


@torch.no_grad()
def operations(args: Namespace) -> dict[str, Any]:
    """Single operations of a step: our ways against torch's own, with the same kernels."""
    pairs = operation_pairs(args.dtype)
    result = {}
    for name, (ours, plain) in pairs.items():
        times = in_turns({"ours": ours, "torch": plain}, args.repeats)
        result[name] = {"seconds": times, **compared(times, "ours", "torch")}
    return result


def operation_pairs(dtype: torch.dtype) -> dict[str, tuple[Callable[[], Tensor], ...]]:
    """Operation -> (our way, torch's own) of the same numbers."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        value = torch.randn(shape, generator=generator).to(dtype)
        return value.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else value

    def laid(batch: int, before: int, after: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
        kernel = drawn(after, before, 3, 3) * (9 * before) ** -0.5
        return drawn(batch, before, side, side), kernel, drawn(after)

    def upsampled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(F.interpolate(x, scale_factor=2.0), weight, bias, padding=1)

    pairs = {}
    for sizes in CONVOLVED:
        maps = laid(*sizes)
        plain = partial(F.conv2d, *maps, padding=1)
        pairs[f"3x3, {' x '.join(map(str, sizes))}"] = partial(ops.conv3x3, *maps), plain
    for sizes in UPSAMPLED:
        maps = laid(*sizes)
        pairs[f"upsampling, {' x '.join(map(str, sizes))}"] = (
            partial(ops.upsampled_conv, *maps),
            partial(upsampled, *maps),
        )
    heads, tokens, width = ATTENDED
    q, k, v = (drawn(1, tokens, heads * width) for _ in range(3))
    pairs[f"attention, {heads} x {tokens} x {width}"] = (
        partial(ops.attention, q, k, v, heads),
        partial(ops.attention, q, k, v, heads, fused=True),
    )
    return pairs


def _whole(vd: VersatileDiffusion, ids: Tensor, x: Tensor) -> Tensor:
    with torch.no_grad():
        given, null = (Context("text", vd.clip_text(i)) for i in (ids, ids.flip(1)))
    eps = vd.guided([(given, 1.0)], "image", SCALE, [null])
    for step in dpmpp_2m(eps, x, vd.schedule, vd.schedule.timesteps(20)):
        x = step.x
    return vd.decode_image(x)


def scaling(args: Namespace) -> dict[str, Any]:
    """Pictures a second of vd-mini in batches of 1, 8 and 32: guided steps and decoding."""
    vd = load("vd-mini", flows="t2i", encoders=False)
    steps = 20

    def picture(batch: int) -> Tensor:
        x = torch.randn(batch, *vd.latent_shape("image")).to(vd.device)
        given, null = contexts(vd, batch)
        eps = vd.guided([(given, 1.0)], "image", 2.0, [null])
        for step in dpmpp_2m(eps, x, vd.schedule, vd.schedule.timesteps(steps)):
            x = step.x
        return vd.decode_image(x)

    times = in_turns({str(n): lambda n=n: picture(n) for n in (1, 8, 32)}, args.repeats)
    speed = {n: int(n) / t["wall"] for n, t in times.items()}
    return {
        "device": vd.device.type,
        "steps": steps,
        "seconds of a batch": times,
        "pictures a second": speed,
        "pictures a cpu second": {n: int(n) / t["cpu"] for n, t in times.items()},
    }
