"""What the applications share: sources of contexts, options, and jobs along a strip.

An application says how the contexts of its inputs become what conditions a sample; the rest is
`application_job`, and so `analysis.modes.sampling.Job`, as for the four flows. All applications take, by
keyword, the `Options` below.

Many applications have something to slide: a strength, a focus, a position between two contexts.
Given several values they make a *strip*: every input and seed at each value, so that along a strip
nothing else changes. Records name what was slid under "strip".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from analysis.modes.inputs import check_context, check_latents
from analysis.modes.sampling import Conditions, Job, Tick, tensor_digest
from analysis.modes.settings import Sampling
from data.pictures import Picture, pictures
from lib.checks import number, texts, whole_number
from lib.config import COMPONENTS, FLOWS, components_for
from lib.model import Context, Mix, VersatileDiffusion


@dataclass(frozen=True)
class Options:
    """What all applications take by keyword.

    Attributes:
        n: samples of each input (and value of a strip).
        seed: of the first sample; the next ones count on. None draws one and records it.
        steps: sampling steps, 1 to 500; None is the model's default.
        scale: guidance, 0 or more; None is the model's default for the contexts' kinds.
        negative_prompt: a text to guide away from, in place of the null contexts of texts, or of
            pictures where only those condition.
        sampler, eta, interval: as in `analysis.modes.generate.text_to_image`.
        temperature: of decoding texts; None is the model's default.
        latents: (inputs * n, ...) initial noise, instead of the seeds'.
        noise: "sample", or "official": the released code's, one draw for the n samples of an input
            (`analysis.modes.settings`).
        output: "pil" (pictures, or strings), "tensor" or "latents" (`analysis.modes.decoding`).
        batch_size: samples in memory at a time.
    """

    n: int = 1
    seed: int | None = None
    steps: int | None = None
    scale: float | None = None
    negative_prompt: str | None = None
    sampler: str = "ddim"
    eta: float = 0.0
    interval: tuple[float, float] | None = None
    temperature: float | None = None
    latents: Tensor | None = None
    noise: str = "sample"
    output: str = "pil"
    batch_size: int | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Options given by keyword.

        Raises:
            TypeError: one that there is not; it names those that there are.
        """
        allowed = [option.name for option in fields(cls)]
        unknown = sorted(set(given) - set(allowed))
        if unknown:
            raise TypeError(
                f"There is no option {', '.join(unknown)}: besides its own arguments, an "
                f"application takes {', '.join(allowed)}."
            )
        return cls(**given)

    def sampling(self, vd: VersatileDiffusion, scale: float, fidelity: float = 0.0) -> Sampling:
        """How to sample; `scale` is taken where none was given."""
        steps = vd.spec.steps if self.steps is None else self.steps
        scale = scale if self.scale is None else self.scale
        return Sampling(steps, scale, self.sampler, self.eta, fidelity, self.interval, self.noise)


@dataclass(frozen=True)
class Sample:
    """One sample to make.

    Attributes:
        input: number of its input.
        value: number of its value along the strip.
        seed: of its noise.
        row: which of the n samples of its input.
    """

    input: int
    value: int
    seed: int
    row: int = 0


@dataclass(frozen=True)
class Source:
    """Texts, pictures, or their precomputed context: checked, and encoded when they are needed.

    Attributes:
        vd: the model.
        kind: "text" or "image".
        given: the texts or pictures; None if there is only their context.
        precomputed: their context, instead of encoding them.
    """

    vd: VersatileDiffusion
    kind: str
    given: list[str] | list[Picture] | None
    precomputed: Context | None = None

    @classmethod
    def of(cls, vd: VersatileDiffusion, kind: str, inputs: Any) -> Source:
        """Check what was given: texts or pictures, one or many, or a `Context` of that kind.

        Raises:
            ValueError: none, or one that cannot be used.
        """
        if isinstance(inputs, Context):
            check_context(vd, inputs, kind, None)
            return cls(vd, kind, None, inputs)
        if kind == "image":
            return cls(vd, kind, pictures([] if inputs is None else inputs))
        prompts = texts([] if inputs is None else inputs, "prompt")
        check_length(vd, prompts)
        return cls(vd, kind, prompts)

    def __len__(self) -> int:
        return len(self.given if self.precomputed is None else self.precomputed)

    def context(self, samples: Sequence[Sample]) -> Context:
        """The context of each sample's input, encoded once; a single input is everybody's."""
        which = [0 if len(self) == 1 else sample.input for sample in samples]
        if self.precomputed is not None:
            return Context(self.kind, self.precomputed.tokens[which])
        used = sorted(set(which))
        found = [self.given[j] for j in used]
        if self.kind == "text":
            tokens = self.vd.text_context(found).tokens
        else:
            tokens = self.vd.image_context([picture.open() for picture in found]).tokens
        return Context(self.kind, tokens[[used.index(j) for j in which]])

    def describe(self, j: int) -> dict[str, Any]:
        """What a record says of input j."""
        j = 0 if len(self) == 1 else j
        if self.precomputed is not None:
            digest = tensor_digest(self.precomputed.tokens[j])
            return {f"{self.kind}_context": {"kind": self.kind, "sha256": digest}}
        one = self.given[j]
        return {"prompt": one} if isinstance(one, str) else {"input": one.describe()}


def paired(*sources: Source | None) -> int:
    """How many inputs there are: sources of one input serve with every input of the others.

    Raises:
        ValueError: numbers that do not fit.
    """
    counts = {len(source) for source in sources if source is not None} - {1}
    if len(counts) > 1:
        told = " and ".join(
            f"{len(s)} {s.kind}{'' if len(s) == 1 else 's'}" for s in sources if s is not None
        )
        raise ValueError(f"There are {told}: give as many of each, or a single one to go with all.")
    return counts.pop() if counts else 1


def check_length(vd: VersatileDiffusion, prompts: Sequence[str]) -> None:
    """ValueError that names the text that is longer than the encoder reads, if there is one."""
    if prompts and vd.tokenizers is not None:
        vd.tokenizers.clip_ids(list(prompts))


def values_of(name: str, given: Any, low: float = 0.0, high: float = 1.0) -> list[float]:
    """One number or several, as floats.

    Raises:
        ValueError: none, or one outside of low ... high.
    """
    if hasattr(given, "tolist"):  # tensors, arrays and their numbers
        given = given.tolist()
    several = isinstance(given, Sequence) and not isinstance(given, str)
    values = [number(name, v, low, high) for v in (given if several else [given])]
    if not values:
        raise ValueError(f"There is no {name}: give a number from {low:g} to {high:g}, or several.")
    return values


def application_job(
    vd: VersatileDiffusion,
    mode: str,
    data: str,
    condition: Callable[..., Mix | Conditions],
    inputs: Sequence[dict[str, Any]],
    options: Options,
    scale: float,
    *,
    kinds: Sequence[str],
    strip: tuple[str, Sequence[Any]] | None = None,
    settings: dict[str, Any] | None = None,
    fidelity: float = 0.0,
    start: Callable[[list[int]], Tensor] | None = None,
    components: Sequence[str] = (),
    lead: int = 0,
) -> Job:
    """The samples of an application, checked and not yet made.

    Sample number `(j * n + i) * V + v` is the i-th of input j at the v-th of V values of the strip;
    its seed is `seed + j * n + i` (with official noise, `seed + i`).

    Args:
        vd: the model.
        mode: name of the application.
        data: "image" or "text": what is generated.
        condition: samples -> contexts with weights, or all `Conditions`; with a `lead` it takes a
            `Tick`, too.
        inputs: what records say of each input.
        options: of the caller.
        scale: guidance, if the caller gave none.
        kinds: of the contexts that condition.
        strip: name and values of what is slid.
        settings: what all records say.
        fidelity, start: how late to start, and numbers of inputs -> the latents to start from.
        components: that are needed besides those of the flows.
        lead: predictions that `condition` makes for a sample, as in `Job`.

    Raises:
        ValueError: bad options, or a component that is not loaded.
    """
    n, negative = whole_number("n", options.n), options.negative_prompt
    if isinstance(negative, str) and not negative.strip():
        negative = None
    if negative is not None:
        check_length(vd, texts([negative], "negative prompt"))
        components = (*components, "clip_text", "text_context")
    name, values = strip or ("", [None])
    how = options.sampling(vd, scale, fidelity)
    first = how.seeds(options.seed, len(inputs), n)
    samples = [
        Sample(m // n, v, seed, m % n) for m, seed in enumerate(first) for v in range(len(values))
    ]
    shared: dict[str, Any] = {"negative_prompt": negative, **(settings or {})}
    if strip:
        shared["strip"] = name
    latents = options.latents
    if latents is not None:
        check_latents(latents, (len(first), *vd.latent_shape(data)))
        latents = latents.repeat_interleave(len(values), dim=0)
    temperature = None
    if data == "text":
        temperature = vd.spec.text_vae.temperature
        temperature = number(
            "temperature", temperature if options.temperature is None else options.temperature
        )
        shared["temperature"] = temperature
    needed = components_for(
        [flow for flow, (made, kind) in FLOWS.items() if made == data and kind in kinds],
        encoders=False,
    )

    def conditioned(which: Sequence[int], *tick: Tick) -> Conditions:
        made = condition([samples[k] for k in which], *tick)
        made = made if isinstance(made, Conditions) else Conditions(made)
        if negative is None:
            return made
        return made._replace(nulls=_away_from(vd, negative, data, made.contexts))

    return Job(
        vd=vd,
        mode=mode,
        data=data,
        how=how,
        seeds=[sample.seed for sample in samples],
        condition=conditioned,
        samples=[
            {**inputs[s.input], **({name: values[s.value]} if strip else {})} for s in samples
        ],
        settings=shared,
        batch_size=options.batch_size,
        start=None if start is None else lambda which: start([samples[k].input for k in which]),
        latents=latents,
        temperature=temperature,
        components=[part for part in COMPONENTS if part in {*needed, *components}],
        output=options.output,
        lead=lead,
    )


def _away_from(vd: VersatileDiffusion, negative: str, data: str, contexts: Mix) -> list[Context]:
    """The negative text for every text; for pictures, too, if nothing else conditions."""
    against = vd.text_context([negative])
    mixed = any(context.kind == "text" for context, _ in contexts)
    return [
        vd.null_context("image", data, len(context))
        if mixed and context.kind == "image"
        else against.repeat(len(context))
        for context, _ in contexts
    ]
