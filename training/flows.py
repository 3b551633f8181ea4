"""Stage `flows`: the diffuser, any of its four flows in every step.

One optimizer step minimises the sum over flows of `E ||eps - eps_theta(x_t, t, c)||^2` (Ho et al.
2020, equation 14; Xu et al. 2022, section 3.3). The columns are trained exactly as they are used:
through `VersatileDiffusion.eps`.

- A tenth of the contexts is replaced by the flow's own null context, which is what makes guidance
  possible (Ho and Salimans 2022).
- Image variation sees any view of the same sample: content is kept, jitter is free. `same` of the
  time it is the very picture that is generated: then place and size count as content. Text
  variation writes the answer to a caption.
- Image variation needs no captions: a share `uncaptioned` of it is of pictures without, changed
  further than captions allow (`training.augment.Varied`), and seen as they are generated.
- Where samples have `words` to ask with (a language), a share of image-to-text mixes such a word
  into the picture's context, and the text is the one that answers it.
- Timesteps are drawn denser in the middle of the noise range, where a picture is decided; `uniform`
  of them evenly, so that no step of a sampler was never trained. `min_snr` gives every sample the
  weight `min(SNR(t), gamma) / SNR(t)` (Hang et al. 2023, for predicted noise).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib.config import COMPONENTS, FLOWS, ModelSpec
from lib.files import alone
from lib.fingerprints import fingerprint
from lib.model import Context, VersatileDiffusion
from lib.unet import ContextColumn, DataColumn, TimeEmbed
from training import memory
from training.cache import ENCODERS, Cache, Draw, drawn, taken
from training.export import export, record
from training.lora import adapt, adapters, save_adapters
from training.stage import Recipe, Stage

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
        min_snr: gamma of the min-SNR weights; None weighs all timesteps alike.
        same: share of image variation whose context is of the very view that is generated.
        uncaptioned: share of image variation that is of pictures without captions, if there are.
        asked: share of image-to-text that mixes one of the samples' words into the context, where
            another flow trains the column that reads it.
        frozen: parameter groups (module names) that keep the weights they have.
        lora: rank of adapters on the context columns, which alone are trained then; None trains
            the weights themselves.
        lora_layers: which layers have them (`training.lora.LAYERS`).
        scales: gradient factors of the parameter groups (the paper's four-flow values are image
            data 0.2, text data 1, contexts 1, global 0.1; AdamW and Muon undo constant factors but
            for the clipping, so 1 everywhere is the default).
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
    min_snr: float | None = None
    same: float = 0.0
    uncaptioned: float = 0.0
    asked: float = 0.4
    frozen: tuple[str, ...] = ()
    lora: int | None = None
    lora_layers: str = "cross"
    scales: dict[str, float] = field(default_factory=dict)


ASKED_WEIGHT = (0.25, 0.6)  # of the word's context beside the picture's
TOGETHER = 100  # samples that are measured at once


class FlowsStage(Stage):
    """Trains the time embedding, and the data and context columns of the flows that have a share.

    Args:
        vd: frozen encoders, used to fill the cache.
        cache: their output on the training samples.
        validation: their output on others.
        out: model folder.
        recipe: how it is trained.
        options: what is particular to flows.
        pictures: what the encoders say of pictures without captions.
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
        pictures: Cache | None = None,
    ) -> None:
        self.pictures = pictures
        self.cache, self.validation, self.out = cache, validation, out
        self.recipe, self.options = recipe, options or FlowOptions()
        torch.manual_seed(recipe.seed)
        self.spec = vd.spec
        self.flows = [flow for flow in FLOWS if self._size(flow)]
        if not self.flows:
            raise ValueError(f"No flow has a share: give at least one of {', '.join(FLOWS)}.")
        columns = new_columns(vd.spec)
        self.modules = nn.ModuleDict({name: columns[name] for name in parts_of(self.options)})
        memory.freeze(self.modules, self.options.frozen)
        self.vd = VersatileDiffusion(vd.spec, dict(self.modules))
        self.base: dict[str, Any] = {}
        self.nulls = {}
        for flow in self.flows:
            data, context = FLOWS[flow]
            self.nulls[flow] = vd.null_context(context, data, 1).tokens.float().cpu()
        if self.cache.word_tokens is not None:
            self.nulls["word"] = torch.from_numpy(self.cache.word_tokens[:1]).float()

    def identity(self) -> dict[str, Any]:
        """Options, and what was encoded by which encoders; of adapters, also their base."""
        options = asdict(self.options)
        if self.options.lora is None:  # as before there were adapters: older checkpoints go on
            del options["lora"], options["lora_layers"]
        options = {n: v for n, v in options.items() if v or n not in ("same", "uncaptioned")}
        pictures = {"pictures": self.pictures.made} if self.pictures else {}
        return {"options": options, "data": self.cache.made, **pictures, **self.base}

    def warmed(self) -> None:
        """Adapters begin from trained weights."""
        super().warmed()
        if self.options.lora is not None:
            self.base = {"base": {name: fingerprint(m) for name, m in self.modules.items()}}
            rank, layers = self.options.lora, self.options.lora_layers
            self.adapter = adapt(self.vd, rank, layers, self.recipe.seed)

    def twin(self, modules: nn.ModuleDict) -> FlowsStage:
        """The same stage with other modules."""
        other = super().twin(modules)
        other.vd = VersatileDiffusion(self.spec, dict(modules))
        return other

    def kept(self) -> dict[str, Tensor]:
        """All weights; of an adapted model the adapters."""
        return super().kept() if self.options.lora is None else adapters(self.modules)

    def placed(self) -> None:
        """What was encoded goes where the modules are, if there is room."""
        self.cache = self.cache.on(self.device)
        self.pictures = self.pictures and self.pictures.on(self.device)

    def gradient_scales(self) -> dict[str, float]:
        """Factor on the gradients of each parameter group."""
        return {n: scale for n, scale in self.options.scales.items() if n in self.modules}

    def loss(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Sum of the flows' noise-prediction errors."""
        total, metrics, rows = torch.zeros((), device=self.device), {}, []
        for flow in self.flows:
            size = self._size(flow)
            losses = []
            for cache, part, asks in self._parts(flow, size):
                beyond = cache is self.pictures  # changed too far for one view to tell of another
                same = 1.0 if beyond else self.options.same
                draw = self._draw(flow, cache, part, rng, asks, same)
                rows.append(draw.rows + beyond * len(self.cache))
                weight = rng.uniform(*ASKED_WEIGHT) if asks else 0.0
                losses.append((part / size) * self._flow_loss(flow, cache, draw, weight))
            loss = torch.stack(losses).sum()
            total = total + self.options.weight[flow] * loss
            metrics[flow] = loss.detach()
        self.seen = np.concatenate(rows)
        return total, metrics

    def key(self, number: int) -> str:
        """As the encoded samples are called; those without captions are numbered last."""
        beyond = number - len(self.cache)
        return self.cache.key(number) if beyond < 0 else self.pictures.key(beyond)

    def samples(self) -> int:
        """Samples of one step, all flows together."""
        return sum(map(self._size, FLOWS))

    def _size(self, flow: str) -> int:
        return round(self.recipe.batch * self.options.share.get(flow, 0))

    def _words(self) -> int:
        tokens = self.cache.word_tokens
        return 1 if tokens is None else len(tokens)

    def _parts(self, flow: str, size: int) -> list[tuple[Cache, int, bool]]:
        """What a flow's samples are drawn from, how many of them, and whether a word is asked."""
        words = pictures = 0
        if flow == "i2t" and self._words() > 1 and "text_context" in self.modules:
            words = round(self.options.asked * size)
        if flow == "i2i" and self.pictures is not None:
            pictures = round(self.options.uncaptioned * size)
        parts = [(self.cache, size - words - pictures, False), (self.cache, words, True)]
        parts.append((self.pictures, pictures, False))
        return [part for part in parts if part[1]]

    def _draw(
        self,
        flow: str,
        cache: Cache,
        size: int,
        rng: np.random.Generator,
        asks: bool = False,
        same: float = 0.0,
    ) -> Draw:
        timesteps, options = self.vd.schedule.num_timesteps, self.options
        focus = 1 / (1 + np.exp(-(options.center + options.spread * rng.normal(size=size))))
        share = np.where(rng.random(size) < options.uniform, rng.random(size), focus)
        t = torch.from_numpy((share * timesteps).astype(np.int64)).clamp(max=timesteps - 1)
        words = self._words() if asks else 0
        return drawn(flow, len(cache), t, rng, options.dropout, words, same)

    def _flow_loss(
        self, flow: str, cache: Cache, draw: Draw, weight: float = 0.0, noise: Tensor | None = None
    ) -> Tensor:
        data, kind = FLOWS[flow]
        latents = cache.image_latents if data == "image" else cache.text_latents
        contexts = cache.image_tokens if kind == "image" else cache.text_tokens
        device = self.device
        x_0 = taken(latents, device, draw.rows, draw.data)
        dropped = torch.from_numpy(draw.dropped)[:, None, None].to(device)
        tokens = taken(contexts, device, draw.rows, draw.context)
        tokens = torch.where(dropped, self.nulls[flow].to(device), tokens)
        mix = [(Context(kind, tokens), 1.0 - weight)]
        if draw.words is not None:
            tokens = taken(cache.word_tokens, device, draw.words)
            tokens = torch.where(dropped, self.nulls["word"].to(device), tokens)
            mix.append((Context("text", tokens), weight))
        noise = torch.randn_like(x_0) if noise is None else noise
        x_t = self.vd.schedule.add_noise(x_0, draw.t, noise)
        eps = self.vd.eps(x_t, draw.t.to(device), mix)
        errors = (eps.float() - noise).square().flatten(1).mean(1)
        if self.options.min_snr is not None:
            errors = errors * self._snr_weight(draw.t).to(self.device)
        return errors.mean()

    def _snr_weight(self, t: Tensor) -> Tensor:
        """`min(SNR, gamma) / SNR`, with SNR = alpha_bar / (1 - alpha_bar)."""
        alpha_bar = self.vd.schedule.alpha_bar[t]
        snr = alpha_bar / (1 - alpha_bar)
        return (snr.clamp(max=self.options.min_snr) / snr).float()

    def measure(self) -> dict[str, float]:
        """Each flow's error on validation samples, with fixed noise and evenly spread timesteps."""
        measured = {}
        for flow in self.flows:
            torch.manual_seed(5)
            rng = np.random.default_rng(5)
            size = min(1000, len(self.validation))
            draw = self._draw(flow, self.validation, size, rng)
            draw.rows[:] = rng.permutation(len(self.validation))[:size]
            draw.dropped[:] = False
            draw.t.copy_(torch.linspace(1, self.vd.schedule.num_timesteps - 1, size).long())
            shape = getattr(self.validation, f"{FLOWS[flow][0]}_latents").shape[2:]
            noise, total = torch.randn(size, *shape, device=self.device), 0.0
            for part in (slice(k, k + TOGETHER) for k in range(0, size, TOGETHER)):
                loss = self._flow_loss(flow, self.validation, draw[part], noise=noise[part])
                total += loss.item() * len(noise[part])
            measured[f"loss_{flow}"] = total / size
        return measured

    def export(self, measured: dict[str, float], seconds: float) -> None:
        """Save the parts of the diffuser that were trained."""
        if self.options.lora is None:
            export(self, measured, seconds)
            return
        with alone(self.out):
            save_adapters(self.adapter, self.modules, self.out)
            record(self, measured, seconds)


def parts_of(options: FlowOptions) -> tuple[str, ...]:
    """The parts of the diffuser that the flows with a share consist of."""
    needed = {"time_embed"}
    for flow, (data, context) in FLOWS.items():
        if options.share.get(flow, 0):
            needed |= {f"{data}_data", f"{context}_context"}
    return tuple(name for name in COMPONENTS if name in needed)


def encoders_for(options: FlowOptions) -> tuple[str, ...]:
    """The encoders whose output training needs: of what is generated, and of what conditions."""
    needed = set()
    for flow, (data, context) in FLOWS.items():
        if options.share.get(flow, 0):
            needed |= {f"{data}_encoder", "clip_vision" if context == "image" else "clip_text"}
            # a picture's words are asked for by a text
            needed |= {"clip_text"} if flow == "i2t" else set()
    return tuple(name for name in ENCODERS if name in needed)


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
