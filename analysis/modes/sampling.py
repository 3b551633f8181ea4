"""How to sample: timesteps, guidance, random numbers; and the loop over denoising steps.

Every sample has a random generator of its own, seeded with its seed: it is the same alone and in
any batch. To compare with results of the released code there is that one's noise, too: seeded with
seed + 100, and one draw for all n samples of an input (`lib.noise.OfficialNoise`). Where those are
worked on in several batches, each takes its rows of the whole draw.

Official noise is that of the initial latents, and of every step where eta > 0. What the released
code draws besides is not repeated: the latent that `fidelity` starts from is the posterior's mean,
and texts above temperature 0 are read by other random numbers. It draws on the model's device, so
results of a GPU are only met on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from analysis.modes.options import Settings
from lib.config import ModelSpec
from lib.model import Context, Mix, VersatileDiffusion
from lib.noise import MAX_SEED, OfficialNoise, SampleNoise, draw_seed
from lib.sampler import SAMPLERS, Eps, Step, check_eta


def settled(settings: Settings, spec: ModelSpec, scale: float) -> Settings:
    """The same settings with the model's steps, and this guidance, where they leave those open.

    Raises:
        ValueError: fresh noise for a sampler that takes none.
    """
    check_eta(settings.sampler, settings.eta)
    chosen = scale if settings.scale is None else settings.scale
    return replace(settings, steps=settings.steps or spec.steps, scale=chosen)


def draws(
    how: Settings, seeds: Sequence[int], whole: Sequence[int], device: torch.device | str = "cpu"
) -> SampleNoise:
    """Random numbers of samples, from their start.

    Args:
        how: whose noise it is.
        seeds: of the samples.
        whole: of the whole batch that official noise is drawn for, counting on by one.
        device: where that draws.
    """
    if how.noise == "sample":
        return SampleNoise(seeds)
    return OfficialNoise(whole[0], len(whole), [seed - whole[0] for seed in seeds], device)


def seeds_of(seed: int | list[int] | None, inputs: int, n: int, noise: str = "sample") -> list[int]:
    """Seeds of n samples of each input, in the order of inputs.

    One seed counts on through all samples: seed, seed + 1, ... A list of n seeds is every input's;
    one of inputs * n seeds has each sample's. Official noise is one draw for the n samples of *one*
    input, as the released demo makes them; so there every input has the same seeds, seed + k naming
    row k of the draw.

    Raises:
        ValueError: another number of seeds, or the last one would be too large.
    """
    count = inputs * n
    if isinstance(seed, list):
        if len(seed) not in (n, count):
            raise ValueError(
                f"There are {len(seed)} seeds for {count} samples: give one, {n} (one for each "
                f"sample of an input), or {count}."
            )
        return seed if len(seed) == count else seed * inputs
    first = draw_seed() if seed is None else seed
    if first + count - 1 > MAX_SEED:
        raise ValueError(f"seed is {first}: the last of {count} samples would have one over 2**63.")
    if noise == "official":
        return list(range(first, first + n)) * inputs
    return list(range(first, first + count))


class Conditions(NamedTuple):
    """What conditions a batch.

    Attributes:
        contexts: with their weights.
        nulls: what to guide away from, one a context; None takes the null contexts.
        latents: (B, ...) x at the first visited timestep, instead of noise.
        around: a noise prediction -> the one to sample with.
        notes: what was learnt of each sample on the way, for its record.
    """

    contexts: Mix
    nulls: Sequence[Context] | None = None
    latents: Tensor | None = None
    around: Callable[[Eps], Eps] | None = None
    notes: Sequence[Mapping[str, Any]] | None = None


def denoise(
    vd: VersatileDiffusion,
    data: str,
    conditions: Conditions,
    noise: SampleNoise,
    how: Settings,
    latents: Tensor | None = None,
    start: Tensor | None = None,
    shape: Sequence[int] | None = None,
) -> Iterator[Step]:
    """Denoise one batch, step by step.

    With `start`, its noised version at the first visited timestep t is where denoising begins,
    `x_t = sqrt(alpha_bar_t) start + sqrt(1 - alpha_bar_t) x_T`. (The released code noises it to the
    timestep after t.)

    Args:
        vd: the model.
        data: "image" or "text": what is generated.
        conditions: contexts with weights, what to guide away from, and more.
        noise: one generator a sample; the first draw is x_T.
        how: steps, scale, sampler and so on, `settled`.
        latents: (B, *shape) to use as x_T instead of that draw.
        start: (B, *shape) scaled latents to start from; needs fidelity > 0.
        shape: of one latent; None is the model's.

    Yields:
        One `Step` a timestep, noisiest first; nothing if fidelity leaves no timestep.
    """
    timesteps = how.timesteps(vd.schedule)
    # drawn in any case, so that given latents change nothing that is drawn later
    drawn = noise.normal(shape or vd.latent_shape(data))
    x = (drawn if latents is None else latents).to(vd.device, torch.float32)
    if not timesteps:
        return
    if start is not None:
        x = vd.schedule.add_noise(start.to(x), timesteps[-1], x)
    eps = vd.guided(conditions.contexts, data, how.scale, conditions.nulls, how.interval)
    if conditions.around is not None:
        eps = conditions.around(eps)
    yield from SAMPLERS[how.sampler](eps, x, vd.schedule, timesteps, eta=how.eta, noise=noise)


def counted(eps: Eps, tick: Callable[[], Any]) -> Eps:
    """The same noise prediction, which calls `tick` after each one."""

    def predicted(x: Tensor, t: int) -> Tensor:
        e = eps(x, t)
        tick()
        return e

    return predicted
