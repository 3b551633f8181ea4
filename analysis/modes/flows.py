"""The four flows: pictures and texts from pictures and texts.

|  | from text | from picture |
|---|---|---|
| **picture** | `text_to_image` | `image_variation` |
| **text** | `text_variation` | `image_to_text` |

All four are one job with another data column and context column. Common to all modes:

- *Inputs*: one or a list. `n` samples of each; results are ordered by input, then sample.
- *Seeds*: sample k of input j has the seed `seed + j * n + k`, and is the same alone, in any batch,
  on any device, up to the rounding of floating-point sums. `seed=None` draws one and records it.
- *Contexts* computed elsewhere take the place of encoding the inputs: a `Context`, a tensor, an
  array, or files of them (`analysis.modes.tensors`).
- *Nulls*: without a negative prompt, texts are guided away from CLIP(""). Pictures' contexts are
  guided away from zeros where pictures are made, as the released code does, and from CLIP of a
  black picture where texts are. `null="black"` and "grey" are what other programs take: diffusers'
  picture pipelines encode a picture of small numbers (nearly black), brain-decoding scripts a grey
  one.
- *Starts*: with `fidelity` f > 0 denoising does not start from noise but from the latent of
  `start`, noised to the first of the last `int(S (1 - f))` timesteps. At 1 that is the start
  itself, as the VAE decodes it.
- *Memory* is bounded by `batch_size` samples. Many samples are safer made by
  `analysis.modes.job.make`, which saves every batch and goes on where it was interrupted.

>>> vd = load("vd-mini")
>>> result = text_to_image(vd, "a large red circle on a white background", n=4, seed=20)
>>> save(result)
"""

from __future__ import annotations

from typing import Any

from analysis.modes.heavy import color, jobs, model, sources
from analysis.modes.kinds import choice, numbers, real
from analysis.modes.options import Option
from analysis.modes.table import Input, mode

CONTEXT = Option(
    None,
    numbers(),
    "precomputed context, (inputs, tokens, width), instead of encoding the inputs",
    recorded=False,
)
COLOR_MATCH = Option(
    None,
    real(metavar="KEEP"),
    "put the input's colours on the result, which keeps this share of its own",
)
COLOR_METHOD = Option("mean_std", choice("mean_std", "histogram"), "how colours are matched")


@mode(
    "t2i",
    makes="image",
    summary="pictures from texts",
    example='t2i "a large red circle above a small blue square" --n 4 --seed 20',
)
def text_to_image(
    vd: model.VersatileDiffusion,
    texts: Any = Input("text", "prompts", default=None),
    *,
    context: Any = CONTEXT,
    request: jobs.Request,
) -> jobs.Job:
    """Pictures from texts.

    The text's CLIP tokens condition the image data column (Xu et al. 2022, section 3.2).
    """
    return _flow(vd, "image", "text", texts, context, request)


@mode(
    "i2i",
    makes="image",
    summary="variations of pictures",
    example="i2i photo.png folder/ --n 2 --fidelity 0.3 --seed 20",
)
def image_variation(
    vd: model.VersatileDiffusion,
    images: Any = Input("image", "pictures or their files", default=None),
    *,
    context: Any = CONTEXT,
    color_match: float | None = COLOR_MATCH,
    color_method: str = COLOR_METHOD,
    request: jobs.Request,
) -> jobs.Job:
    """Other pictures with the same content.

    The picture's CLIP tokens condition the image data column. With `context`, the pictures serve
    `fidelity` and `color_match` alone.
    """
    return _flow(vd, "image", "image", images, context, request, (color_match, color_method))


@mode(
    "i2t",
    makes="text",
    summary="texts that say what pictures show",
    example="i2t photo.png --n 3 --seed 20",
)
def image_to_text(
    vd: model.VersatileDiffusion,
    images: Any = Input("image", "pictures or their files", default=None),
    *,
    context: Any = CONTEXT,
    request: jobs.Request,
) -> jobs.Job:
    """Texts that say what pictures show.

    The picture's CLIP tokens condition the text data column; the latent is read by Optimus.
    """
    return _flow(vd, "text", "image", images, context, request)


@mode(
    "t2t",
    makes="text",
    summary="variations of texts",
    example='t2t "a small green star on a gray background" --n 3 --seed 20',
)
def text_variation(
    vd: model.VersatileDiffusion,
    texts: Any = Input("text", "what to vary", default=None),
    *,
    context: Any = CONTEXT,
    request: jobs.Request,
) -> jobs.Job:
    """Other texts with the same content.

    The text's CLIP tokens condition the text data column; the latent is read by Optimus.
    """
    return _flow(vd, "text", "text", texts, context, request)


def _flow(
    vd: model.VersatileDiffusion,
    data: str,
    kind: str,
    inputs: Any,
    context: Any,
    request: jobs.Request,
    match: tuple[float | None, str] = (None, "mean_std"),
) -> jobs.Job:
    items = sources.Source.of(vd, kind, inputs, context, request.settings.fit)
    return jobs.build(
        vd,
        data,
        [items],
        request,
        scale=vd.spec.scale_text if kind == "text" else vd.spec.scale_image,
        start=items if data == kind and items.items is not None else None,
        finish=color.matching(items, *match),
    )
