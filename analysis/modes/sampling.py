"""What all modes share: from conditions to results, batch by batch.

A mode says *what conditions a sample* (contexts with weights, what to guide away from, perhaps a
latent to start from); a `Job` does the rest, the same for every mode:

    noise of each sample -> denoise under guidance -> decode -> Result

Samples are numbered through all inputs, sample k of input j being number `j * n + k`, and each has
its own seed: first seed + number. So a sample is the same alone, in any batch, and when an
interrupted job goes on. (With the noise of the released code it is not the same alone: see
`Sampling.seeds`.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property, partial
from importlib.metadata import version
from platform import python_version
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from analysis.modes.decoding import check_output, decode
from analysis.modes.inputs import check_latents
from analysis.modes.settings import Sampling
from analysis.results.outputs import Result, flat_record, joined
from lib.checks import number, whole_number
from lib.fingerprints import fingerprint, tensor_digest
from lib.model import Context, Mix, VersatileDiffusion
from lib.noise import SampleNoise
from lib.sampler import SAMPLERS, Eps, Step


class Conditions(NamedTuple):
    """What conditions a batch. A plain (contexts, nulls) serves as well.

    Attributes:
        contexts: with their weights.
        nulls: what to guide away from, one a context; None takes the null contexts.
        latents: (B, ...) x at the first visited timestep, instead of noise.
        around: a noise prediction -> the one to sample with.
        found: what was learnt of each sample on the way, for its record.
    """

    contexts: Mix
    nulls: Sequence[Context] | None = None
    latents: Tensor | None = None
    around: Callable[[Eps], Eps] | None = None
    found: Sequence[Mapping[str, Any]] | None = None


Tick = Callable[[], Any]
"""To be called after each prediction that a bar counts."""

Condition = Callable[..., "Conditions | tuple[Mix, Sequence[Context] | None]"]
"""Numbers of samples -> what conditions them; a job with a `lead` gives it a `Tick`, too."""


def denoise(
    vd: VersatileDiffusion,
    data: str,
    condition: Conditions | tuple[Mix, Sequence[Context] | None],
    noise: SampleNoise,
    how: Sampling,
    latents: Tensor | None = None,
    start: Tensor | None = None,
) -> Iterator[Step]:
    """Denoise one batch, step by step.

    With `start`, its noised version at the last visited timestep t is where denoising begins,
    `x_t = sqrt(alpha_bar_t) start + sqrt(1 - alpha_bar_t) x_T`. (The released code noises it to the
    timestep after t.)

    Args:
        vd: the model.
        data: "image" or "text": what is generated.
        condition: contexts with weights, what to guide away from, and more (`Conditions`).
        noise: one generator a sample; the first draw is x_T.
        how: steps, scale, sampler, eta, fidelity, interval.
        latents: (B, *vd.latent_shape(data)) to use as x_T instead of that draw.
        start: (B, *vd.latent_shape(data)) scaled latents to start from; needs fidelity > 0.

    Yields:
        One `Step` a timestep, noisiest first; nothing if fidelity leaves no timestep.
    """
    timesteps = how.timesteps(vd.schedule)
    # drawn in any case, so that given latents change nothing that is drawn later
    drawn = noise.normal(vd.latent_shape(data))
    x = (drawn if latents is None else latents).to(vd.device, torch.float32)
    if not timesteps:
        return
    if start is not None:
        x = vd.schedule.add_noise(start.to(x), timesteps[-1], x)
    given = Conditions(*condition)
    eps = vd.guided(given.contexts, data, how.scale, given.nulls, how.interval)
    if given.around is not None:
        eps = given.around(eps)
    yield from SAMPLERS[how.sampler](eps, x, vd.schedule, timesteps, eta=how.eta, noise=noise)


def counted(eps: Eps, tick: Tick) -> Eps:
    """The same noise prediction, which ticks after each one."""

    def predicted(x: Tensor, t: int) -> Tensor:
        e = eps(x, t)
        tick()
        return e

    return predicted


@dataclass(frozen=True, eq=False)
class Job:
    """Samples to make: everything is checked, nothing is computed yet.

    Attributes:
        vd: the model.
        mode: name of what is done, and of the results' folder.
        data: "image" or "text": what is generated.
        how: steps, scale, sampler, eta, fidelity, interval.
        seeds: one a sample.
        condition: numbers of samples -> what conditions them.
        samples: what each sample's record has of its own, besides its seed.
        settings: what all records share, besides `how` and the model.
        batch_size: how many samples are in memory at a time; None chooses by the model's size.
        start: numbers of samples -> latents to start from, for fidelity > 0.
        finish: (number of a sample, its picture) -> the picture as it is handed out.
        latents: (samples, ...) initial noise, instead of the seeds'.
        temperature: of decoding texts; None is the model's default.
        components: what is used of the model, for the record.
        output: what results hold: "pil" (pictures, or texts), "tensor" or "latents"
            (`analysis.modes.decoding.decode`).
        lead: predictions that `condition` makes for a sample (an inversion, for example), and
            tells by a `Tick`: the bar counts each as a step. 0 is for none worth counting.
    """

    vd: VersatileDiffusion
    mode: str
    data: str
    how: Sampling
    seeds: Sequence[int]
    condition: Condition
    samples: Sequence[dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    start: Callable[[Sequence[int]], Tensor] | None = None
    finish: Callable[[int, Image.Image], Image.Image] | None = None
    latents: Tensor | None = None
    temperature: float | None = None
    components: Sequence[str] | None = None
    output: str = "pil"
    lead: int = 0

    def __post_init__(self) -> None:
        self.vd.require(*(self.components or ()))
        self.how.timesteps(self.vd.schedule)
        if self.batch_size is not None:
            whole_number("batch_size", self.batch_size)
        if self.temperature is not None:
            number("temperature", self.temperature)
        if self.latents is not None:
            check_latents(self.latents, (len(self), *self.vd.latent_shape(self.data)))
        check_output(self.output, self.finish is not None)
        if self.how.noise == "official" and self.whole[-1] - self.whole[0] >= len(self.whole):
            raise ValueError(
                f"Official noise is one draw for seeds that count on by one, not for {self.whole}: "
                "give one seed for all samples, or noise='sample'."
            )

    def __len__(self) -> int:
        return len(self.seeds)

    @cached_property
    def shared(self) -> dict[str, Any]:
        """What the records of all samples share."""
        official = {"noise_seed": self.whole[0], "noise_batch": len(self.whole)}
        return {
            "mode": self.mode,
            **self.how.record(),
            **(official if self.how.noise == "official" else {}),
            "output": self.output,
            **self.settings,
            **self._environment(),
        }

    @cached_property
    def whole(self) -> list[int]:
        """The seeds, each once, in order: rows of the draw where noise is official."""
        return sorted(set(self.seeds))

    def record_of(self, k: int) -> dict[str, Any]:
        """The record that sample k is going to have, but for when it was made."""
        return flat_record(self.shared, self._sample(k))

    def run(self, only: Sequence[int] | None = None, progress: bool = True) -> Iterator[Result]:
        """Make the samples, a batch at a time.

        Args:
            only: numbers of the samples to make; None makes all.
            progress: whether to show a bar.

        Yields:
            A `Result` a batch.
        """
        todo = list(range(len(self)) if only is None else only)
        size = self.batch_size or default_batch(self.vd, self.data)
        steps = self.lead + len(self.how.timesteps(self.vd.schedule))
        options = {"desc": self.mode, "unit": "step", "disable": not progress, "smoothing": 0.1}
        with tqdm(total=len(todo) * steps, **options) as bar:
            for i in range(0, len(todo), size):
                yield self._batch(todo[i : i + size], bar)

    def result(self, progress: bool = True) -> Result:
        """All samples as one result."""
        return joined(self.run(progress=progress))

    def steps(self, only: Sequence[int] | None = None) -> Iterator[Step]:
        """Denoise samples as one batch, a step at a time: for who wants to look on, or to stop.

        The last step's x is what `run` decodes (`analysis.modes.decoding.decode`).

        Args:
            only: numbers of the samples; None is all, whatever the batch size.

        Yields:
            One `lib.sampler.Step` (i, t, x, x0, eps) a timestep, noisiest first; nothing if
            fidelity leaves no timestep.

        Example:
            >>> for step in flow_job(vd, "t2i", "a ring", seed=20).steps():
            ...     film += to_pil(vd.decode_image(step.x0))
        """
        yield from self._begin(list(range(len(self)) if only is None else only))[-1]

    def _begin(
        self, which: list[int], tick: Tick = lambda: None
    ) -> tuple[SampleNoise, Conditions, Tensor | None, Iterator[Step]]:
        """Random numbers, conditions, what is there before the first step, and the steps."""
        noise = self.how.draws([self.seeds[k] for k in which], self.whole, self.vd.device)
        start = self.start(which) if self.start is not None and self.how.fidelity > 0 else None
        condition = Conditions(*self.condition(which, *([tick] if self.lead else [])))
        latents = condition.latents if self.latents is None else self.latents[which]
        steps = denoise(self.vd, self.data, condition, noise, self.how, latents, start)
        return noise, condition, latents if start is None else start, steps

    def _batch(self, which: list[int], bar: tqdm) -> Result:
        began = time.perf_counter()
        tick = partial(bar.update, len(which))
        noise, condition, x, steps = self._begin(which, tick)
        for step in steps:
            x = step.x
            tick()
        finish = None if self.finish is None else partial(_each, self.finish, which)
        try:
            if not bool(torch.isfinite(x).all()):
                raise FloatingPointError("The latents are not finite.")
            # finite ones may still be too large for the decoder
            made = decode(self.vd, self.data, x, self.output, noise, self.temperature, finish)
        except FloatingPointError as error:
            raise FloatingPointError(
                f"Sampling left the range of {self.vd.dtype} (scale {self.how.scale:g}, "
                f"{self.how.steps} steps): use float32 (dtype), or a smaller scale."
            ) from error
        record = {
            **self.shared,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - began, 3),
            "samples": [self._sample(k) for k in which],
        }
        if condition.found is not None:
            for sample, found in zip(record["samples"], condition.found, strict=True):
                sample["found"] = dict(found)
        return Result(self.mode, record, **made)

    def _sample(self, k: int) -> dict[str, Any]:
        own = {**self.samples[k], "seed": self.seeds[k]}
        if self.latents is not None:
            own["latents_sha256"] = tensor_digest(self.latents[k])
        return own

    def _environment(self) -> dict[str, Any]:
        names = self.components or self.vd.loaded
        weights = {name: fingerprint(self.vd.component(name)) for name in names}
        packages = ("torch", "transformers", "numpy", "pillow")
        return {
            "model": {"name": self.vd.spec.name, "weights": weights},
            "dtype": str(self.vd.dtype).removeprefix("torch."),
            "device": self.vd.device.type,
            "versions": {"python": python_version(), **{p: version(p) for p in packages}},
        }


def default_batch(vd: VersatileDiffusion, data: str) -> int:
    """Samples in memory at a time: 4 pictures of 512 x 512, up to 32 smaller ones or texts."""
    if data == "text":
        return 32
    return max(1, min(32, 1024**2 // vd.spec.image_size**2))


def _each(
    finish: Callable[[int, Image.Image], Image.Image], which: list[int], images: list[Image.Image]
) -> list[Image.Image]:
    return [finish(k, image) for k, image in zip(which, images, strict=True)]
