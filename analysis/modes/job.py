"""What all modes share: from conditions to results, batch by batch.

A mode says *what conditions a sample*; `build` makes a `Job` of it, and that does the rest, the
same for every mode:

    noise of each sample -> denoise under guidance -> decode -> Result

Samples are numbered through all inputs, sample k of input j being number `j * n + k`, and each has
its own seed. So a sample is the same alone, in any batch, and when an interrupted job goes on.

Many modes have something to slide: a strength, a focus, a position between two contexts. Given
several values they make a *strip*: every input and seed at each value, so that along a strip
nothing else changes. Records name what was slid under "strip".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property, partial
from importlib.metadata import version
from itertools import groupby
from platform import python_version
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from analysis.modes.decoding import decode
from analysis.modes.options import Settings
from analysis.modes.sampling import Conditions, Sampling, denoise, seeds_of
from analysis.modes.source import Nulls, Sample, Source, Start, paired
from analysis.modes.tensors import latents_of
from analysis.results.result import Result, flat_record, joined
from lib.config import COMPONENTS
from lib.fingerprints import fingerprint, model_digests, tensor_digest
from lib.model import Mix, VersatileDiffusion
from lib.noise import SampleNoise
from lib.sampler import Step

Tick = Callable[[], Any]
"""To be called after each prediction that a bar counts."""


@dataclass(frozen=True)
class Strip:
    """What is slid.

    Attributes:
        name: in records.
        values: along the strip.
        weights: value -> weights of the sources, where those change; then a batch has one value,
            and samples are numbered through all inputs for the first value, then for the next.
        scale: value -> guidance, where that changes.
        record: value -> what records say of it, besides the value.
    """

    name: str
    values: Sequence[Any]
    weights: Callable[[Any], Sequence[float]] | None = None
    scale: Callable[[Any], float] | None = None
    record: Callable[[Any], dict[str, Any]] = lambda value: {}


@dataclass(frozen=True, eq=False)
class Job:
    """Samples to make: everything is checked, nothing is computed yet.

    Attributes:
        vd: the model.
        mode: name of what is done, and of the results' folder.
        data: "image" or "text": what is generated.
        how: value along the strip -> steps, scale, sampler and so on.
        samples: what is to be made.
        records: what each sample's record has of its own, besides its seed.
        condition: samples of one batch (and a `Tick`, with a `lead`) -> what conditions them.
        shape: of one latent.
        settings: what all records share, besides the model.
        components: of the model that are used.
        output: "pil", "tensor" or "latents" (`analysis.modes.decoding.decode`).
        batch_size: how many samples are in memory at a time.
        start: numbers of inputs -> latents to start from, for fidelity > 0.
        finish: (a sample, its picture) -> the picture as it is handed out.
        latents: (samples, ...) initial noise, instead of the seeds'.
        temperature: of decoding texts.
        by_value: whether a batch has samples of one value of the strip only.
        lead: predictions that `condition` makes for a sample (an inversion, for example), and
            tells by a `Tick`: the bar counts each as a step. 0 is for none worth counting.
    """

    vd: VersatileDiffusion
    mode: str
    data: str
    how: Sequence[Sampling]
    samples: Sequence[Sample]
    records: Sequence[dict[str, Any]]
    condition: Callable[..., Conditions]
    shape: Sequence[int]
    settings: dict[str, Any]
    components: Sequence[str]
    output: str = "pil"
    batch_size: int = 1
    start: Callable[[Sequence[int]], Tensor] | None = None
    finish: Callable[[Sample, Image.Image], Image.Image] | None = None
    latents: Tensor | None = None
    temperature: float | None = None
    by_value: bool = False
    lead: int = 0

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def seeds(self) -> list[int]:
        """One a sample."""
        return [sample.seed for sample in self.samples]

    @cached_property
    def whole(self) -> list[int]:
        """The seeds, each once, in order: rows of the draw where noise is official."""
        return sorted(set(self.seeds))

    @cached_property
    def shared(self) -> dict[str, Any]:
        """What the records of all samples share."""
        official = {"noise_seed": self.whole[0], "noise_batch": len(self.whole)}
        weights = {name: fingerprint(self.vd.component(name)) for name in self.components}
        packages = ("torch", "transformers", "numpy", "pillow")
        return {
            "mode": self.mode,
            **self.settings,
            **(official if self.how[0].noise == "official" else {}),
            "model": {"name": self.vd.spec.name, "weights": weights, **model_digests(self.vd)},
            "dtype": str(self.vd.dtype).removeprefix("torch."),
            "device": self.vd.device.type,
            "versions": {"python": python_version(), **{p: version(p) for p in packages}},
        }

    def record_of(self, k: int) -> dict[str, Any]:
        """The record that sample k is going to have, but for when it was made."""
        return flat_record(self.shared, self._own(k))

    def run(self, only: Sequence[int] | None = None, progress: bool = True) -> Iterator[Result]:
        """Make the samples, a batch at a time.

        Args:
            only: numbers of the samples to make; None makes all.
            progress: whether to show a bar.

        Yields:
            A `Result` a batch.
        """
        numbers = list(range(len(self)) if only is None else only)
        steps = self.lead + len(self.how[0].timesteps(self.vd.schedule))
        options = {"desc": self.mode, "unit": "step", "disable": not progress, "smoothing": 0.1}
        with tqdm(total=len(numbers) * steps, **options) as bar:
            for _, alike in groupby(numbers, self._value if self.by_value else lambda k: 0):
                which = list(alike)
                for i in range(0, len(which), self.batch_size):
                    yield self._batch(which[i : i + self.batch_size], bar)

    def result(self, progress: bool = True) -> Result:
        """All samples as one result."""
        return joined(self.run(progress=progress))

    def steps(self, only: Sequence[int] | None = None) -> Iterator[Step]:
        """Denoise samples as one batch, a step at a time: for who wants to look on, or to stop.

        The last step's x is what `run` decodes (`analysis.modes.decoding.decode`).

        Args:
            only: numbers of the samples; None is all, whatever the batch size.

        Yields:
            One `lib.sampler.Step` (i, t, x, x0, eps) a timestep, noisiest first; nothing if
            fidelity leaves no timestep. Along a strip of weights, all steps of one value, then
            those of the next.

        Example:
            >>> for step in text_to_image.job(vd, "a ring", seed=20).steps():
            ...     film += to_pil(vd.decode_image(step.x0))
        """
        numbers = list(range(len(self)) if only is None else only)
        for _, alike in groupby(numbers, self._value if self.by_value else lambda k: 0):
            yield from self._begin(list(alike))[-1]

    def _value(self, k: int) -> int:
        return self.samples[k].value

    def _begin(
        self, which: list[int], tick: Tick = lambda: None
    ) -> tuple[SampleNoise, Conditions, Tensor | None, Iterator[Step]]:
        """Random numbers, conditions, what is there before the first step, and the steps."""
        samples = [self.samples[k] for k in which]
        how = self.how[samples[0].value if self.by_value else 0]
        noise = how.draws([sample.seed for sample in samples], self.whole, self.vd.device)
        start = None
        if self.start is not None and how.fidelity > 0:
            start = self.start([sample.input for sample in samples])
        conditions = self.condition(samples, *([tick] if self.lead else []))
        latents = conditions.latents if self.latents is None else self.latents[which]
        steps = denoise(self.vd, self.data, conditions, noise, how, latents, start, self.shape)
        return noise, conditions, latents if start is None else start, steps

    def _batch(self, which: list[int], bar: tqdm) -> Result:
        began = time.perf_counter()
        tick = partial(bar.update, len(which))
        noise, conditions, x, steps = self._begin(which, tick)
        for step in steps:
            x = step.x
            tick()
        finish = None if self.finish is None else partial(self._finished, which)
        try:
            if not bool(torch.isfinite(x).all()):
                raise FloatingPointError("The latents are not finite.")
            # finite ones may still be too large for the decoder
            decoded = decode(
                self.vd, self.data, x, self.output, noise, self.temperature, finish, self.shape
            )
        except FloatingPointError as error:
            how = self.how[self.samples[which[0]].value if self.by_value else 0]
            advice = "a smaller scale, or look for NaN in the weights"
            if self.vd.dtype != torch.float32:
                advice = "float32 (dtype), or a smaller scale"
            raise FloatingPointError(
                f"Sampling left the range of {self.vd.dtype} (scale {how.scale:g}, {how.steps} "
                f"steps): use {advice}."
            ) from error
        record = {
            **self.shared,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - began, 3),
            "samples": [self._own(k) for k in which],
        }
        if conditions.notes is not None:
            for sample, notes in zip(record["samples"], conditions.notes, strict=True):
                sample["found"] = dict(notes)
        return Result(self.mode, record, **decoded)

    def _finished(self, which: list[int], images: list[Image.Image]) -> list[Image.Image]:
        return [self.finish(self.samples[k], i) for k, i in zip(which, images, strict=True)]

    def _own(self, k: int) -> dict[str, Any]:
        own = {**self.records[k], "seed": self.samples[k].seed}
        if self.latents is not None:
            own["latents_sha256"] = tensor_digest(self.latents[k])
        return own


@dataclass(frozen=True)
class Request:
    """What `analysis.modes.table.mode` hands to `build` beside what a mode says itself.

    Attributes:
        mode: its name.
        settings: what every mode takes.
        record: what records keep of the mode's own options.
    """

    mode: str
    settings: Settings
    record: dict[str, Any] = field(default_factory=dict)


def build(
    vd: VersatileDiffusion,
    data: str,
    sources: Sequence[Source],
    request: Request,
    *,
    scale: float,
    condition: Callable[..., Mix | Conditions] | None = None,
    strip: Strip | None = None,
    inputs: Sequence[dict[str, Any]] | None = None,
    record: dict[str, Any] | None = None,
    start: Any = None,
    starts: bool = True,
    finish: Callable[[int, Image.Image], Image.Image] | None = None,
    uses: Sequence[str] = (),
    lead: int = 0,
) -> Job:
    """A mode's samples, checked and not yet made.

    Sample number `(j * n + i) * V + v` is the i-th of input j at the v-th of V values of the strip
    (where the strip has weights, number `v * inputs * n + j * n + i`).

    Args:
        vd: the model.
        data: "image" or "text": what is generated.
        sources: what conditions: as many inputs each, or one for all.
        request: mode and settings.
        scale: guidance, where the settings have none.
        condition: samples -> contexts with weights, or all `Conditions`; with a `lead` it takes a
            `Tick`, too. None takes the sources, with the strip's weights or 1.
        strip: what is slid.
        inputs: what records say of each input; None takes the sources' own words.
        record: what records keep besides.
        start: what `fidelity` starts from if the settings do not say: a `Source`, or None.
        starts: False where the condition's own latents are what is started from.
        finish: (number of an input, picture) -> the picture as it is handed out.
        uses: components of the model that `condition` uses besides those of the sources.
        lead: predictions that `condition` makes for a sample, as in `Job`.

    Raises:
        ValueError: options that do not fit each other or the model.
    """
    settings = request.settings
    count = len(inputs) if inputs is not None else paired(*sources)
    if inputs is None:
        inputs = [{k: v for s in sources for k, v in s.describe(j).items()} for j in range(count)]
    shape = vd.latent_shape(data, settings.height, settings.width)
    nulls = Nulls.of(vd, settings.negative_prompt, settings.null, count)
    values = [None] if strip is None else list(strip.values)
    by_value = strip is not None and strip.weights is not None
    scales = [strip.scale(v) if strip and strip.scale else scale for v in values]
    how = [Sampling.of(settings, vd.spec.steps, s) for s in (scales if by_value else scales[:1])]
    timesteps = how[0].timesteps(vd.schedule)

    seeds = seeds_of(settings.seed, count, settings.n, settings.noise)
    numbered = [(m, v) for m in range(len(seeds)) for v in range(len(values))]
    if by_value:
        numbered.sort(key=lambda pair: pair[1])
    samples = [Sample(m // settings.n, v, seeds[m], m % settings.n) for m, v in numbered]
    whole = sorted(set(seeds))
    if settings.noise == "official" and whole[-1] - whole[0] >= len(whole):
        raise ValueError(
            f"Official noise is one draw for seeds that count on by one, not for {whole}: give one "
            "seed for all samples, or noise='sample'."
        )

    first = None
    if settings.fidelity > 0 and starts:
        given = start if settings.start is None else settings.start
        if given is None:
            raise ValueError(
                f"fidelity is {settings.fidelity:g}, but there is nothing to start from: give "
                f"start=, {'pictures' if data == 'image' else 'texts'} or latents, or leave "
                "fidelity out."
            )
        if isinstance(given, Source):
            first = Start(given)
        else:
            first = Start.of(vd, data, given, shape, count, settings.fit)
    elif settings.start is not None:
        raise ValueError("start says what to start from: give fidelity > 0, too, or leave it out.")
    latents = None
    if settings.latents is not None:
        latents = latents_of(settings.latents, shape, len(seeds))[[m for m, _ in numbered]]
    if settings.output == "latents" and finish is not None:
        raise ValueError(
            "output is 'latents', but colours are matched on decoded pictures: leave the colour "
            "match out, or choose the output pil or tensor."
        )

    def mixed(samples: list[Sample]) -> Mix:
        weights = strip.weights(values[samples[0].value]) if by_value else [1.0] * len(sources)
        parts = zip(sources, weights, strict=True)
        return [(source.context(samples), weight) for source, weight in parts if weight > 0]

    def conditioned(samples: list[Sample], *tick: Tick) -> Conditions:
        conditions = (condition or mixed)(samples, *tick)
        if not isinstance(conditions, Conditions):
            conditions = Conditions(conditions)
        contexts = [context for context, _ in conditions.contexts]
        instead = nulls.instead(vd, data, contexts, samples)
        return conditions if instead is None else conditions._replace(nulls=instead)

    active = [
        s
        for k, s in enumerate(sources)
        if not by_value or any(strip.weights(v)[k] > 0 for v in values)
    ]
    needed = {"time_embed", f"{data}_data", f"{data}_decoder", *uses}
    needed |= {f"{s.kind}_context" for s in active}
    needed |= {_TOWER[s.kind] for s in active if s.precomputed is None}
    needed |= nulls.needs(data, [s.kind for s in active], any(h.scale != 1 for h in how))
    if first is not None and first.source is not None:
        needed.add(f"{data}_encoder")

    default = vd.spec.text_vae.temperature
    temperature = default if settings.temperature is None else settings.temperature
    kept = {**settings.record(data), "steps": how[0].steps, "scale": how[0].scale}
    kept |= {"temperature": temperature} if data == "text" else {}
    kept |= {**request.record, **(record or {}), **({"strip": strip.name} if strip else {})}

    def own(sample: Sample) -> dict[str, Any]:
        described = {**inputs[sample.input], **nulls.describe(sample.input)}
        if first is not None and settings.start is not None:
            described["start"] = first.describe(sample.input)
        if strip is not None:
            value = values[sample.value]
            described |= {strip.name: value, **strip.record(value)}
            if by_value:
                described["scale"] = how[sample.value].scale
        return described

    return Job(
        vd=vd,
        mode=request.mode,
        data=data,
        how=how,
        samples=samples,
        records=[own(sample) for sample in samples],
        condition=conditioned,
        shape=shape,
        settings={k: v for k, v in kept.items() if not (by_value and k == "scale")},
        components=[name for name in COMPONENTS if name in needed],
        output=settings.output,
        batch_size=settings.batch_size or default_batch(vd, data, shape),
        start=None if first is None else lambda which: first.encode(vd, which, shape),
        finish=None if finish is None else lambda sample, image: finish(sample.input, image),
        latents=latents,
        temperature=temperature if data == "text" else None,
        by_value=by_value,
        lead=lead if timesteps else 0,
    )


_TOWER = {"image": "clip_vision", "text": "clip_text"}


def default_batch(vd: VersatileDiffusion, data: str, shape: Sequence[int] | None = None) -> int:
    """Samples in memory at a time: 4 pictures of 512 x 512, up to 32 smaller ones or texts."""
    if data == "text":
        return 32
    _, height, width = shape or vd.latent_shape("image")
    return max(1, min(32, 1024**2 // (height * width * vd.spec.image_vae.factor**2)))
