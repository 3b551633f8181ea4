"""From one thing to another: between two contexts, or between two initial latents.

>>> film = interpolate(vd, "a small red circle", "a large blue star", frames=9, seed=20)
>>> film = interpolate(vd, "a small red circle", frames=9, seed=20)    # between seeds 20 and 21
>>> film.sheet()
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from analysis.modes.applications import Options, Sample, Source, application_job, paired
from analysis.modes.sampling import Conditions, Job
from analysis.results import Result
from data.pictures import Picture, names_a_picture
from lib.checks import whole_number
from lib.model import Context, Mix, VersatileDiffusion
from lib.noise import SampleNoise

METHODS = ("slerp", "lerp")

End = str | Path | Image.Image | Context


def interpolate(
    vd: VersatileDiffusion,
    first: End,
    second: End | None = None,
    *,
    frames: int = 9,
    method: str = "slerp",
    makes: str = "image",
    progress: bool = True,
    **options: Any,
) -> Result:
    """A film from one context to another, or from one initial latent to another.

    With `second`, all frames of a film have the same initial noise, and their context goes from the
    first to the second, token by token. Without it all have the same context, and their noise goes
    from that of seed s to that of seed s + 1; with n > 1 the n films continue each other.

    Args:
        vd: a model with the flow from that kind of context to `makes`.
        first: a text, a picture (PIL, or a `Path`; a string is a text), or a precomputed context
            of one sample.
        second: the same kind of thing; None for a film between latents.
        frames: how many, both ends included; 2 or more.
        method: "slerp" or "lerp" (`slerp`). Mixing noise by "lerp" shrinks it halfway, which the
            model has never seen: flat, grey pictures.
        makes: "image" or "text".
        progress: show a bar.
        options: `analysis.modes.applications.Options`; without `latents` where those are interpolated.

    Returns:
        Pictures or texts, `n * frames` of them, in order; at position 0 and 1 what the ends give
        by themselves.

    Raises:
        ValueError: bad input, before any compute.
    """
    job = interpolate_job(vd, first, second, frames, method, makes, Options.of(options))
    return job.result(progress)


def interpolate_job(
    vd: VersatileDiffusion,
    first: End,
    second: End | None,
    frames: int,
    method: str,
    makes: str,
    options: Options,
) -> Job:
    """The samples of `interpolate`, checked and not yet made."""
    frames = whole_number("frames", frames, 2)
    if method not in METHODS:
        raise ValueError(f"method is {method!r}: choose {' or '.join(METHODS)}.")
    if makes not in ("image", "text"):
        raise ValueError(f"makes is {makes!r}: choose image or text.")
    ends = [first] if second is None else [first, second]
    kinds = [kind_of(end) for end in ends]
    if len(set(kinds)) > 1:
        raise ValueError(
            "One end is a text and the other a picture: their contexts have nothing to go along; "
            "dual_guided with several strengths goes from a picture to a text."
        )
    sources = [Source.of(vd, kinds[0], end) for end in ends]
    if paired(*sources) != 1:
        raise ValueError("An end is one text, one picture, or the context of one sample.")
    lengths = [_length(source) for source in sources]  # their width is the model's
    if len(set(lengths)) > 1:
        raise ValueError(
            f"The contexts have {' and '.join(f'{n} tokens' for n in lengths)}: token goes to "
            "token, so give two of the same length."
        )
    if second is None and options.latents is not None:
        raise ValueError("latents are what is interpolated here: leave them out, or give second.")
    if second is None and options.noise != "sample":
        raise ValueError(
            "A film between latents goes from one seed's noise to the next one's, and official "
            "noise has none of its own for each: leave noise out, or give second."
        )
    positions = [v / (frames - 1) for v in range(frames)]

    def between_contexts(samples: list[Sample]) -> Mix:
        a, b = (source.context(samples[:1]).tokens for source in sources)
        tokens = [between(a, b, positions[sample.value], method) for sample in samples]
        return [(Context(kinds[0], torch.cat(tokens)), 1.0)]

    def between_latents(samples: list[Sample]) -> Conditions:
        shape = vd.latent_shape(makes)
        a, b = (SampleNoise([s.seed + i for s in samples]).normal(shape) for i in (0, 1))
        latents = torch.stack(
            [
                between(a[k].flatten(), b[k].flatten(), positions[sample.value], method)
                for k, sample in enumerate(samples)
            ]
        )
        contexts = [(sources[0].context(samples), 1.0)]
        return Conditions(contexts, latents=latents.reshape(-1, *shape))

    return application_job(
        vd,
        "interpolate",
        makes,
        between_latents if second is None else between_contexts,
        [_described(sources)],
        options,
        vd.spec.scale_text if kinds[0] == "text" else vd.spec.scale_image,
        kinds=[kinds[0]],
        strip=("position", positions),
        settings={"between": "latents" if second is None else "contexts", "method": method},
    )


def between(a: Tensor, b: Tensor, position: float, method: str) -> Tensor:
    """`slerp`, or `(1 - u) a + u b` for the method "lerp"; exactly a at 0 and b at 1."""
    if position in (0, 1):
        return b if position else a
    return slerp(a, b, position) if method == "slerp" else torch.lerp(a, b, position)


def slerp(a: Tensor, b: Tensor, u: float) -> Tensor:
    """Spherical interpolation of the vectors along the last axis (Shoemake 1985).

    With theta the angle between a and b:

        slerp = sin((1 - u) theta) / sin(theta) a + sin(u theta) / sin(theta) b

    Vectors of one length keep it on the way; of noise this keeps the distribution. Where they point
    (nearly) the same or the opposite way, the straight line is taken.

    Args:
        a, b: (..., D).
        u: 0 (a) to 1 (b).
    """
    x, y = a.float(), b.float()
    norms = (x.norm(dim=-1, keepdim=True) * y.norm(dim=-1, keepdim=True)).clamp(min=1e-30)
    theta = torch.acos(((x * y).sum(dim=-1, keepdim=True) / norms).clamp(-1, 1))
    sine = torch.sin(theta)
    straight = sine < 1e-3
    sine = torch.where(straight, torch.ones_like(sine), sine)
    of_a = torch.where(straight, torch.full_like(sine, 1 - u), torch.sin((1 - u) * theta) / sine)
    of_b = torch.where(straight, torch.full_like(sine, u), torch.sin(u * theta) / sine)
    return (of_a * x + of_b * y).to(a.dtype)


def kind_of(end: Any) -> str:
    """What an end is, or is the context of: "text" or "image".

    Raises:
        ValueError: a string that is the path of a picture.
    """
    if isinstance(end, Context):
        return end.kind
    if isinstance(end, str) and names_a_picture(end):
        raise ValueError(
            f"{end!r} is a text here, but also a picture's file: give Path(...) for the picture "
            "(--pictures in the shell)."
        )
    return "image" if isinstance(end, (Path, Image.Image, Picture, Tensor)) else "text"


def _length(source: Source) -> int:
    """Tokens of an end's context; encoders give the same number for any text and any picture."""
    if source.precomputed is not None:
        return source.precomputed.tokens.shape[1]
    clip = source.vd.spec.clip
    return clip.text.positions if source.kind == "text" else clip.vision.tokens


def _described(sources: Sequence[Source]) -> dict[str, Any]:
    described = sources[0].describe(0)
    for source in sources[1:]:
        described |= {f"{key}_to": value for key, value in source.describe(0).items()}
    return described
