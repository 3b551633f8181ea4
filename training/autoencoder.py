"""Stage `autoencoder`: the image VAE.

Loss: `L2 + 0.1 L1 + beta KL(q(z|x) || N(0, 1))`, with a beta so small that the KL only keeps
latents near the origin (Rombach et al. 2022, appendix G). No perceptual or adversarial term:
scenes and drawings have flat colours and sharp edges, which pixel losses get right. The L1 term is
small because its gradient does not shrink with the error, which keeps a large learning rate from
settling.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.samples import Samples
from lib.config import ModelSpec
from lib.kl_vae import KLDecoder, KLEncoder, kl_to_standard_normal, sample_posterior
from training.export import export
from training.stage import Recipe, Stage

RECIPES = (
    Recipe(steps=7400, batch=16, lr=8e-4, warmup=100, clip=0.5, ema=0.998),
    Recipe(steps=4800, batch=16, lr=2.5e-4, warmup=100, clip=0.5, ema=0.998),
)
BETA = 1e-7
L1 = 0.1
RECOLORED = 1 / 3


class AutoencoderStage(Stage):
    """Trains `image_encoder` and `image_decoder` together."""

    name = "autoencoder"

    def __init__(
        self,
        spec: ModelSpec,
        samples: Samples,
        validation: Samples,
        out: Path,
        recipe: Recipe = RECIPES[0],
    ) -> None:
        self.spec, self.pool, self.validation = spec, samples, validation
        self.out, self.recipe = out, recipe
        torch.manual_seed(recipe.seed)
        self.modules = nn.ModuleDict(
            {
                "image_encoder": KLEncoder(spec.image_vae),
                "image_decoder": KLDecoder(spec.image_vae),
            }
        )
        # start with little sampling noise: at sigma = 1 nothing gets through the latent at first
        logvar_bias = self.modules["image_encoder"].quant_conv.bias[spec.image_vae.embed_dim :]
        nn.init.constant_(logvar_bias.detach(), -6.0)

    def identity(self) -> dict[str, Any]:
        """Which pictures."""
        return {"data": self.pool.identity()}

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Reconstruction of a posterior sample, plus the small KL term."""
        indices = rng.integers(len(self.pool), size=self.recipe.batch)
        self.seen = indices
        images = recolored(self.pool.pictures(indices, rng), rng).to(self.device)
        mean, logvar = self.modules["image_encoder"](images)
        z = sample_posterior(mean, logvar, torch.randn_like(mean))
        out = self.modules["image_decoder"](z).float()
        error = out - images
        # per pixel and channel, on the [-1, 1] scale that the network works in
        reconstruction = 4 * error.square().mean() + L1 * 2 * error.abs().mean()
        kl = kl_to_standard_normal(mean.float(), logvar.float()).mean()
        return reconstruction + BETA * kl, {"mse": error.square().mean().item(), "kl": kl.item()}

    def measure(self) -> dict[str, float]:
        """PSNR on held-out pictures, and the latents' spread."""
        rng = np.random.default_rng(1)
        rows = range(min(500, len(self.validation)))
        latents, errors = [], []
        for start in rows[::50]:
            batch = self.validation.pictures(rows[start : start + 50], rng).to(self.device)
            mean, _ = self.modules["image_encoder"](batch)
            out = self.modules["image_decoder"].decode(mean)
            errors.append((out - batch).square().flatten(1).mean(1))
            latents.append(mean)
        mse = torch.cat(errors)
        return {
            "psnr": float((-10 * mse.log10()).mean()),
            "latent_std": float(torch.cat(latents).std()),
        }

    def export(self, measured: dict[str, float], seconds: float) -> None:
        """Save both modules; the scale that brings latents to unit variance goes into the spec."""
        scale = round(1 / measured["latent_std"], 4)

        def settle(spec: ModelSpec) -> ModelSpec:
            return replace(spec, image_vae=replace(spec.image_vae, scale=scale))

        export(self, measured, seconds, settle)


def recolored(images: Tensor, rng: np.random.Generator) -> Tensor:
    """A third of the pictures with their colour channels in another order: more colours to learn.

    Args:
        images: (B, 3, H, W).
        rng: the step's own stream.
    """
    order = np.tile(np.arange(3), (len(images), 1))
    chosen = rng.random(len(images)) < RECOLORED
    order[chosen] = rng.permuted(order[chosen], axis=1)
    return images.gather(1, torch.from_numpy(order)[:, :, None, None].expand_as(images))
