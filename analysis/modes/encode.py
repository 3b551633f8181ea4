"""Contexts and latents of pictures and texts as files: computed once, given back many times.

>>> save(encode(vd, Path("a.png"), what="context"))      # output/encode/0001_a_seed0.safetensors
>>> image_variation(vd, context="output/encode/0001_a_seed0.safetensors", seed=20)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from analysis.modes.heavy import fingerprints, jobs, model, results, sources, tqdm
from analysis.modes.interpolate import kind_of
from analysis.modes.kinds import choice
from analysis.modes.options import Option, Settings, options_of
from analysis.modes.table import Input, mode

USED = ("fit", "batch_size")


@dataclass(frozen=True, eq=False)
class Encoding:
    """Inputs to encode; used like an `analysis.modes.job.Job`."""

    vd: model.VersatileDiffusion
    source: sources.Source
    what: str
    batch_size: int
    mode: str = "encode"
    data: str = "tensor"
    settings: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def seeds(self) -> list[int]:
        """Nothing is drawn; file names have a seed nevertheless."""
        return [0] * len(self)

    @cached_property
    def shared(self) -> dict[str, Any]:
        """What the records of all samples share."""
        kind = self.source.kind
        tower = "clip_vision" if kind == "image" else "clip_text"
        name = tower if self.what == "context" else f"{kind}_encoder"
        weights = {name: fingerprints.fingerprint(self.vd.component(name))}
        model = {"name": self.vd.spec.name, "weights": weights}
        return {
            "mode": self.mode,
            "output": self.what,
            "kind": kind,
            **self.settings,
            "model": {**model, **fingerprints.model_digests(self.vd)},
        }

    def record_of(self, k: int) -> dict[str, Any]:
        """The record that sample k is going to have."""
        return results.flat_record(self.shared, {**self.source.describe(k), "seed": 0})

    def run(
        self, only: Sequence[int] | None = None, progress: bool = True
    ) -> Iterator[results.Result]:
        """Encode, a batch at a time."""
        numbers = list(range(len(self)) if only is None else only)
        steps = range(0, len(numbers), self.batch_size)
        for i in tqdm.tqdm(steps, desc=self.mode, disable=not progress):
            which = numbers[i : i + self.batch_size]
            samples = [{**self.source.describe(k), "seed": 0} for k in which]
            record = {**self.shared, "samples": samples}
            yield results.Result(self.mode, record, tensors=self._encoded(which))

    def result(self, progress: bool = True) -> results.Result:
        """All of them as one result."""
        return results.joined(self.run(progress=progress))

    def _encoded(self, which: Sequence[int]) -> Any:
        if self.what == "context":
            samples = [sources.Sample(k, 0, 0) for k in which]
            return self.source.context(samples).tokens.float().cpu()
        shape = self.vd.latent_shape(self.source.kind)
        return sources.Start(self.source).encode(self.vd, which, shape).float().cpu()


@mode(
    "encode",
    makes="tensor",
    summary="contexts or latents of pictures or texts, as files",
    example="encode photo.png folder/ --pictures --what context",
    without=tuple(name for name in options_of(Settings) if name not in USED),
)
def encode(
    vd: model.VersatileDiffusion,
    inputs: Any = Input("any", "texts, or pictures (PIL, or `Path`s; strings are texts)"),
    *,
    what: str = Option(
        "context",
        choice("context", "latents"),
        "CLIP's tokens, what conditions; or the VAEs' scaled means, what is generated",
    ),
    request: jobs.Request,
) -> Encoding:
    """Contexts or latents of pictures or texts.

    Contexts are (tokens, width) each, latents (C, h, w) of a picture and (D,) of a text: what
    `context=`, `start=` and `latents=` take.
    """
    first = inputs[0] if isinstance(inputs, (list, tuple)) and inputs else inputs
    kind = kind_of(first)
    source = sources.Source.of(vd, kind, inputs, fit=request.settings.fit)
    if source.items is None:
        raise ValueError("This is a context already: give texts or pictures to encode.")
    size = request.settings.batch_size or 32
    fit = {"fit": request.settings.fit} if kind == "image" else {}
    return Encoding(vd, source, what, size, settings={**request.record, **fit})
