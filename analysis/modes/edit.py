"""Editing pictures: by noise that leads back to them, or by what can be said of them.

`edit` encodes a picture to the noise from which DDIM makes it again under a *source* text, and
decodes that under a *target* text. Everything the texts do not tell apart stays in the noise.

`latent_edit` is looser: it says the picture in text latents, takes one thing out of them and puts
another in, and makes a picture of what they say then and of the first one's style.

    >>> save(edit(vd, "photo.png", "a red circle on white", "a blue circle on white"))
    >>> save(latent_edit(vd, "photo.png", remove="red", add="blue", n=4, seed=20))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from analysis.modes.applications import (
    Options,
    Sample,
    Source,
    application_job,
    check_length,
    paired,
)
from analysis.modes.flows import Pictures, Texts
from analysis.modes.focus import bands_of, top_components
from analysis.modes.masks import Mask
from analysis.modes.mix import both_scales, kinds_at, mixed_scale, used_scales
from analysis.modes.sampling import Conditions, Job, Tick, counted, denoise
from analysis.results import Result
from lib.checks import number, texts, whole_number
from lib.model import Context, VersatileDiffusion
from lib.noise import SampleNoise
from lib.sampler import Eps, Step, ddim, ddim_inversion

ENCODERS = ("image_encoder",)
EDIT_SCALE = 1.0
"""Guidance of `edit`: it leads from source to target, and more than 1 leads beyond the target,
where red becomes orange, then yellow."""


def edit(
    vd: VersatileDiffusion,
    images: Pictures,
    source: Texts,
    target: Texts,
    *,
    mask: Any = None,
    feather: int = 0,
    fidelity: float = 0.0,
    iterations: int = 4,
    progress: bool = True,
    **options: Any,
) -> Result:
    """Change what two texts tell apart in a picture, and keep the rest.

        x_T = inversion of E(picture) under eps(x, t, source)               (`lib.sampler`)
        out = DDIM from x_T under eps(source) + scale (eps(target) - eps(source))

    Guidance leads away from the source, not from "no text": so for source = target it cancels at
    any scale, and the picture comes back as exactly as the inversion is exact. That error, of the
    picture decoded under the source against the picture, ||x - x'|| / ||x|| of latents, is in each
    record under "found". At scale 1, the default here, the target alone decodes; more goes beyond
    what it says.

    With a mask, the prediction outside is the one the inversion went by, which takes every latent
    outside back along its own way: at every step it is that of the picture.

    Args:
        vd: a model with the flow "t2i", and the image encoder.
        images: pictures or their files.
        source: what each shows (one for all will do); "" for a picture of which nothing is said.
        target: what it shall show.
        mask: of where to edit: a picture, file or tensor (H, W), white is edited; for all pictures.
        feather: latents on either side of the mask's edge over which both are blended.
        fidelity: 0 inverts all the way to noise; f > 0 only the first `int(S (1 - f))` steps, which
            changes less; 1 returns the picture.
        iterations: predictions a step of the inversion; more are more exact.
        progress: show a bar; the predictions of the inversion are steps of it.
        options: `analysis.modes.applications.Options`, without those of noise: nothing here is random,
            so the sampler is "ddim" with eta 0, and n is 1. The scale is 1 if none is given. A
            negative prompt takes the place of the source in guidance.

    Returns:
        Pictures, one an input.

    Raises:
        ValueError: bad input, before any compute.
    """
    job = edit_job(
        vd, images, source, target, mask, feather, fidelity, iterations, Options.of(options)
    )
    return job.result(progress)


def edit_job(
    vd: VersatileDiffusion,
    images: Pictures,
    source: Texts,
    target: Texts,
    mask: Any,
    feather: int,
    fidelity: float,
    iterations: int,
    options: Options,
) -> Job:
    """The samples of `edit`, checked and not yet made."""
    whole_number("iterations", iterations)
    whole_number("feather", feather, 0)
    given = options.eta or options.n != 1 or options.latents is not None
    if given or options.sampler != "ddim" or options.noise != "sample":
        raise ValueError(
            "edit inverts DDIM, and nothing in it is random: leave out sampler, eta, n, latents "
            "and noise."
        )
    if options.seed is None:
        options = replace(options, seed=0)  # that of file names: the same edit has the same record
    shown = Source.of(vd, "image", images)
    before = None if _blank(source) else Source.of(vd, "text", source)
    after = Source.of(vd, "text", target)
    count = paired(shown, before, after)
    if shown.given is None:
        raise ValueError("edit needs the pictures themselves: give them, not their context.")
    where = None if mask is None else Mask.of(mask)
    how = options.sampling(vd, EDIT_SCALE, fidelity)
    timesteps = how.timesteps(vd.schedule)

    def condition(samples: list[Sample], tick: Tick = lambda: None) -> Conditions:
        pictures = [shown.given[s.input if len(shown) > 1 else 0].open() for s in samples]
        x_0 = vd.encode_image(pictures).float()
        if before is None:
            known = vd.null_context("text", "image", len(samples))
        else:
            known = before.context(samples)
        eps = counted(vd.guided([(known, 1.0)], "image", 1.0), tick)
        path = list(ddim_inversion(eps, x_0, vd.schedule, timesteps, iterations))
        x_T = path[-1].x if path else x_0
        back = x_0
        for step in ddim(eps, x_T, vd.schedule, timesteps):
            back = step.x
        error = (back - x_0).flatten(1).norm(dim=1) / x_0.flatten(1).norm(dim=1)
        return Conditions(
            [(after.context(samples), 1.0)],
            [known],
            x_T,
            None if where is None else _inside(where, feather, path),
            [{"inversion_error": round(float(e), 6)} for e in error],
        )

    inputs = [
        {
            **shown.describe(j),
            **after.describe(j),
            "source": "" if before is None else _said(before.describe(j)),
        }
        for j in range(count)
    ]
    settings = {"iterations": iterations, "feather": feather}
    if where is not None:
        settings["mask"] = where.described
    return application_job(
        vd,
        "edit",
        "image",
        condition,
        inputs,
        options,
        EDIT_SCALE,
        kinds=["text"],
        settings=settings,
        fidelity=fidelity,
        components=ENCODERS if before is not None else (*ENCODERS, "clip_text"),
        lead=len(timesteps) * (iterations + 1),  # there, and back under the source
    )


def _said(described: dict[str, Any]) -> Any:
    """A text, or what a record says of its precomputed context."""
    (told,) = described.values()
    return told


def _inside(mask: Mask, feather: int, path: list[Step]) -> Callable[[Eps], Eps]:
    """Sample inside the mask; outside, go back the way that the inversion came."""
    led = {step.t: step.eps for step in path}

    def around(eps: Eps) -> Eps:
        def masked(x: Tensor, t: int) -> Tensor:
            inside = mask.at(*x.shape[2:], feather).to(x)
            return inside * eps(x, t) + (1 - inside) * led[t]

        return masked

    return around


def latent_edit(
    vd: VersatileDiffusion,
    images: Pictures | Context,
    remove: str = "",
    add: str = "",
    *,
    strength: float = 0.67,
    rank: int | None = None,
    scale_text: float | None = None,
    scale_image: float | None = None,
    progress: bool = True,
    **options: Any,
) -> Result:
    """Take one thing out of what a picture says, and put another in.

        z    = text latent sampled from the picture (the flow i2t)
        z'   = z - (z . u) u + E(add),   u = E(remove) / ||E(remove)||
        out  = picture from the text context [tokens of the text of z', tokens of add] and the image
               context [local tokens, their `rank` largest components], mixed (s, 1 - s)

    What the latents were read as before and after is in each record under "found".

    Args:
        vd: a model with the flows "i2t", "t2i" and "i2i", and the text encoder.
        images: pictures or their files, or their precomputed context.
        remove: what to take out; "" for nothing.
        add: what to put in; "" for nothing (one of both is needed).
        strength: s of the text, 0 to 1.
        rank: components of the picture's local tokens that are kept: few keep its style only. None
            takes the model's own (`analysis.modes.focus.bands_of`): 10 for the released one, 1 for
            vd-mini.
        scale_text, scale_image: guidance of each, mixed as in `analysis.modes.mix.dual_guided`; the text
            latents are sampled with scale_image.
        progress: show a bar.
        options: `analysis.modes.applications.Options`; temperature is that of nothing here, the latents
            are read as their most likely text.

    Returns:
        Pictures, inputs * n.

    Raises:
        ValueError: bad input, before any compute.
    """
    job = latent_edit_job(
        vd, images, remove, add, strength, rank, (scale_text, scale_image), Options.of(options)
    )
    return job.result(progress)


def latent_edit_job(
    vd: VersatileDiffusion,
    images: Pictures | Context,
    remove: str,
    add: str,
    strength: float,
    rank: int | None,
    scales: tuple[float | None, float | None],
    options: Options,
) -> Job:
    """The samples of `latent_edit`, checked and not yet made."""
    s = number("strength", strength, high=1)
    rank = bands_of(vd.spec.name).alone if rank is None else whole_number("rank", rank)
    if _blank(remove) and _blank(add):
        raise ValueError("There is nothing to remove or to add: give at least one of both.")
    for name, text in (("text to remove", remove), ("text to add", add)):
        if not _blank(text):
            check_length(vd, texts([text], name))
    shown = Source.of(vd, "image", images)
    both = both_scales(vd, *scales, options.scale)
    said = replace(options.sampling(vd, both[1]), scale=both[1])

    def say(context: Context, noise: SampleNoise) -> Tensor:
        """Text latents from pictures."""
        for step in denoise(vd, "text", ([(context, 1.0)], None), noise, said):
            z = step.x
        return z

    def read(z: Tensor) -> list[str]:
        return vd.decode_text(z, temperature=0)

    def condition(samples: list[Sample]) -> Conditions:
        context = shown.context(samples)
        began = samples[0].seed - samples[0].row
        whole = range(began, began + options.n)
        z = say(context, said.draws([sample.seed for sample in samples], whole, vd.device))
        edited = without(z, None if _blank(remove) else vd.encode_text([remove]))
        if not _blank(add):
            edited = edited + vd.encode_text([add]).to(z)
        before, captions = read(z), read(edited)
        mix: list[tuple[Context, float]] = []
        if s > 0:
            tokens = vd.text_context([_fitting(vd, caption) for caption in captions]).tokens
            if not _blank(add):
                tokens = torch.cat([tokens, vd.text_context([add]).repeat(len(z)).tokens], dim=1)
            mix.append((Context("text", tokens), s))
        if s < 1:
            local = top_components(context.tokens[:, 1:], rank)
            mix.append((Context("image", local), 1 - s))
        found = [{"caption": a, "edited_caption": b} for a, b in zip(before, captions, strict=True)]
        return Conditions(mix, found=found)

    return application_job(
        vd,
        "latent-edit",
        "image",
        condition,
        [shown.describe(j) for j in range(len(shown))],
        options,
        mixed_scale(s, both),
        kinds=kinds_at(s),
        settings={
            "remove": remove,
            "add": add,
            "strength": s,
            "rank": rank,
            **used_scales(s, both),
            "scale_image": both[1],  # of the text latents, at any strength
        },
        components=("text_data", "image_context", "text_decoder", "text_encoder", "clip_vision"),
    )


def without(z: Tensor, direction: Tensor | None) -> Tensor:
    """`z - (z . u) u`, u the unit vector of `direction` (1, D): what is left across it."""
    if direction is None:
        return z
    u = normalize(direction.to(z), dim=-1)
    return z - (z * u).sum(dim=-1, keepdim=True) * u


def _fitting(vd: VersatileDiffusion, text: str) -> str:
    """As many of a text's first words as the context encoder reads."""
    words = text.split()
    while words:
        try:
            check_length(vd, [" ".join(words)])
            break
        except ValueError:
            words.pop()
    return " ".join(words)


def _blank(text: Any) -> bool:
    return text is None or (isinstance(text, str) and not text.strip())
