"""Several contexts together: picture and text, or any number of pictures.

The two contexts are mixed at every context layer (`lib.unet.mix`) with weights s for the text and
1 - s for the picture; s, the *strength* of the text, also mixes their guidance scales.

    >>> save(dual_guided(vd, "photo.png", "a striped picture", strength=[0, 0.3, 0.6, 1], seed=20))
    >>> save(describe(vd, "photo.png", "a small green star", strength=0.5, seed=20))
    >>> save(blend(vd, ["a.png", "b.png"], weights=[1, 0.5], masks=[None, "mask.png"], seed=20))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from analysis.modes.applications import (
    Options,
    Sample,
    Source,
    application_job,
    paired,
    values_of,
)
from analysis.modes.flows import Pictures, Texts
from analysis.modes.focus import bands_of, focus_context
from analysis.modes.masks import Mask
from analysis.modes.sampling import Job
from analysis.modes.series import Series, along
from analysis.results import Result
from data.pictures import pictures
from lib.checks import number
from lib.model import Context, Mix, VersatileDiffusion


def dual_guided(
    vd: VersatileDiffusion,
    images: Pictures | Context,
    texts: Texts | Context | None,
    *,
    strength: float | list[float] = 0.5,
    scale_text: float | None = None,
    scale_image: float | None = None,
    progress: bool = True,
    **options: Any,
) -> Result:
    """Pictures from a picture and a text.

    `h = s layer_text(h, c_text) + (1 - s) layer_image(h, c_image)` at every context layer, guided
    with the scale `s scale_text + (1 - s) scale_image`.

    Args:
        vd: a model with the flows "t2i" and "i2i".
        images: pictures or their files, or their precomputed context.
        texts: one for each picture, or one for all (or one picture for all texts), or their
            context. An empty one leaves the picture alone, as strength 0 does.
        strength: of the text, 0 (picture only) to 1 (text only); several make a strip.
        scale_text, scale_image: guidance of each; None is the model's default.
        progress: show a bar.
        options: `analysis.modes.applications.Options`; scale there is for both, instead of these two.

    Returns:
        Pictures: inputs * n for the first strength, then for the next.

    Raises:
        ValueError: bad input, before any compute.
    """
    job = dual_job(
        vd, "dual", images, texts, strength, scale_text, scale_image, Options.of(options)
    )
    return job.result(progress)


def describe(
    vd: VersatileDiffusion,
    images: Pictures | Context,
    texts: Texts | Context | None,
    *,
    strength: float | list[float] = 0.5,
    scale_text: float | None = None,
    scale_image: float | None = None,
    progress: bool = True,
    **options: Any,
) -> Result:
    """Texts from a picture and a text: the same mix as in `dual_guided`, for the text column.

    Args:
        vd: a model with the flows "i2t" and "t2t".
        images, texts, strength, scale_text, scale_image, progress, options: as in `dual_guided`.

    Returns:
        Texts: inputs * n for the first strength, then for the next.

    Raises:
        ValueError: bad input, before any compute.
    """
    job = dual_job(
        vd, "describe", images, texts, strength, scale_text, scale_image, Options.of(options)
    )
    return job.result(progress)


def dual_job(
    vd: VersatileDiffusion,
    mode: str,
    images: Pictures | Context,
    texts: Texts | Context | None,
    strength: float | list[float],
    scale_text: float | None,
    scale_image: float | None,
    options: Options,
) -> Series:
    """The samples of `dual_guided` (mode "dual") or `describe`, checked and not yet made."""
    strengths = values_of("strength", strength)
    shown = Source.of(vd, "image", images)
    words = None
    if texts is None or (isinstance(texts, str) and not texts.strip()):
        strengths = [0.0]
    else:
        words = Source.of(vd, "text", texts)
    count = paired(shown, words)
    inputs = [
        {**shown.describe(j), **({} if words is None else words.describe(j))} for j in range(count)
    ]
    scales = both_scales(vd, scale_text, scale_image, options.scale)

    def job_at(s: float) -> Job:
        def condition(samples: list[Sample]) -> Mix:
            parts = [(words, s), (shown, 1 - s)]
            return [(source.context(samples), weight) for source, weight in parts if weight > 0]

        return application_job(
            vd,
            mode,
            "image" if mode == "dual" else "text",
            condition,
            inputs,
            options,
            mixed_scale(s, scales),
            kinds=kinds_at(s),
            settings=used_scales(s, scales),
        )

    return along("strength", strengths, job_at)


def both_scales(
    vd: VersatileDiffusion,
    scale_text: float | None,
    scale_image: float | None,
    scale: float | None = None,
) -> tuple[float, float]:
    """Guidance of texts and of pictures, the model's where None; `scale` is for both.

    Raises:
        ValueError: one of them is no such number, or `scale` is given beside one of the others.
    """
    if scale is not None:
        if scale_text is not None or scale_image is not None:
            raise ValueError(
                "scale guides texts and pictures alike: give it, or scale_text and scale_image, "
                "not both."
            )
        scale_text = scale_image = number("scale", scale)
    text = vd.spec.scale_text if scale_text is None else number("scale_text", scale_text)
    image = vd.spec.scale_image if scale_image is None else number("scale_image", scale_image)
    return float(text), float(image)


def mixed_scale(s: float, scales: tuple[float, float]) -> float:
    """`s scale_text + (1 - s) scale_image`."""
    return s * scales[0] + (1 - s) * scales[1]


def used_scales(s: float, scales: tuple[float, float]) -> dict[str, float | None]:
    """For records: guidance of each kind, None for one that conditions nothing at strength s."""
    used = kinds_at(s)
    return {
        f"scale_{kind}": scale if kind in used else None
        for kind, scale in zip(("text", "image"), scales, strict=True)
    }


def kinds_at(s: float) -> list[str]:
    """Kinds of contexts that condition at strength s of the text."""
    return [kind for kind, weight in (("text", s), ("image", 1 - s)) if weight > 0]


def blend(
    vd: VersatileDiffusion,
    images: Pictures | Context | Sequence[Any],
    text: str | None = None,
    *,
    weights: Sequence[float] | None = None,
    focus: float | Sequence[float] = 0.5,
    masks: Any = None,
    strength: float = 0.5,
    scale_text: float | None = None,
    scale_image: float | None = None,
    progress: bool = True,
    **options: Any,
) -> Result:
    """Pictures from any number of pictures at once, and a text.

    One image context holds the tokens of all: `c = [w_1 focus(c_1, l_1), w_2 focus(c_2, l_2), ...]`
    along the tokens. A masked picture is encoded through its mask, so that what lies outside counts
    nothing. The null context is zeros; how many makes no difference, since cross-attention to zeros
    gives its output bias whatever their number.

    Args:
        vd: a model with the flow "i2i", and "t2i" for a text.
        images: pictures or their files, their precomputed context, or a list in which some are
            contexts of one sample.
        text: mixed in with `strength`, as in `dual_guided`; empty or None for none.
        weights: of each picture's tokens, 0 or more; None takes 1 for all. 0 leaves one out.
        focus: level of each, or of all, 0 (content) to 1 (style); 0.5 is neutral.
        masks: for each picture None, or a picture, file or tensor (H, W) in [0, 1]: white is kept;
            a single one is for all. What is precomputed takes none.
        strength: of the text, 0 to 1.
        scale_text, scale_image: as in `dual_guided`.
        progress: show a bar.
        options: `analysis.modes.applications.Options`.

    Returns:
        n pictures.

    Raises:
        ValueError: bad input, before any compute.
    """
    job = blend_job(
        vd, images, text, weights, focus, masks, strength, (scale_text, scale_image),
        Options.of(options),
    )  # fmt: skip
    return job.result(progress)


def blend_job(
    vd: VersatileDiffusion,
    images: Pictures | Context | Sequence[Any],
    text: str | None,
    weights: Sequence[float] | None,
    focus: float | Sequence[float],
    masks: Any,
    strength: float,
    scales: tuple[float | None, float | None],
    options: Options,
) -> Job:
    """The samples of `blend`, checked and not yet made."""
    shown = _blended(vd, images)
    weighed = _one_each("weight", weights, 1.0, len(shown), math.inf)
    if not any(weighed):
        raise ValueError("All pictures have weight 0: give at least one of them a positive weight.")
    levels = _one_each("focus", focus, 0.5, len(shown), 1.0)
    cut = _masks(masks, len(shown))
    for k, (picture, mask) in enumerate(zip(shown, cut, strict=True), start=1):
        if mask is not None and picture.given is None:
            raise ValueError(
                f"Picture {k} is given as its context, which a mask comes too late for: give the "
                "picture itself, or no mask for it."
            )
    s = number("strength", strength, high=1)
    words = None if text is None or not str(text).strip() else Source.of(vd, "text", text)
    s = 0.0 if words is None else s
    if words is not None and len(words) != 1:
        raise ValueError(f"{len(words)} texts were given: a blend takes one.")

    bands = bands_of(vd.spec.name)

    @cache
    def tokens() -> Tensor:
        parts = []
        for picture, weight, level, mask in zip(shown, weighed, levels, cut, strict=True):
            if weight > 0:
                if picture.precomputed is not None:
                    context = picture.precomputed.tokens.to(vd.device)
                else:
                    where = None if mask is None else mask.weights.to(vd.device)
                    context = vd.image_context([picture.given[0].open()], where).tokens
                parts.append(weight * focus_context(context, level, bands))
        return torch.cat(parts, dim=1)

    def condition(samples: list[Sample]) -> Mix:
        mix: list[tuple[Context, float]] = []
        if s > 0:
            mix.append((words.context(samples), s))
        if s < 1:
            mix.append((Context("image", tokens()).repeat(len(samples)), 1 - s))
        return mix

    settings = {
        "blended": [
            {**_named(picture), "weight": weight, "focus": level}
            | ({} if mask is None else {"mask": mask.described})
            for picture, weight, level, mask in zip(shown, weighed, levels, cut, strict=True)
        ],
        "strength": s,
    }
    both = both_scales(vd, *scales, options.scale)
    given = shown[0].describe(0) if words is None else words.describe(0)
    return application_job(
        vd,
        "blend",
        "image",
        condition,
        [given],
        options,
        mixed_scale(s, both),
        kinds=kinds_at(s),
        settings={**settings, **used_scales(s, both)},
    )


def _blended(vd: VersatileDiffusion, images: Any) -> list[Source]:
    """One source a picture, from pictures, files, contexts, or a list of any of them."""
    if isinstance(images, Context):
        images = [Context(images.kind, images.tokens[k : k + 1]) for k in range(len(images))]
    if not (isinstance(images, (list, tuple)) and any(isinstance(i, Context) for i in images)):
        images = pictures(images)
    sources = [Source.of(vd, "image", image) for image in images]
    if not sources or any(len(source) != 1 for source in sources):
        raise ValueError("In a list, each picture is one picture, file, or context of one sample.")
    return sources


def _named(picture: Source) -> dict[str, Any]:
    """What a record says of one picture among several."""
    (told,) = picture.describe(0).values()
    return told


def _masks(given: Any, count: int) -> list[Mask | None]:
    """One mask a picture, from none, one for all, or a list."""
    if not isinstance(given, (list, tuple)):
        return [None if given is None else Mask.of(given)] * count
    if len(given) != count:
        raise ValueError(f"{len(given)} masks for {count} pictures: give one each, or None.")
    return [None if mask is None else Mask.of(mask) for mask in given]


def _one_each(name: str, given: Any, default: float, count: int, high: float) -> list[float]:
    """One number for each picture, from one for all, or from a list."""
    several = values_of(name, default if given is None else given, 0.0, high)
    if len(several) not in (1, count):
        raise ValueError(f"{len(several)} numbers for {name}, {count} pictures: give one each.")
    return several * (count if len(several) == 1 else 1)
