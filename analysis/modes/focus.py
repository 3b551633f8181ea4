"""Focus: an image context turned towards what is shown (semantics) or how it looks (style).

The local CLIP tokens of a picture are a matrix, tokens x channels. Its few largest principal
components carry style (palette, texture, layout common to all patches); what remains carries what
the patches show. Weakening the first or keeping only them therefore moves a variation along a
semantic-style axis without any training (Xu et al. 2022, section 4.3).

How few is a matter of the encoder, so it is a setting (`Bands`): the released code's numbers fit
257 tokens of ViT-L/14 on photographs; a drawn scene of `vd-mini` has nearly all of its variance in
five components, and its style in one; eight of a drawing of `vd-emoji` keep the hand, mostly.

>>> save(focus(vd, "photo.png", levels=[0, 0.25, 0.5, 0.75, 1], seed=20))
>>> save(focus(vd, "photo.png", levels=[-2, -1, 0, 1, 2], scheme="first_release", seed=20))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from analysis.modes.flows import COLOR_MATCH, COLOR_METHOD, CONTEXT
from analysis.modes.heavy import color, jobs, model, sources, torch
from analysis.modes.kinds import Kind, choice, real, several
from analysis.modes.options import Option
from analysis.modes.table import Input, mode


@dataclass(frozen=True)
class Bands:
    """Which principal components focus fades, the largest first.

    Attributes:
        content: that many of the first fade on the way to content.
        style: that many of the first stay whole on the way to style.
        rank: those from `style` to here fade on that way; what lies beyond goes.
        alone: that many are the style where a text says the content (`latent_edit`).
    """

    content: int = 2
    style: int = 5
    rank: int = 20
    alone: int = 10

    def __post_init__(self) -> None:
        if min(self.content, self.style, self.alone) < 1 or self.rank <= self.style:
            raise ValueError(f"{self}: give content, style and alone from 1, and rank above style.")


RELEASED = Bands()
"""The released code's."""
BANDS = {
    "vd-mini": Bands(content=1, style=1, rank=5, alone=1),
    "vd-emoji": Bands(content=1, style=8, rank=20, alone=RELEASED.alone),
}
"""Model -> its own, where those were measured (`training/EXPERIMENTS.md`)."""


def bands_of(model: str) -> Bands:
    """The bands of a model by its name; the released ones where no others are known."""
    return BANDS.get(model, RELEASED)


FIRST_RELEASE = {-2: "drop 2", -1: "drop 1", 0: "as it is", 1: "keep 10", 2: "keep 2"}
"""Levels of the first release, and what each does to the components of a rank-50 PCA."""


def _checked_bands(name: str, value: Any) -> Bands:
    """Bands, or in the shell four numbers."""
    if isinstance(value, Bands):
        return value
    several = isinstance(value, (list, tuple)) and len(value) == 4
    if several and all(str(number).isdecimal() for number in value):
        return Bands(*map(int, value))
    raise ValueError(f"{name} is {value!r}: give Bands(content, style, rank, alone).")


@mode(
    "focus",
    makes="image",
    summary="variations of pictures that keep their content, or their style",
    example="focus photo.png --level 0 0.25 0.5 0.75 1 --seed 20 --sheet",
)
def focus(
    vd: model.VersatileDiffusion,
    images: Any = Input("image", "pictures, their files, or their context", default=None),
    *,
    levels: list[float] = Option(
        [0.0, 0.25, 0.5, 0.75, 1.0],
        several(real(-2, 2, metavar="L")),
        "0 (content) to 1 (style), 0.5 is neutral; several make a strip; those of the scheme "
        "first_release are the whole numbers from -2 (content) to 2 (style)",
        recorded=False,
        flags=("--level", "--levels"),
    ),
    scheme: str = Option(
        "focus",
        choice("focus", "first_release"),
        "which slider: today's, or the five levels of the first release",
    ),
    bands: Bands | None = Option(
        None,
        Kind(check=_checked_bands, record=asdict, metavar="K", nargs=4),
        "principal components that fade (content, style, rank, alone); None: the model's own",
        recorded=False,
    ),
    context: Any = CONTEXT,
    color_match: float | None = COLOR_MATCH,
    color_method: str = COLOR_METHOD,
    request: jobs.Request,
) -> jobs.Job:
    """Variations of pictures, along a slider from content to style.

    Each sample's tokens are decomposed by themselves (`focus_tokens`), so a sample is the same
    alone and in any batch. Null contexts of zeros stay as they are at every level. Towards content
    the colours drift, too; a colour match puts the input's back. Results are ordered by input,
    sample, level.
    """
    bands = bands_of(vd.spec.name) if bands is None else bands
    turn = _turning(levels, scheme, bands)
    shown = sources.Source.of(vd, "image", images, context, request.settings.fit)

    def condition(samples: list[sources.Sample]) -> model.Mix:
        plain = shown.context(samples).tokens
        tokens = [turn(plain[k : k + 1], levels[s.value]) for k, s in enumerate(samples)]
        return [(model.Context("image", torch.cat(tokens)), 1.0)]

    return jobs.build(
        vd,
        "image",
        [shown],
        request,
        scale=vd.spec.scale_image,
        condition=condition,
        strip=jobs.Strip("level", levels),
        record={"bands": asdict(bands)} if scheme == "focus" else {},
        start=shown if shown.items is not None else None,
        finish=color.matching(shown, color_match, color_method),
    )


def _turning(
    levels: list[float], scheme: str, bands: Bands
) -> Callable[[torch.Tensor, float], torch.Tensor]:
    """What turns a whole context (B, 1 + N, D) to a level.

    Raises:
        ValueError: a level that the scheme does not have.
    """
    low, high = (0, 1) if scheme == "focus" else (min(FIRST_RELEASE), max(FIRST_RELEASE))
    for level in levels:
        if not low <= level <= high or (scheme != "focus" and level != int(level)):
            whole = "" if scheme == "focus" else "whole "
            raise ValueError(
                f"level is {level:g}: the scheme {scheme!r} has the {whole}numbers from {low} to "
                f"{high}."
            )
    if scheme == "focus":
        return partial(focus_context, bands=bands)

    def turn(tokens: torch.Tensor, level: float) -> torch.Tensor:
        local = focus_first_release(tokens[:, 1:], int(level))
        return torch.cat([tokens[:, :1], local], dim=1)

    return turn


def focus_tokens(tokens: torch.Tensor, level: float, bands: Bands = RELEASED) -> torch.Tensor:
    """Turn local tokens towards semantics (level 0) or style (1); 0.5 leaves them as they are.

    After removing each token's mean over channels, `X = U diag(s) V^T + R` with the `rank` largest
    singular values in s. With c = bands.content, k = bands.style, r = bands.rank, and
    `y(t0, y0) = y0 + (1 - y0) (exp(2 (level - 1/2)) - t0) / (1 - t0)`:

        level < 1/2:  y = y(1/e, 1 - c);  s_i *= max(0, y + (1 - y) i / c)                  i < c
        level > 1/2:  y = y(e, k - r);    s_i *= max(0, y + (1 - y) (r - 1 - i) / (r - k))  i >= k
                      and R is dropped

    The recomposed tokens, mean included, are rescaled to the standard deviation (over tokens and
    channels) that the sample had.

    Args:
        tokens: (B, N, D) local tokens: an image context without its class token.
        level: 0 ... 1.
        bands: c, k and r; the released code's are 2, 5 and 20.

    Returns:
        Like tokens; every sample is the same alone and in any batch.

    Raises:
        ValueError: level outside 0 ... 1, or tokens of another shape.
    """
    _check(tokens)
    if not 0 <= level <= 1:
        raise ValueError(f"focus is {level}: choose 0 (semantics) to 1 (style); 0.5 is neutral.")
    if level == 0.5:
        return tokens
    x = tokens.float()
    mean, u, s, v = _components(x, max(bands.rank, bands.content))
    index = torch.arange(len(s[0]), dtype=x.dtype, device=x.device)
    if level < 0.5:
        y = _strength(level, 0.0, 1.0 - bands.content)
        gain = (y + (1 - y) * index / bands.content).clamp(min=0, max=1)
        # only the change is subtracted: what lies beyond the rank stays as it is
        out = x - (u * (s * (1 - gain))[:, None]) @ v
    else:
        fading = bands.rank - bands.style
        y = _strength(level, 1.0, -float(fading))
        gain = y + (1 - y) * (bands.rank - 1 - index) / fading
        out = mean + (u * (s * gain.clamp(min=0, max=1))[:, None]) @ v
    return _rescaled(out, x).to(tokens.dtype)


def focus_first_release(tokens: torch.Tensor, level: int) -> torch.Tensor:
    """The five levels of the first release, without rescaling.

    -2 and -1 drop the 2 or 1 largest of 50 components (and all beyond 50); 1 and 2 keep only the 10
    or 2 largest; 0 leaves the tokens as they are. That release treated the null context alike.

    Args:
        tokens: (B, N, D) local tokens.
        level: -2, -1, 0, 1 or 2.

    Returns:
        Like tokens.

    Raises:
        ValueError: another level, or tokens of another shape.
    """
    _check(tokens)
    if level not in FIRST_RELEASE:
        raise ValueError(f"level is {level}: choose one of {', '.join(map(str, FIRST_RELEASE))}.")
    if level == 0:
        return tokens
    if level > 0:
        return top_components(tokens, 10 if level == 1 else 2)
    mean, u, s, v = _components(tokens.float(), 50)
    u, s, v = u[:, :, -level:], s[:, -level:], v[:, -level:]
    return (mean + (u * s[:, None]) @ v).to(tokens.dtype)


def top_components(tokens: torch.Tensor, rank: int) -> torch.Tensor:
    """The `rank` largest components and the mean, without rescaling: (B, N, D) -> (B, N, D)."""
    _check(tokens)
    mean, u, s, v = _components(tokens.float(), rank)
    return (mean + (u * s[:, None]) @ v).to(tokens.dtype)


def focus_context(tokens: torch.Tensor, level: float, bands: Bands = RELEASED) -> torch.Tensor:
    """`focus_tokens` on a whole image context (B, 1 + N, D): the class token stays as it is."""
    return torch.cat([tokens[:, :1], focus_tokens(tokens[:, 1:], level, bands)], dim=1)


def _check(tokens: torch.Tensor) -> None:
    if tokens.ndim != 3:
        raise ValueError(f"Tokens have shape {tuple(tokens.shape)}: give (batch, tokens, width).")


def _components(
    x: torch.Tensor, rank: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean over channels (B, N, 1), and the `rank` largest components u (B, N, R), s, v (B, R, D).

    An exact decomposition: the released code's is randomised, which costs it its last digits.
    """
    mean = x.mean(dim=-1, keepdim=True)
    u, s, v = torch.linalg.svd(x - mean, full_matrices=False)
    return mean, u[:, :, :rank], s[:, :rank], v[:, :rank]


def _strength(level: float, end: float, at_end: float) -> float:
    """1 at level 0.5 and `at_end` at level `end`, exponential in between."""
    t, t_end = math.exp(2 * (level - 0.5)), math.exp(2 * (end - 0.5))
    return at_end + (1 - at_end) * (t - t_end) / (1 - t_end)


def _rescaled(out: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Scale each sample to the standard deviation of another; a constant one stays as it is."""
    now, before = (a.std(dim=(1, 2), keepdim=True) for a in (out, like))
    return out * torch.where(now > 0, before / now.clamp(min=1e-30), torch.ones_like(now))
