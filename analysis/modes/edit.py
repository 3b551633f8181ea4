"""Editing pictures: by noise that leads back to them, or by what can be said of them.

`edit` encodes a picture to the noise from which DDIM makes it again under a *source* text, and
decodes that under a *target* text. Everything the texts do not tell apart stays in the noise.

`latent_edit` is looser: it says the picture in text latents, takes one thing out of them and puts
another in, and makes a picture of what they say then and of the first one's style.

>>> save(edit(vd, "photo.png", "a red circle on white", "a blue circle on white"))
>>> save(latent_edit(vd, "photo.png", remove="red", add="blue", n=4, seed=20))
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from analysis.modes.focus import bands_of, top_components
from analysis.modes.heavy import functional, jobs, model, noises, samplers, sampling, sources, torch
from analysis.modes.kinds import real, whole
from analysis.modes.masks import Mask, mask_files
from analysis.modes.mix import SCALE_IMAGE, SCALE_TEXT, both_scales, mixed_scale, used_scales
from analysis.modes.options import Option
from analysis.modes.table import Input, mode

EDIT_SCALE = 1.0
"""Guidance of `edit`: it leads from source to target, and more than 1 leads beyond the target,
where red becomes orange, then yellow."""


@mode(
    "edit",
    makes="image",
    summary="pictures changed in what two texts tell apart",
    example='edit photo.png --source "a red circle on white" --target "a blue circle on white"',
    without=("n", "sampler", "eta", "latents", "noise", "start"),
)
def edit(
    vd: model.VersatileDiffusion,
    images: Any = Input("image", "pictures or their files", context=False),
    source: Any = Input(
        "text",
        "what each shows (one for all will do); empty for a picture of which nothing is said",
        default="",
        flag="--source",
    ),
    target: Any = Input("text", "what it shall show", default=None, flag="--target"),
    *,
    mask: Mask | None = Option(
        None, mask_files(), "where to edit: white is edited; for all pictures"
    ),
    feather: int = Option(
        0, whole(0, 512), "latents on either side of the mask's edge over which both are blended"
    ),
    iterations: int = Option(
        4, whole(1, 100), "predictions a step of the inversion; more are more exact"
    ),
    request: jobs.Request,
) -> jobs.Job:
    """Change what two texts tell apart in a picture, and keep the rest.

        x_T = inversion of E(picture) under eps(x, t, source)               (`lib.sampler`)
        out = DDIM from x_T under eps(source) + scale (eps(target) - eps(source))

    Guidance leads away from the source, not from "no text": so for source = target it cancels at
    any scale, and the picture comes back as exactly as the inversion is exact. That error, of the
    picture decoded under the source against the picture, ||x - x'|| / ||x|| of latents, is in each
    record under "found". At scale 1, the default here, the target alone decodes; more goes beyond
    what it says. A negative prompt takes the place of the source in guidance.

    With a mask, the prediction outside is the one the inversion went by, which takes every latent
    outside back along its own way: at every step it is that of the picture.

    `fidelity` 0 inverts all the way to noise; f > 0 only the first `int(S (1 - f))` steps, which
    changes less; 1 returns the picture. Nothing in it is random.
    """
    settings = request.settings
    if settings.seed is None:  # that of file names: the same edit has the same record
        request = replace(request, settings=replace(settings, seed=0))
    shown = sources.Source.of(vd, "image", images, fit=settings.fit)
    if shown.items is None:
        raise ValueError("edit needs the pictures themselves: give them, not their context.")
    before = None
    if not sources.blank(source):
        before = sources.Source.of(vd, "text", source)
    after = sources.Source.of(vd, "text", target)
    count = sources.paired(shown, before, after)
    shape = vd.latent_shape("image", settings.height, settings.width)
    mask = mask and mask.fitted(settings.fit, *shape[1:])
    origin = sources.Start(shown)
    timesteps = sampling.settled(settings, vd.spec, EDIT_SCALE).timesteps(vd.schedule)

    def condition(
        samples: list[sources.Sample], tick: jobs.Tick = lambda: None
    ) -> sampling.Conditions:
        x_0 = origin.encode(vd, [sample.input for sample in samples], shape).float()
        if before is None:
            known = vd.null_context("text", "image", len(samples))
        else:
            known = before.context(samples)
        eps = sampling.counted(vd.guided([(known, 1.0)], "image", 1.0), tick)
        path = list(samplers.ddim_inversion(eps, x_0, vd.schedule, timesteps, iterations))
        x_T = path[-1].x if path else x_0
        back = x_0
        for step in samplers.ddim(eps, x_T, vd.schedule, timesteps):
            back = step.x
        error = (back - x_0).flatten(1).norm(dim=1) / x_0.flatten(1).norm(dim=1)
        return sampling.Conditions(
            [(after.context(samples), 1.0)],
            [known],
            x_T,
            None if mask is None else _inside(mask, feather, path),
            [{"inversion_error": round(float(e), 6)} for e in error],
        )

    inputs = [
        {
            **shown.describe(j),
            **after.describe(j),
            "source": "" if before is None else next(iter(before.describe(j).values())),
        }
        for j in range(count)
    ]
    return jobs.build(
        vd,
        "image",
        [after],
        request,
        scale=EDIT_SCALE,
        condition=condition,
        inputs=inputs,
        starts=False,
        uses=("image_encoder",) if before is not None else ("image_encoder", "clip_text"),
        lead=len(timesteps) * (iterations + 1),  # there, and back under the source
    )


def _inside(
    mask: Mask, feather: int, path: list[samplers.Step]
) -> Callable[[samplers.Eps], samplers.Eps]:
    """Sample inside the mask; outside, go back the way that the inversion came."""
    led = {step.t: step.eps for step in path}

    def around(eps: samplers.Eps) -> samplers.Eps:
        def masked(x: torch.Tensor, t: int) -> torch.Tensor:
            inside = mask.at(*x.shape[2:], feather).to(x)
            return inside * eps(x, t) + (1 - inside) * led[t]

        return masked

    return around


@mode(
    "latent-edit",
    makes="image",
    summary="pictures with something taken out of what they say, and something put in",
    example="latent-edit photo.png --remove red --add blue --n 4 --seed 20",
)
def latent_edit(
    vd: model.VersatileDiffusion,
    images: Any = Input("image", "pictures, their files, or their context"),
    remove: str = Input("text", "what to take out", many=False, default="", flag="--remove"),
    add: str = Input("text", "what to put in", many=False, default="", flag="--add"),
    *,
    strength: float = Option(0.67, real(metavar="S"), "of the text"),
    rank: int | None = Option(
        None,
        whole(1, 10_000),
        "components of the picture's local tokens that are kept: few keep its style only; None: "
        "the model's own, 10 for the released one, 1 for vd-mini",
        recorded=False,
    ),
    tries: int = Option(
        16,
        whole(0, 256),
        "texts that are sampled until one says what to remove; 0: only the arithmetic of vectors, "
        "as the first release had it",
    ),
    scale_text: float | None = SCALE_TEXT,
    scale_image: float | None = SCALE_IMAGE,
    request: jobs.Request,
) -> jobs.Job:
    """Take one thing out of what a picture says, and put another in.

        z    = text latent sampled from the picture (the flow i2t), read as the text c
        z'   = z + E(c') - E(c),   c' = c with `add` in the place of `remove`
        out  = picture from the text context [tokens of the text of z', tokens of add] and the image
               context [local tokens, their `rank` largest components], mixed (s, 1 - s)

    So the direction is that of the exchange *in this sentence*. A sampled text may call the thing
    by another word; up to `tries` are sampled, and the first that says `remove` is taken. If none
    does, or there is nothing to remove, the words are vectors of their own:

        z'   = z - (z . u) u + E(add),   u = E(remove) / ||E(remove)||

    The text latents are sampled with `scale_image`, and read as their most likely text. What they
    were read as before and after is in each record under "found".
    """
    settings = request.settings
    rank = bands_of(vd.spec.name).alone if rank is None else rank
    if sources.blank(remove) and sources.blank(add):
        raise ValueError("There is nothing to remove or to add: give at least one of both.")
    for text in (remove, add):
        if not sources.blank(text):
            sources.Source.of(vd, "text", text)  # says what is wrong with it
    shown = sources.Source.of(vd, "image", images, fit=settings.fit)
    both = both_scales(vd, scale_text, scale_image, settings.scale)
    said = sampling.settled(replace(settings, scale=None, fidelity=0.0), vd.spec, both[1])

    def say(context: model.Context, noise: noises.SampleNoise) -> torch.Tensor:
        """Text latents from pictures."""
        conditions = sampling.Conditions([(context, 1.0)])
        for step in sampling.denoise(vd, "text", conditions, noise, said):
            z = step.x
        return z

    def read(z: torch.Tensor) -> list[str]:
        return vd.decode_text(z, temperature=0)

    def condition(samples: list[sources.Sample]) -> sampling.Conditions:
        context = shown.context(samples)
        began = samples[0].seed - samples[0].row
        whole = range(began, began + settings.n)
        z = say(
            context, sampling.draws(said, [sample.seed for sample in samples], whole, vd.device)
        )
        before = read(z)
        edited = without(z, None if sources.blank(remove) else vd.encode_text([remove]))
        if not sources.blank(add):
            edited = edited + vd.encode_text([add]).to(z)
        for k, sample in enumerate(samples if tries and not sources.blank(remove) else ()):
            spoken = [before[k]]
            latents = z[k : k + 1]
            if exchanged(spoken[0], remove, add) is None and tries > 1:
                more = noises.SampleNoise([sample.seed + (r << 32) for r in range(1, tries)])
                latents = torch.cat([latents, say(context[k : k + 1].repeat(tries - 1), more)])
                spoken += read(latents[1:])
            for latent, text in zip(latents, spoken, strict=True):
                after = exchanged(text, remove, add)
                if after is not None:
                    apart = vd.encode_text([after]) - vd.encode_text([text])
                    before[k], edited[k] = text, latent + apart[0].to(z)
                    break
        captions = read(edited)
        mix = []
        if strength > 0:
            tokens = vd.text_context([_fitting(vd, caption) for caption in captions]).tokens
            if not sources.blank(add):
                tokens = torch.cat([tokens, vd.text_context([add]).repeat(len(z)).tokens], dim=1)
            mix.append((model.Context("text", tokens), strength))
        if strength < 1:
            local = top_components(context.tokens[:, 1:], rank)
            mix.append((model.Context("image", local), 1 - strength))
        notes = [{"caption": a, "edited_caption": b} for a, b in zip(before, captions, strict=True)]
        return sampling.Conditions(mix, notes=notes)

    text = ("clip_text", "text_context") if strength > 0 else ()
    used = used_scales(strength, both)
    return jobs.build(
        vd,
        "image",
        [shown],
        request,
        scale=mixed_scale(strength, both),
        condition=condition,
        record={
            "remove": remove,
            "add": add,
            "rank": rank,
            **used,
            "scale_image": both[1],  # of the text latents, at any strength
        },
        start=shown if shown.items is not None else None,
        uses=("text_data", "text_decoder", "text_encoder", "clip_vision", *text),
    )


def exchanged(text: str, remove: str, add: str) -> str | None:
    """A text with other words in the place of some, or None if it does not say them.

    >>> exchanged("a red circle", "red", "blue")
    'a blue circle'
    """
    words = re.compile(rf"(?<!\w){re.escape(remove.strip())}(?!\w)", re.IGNORECASE)
    after = " ".join(words.sub(lambda _: add.strip(), text).split())
    return after if words.search(text) and after else None


def without(z: torch.Tensor, direction: torch.Tensor | None) -> torch.Tensor:
    """`z - (z . u) u`, u the unit vector of `direction` (1, D): what is left across it."""
    if direction is None:
        return z
    u = functional.normalize(direction.to(z), dim=-1)
    return z - (z * u).sum(dim=-1, keepdim=True) * u


def _fitting(vd: model.VersatileDiffusion, text: str) -> str:
    """As many of a text's first words as the context encoder reads."""
    words = text.split()
    while words:
        try:
            sources.check_prompts(vd, [" ".join(words)])
            break
        except ValueError:
            words.pop()
    return " ".join(words)
