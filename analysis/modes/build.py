"""From what a mode says to its job: the one builder of all modes.

Many modes have something to slide: a strength, a focus, a position between two contexts. Given
several values they make a *strip*: every input and seed at each value, so that along a strip
nothing else changes. Records name what was slid under "strip".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from analysis.modes.decoding import check_output, default_batch
from analysis.modes.job import Job, Tick
from analysis.modes.options import Settings
from analysis.modes.sampling import Conditions, seeds_of, settled
from analysis.modes.source import TOWERS, Nulls, Sample, Source, Start, paired
from analysis.modes.tensors import latents_of
from lib.config import COMPONENTS
from lib.model import Mix, VersatileDiffusion


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
    how = [settled(settings, vd.spec, s) for s in (scales if by_value else scales[:1])]
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
    check_output(settings.output, finish is not None)

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
    needed |= {TOWERS[s.kind] for s in active if s.precomputed is None}
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
        batch_size=settings.batch_size or default_batch(vd, data, shape),
        start=None if first is None else lambda which: first.encode(vd, which, shape),
        finish=None if finish is None else lambda sample, image: finish(sample.input, image),
        latents=latents,
        by_value=by_value,
        lead=lead if timesteps else 0,
    )
