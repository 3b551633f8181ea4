"""What all modes share: from conditions to results, batch by batch.

A mode says *what conditions a sample* (contexts with weights, what to guide away from, perhaps a
latent to start from); a `Job` does the rest, the same for every mode:

    noise of each sample -> denoise under guidance -> decode -> Result

Samples are numbered through all inputs, sample k of input j being number `j * n + k`, and each has
its own seed: first seed + number. So a sample is the same alone, in any batch, and when an
interrupted job goes on.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from importlib.metadata import version
from platform import python_version
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from analysis.inputs import check_latents, number, whole_number
from analysis.outputs import Result, flat_record, joined
from lib.images import to_pil
from lib.model import Context, Mix, VersatileDiffusion
from lib.noise import SampleNoise, check_seed, draw_seed
from lib.sampler import SAMPLERS, Eps, Step, check_eta
from lib.schedule import NoiseSchedule


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


Condition = Callable[[Sequence[int]], "Conditions | tuple[Mix, Sequence[Context] | None]"]
"""Numbers of samples -> what conditions them."""


@dataclass(frozen=True)
class Sampling:
    """How to sample, the part that every mode has.

    Attributes:
        steps: of the whole subsequence.
        scale: guidance; 1 is the plain conditional model.
        sampler: a name in `SAMPLERS`.
        eta: 0 (deterministic) to 1 (ancestral): share of fresh noise at every step.
        fidelity: 0 (from noise alone) to 1 (the input itself): how late to start.
        interval: (low, high) timesteps between which to guide; None guides at all.
    """

    steps: int
    scale: float
    sampler: str = "ddim"
    eta: float = 0.0
    fidelity: float = 0.0
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler is {self.sampler!r}: choose {' or '.join(SAMPLERS)}.")
        check_eta(self.sampler, self.record()["eta"])

    def record(self) -> dict[str, Any]:
        """As plain JSON types, so that 3, 3.0 and numpy's 3 are the same.

        Raises:
            ValueError: a value of the wrong type or range.
        """
        return {
            "steps": whole_number("steps", self.steps),
            "scale": number("scale", self.scale),
            "sampler": self.sampler,
            "eta": number("eta", self.eta, high=1),
            "fidelity": number("fidelity", self.fidelity, high=1),
            "interval": None if self.interval is None else _interval(self.interval),
        }

    def timesteps(self, schedule: NoiseSchedule) -> list[int]:
        """The timesteps that are visited: the first `int(S * (1 - fidelity))` of the subsequence.

        Raises:
            ValueError: steps out of the schedule's range.
        """
        timesteps = schedule.ddim_timesteps(self.steps)
        return timesteps[: int(len(timesteps) * (1 - self.fidelity))]


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

    def __post_init__(self) -> None:
        self.vd.require(*(self.components or ()))
        self.how.timesteps(self.vd.schedule)
        if self.batch_size is not None:
            whole_number("batch_size", self.batch_size)
        if self.temperature is not None:
            number("temperature", self.temperature)
        if self.latents is not None:
            check_latents(self.latents, (len(self), *self.vd.latent_shape(self.data)))

    def __len__(self) -> int:
        return len(self.seeds)

    @cached_property
    def shared(self) -> dict[str, Any]:
        """What the records of all samples share."""
        return {"mode": self.mode, **self.how.record(), **self.settings, **self._environment()}

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
        steps = len(self.how.timesteps(self.vd.schedule))
        options = {"desc": self.mode, "unit": "step", "disable": not progress, "smoothing": 0.1}
        with tqdm(total=len(todo) * steps, **options) as bar:
            for i in range(0, len(todo), size):
                yield self._batch(todo[i : i + size], bar)

    def result(self, progress: bool = True) -> Result:
        """All samples as one result."""
        return joined(self.run(progress=progress))

    def _batch(self, which: list[int], bar: tqdm) -> Result:
        began = time.perf_counter()
        noise = SampleNoise([self.seeds[k] for k in which])
        start = self.start(which) if self.start is not None and self.how.fidelity > 0 else None
        condition = Conditions(*self.condition(which))
        latents = condition.latents if self.latents is None else self.latents[which]
        x = latents if start is None else start
        for step in denoise(self.vd, self.data, condition, noise, self.how, latents, start):
            x = step.x
            bar.update(len(which))
        if not bool(torch.isfinite(x).all()):
            raise FloatingPointError(
                f"Sampling left the range of {self.vd.dtype} (scale {self.how.scale:g}, "
                f"{self.how.steps} steps): use float32 (dtype), or a smaller scale."
            )
        made: dict[str, Any] = {}
        if self.data == "image":
            images = to_pil(self.vd.decode_image(x))
            finish = self.finish or (lambda k, image: image)
            made["images"] = [finish(k, image) for k, image in zip(which, images, strict=True)]
        else:
            made["texts"] = self.vd.decode_text(x, noise, self.temperature)
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


def seeds_from(seed: int | None, count: int) -> list[int]:
    """One seed a sample: seed, seed + 1, ...; None draws the first.

    Raises:
        ValueError: not a whole number, or the last one would be too large.
    """
    if seed is None:
        seed = draw_seed()
    first = check_seed(int(seed) if isinstance(seed, np.integer) else seed)
    check_seed(first + count - 1)
    return list(range(first, first + count))


def default_batch(vd: VersatileDiffusion, data: str) -> int:
    """Samples in memory at a time: 4 pictures of 512 x 512, up to 32 smaller ones or texts."""
    if data == "text":
        return 32
    return max(1, min(32, 1024**2 // vd.spec.image_size**2))


def fingerprint(module: nn.Module) -> str:
    """Twelve hexadecimal digits that tell weights apart, without reading all of them.

    SHA-256 of every tensor's name and shape, and of up to 64 of its values, evenly spread, as
    float32. Training moves all values, so another training has another fingerprint; one changed
    value among millions may go unnoticed. Float16 weights have theirs in float32, too.
    """
    digest = hashlib.sha256()
    picked: list[Tensor] = []
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)};".encode())
        flat = tensor.detach().reshape(-1)
        picked.append(flat[:: math.ceil(flat.numel() / 64) or 1].float())
    digest.update(torch.cat(picked).cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's values as float32."""
    return hashlib.sha256(tensor.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()


def _interval(given: Sequence[float]) -> list[float]:
    """An interval of timesteps as plain JSON; ValueError unless it is (low, high)."""
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != 2:
        raise ValueError(f"interval is {given!r}: give two timesteps, (low, high), or None.")
    low, high = (number("interval", t) for t in given)
    if low > high:
        raise ValueError(f"interval is {given!r}: give the lower timestep first.")
    return [low, high]
