"""How fast flows are trained, against the same network in diffusers' usual loop.

    python -m benchmarks training [--repeats 5] [--threads 1] [--json]

Text-to-image at vd-mini's sizes, fresh weights, in turns within one process, so that whatever else
the machine does falls on all:

    ours            a step of `training.loop`: latents and tokens from the cache, fused AdamW, EMA
    diffusers       as their script train_text_to_image: frozen AutoencoderKL and CLIP text encoder
                    run in every step, UNet2DConditionModel of our size, AdamW as torch has it
    without coders  the same with latents and tokens that are there already: what is left of the
                    difference is the network and the optimizer

in float32, and in bfloat16 by autocast (their frozen parts are cast, as by the script) where the
device computes it. Reading data is left out of all three. Printed are samples a second, the median
of the rounds, and how many times as many ours are.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from lib.components import build
from lib.model import VersatileDiffusion
from lib.specs import VD_MINI
from training.cache import CAPTIONS, VIEWS, Cache
from training.flows import FlowOptions, FlowsStage
from training.loop import Ema, _gradients
from training.memory import clip_gradients
from training.stage import Recipe, native_bf16

SAMPLES = 256
UNET, VAE, TEXT = VD_MINI.unet, VD_MINI.image_vae, VD_MINI.clip.text
LATENT = VD_MINI.latent_shape("image")
Step = Callable[[bool], float]
"""A training step, in bfloat16 or not; gives its loss."""


def ours(batch: int, device: torch.device) -> tuple[Step, int]:
    """Our step, and how many parameters it trains."""
    rng = np.random.default_rng(0)

    def array(*shape: int) -> np.ndarray:
        return rng.normal(size=(SAMPLES, *shape)).astype(np.float16)

    cache = Cache(
        image_latents=array(VIEWS, *LATENT),
        image_tokens=None,
        text_latents=None,
        text_tokens=array(CAPTIONS, TEXT.positions, VD_MINI.clip.projection),
    )
    vd = VersatileDiffusion(VD_MINI, {"clip_text": build(VD_MINI, "clip_text")})
    ids = torch.full((1, TEXT.positions), TEXT.eos)
    null = vd.clip_text(ids).detach()
    vd.null_context = lambda kind, data, n: argparse.Namespace(tokens=null)  # it has no tokenizers
    recipe = Recipe(steps=1000, batch=batch, lr=1e-4)
    stage = FlowsStage(vd, cache, cache, Path(), recipe, FlowOptions(share={"t2i": 1.0}))
    stage.modules.to(device).train()
    stage.placed()
    parameters = list(stage.modules.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    ema, number = Ema(parameters, 0.999), iter(range(10**9))

    def step(bf16: bool) -> float:
        k = next(number)
        optimizer.zero_grad(set_to_none=True)
        metrics = _gradients(stage, stage.loss, k, 0, bf16)
        clip_gradients(parameters, 1.0, divided=False)
        optimizer.step()
        ema.update(k)
        return metrics["loss"]

    return step, sum(p.numel() for p in parameters)


def unet_of_our_size() -> UNet2DConditionModel:
    """Diffusers' network with our widths, blocks, heads and context layers."""
    layers = [f"{'CrossAttn' if has else ''}{{}}Block2D" for has in UNET.context_levels]
    return UNet2DConditionModel(
        sample_size=LATENT[1],
        in_channels=LATENT[0],
        out_channels=LATENT[0],
        block_out_channels=tuple(UNET.model_channels * m for m in UNET.channel_mult),
        layers_per_block=UNET.num_res_blocks[0],
        down_block_types=tuple(name.format("Down") for name in layers),
        up_block_types=tuple(name.format("Up") for name in reversed(layers)),
        cross_attention_dim=UNET.context_dim,
        attention_head_dim=UNET.text_heads,  # diffusers' name for their number
        norm_num_groups=UNET.norm_groups,
    )


def theirs(batch: int, device: torch.device, coders: bool) -> tuple[Step, int]:
    """Diffusers' step, and how many parameters it trains."""
    unet = unet_of_our_size().to(device).train()
    vae = AutoencoderKL(
        block_out_channels=tuple(VAE.ch * m for m in VAE.ch_mult),
        down_block_types=("DownEncoderBlock2D",) * len(VAE.ch_mult),
        up_block_types=("UpDecoderBlock2D",) * len(VAE.ch_mult),
        layers_per_block=VAE.num_res_blocks,
        latent_channels=VAE.embed_dim,
        norm_num_groups=VAE.norm_groups,
    )
    config = CLIPTextConfig(
        vocab_size=TEXT.vocab,
        hidden_size=TEXT.hidden,
        intermediate_size=TEXT.intermediate,
        num_hidden_layers=TEXT.layers,
        num_attention_heads=TEXT.heads,
        max_position_embeddings=TEXT.positions,
        bos_token_id=TEXT.bos,
        eos_token_id=TEXT.eos,
    )
    frozen = nn.ModuleDict({"vae": vae, "text": CLIPTextModel(config)})
    frozen.to(device).eval().requires_grad_(False)
    schedule = DDPMScheduler(beta_schedule="scaled_linear", beta_start=8.5e-4, beta_end=1.2e-2)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4)
    side = VD_MINI.image_size
    pixels = torch.randn(batch, 3, side, side, device=device)
    ids = torch.randint(TEXT.vocab, (batch, TEXT.positions), device=device)

    def encoded(kind: torch.dtype) -> tuple[Tensor, Tensor]:
        frozen.to(kind)
        with torch.no_grad():
            latents = vae.encode(pixels.to(kind)).latent_dist.sample()
            return latents * vae.config.scaling_factor, frozen["text"](ids)[0]

    kept = encoded(torch.float32)

    def step(bf16: bool) -> float:
        kind = torch.bfloat16 if bf16 else torch.float32
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            latents, tokens = encoded(kind) if coders else (x.to(kind) for x in kept)
            noise = torch.randn_like(latents)
            t = torch.randint(schedule.config.num_train_timesteps, (batch,), device=device)
            predicted = unet(schedule.add_noise(latents, noise, t), t, tokens).sample
            loss = F.mse_loss(predicted.float(), noise.float())
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step, sum(p.numel() for p in unet.parameters())


def measure(batch: int, steps: int, rounds: int, device: torch.device) -> dict:
    """Samples a second of each loop and precision, sizes, and ratios.

    Raises:
        RuntimeError: networks whose sizes differ by more than a twentieth, or a loss that is not
            finite.
    """
    loops = {
        "ours": ours(batch, device),
        "diffusers": theirs(batch, device, True),
        "without coders": theirs(batch, device, False),
    }
    sizes = {name: size for name, (_, size) in loops.items()}
    if max(sizes.values()) > 1.05 * min(sizes.values()):
        raise RuntimeError(f"The networks are not of one size: {sizes}.")
    kinds = ["float32"] + ["bfloat16"] * native_bf16(device)
    seconds: dict[tuple[str, str], list[float]] = {(k, n): [] for k in kinds for n in loops}
    for r in range(rounds + 1):  # the first one warms up
        turn = r % len(seconds)
        for kind, name in [*seconds][turn:] + [*seconds][:turn]:
            start = time.perf_counter()
            losses = [loops[name][0](kind == "bfloat16") for _ in range(steps)]
            if not np.isfinite(losses).all():
                raise RuntimeError(f"{name} in {kind} has losses {losses}.")
            if r:
                seconds[kind, name].append((time.perf_counter() - start) / steps)
    rates = {
        kind: {name: batch / statistics.median(seconds[kind, name]) for name in loops}
        for kind in kinds
    }
    return {
        "batch": batch,
        "device": str(device),
        "parameters": sizes,
        "samples_a_second": rates,
        "speedup": {kind: row["ours"] / row["diffusers"] for kind, row in rates.items()},
    }


def training(options: argparse.Namespace) -> dict:
    """Both loops, batches of 32, so many rounds of two steps as are asked for."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return measure(32, 2, options.repeats, device)
