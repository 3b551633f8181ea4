"""Image variation with a focus: what is shown, or how it looks.

`analysis.modes.focus` turns a picture's local CLIP tokens towards its content or its style; a variation
under the turned context keeps the one and frees the other.

    >>> save(focused(vd, "photo.png", levels=[0, 0.25, 0.5, 0.75, 1], seed=20))
    >>> save(focused(vd, "photo.png", levels=[-2, -1, 0, 1, 2], scheme="first_release", seed=20))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from analysis.modes.applications import Options, Sample, Source, application_job, values_of
from analysis.modes.color import check_color_match, match_color
from analysis.modes.flows import Pictures
from analysis.modes.focus import (
    FIRST_RELEASE,
    RELEASED,
    Bands,
    bands_of,
    focus_context,
    focus_first_release,
)
from analysis.modes.sampling import Job
from analysis.results import Result
from lib.checks import whole_number
from lib.model import Context, Mix, VersatileDiffusion

SCHEMES = ("focus", "first_release")


def focused(
    vd: VersatileDiffusion,
    images: Pictures | Context,
    *,
    levels: float | list[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    scheme: str = "focus",
    bands: Bands | None = None,
    fidelity: float = 0.0,
    color_match: float | None = None,
    color_method: str = "mean_std",
    progress: bool = True,
    **options: Any,
) -> Result:
    """Variations of pictures, along a slider from content to style.

    Each sample's tokens are decomposed by themselves, so a sample is the same alone and in any
    batch. Null contexts are all zeros, which every level leaves as they are.

    Args:
        vd: a model with the flow "i2i", and the image encoder if `fidelity` > 0.
        images: pictures or their files, or their precomputed context.
        levels: one or several. In the scheme "focus" 0 (content) to 1 (style), 0.5 is a plain
            variation (`analysis.modes.focus.focus`); in "first_release" the whole numbers -2 (content)
            to 2 (style), 0 is a plain variation (`analysis.modes.focus.focus_first_release`).
        scheme: "focus" or "first_release".
        bands: which components fade in the scheme "focus"; None takes the model's own
            (`analysis.modes.focus.bands_of`), the released ones for models that have none.
        fidelity, color_match, color_method: as in `analysis.modes.generate.image_variation`. Towards
            content the colours drift, too; a colour match puts the input's back at every level.
        progress: show a bar.
        options: `analysis.modes.applications.Options`.

    Returns:
        Pictures, ordered by input, sample, level.

    Raises:
        ValueError: bad input, before any compute.
    """
    job = focus_job(
        vd, images, levels, scheme, fidelity, Options.of(options), color_match, color_method, bands
    )
    return job.result(progress)


def focus_job(
    vd: VersatileDiffusion,
    images: Pictures | Context,
    levels: float | list[float],
    scheme: str,
    fidelity: float,
    options: Options,
    color_match: float | None = None,
    color_method: str = "mean_std",
    bands: Bands | None = None,
) -> Job:
    """The samples of `focused`, checked and not yet made."""
    bands = bands_of(vd.spec.name) if bands is None else bands
    slid, turn = levels_of(levels, scheme, bands)
    source = Source.of(vd, "image", images)
    if (fidelity or color_match is not None) and source.given is None:
        raise ValueError(
            "fidelity and color_match need the pictures themselves: give them, not their context."
        )
    settings: dict[str, Any] = {"scheme": scheme, "color_match": None}
    if scheme == "focus":
        settings["bands"] = asdict(bands)
    if color_match is not None:
        check_color_match(color_match, color_method)
        settings |= {"color_match": float(color_match), "color_method": color_method}

    def condition(samples: list[Sample]) -> Mix:
        plain = source.context(samples).tokens
        tokens = [turn(plain[k : k + 1], slid[s.value]) for k, s in enumerate(samples)]
        return [(Context("image", torch.cat(tokens)), 1.0)]

    def start(which: list[int]) -> Tensor:
        return vd.encode_image([source.given[j].open() for j in which])

    def finish(k: int, image: Image.Image) -> Image.Image:
        reference = source.given[k // (options.n * len(slid))]
        return match_color(image, reference.open(), color_match, color_method)

    job = application_job(
        vd,
        "focus",
        "image",
        condition,
        [source.describe(j) for j in range(len(source))],
        options,
        vd.spec.scale_image,
        kinds=["image"],
        strip=("level", slid),
        settings=settings,
        fidelity=fidelity,
        start=start if fidelity else None,
        components=["image_encoder"] if fidelity else [],
    )
    return job if color_match is None else replace(job, finish=finish)


def levels_of(
    levels: float | list[float], scheme: str, bands: Bands = RELEASED
) -> tuple[list[float], Callable[[Tensor, float], Tensor]]:
    """Levels, checked, and what turns a whole context (B, 1 + N, D) to one of them.

    Raises:
        ValueError: an unknown scheme, or a level that it does not have.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme is {scheme!r}: choose {' or '.join(SCHEMES)}.")
    if scheme == "focus":
        return values_of("level", levels), partial(focus_context, bands=bands)
    low, high = min(FIRST_RELEASE), max(FIRST_RELEASE)
    slid = [
        whole_number("level", int(v) if v == int(v) else v, low)
        for v in values_of("level", levels, low, high)
    ]

    def turn(tokens: Tensor, level: float) -> Tensor:
        local = focus_first_release(tokens[:, 1:], int(level))
        return torch.cat([tokens[:, :1], local], dim=1)

    return slid, turn
