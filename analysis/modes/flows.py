"""One job for the four flows: what a flow's name, inputs and settings mean for `analysis.modes.sampling`.

`analysis.modes.generate` has a documented function for each flow; all of them come here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from analysis.modes.color import check_color_match, match_color
from analysis.modes.inputs import check_context
from analysis.modes.sampling import Condition, Job, Sampling, tensor_digest
from data.pictures import Picture, pictures
from lib.checks import number, texts, whole_number
from lib.config import COMPONENTS, FLOWS, components_for
from lib.model import Context, VersatileDiffusion

Texts = str | Sequence[str]
Pictures = str | Path | Image.Image | Sequence[str | Path | Image.Image] | Tensor


def flow_job(
    vd: VersatileDiffusion,
    flow: str,
    inputs: Texts | Pictures | None = None,
    *,
    n: int = 1,
    seed: int | None = None,
    steps: int | None = None,
    scale: float | None = None,
    fidelity: float = 0.0,
    color_match: float | None = None,
    color_method: str = "mean_std",
    temperature: float | None = None,
    negative_prompt: str | None = None,
    sampler: str = "ddim",
    eta: float = 0.0,
    interval: tuple[float, float] | None = None,
    context: Context | None = None,
    latents: Tensor | None = None,
    noise: str = "sample",
    output: str = "pil",
    batch_size: int | None = None,
) -> Job:
    """A flow's samples, checked and not yet made: to be made batch by batch, or only some.

    Args:
        vd: a model with the flow.
        flow: one of `lib.config.FLOWS`.
        inputs: texts or pictures; the rest as in the flow's function.

    Raises:
        ValueError: bad input, before any compute.

    Example:
        >>> for part in flow_job(vd, "t2i", prompts, n=100, seed=0).run():
        ...     save(part)                                # what is finished is safe at any moment
    """
    if flow not in FLOWS:
        raise ValueError(f"There is no flow {flow!r}: choose from {', '.join(FLOWS)}.")
    data, kind = FLOWS[flow]
    n = whole_number("n", n)
    if steps is None:
        steps = vd.spec.steps
    if scale is None:
        scale = vd.spec.scale_text if kind == "text" else vd.spec.scale_image
    how = Sampling(steps, scale, sampler, eta, fidelity, interval, noise)
    negative = negative_prompt
    if isinstance(negative, str) and not negative.strip():
        negative = None
    given = _given(vd, kind, inputs, context, negative)
    count = len(context if given is None else given)
    if fidelity and data != kind:
        raise ValueError(
            f"fidelity is for variations (i2i, t2t); {flow} has nothing to start from."
        )
    if given is None and (fidelity or color_match is not None):
        raise ValueError(
            f"fidelity and color_match need the {'texts' if kind == 'text' else 'pictures'} "
            "themselves: give them, too, not only their context."
        )

    settings: dict[str, Any] = {"negative_prompt": negative}
    finish = None
    if color_match is not None:
        check_color_match(color_match, color_method)
    if flow == "i2i":
        settings["color_match"] = None if color_match is None else float(color_match)
        if color_match is not None:
            settings["color_method"] = color_method

            def finish(k: int, image: Image.Image) -> Image.Image:
                return match_color(image, given[k // n].open(), color_match, color_method)

    if data == "text":
        default = vd.spec.text_vae.temperature
        settings["temperature"] = number(
            "temperature", default if temperature is None else temperature
        )

    def encode(inputs: list[Any]) -> Tensor:
        if data == "text":
            return vd.encode_text(inputs)
        return vd.encode_image([picture.open() for picture in inputs])

    return Job(
        vd=vd,
        mode=flow,
        data=data,
        how=how,
        seeds=how.seeds(seed, count, n),
        condition=_condition(vd, kind, given, context, negative, n),
        samples=[_describe(given, context, j) for j in range(count) for _ in range(n)],
        settings=settings,
        batch_size=batch_size,
        start=(lambda samples: _each(encode, given, samples, n)) if how.fidelity > 0 else None,
        finish=finish,
        latents=latents,
        temperature=settings.get("temperature"),
        components=_components(flow, how, context, negative),
        output=output,
    )


def _given(
    vd: VersatileDiffusion, kind: str, inputs: Any, context: Context | None, negative: str | None
) -> list[str] | list[Picture] | None:
    """The inputs, checked; None if there is only their context."""
    given = None
    if inputs is not None or context is None:
        if kind == "text":
            given = texts(inputs if inputs is not None else [], "prompt")
        else:
            given = pictures(inputs if inputs is not None else [])
    if context is not None:
        check_context(vd, context, kind, None if given is None else len(given))
    prompts = [*(given or [])] if kind == "text" and context is None else []
    prompts += [] if negative is None else texts([negative], "negative prompt")
    if prompts and vd.tokenizers is not None:
        vd.tokenizers.clip_ids(prompts)  # says which one is too long, before any compute
    return given


def _condition(
    vd: VersatileDiffusion,
    kind: str,
    given: list[Any] | None,
    context: Context | None,
    negative: str | None,
    n: int,
) -> Condition:
    def encode(inputs: list[Any]) -> Tensor:
        if kind == "text":
            return vd.text_context(inputs).tokens
        return vd.image_context([picture.open() for picture in inputs]).tokens

    def condition(samples: Sequence[int]) -> tuple[list[tuple[Context, float]], Any]:
        if context is None:
            tokens = _each(encode, given, samples, n)
        else:
            tokens = context.tokens[[k // n for k in samples]]
        against = negative and [vd.text_context([negative]).repeat(len(samples))]
        return [(Context(kind, tokens), 1.0)], against

    return condition


def _each(
    encode: Callable[[list[Any]], Tensor], given: list[Any], samples: Sequence[int], n: int
) -> Tensor:
    """What `encode` makes of each sample's input; an input of several samples is encoded once."""
    inputs = sorted({k // n for k in samples})
    encoded = encode([given[j] for j in inputs])
    return encoded[[inputs.index(k // n) for k in samples]]


def _describe(given: list[Any] | None, context: Context | None, j: int) -> dict[str, Any]:
    """What a record says of input j."""
    described: dict[str, Any] = {}
    if given is not None:
        text = isinstance(given[j], str)
        described = {"prompt": given[j]} if text else {"input": given[j].describe()}
    if context is not None:
        digest = tensor_digest(context.tokens[j])
        described["context"] = {"kind": context.kind, "sha256": digest}
    return described


def _components(
    flow: str, how: Sampling, context: Context | None, negative: str | None
) -> list[str]:
    """What the flow reads of the model, with these inputs."""
    names = set(components_for([flow], encoders=how.fidelity > 0))
    null_is_zeros = flow == "i2i"
    if context is not None and (null_is_zeros or negative is not None or how.scale == 1):
        names -= {"clip_text", "clip_vision"}  # nothing to encode, nor a null context
    if negative is not None:
        names |= {"clip_text", "text_context"}
    return [name for name in COMPONENTS if name in names]
