"""How to sample, the part that every mode has: steps, guidance, sampler, seeds and noise.

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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lib.checks import number, whole_number
from lib.noise import OfficialNoise, SampleNoise, check_seed, draw_seed
from lib.sampler import SAMPLERS, check_eta
from lib.schedule import NoiseSchedule

NOISES = ("sample", "official")


@dataclass(frozen=True)
class Sampling:
    """Settings of sampling.

    Attributes:
        steps: of the whole subsequence.
        scale: guidance; 1 is the plain conditional model.
        sampler: a name in `SAMPLERS`.
        eta: 0 (deterministic) to 1 (ancestral): share of fresh noise at every step.
        fidelity: 0 (from noise alone) to 1 (the input itself): how late to start.
        interval: (low, high) timesteps between which to guide; None guides at all.
        noise: "sample" (one generator a sample) or "official" (the released code's, one a batch).
    """

    steps: int
    scale: float
    sampler: str = "ddim"
    eta: float = 0.0
    fidelity: float = 0.0
    interval: tuple[float, float] | None = None
    noise: str = "sample"

    def __post_init__(self) -> None:
        if not isinstance(self.sampler, str) or self.sampler not in SAMPLERS:
            raise ValueError(f"sampler is {self.sampler!r}: choose {' or '.join(SAMPLERS)}.")
        if self.noise not in NOISES:
            raise ValueError(f"noise is {self.noise!r}: choose {' or '.join(NOISES)}.")
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
            "noise": self.noise,
        }

    def timesteps(self, schedule: NoiseSchedule) -> list[int]:
        """The timesteps that are visited: the first `int(S * (1 - fidelity))` of the subsequence.

        Raises:
            ValueError: steps out of the schedule's range.
        """
        timesteps = schedule.ddim_timesteps(self.steps)
        return timesteps[: int(len(timesteps) * (1 - self.fidelity))]

    def seeds(self, seed: int | None, inputs: int, n: int) -> list[int]:
        """Seeds of n samples of each input, counting on through all of them.

        Official noise is one draw for the n samples of *one* input, as the released demo makes
        them; so there every input has the same seeds, seed + k naming row k of the draw.

        Raises:
            ValueError: not a seed, or the last one would be too large.
        """
        if self.noise == "official":
            return seeds_from(seed, n) * inputs
        return seeds_from(seed, inputs * n)

    def draws(
        self, seeds: Sequence[int], whole: Sequence[int], device: torch.device | str = "cpu"
    ) -> SampleNoise:
        """Random numbers of samples, from their start.

        Args:
            seeds: of the samples.
            whole: of the whole batch that official noise is drawn for, counting on by one.
            device: where that draws.
        """
        if self.noise == "sample":
            return SampleNoise(seeds)
        rows = [seed - whole[0] for seed in seeds]
        return OfficialNoise(whole[0], len(whole), rows, device)


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


def _interval(given: Sequence[float]) -> list[float]:
    """An interval of timesteps as plain JSON; ValueError unless it is (low, high)."""
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != 2:
        raise ValueError(f"interval is {given!r}: give two timesteps, (low, high), or None.")
    low, high = (number("interval", t) for t in given)
    if low > high:
        raise ValueError(f"interval is {given!r}: give the lower timestep first.")
    return [low, high]
