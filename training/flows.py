"""Stage `flows`: the four-flow diffuser, all flows in every step.

One optimizer step minimises the sum over flows of `E ||eps - eps_theta(x_t, t, c)||^2` (Ho et al.
2020, equation 14; Xu et al. 2022, section 3.3). The columns are trained exactly as they are used:
through `VersatileDiffusion.eps`.

- A tenth of the contexts is replaced by the flow's own null context, which is what makes guidance
  possible (Ho and Salimans 2022).
- Image variation sees another render of the same scene half of the time: content is kept, jitter is
  free. Text variation sees another caption of the same scene.
- Timesteps are drawn denser in the middle of the noise range, where a scene is decided; `uniform`
  of them evenly, so that no step of a sampler was never trained.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.scenes.world import split
from lib.config import FLOWS, ModelSpec
from lib.model import Context, VersatileDiffusion
from lib.unet import ContextColumn, DataColumn, TimeEmbed
from training.cache import CAPTIONS, TARGETS, Cache, build
from training.data import RENDERS, Pool, render_pairs
from training.export import export
from training.loop import Recipe, Stage

RECIPES = (
    Recipe(steps=8000, batch=64, lr=1.2e-3, warmup=300, decay="trapezoid", ema=0.999),
    Recipe(steps=7500, batch=80, lr=1.2e-3, warmup=300, decay="trapezoid", ema=0.999),
)


@dataclass(frozen=True)
class FlowOptions:
    """What is particular to training flows.

    Attributes:
        share: samples of each flow in a step, as a share of the recipe's batch.
        weight: factor on each flow's loss.
        dropout: probability that a context is replaced by the null context.
        uniform: share of timesteps drawn uniformly; the others follow a logistic-normal.
        center, spread: mean and deviation of that normal; t = T sigmoid(center + spread n).
        scales: gradient factors of the parameter groups (the paper's four-flow values are image
            data 0.2, text data 1, contexts 1, global 0.1; AdamW undoes constant factors but for the
            clipping, so 1 everywhere is the default).
    """

    share: dict[str, float] = field(
        default_factory=lambda: {"t2i": 1.3, "i2i": 1.1, "i2t": 0.7, "t2t": 0.6}
    )
    weight: dict[str, float] = field(
        default_factory=lambda: {"t2i": 1.0, "i2i": 1.0, "i2t": 1.0, "t2t": 1.0}
    )
    dropout: float = 0.1
    uniform: float = 0.3
    center: float = 0.2
    spread: float = 1.0
    scales: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Draw:
    """What one flow sees in one step: scenes, their renders and captions, dropout, timesteps."""

    scenes: np.ndarray
    data: np.ndarray
    context: np.ndarray
    dropped: np.ndarray
    t: Tensor


class FlowsStage(Stage):
    """Trains the time embedding, both data columns and both context columns.

    Args:
        vd: frozen encoders, used to fill the cache.
        cache: their output on the training pool.
        validation: their output on validation scenes.
        out: model folder.
        recipe: how it is trained.
        options: what is particular to flows.
    """

    name = "flows"

    def __init__(
        self,
        vd: VersatileDiffusion,
        cache: Cache,
        validation: Cache,
        out: Path,
        recipe: Recipe = RECIPES[0],
        options: FlowOptions | None = None,
    ) -> None:
        self.cache, self.validation, self.out = cache, validation, out
        self.recipe, self.options = recipe, options or FlowOptions()
        torch.manual_seed(recipe.seed)
        self.spec = vd.spec
        self.modules = new_columns(vd.spec)
        self.vd = VersatileDiffusion(vd.spec, dict(self.modules))
        self.nulls = {
            flow: vd.null_context(context, data, 1).tokens.float()
            for flow, (data, context) in FLOWS.items()
        }

    def identity(self) -> dict[str, Any]:
        """Options, and what was encoded by which encoders."""
        return {"options": asdict(self.options), "data": self.cache.made}

    def gradient_scales(self) -> dict[str, float]:
        """Factor on the gradients of each parameter group."""
        return self.options.scales

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Sum of the flows' noise-prediction errors."""
        total, metrics = torch.zeros((), device=self.device), {}
        for flow in FLOWS:
            if self._size(flow) == 0:
                continue
            draw = self._draw(flow, self.cache, self._size(flow), rng)
            loss = self._flow_loss(flow, self.cache, draw)
            total = total + self.options.weight[flow] * loss
            metrics[flow] = loss.item()
        return total, metrics

    def samples(self) -> int:
        """Samples of one step, all flows together."""
        return sum(map(self._size, FLOWS))

    def _size(self, flow: str) -> int:
        return round(self.recipe.batch * self.options.share[flow])

    def _draw(self, flow: str, cache: Cache, size: int, rng: np.random.Generator) -> Draw:
        data, context = FLOWS[flow]
        timesteps = self.vd.schedule.num_timesteps
        focus = 1 / (
            1 + np.exp(-(self.options.center + self.options.spread * rng.normal(size=size)))
        )
        share = np.where(rng.random(size) < self.options.uniform, rng.random(size), focus)
        return Draw(
            scenes=rng.integers(len(cache), size=size),
            data=rng.integers(RENDERS if data == "image" else TARGETS, size=size),
            context=rng.integers(RENDERS if context == "image" else CAPTIONS, size=size),
            dropped=rng.random(size) < self.options.dropout,
            t=torch.from_numpy((share * timesteps).astype(np.int64)).clamp(max=timesteps - 1),
        )

    def _flow_loss(self, flow: str, cache: Cache, draw: Draw) -> Tensor:
        data, kind = FLOWS[flow]
        latents = cache.image_latents if data == "image" else cache.text_latents
        contexts = cache.image_tokens if kind == "image" else cache.text_tokens
        x_0 = _take(latents, draw.scenes, draw.data)
        tokens = _take(contexts, draw.scenes, draw.context)
        dropped = torch.from_numpy(draw.dropped)[:, None, None]
        tokens = torch.where(dropped, self.nulls[flow], tokens)
        noise = torch.randn_like(x_0)
        x_t = self.vd.schedule.add_noise(x_0, draw.t, noise).to(self.device)
        context = Context(kind, tokens.to(self.device))
        eps = self.vd.eps(x_t, draw.t.to(self.device), [(context, 1.0)])
        noise = noise.to(self.device)
        return (eps.float() - noise).square().mean()

    def measure(self) -> dict[str, float]:
        """Each flow's error on validation scenes, with fixed noise and evenly spread timesteps."""
        measured = {}
        for flow in FLOWS:
            torch.manual_seed(5)
            rng = np.random.default_rng(5)
            size = len(self.validation)
            draw = self._draw(flow, self.validation, size, rng)
            draw.dropped[:] = False
            draw.t.copy_(torch.linspace(1, self.vd.schedule.num_timesteps - 1, size).long())
            measured[f"loss_{flow}"] = float(self._flow_loss(flow, self.validation, draw))
        return measured

    def export(self, measured: dict[str, float], seconds: float) -> None:
        """Save the five parts of the diffuser."""
        export(self, measured, seconds)


def new_columns(spec: ModelSpec) -> nn.ModuleDict:
    """A diffuser with fresh weights.

    Context tokens have length about 1 (they are divided by their pooled token's norm), so entries
    of about `1 / sqrt(D)`: the layers that read them start `sqrt(D)` times larger than usual, or
    attention would stay uniform and silent for thousands of steps.
    """
    columns = nn.ModuleDict(
        {
            "time_embed": TimeEmbed(spec.unet),
            "image_data": DataColumn("image", spec.unet),
            "text_data": DataColumn("text", spec.unet),
            "image_context": ContextColumn("image", spec.unet),
            "text_context": ContextColumn("text", spec.unet),
        }
    )
    with torch.no_grad():
        for name, weight in columns.named_parameters():
            if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
                weight.mul_(spec.unet.context_dim**0.5)
    return columns


def validation_cache(vd: VersatileDiffusion, n: int, folder: Path) -> Cache:
    """Encoded validation scenes, for the loss that is reported."""
    scenes = split("validation", n, seed=6)
    return build(vd, Pool(scenes, render_pairs(scenes, seed=6)), n, Path(folder) / "validation")


def _take(array: np.ndarray, rows: np.ndarray, which: np.ndarray) -> Tensor:
    return torch.from_numpy(array[rows, which]).float()
