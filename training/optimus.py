"""Stage `optimus`: the text VAE, from nothing, on captions.

Loss per caption, in nats: `-sum_i log p(w_i | w_<i, z) + beta KL(q(z|x) || N(0, 1))`, z a posterior
sample, beta rising linearly from 0 in the first part of training (Li et al. 2020, section 3.2,
anneal it too, against posterior collapse). A small beta keeps every sentence recoverable; the
sampling noise it leaves makes neighbouring latents decode alike, which is what the diffuser needs.
The noise is faded in with beta: at first a latent carries nothing that could survive it.

Besides, where samples know attributes, a linear map must read each off the latent. That lays the
space out by meaning from the start (a sentence's likelihood alone finds the wording first and who
has which colour very late), and leaves the diffuser a smooth thing to predict. The map is dropped
afterwards.

With an anchor, a warm start keeps the latents of ordinary captions where they were: flows that were
trained on them stay valid while the rest of the space is learned better, by captions with exchanged
words (`--exchanged`). Loss: `anchor * |mu(x) - mu_before(x)|^2`, in units of the latents' variance.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.samples import Samples
from lib.config import ModelSpec
from lib.kl_vae import kl_to_standard_normal, sample_posterior
from lib.optimus import OptimusDecoder, OptimusEncoder
from lib.tokenizers import Tokenizers
from training.attributes import read_loss
from training.export import export
from training.stage import Recipe, Stage

RECIPES = (
    Recipe(steps=5000, batch=64, lr=6e-4, warmup=200, weight_decay=0.01, ema=0.998),
    Recipe(steps=13000, batch=64, lr=6e-4, warmup=200, weight_decay=0.01, ema=0.998),
)
BETA = 0.01
WARMUP = 0.3  # share of the steps over which beta and the sampling noise rise


class OptimusStage(Stage):
    """Trains `text_encoder` and `text_decoder` together."""

    name = "optimus"

    def __init__(
        self,
        spec: ModelSpec,
        tokenizers: Tokenizers,
        samples: Samples,
        validation: Samples,
        out: Path,
        recipe: Recipe = RECIPES[0],
        anchor: float | None = None,
    ) -> None:
        self.anchor, self.before = anchor, None
        self.spec, self.words, self.pool, self.validation = spec, tokenizers, samples, validation
        self.out, self.recipe = out, recipe
        torch.manual_seed(recipe.seed)
        modules: dict[str, nn.Module] = {
            "text_encoder": OptimusEncoder(spec.text_vae, attention="eager"),
            "text_decoder": OptimusDecoder(spec.text_vae, attention="eager"),
        }
        self.choices = [len(values) for values in samples.attributes.values()]
        if self.choices:
            modules["reader"] = nn.Linear(spec.text_vae.latent, sum(self.choices))
        self.modules = nn.ModuleDict(modules)

    def identity(self) -> dict[str, Any]:
        """Whose captions, and what holds the latents."""
        return {"data": self.pool.identity()} | ({"anchor": self.anchor} if self.anchor else {})

    def warmed(self) -> None:
        """The encoder as it is now says where latents are."""
        super().warmed()
        if self.anchor:
            self.before = deepcopy(self.modules["text_encoder"]).eval().requires_grad_(False)

    def kept(self) -> dict[str, Tensor]:
        """Also what holds the latents: a resumed run is held by the same, whatever began it."""
        held = {} if self.before is None else self.before.state_dict(prefix="before.")
        return {**super().kept(), **held}

    def placed(self) -> None:
        """What holds the latents goes where the modules are."""
        if self.before is not None:
            self.before.to(self.device)

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Negative log-likelihood of the caption plus beta times the KL term."""
        ramp = 1.0 if self.warm else min(1.0, (step + 1) / (WARMUP * self.recipe.steps))
        indices = rng.integers(len(self.pool), size=self.recipe.batch)
        self.seen, texts = indices, self.pool.captions(indices, rng)
        half = len(texts) // 2  # the other half are answers: what the text column learns to write
        texts[:half] = self.pool.targets(indices[:half], rng, texts[:half])
        said = self.pool.read(texts).to(self.device)
        pieces = self.words.bert_ids(texts).to(self.device)
        mean, logvar = self.modules["text_encoder"](pieces)
        z = sample_posterior(mean, logvar, ramp * torch.randn_like(mean))
        ids = self.words.gpt2_ids(texts).to(self.device)
        logits = self.modules["text_decoder"](ids[:, :-1], z)
        nll = F.cross_entropy(
            logits.float().flatten(0, 1),
            ids[:, 1:].flatten(),
            ignore_index=self.words.pad,
            reduction="sum",
        ) / len(texts)
        kl = kl_to_standard_normal(mean.float(), logvar.float()).mean()
        loss = nll + ramp * BETA * kl
        metrics = {"nll": nll.item(), "kl": kl.item()}
        if self.choices:
            answers = self.modules["reader"](z).split(self.choices, dim=-1)
            reading = len(self.choices) * read_loss(answers, said)
            loss, metrics["reading"] = loss + reading, reading.item()
        if self.before is not None:
            ordinary = (said >= 0).any(1) if self.choices else torch.ones(len(texts)).to(loss) > 0
            moved = (mean - self.before(pieces)[0]) * self.spec.text_vae.scale
            distance = moved.float().square().sum(1)[ordinary].sum() / ordinary.sum().clamp(min=1)
            loss = loss + self.anchor * distance
            metrics["moved"] = distance.item() / moved.shape[1]
        return loss, metrics

    def measure(self) -> dict[str, float]:
        """Share of validation captions that come back word for word, and the latents' spread."""
        rng = np.random.default_rng(3)
        texts = self.validation.targets(rng.integers(len(self.validation), size=1000), rng)
        exact, latents = 0, []
        for start in range(0, len(texts), 100):
            part = texts[start : start + 100]
            mean, _ = self.modules["text_encoder"](self.words.bert_ids(part).to(self.device))
            ids = self.modules["text_decoder"].generate(
                mean, self.words.bos, self.words.eos, temperature=0
            )
            exact += sum(a == b for a, b in zip(self.words.gpt2_text(ids), part, strict=True))
            latents.append(mean)
        return {
            "exact_match": exact / len(texts),
            "latent_std": float(torch.cat(latents).std()),
        }

    def export(self, measured: dict[str, float], seconds: float) -> None:
        """Save both modules; the scale that brings latents to unit variance goes into the spec."""
        scale = round(1 / measured["latent_std"], 4)
        if self.before is not None:  # latents are where they were
            scale = self.spec.text_vae.scale

        def settle(spec: ModelSpec) -> ModelSpec:
            return replace(spec, text_vae=replace(spec.text_vae, scale=scale))

        export(self, measured, seconds, settle, only=("text_encoder", "text_decoder"))
