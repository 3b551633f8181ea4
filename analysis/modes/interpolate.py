"""From one thing to another: between two contexts, or between two initial latents.

>>> film = interpolate(vd, "a small red circle", "a large blue star", frames=9, seed=20)
>>> film = interpolate(vd, "a small red circle", frames=9, seed=20)    # between seeds 20 and 21
>>> film.sheet()
"""

from __future__ import annotations

from typing import Any

from analysis.modes.heavy import jobs, model, noises, pictures, sampling, sources, torch
from analysis.modes.kinds import choice, whole
from analysis.modes.options import Option
from analysis.modes.table import Input, mode


@mode(
    "interpolate",
    makes="makes",
    summary="films from one text or picture to another, or from one noise to another",
    example='interpolate "a small red circle" "a large blue star" --frames 9 --seed 20 --film gif',
)
def interpolate(
    vd: model.VersatileDiffusion,
    first: Any = Input(
        "any",
        "a text, a picture (PIL, or a `Path`; a string is a text), or a context of one sample",
        many=False,
    ),
    second: Any = Input(
        "any", "the same kind of thing; None: between latents", many=False, default=None
    ),
    *,
    frames: int = Option(9, whole(2, 10_000), "how many, both ends included", recorded=False),
    method: str = Option("slerp", choice("slerp", "lerp"), "the way between the ends"),
    makes: str = Option("image", choice("image", "text"), "what is made", recorded=False),
    request: jobs.Request,
) -> jobs.Job:
    """A film from one context to another, or from one initial latent to another.

    With `second`, all frames of a film have the same initial noise, and their context goes from the
    first to the second, token by token (`slerp`). Without it all have the same context, and their
    noise goes from that of seed s to that of seed s + 1; with n > 1 the n films continue each
    other. Mixing noise by "lerp" shrinks it halfway, which the model has never seen: flat, grey
    pictures. At position 0 and 1 stands what the ends give by themselves.
    """
    settings = request.settings
    ends = [first] if second is None else [first, second]
    kinds = [kind_of(end) for end in ends]
    if len(set(kinds)) > 1:
        raise ValueError(
            "One end is a text and the other a picture: their contexts have nothing to go along; "
            "dual_guided with several strengths goes from a picture to a text."
        )
    given = [sources.Source.of(vd, kinds[0], end, fit=settings.fit) for end in ends]
    if sources.paired(*given) != 1:
        raise ValueError("An end is one text, one picture, or the context of one sample.")
    if second is None and settings.latents is not None:
        raise ValueError("latents are what is interpolated here: leave them out, or give second.")
    if second is None and settings.noise != "sample":
        raise ValueError(
            "A film between latents goes from one seed's noise to the next one's, and official "
            "noise has none of its own for each: leave noise out, or give second."
        )
    positions = [v / (frames - 1) for v in range(frames)]
    shape = vd.latent_shape(makes, settings.height, settings.width)

    def between_contexts(samples: list[sources.Sample]) -> model.Mix:
        a, b = (end.context(samples[:1]).tokens for end in given)
        tokens = [between(a, b, positions[sample.value], method) for sample in samples]
        return [(model.Context(kinds[0], torch.cat(tokens)), 1.0)]

    def between_latents(samples: list[sources.Sample]) -> sampling.Conditions:
        a, b = (noises.SampleNoise([s.seed + i for s in samples]).normal(shape) for i in (0, 1))
        latents = torch.stack(
            [
                between(a[k].flatten(), b[k].flatten(), positions[sample.value], method)
                for k, sample in enumerate(samples)
            ]
        )
        contexts = [(given[0].context(samples), 1.0)]
        return sampling.Conditions(contexts, latents=latents.reshape(-1, *shape))

    described = given[0].describe(0)
    for end in given[1:]:
        described |= {f"{key}_to": value for key, value in end.describe(0).items()}
    return jobs.build(
        vd,
        makes,
        given,
        request,
        scale=vd.spec.scale_text if kinds[0] == "text" else vd.spec.scale_image,
        condition=between_latents if second is None else between_contexts,
        strip=jobs.Strip("position", positions),
        inputs=[described],
        record={"between": "latents" if second is None else "contexts"},
    )


def between(a: torch.Tensor, b: torch.Tensor, position: float, method: str) -> torch.Tensor:
    """`slerp`, or `(1 - u) a + u b` for the method "lerp"; exactly a at 0 and b at 1."""
    if position in (0, 1):
        return b if position else a
    return slerp(a, b, position) if method == "slerp" else torch.lerp(a, b, position)


def slerp(a: torch.Tensor, b: torch.Tensor, u: float) -> torch.Tensor:
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
    if isinstance(end, model.Context):
        return end.kind
    if not isinstance(end, str):
        return "image"
    if pictures.names_a_picture(end):
        raise ValueError(
            f"{end!r} is a text here, but also a picture's file: give Path(...) for the picture "
            "(--pictures in the shell)."
        )
    return "text"
