"""Several contexts together: picture and text, or any number of pictures.

The two contexts are mixed at every context layer (`lib.unet.mix`) with weights s for the text and
1 - s for the picture; s, the *strength* of the text, also mixes their guidance scales.

>>> save(dual_guided(vd, "photo.png", "a striped picture", strength=[0, 0.3, 0.6, 1], seed=20))
>>> save(describe(vd, "photo.png", "a small green star", strength=0.5, seed=20))
>>> save(blend(vd, ["a.png", "b.png"], weights=[1, 0.5], masks=[None, "mask.png"], seed=20))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from analysis.modes.heavy import jobs, model, pictures, sources, torch
from analysis.modes.kinds import numbers, real, several
from analysis.modes.masks import mask_files
from analysis.modes.options import Option
from analysis.modes.table import Input, mode
from lib.lazy import Lazy

focusing = Lazy("analysis.modes.focus")  # which comes later in the table of modes

PICTURES = Input("image", "pictures, their files, or their context", default=None)
WORDS = Input(
    "text",
    "one for each picture, or one for all (or one picture for all texts), or their context; an "
    "empty one leaves the picture alone, as strength 0 does",
    default=None,
    flag="--text",
)
STRENGTH = Option(
    [0.5],
    several(real(metavar="S")),
    "of the text, 0 (pictures only) to 1 (text only); several make a strip",
    recorded=False,
)
SCALE_TEXT = Option(None, real(0, 100), "guidance of the text; None: the model's", recorded=False)
SCALE_IMAGE = Option(
    None, real(0, 100), "guidance of the pictures; None: the model's", recorded=False
)
IMAGE_CONTEXT = Option(
    None, numbers(), "precomputed, instead of encoding the pictures", recorded=False
)
TEXT_CONTEXT = Option(None, numbers(), "precomputed, instead of encoding the text", recorded=False)


@mode(
    "dual",
    makes="image",
    summary="pictures from pictures and a text together",
    example='dual photo.png --text "a striped picture" --strength 0 0.3 0.6 1 --seed 20 --sheet',
)
def dual_guided(
    vd: model.VersatileDiffusion,
    images: Any = PICTURES,
    texts: Any = WORDS,
    *,
    strength: list[float] = STRENGTH,
    scale_text: float | None = SCALE_TEXT,
    scale_image: float | None = SCALE_IMAGE,
    image_context: Any = IMAGE_CONTEXT,
    text_context: Any = TEXT_CONTEXT,
    request: jobs.Request,
) -> jobs.Job:
    """Pictures from a picture and a text.

    `h = s layer_text(h, c_text) + (1 - s) layer_image(h, c_image)` at every context layer, guided
    with the scale `s scale_text + (1 - s) scale_image`; `scale` is for both. Several strengths make
    a strip: all inputs and samples at the first strength, then at the next.
    """
    scales = both_scales(vd, scale_text, scale_image, request.settings.scale)
    return _dual(vd, "image", images, texts, image_context, text_context, strength, scales, request)


@mode(
    "describe",
    makes="text",
    summary="texts from pictures and a text together",
    example='describe photo.png --text "a small green star" --strength 0.5 --seed 20',
)
def describe(
    vd: model.VersatileDiffusion,
    images: Any = PICTURES,
    texts: Any = WORDS,
    *,
    strength: list[float] = STRENGTH,
    scale_text: float | None = SCALE_TEXT,
    scale_image: float | None = SCALE_IMAGE,
    image_context: Any = IMAGE_CONTEXT,
    text_context: Any = TEXT_CONTEXT,
    request: jobs.Request,
) -> jobs.Job:
    """Texts from a picture and a text: the same mix as in `dual_guided`, for the text column."""
    scales = both_scales(vd, scale_text, scale_image, request.settings.scale)
    return _dual(vd, "text", images, texts, image_context, text_context, strength, scales, request)


def _dual(
    vd: model.VersatileDiffusion,
    data: str,
    images: Any,
    texts: Any,
    image_context: Any,
    text_context: Any,
    strengths: list[float],
    scales: tuple[float, float],
    request: jobs.Request,
) -> jobs.Job:
    """The job of both modes: without a text, the strength is 0."""
    shown = sources.Source.of(vd, "image", images, image_context, request.settings.fit)
    texts = None if sources.blank(texts) else texts
    words = None
    if texts is not None or text_context is not None:
        words = sources.Source.of(vd, "text", texts, text_context)
    mixed = [shown] if words is None else [words, shown]
    start = shown if data == "image" else words
    inputs = [
        {**shown.describe(j), **({} if words is None else words.describe(j))}
        for j in range(sources.paired(shown, words))
    ]
    return jobs.build(
        vd,
        data,
        mixed,
        # guidance is the strip's: where `scale` was given, it is both scales already
        replace(request, settings=replace(request.settings, scale=None)),
        scale=scales[1],
        strip=jobs.Strip(
            "strength",
            [0.0] if words is None else strengths,
            lambda s: [1.0] if words is None else [s, 1 - s],
            lambda s: mixed_scale(s, scales),
            lambda s: used_scales(s, scales),
        ),
        inputs=inputs,
        start=start if start is not None and start.items is not None else None,
    )


def both_scales(
    vd: model.VersatileDiffusion,
    scale_text: float | None,
    scale_image: float | None,
    scale: float | None = None,
) -> tuple[float, float]:
    """Guidance of texts and of pictures, the model's where None; `scale` is for both.

    Raises:
        ValueError: `scale` beside one of the others.
    """
    if scale is not None:
        if scale_text is not None or scale_image is not None:
            raise ValueError(
                "scale guides texts and pictures alike: give it, or scale_text and scale_image, "
                "not both."
            )
        return scale, scale
    text = vd.spec.scale_text if scale_text is None else scale_text
    image = vd.spec.scale_image if scale_image is None else scale_image
    return float(text), float(image)


def mixed_scale(s: float, scales: tuple[float, float]) -> float:
    """`s scale_text + (1 - s) scale_image`."""
    return s * scales[0] + (1 - s) * scales[1]


def used_scales(s: float, scales: tuple[float, float]) -> dict[str, float | None]:
    """For records: guidance of each kind, None for one that conditions nothing at strength s."""
    return {
        "scale_text": scales[0] if s > 0 else None,
        "scale_image": scales[1] if s < 1 else None,
    }


@mode(
    "blend",
    makes="image",
    summary="pictures from several pictures at once",
    example='blend a.png b.png --weights 1 0.5 --masks - mask.png --text "a ring" --n 4 --seed 20',
)
def blend(
    vd: model.VersatileDiffusion,
    images: Any = Input(
        "image",
        "pictures, their files, their context, or a list in which some are contexts of one sample",
    ),
    text: Any = Input("text", "mixed in", many=False, default=None, context=False, flag="--text"),
    *,
    weights: list[float] | None = Option(
        None,
        several(real(0, 1000, metavar="W")),
        "of each picture's tokens, or of all; 0 leaves one out; None: 1",
        recorded=False,
    ),
    focus: list[float] = Option(
        [0.5],
        several(real(metavar="L")),
        "level of each picture, or of all, 0 (content) to 1 (style), 0.5 is neutral",
        recorded=False,
    ),
    masks: Any = Option(
        None,
        mask_files("+"),
        "one a picture (or one for all), white is kept; - or None for a picture without mask",
        recorded=False,
    ),
    strength: float = Option(0.5, real(metavar="S"), "of the text", recorded=False),
    scale_text: float | None = SCALE_TEXT,
    scale_image: float | None = SCALE_IMAGE,
    request: jobs.Request,
) -> jobs.Job:
    """Pictures from any number of pictures at once, and a text.

    One image context holds the tokens of all: `c = [w_1 focus(c_1, l_1), w_2 focus(c_2, l_2), ...]`
    along the tokens. A masked picture is encoded through its mask, so that what lies outside counts
    nothing. The null context is zeros; how many makes no difference, since cross-attention to zeros
    gives its output bias whatever their number. `fidelity` starts from the first picture.
    """
    shown = _blended(vd, images, request.settings.fit)
    weighed = _one_each("weights", [1.0] if weights is None else weights, len(shown))
    levels = _one_each("focus", focus, len(shown))
    masks = masks if isinstance(masks, list) else [masks]
    cut = _one_each("masks", masks, len(shown))
    cut = [mask and mask.fitted(request.settings.fit) for mask in cut]
    if not any(weighed):
        raise ValueError("All pictures have weight 0: give at least one of them a positive weight.")
    for k, (picture, mask) in enumerate(zip(shown, cut, strict=True), start=1):
        if mask is not None and picture.items is None:
            raise ValueError(
                f"Picture {k} is given as its context, which a mask comes too late for: give the "
                "picture itself, or no mask for it."
            )
    words = None if sources.blank(text) else sources.Source.of(vd, "text", text)
    if words is not None and len(words) != 1:
        raise ValueError(f"{len(words)} texts were given: a blend takes one.")
    s = 0.0 if words is None else strength
    bands = focusing.bands_of(vd.spec.name)

    @cache
    def tokens() -> torch.Tensor:
        parts = []
        for picture, weight, level, mask in zip(shown, weighed, levels, cut, strict=True):
            if weight > 0:
                if mask is None:
                    context = picture.context([sources.Sample(0, 0, 0)]).tokens.to(vd.device)
                else:
                    images = picture.images([0], vd.spec.clip.resize)
                    context = vd.image_context(images, mask.weights.to(vd.device)).tokens
                parts.append(weight * focusing.focus_context(context, level, bands))
        return torch.cat(parts, dim=1)

    def condition(samples: list[Any]) -> model.Mix:
        mix = [(words.context(samples), s)] if s > 0 else []
        if s < 1:
            mix.append((model.Context("image", tokens()).repeat(len(samples)), 1 - s))
        return mix

    both = both_scales(vd, scale_text, scale_image, request.settings.scale)
    blended = [
        {**_named(picture), "weight": weight, "focus": level}
        | ({} if mask is None else {"mask": mask.described})
        for picture, weight, level, mask in zip(shown, weighed, levels, cut, strict=True)
    ]
    return jobs.build(
        vd,
        "image",
        ([words] if s > 0 else []) + ([shown[0]] if s < 1 else []),
        request,
        scale=mixed_scale(s, both),
        condition=condition,
        inputs=[shown[0].describe(0) if words is None else words.describe(0)],
        record={"blended": blended, "strength": s, **used_scales(s, both)},
        start=shown[0] if shown[0].items is not None else None,
        uses=("clip_vision",) if any(p.precomputed is None for p in shown) and s < 1 else (),
    )


def _blended(vd: model.VersatileDiffusion, images: Any, fit: str) -> list[sources.Source]:
    """One source a picture, from pictures, files, contexts, or a list of any of them."""
    context = model.Context
    if isinstance(images, context):
        images = [context(images.kind, images.tokens[k : k + 1]) for k in range(len(images))]
    if not (isinstance(images, (list, tuple)) and any(isinstance(i, context) for i in images)):
        images = pictures.pictures(images)
    each = [sources.Source.of(vd, "image", image, fit=fit) for image in images]
    if not each or any(len(one) != 1 for one in each):
        raise ValueError("In a list, each picture is one picture, file, or context of one sample.")
    return each


def _named(picture: sources.Source) -> dict[str, Any]:
    """What a record says of one picture among several."""
    (described,) = picture.describe(0).values()
    return described


def _one_each(name: str, values: Sequence[Any], count: int) -> list[Any]:
    """One value for each picture, from one for all, or from a list."""
    if len(values) not in (1, count):
        raise ValueError(f"{len(values)} values for {name}, {count} pictures: give one each.")
    return list(values) * (count if len(values) == 1 else 1)
