"""What all modes share: from conditions to results, batch by batch.

A mode says *what conditions a sample*; `analysis.modes.build` makes a `Job` of it, and that does
the rest, the same for every mode:

    noise of each sample -> denoise under guidance -> decode -> Result

Samples are numbered through all inputs, sample k of input j being number `j * n + k`, and each has
its own seed. So a sample is the same alone, in any batch, and when an interrupted job goes on:
`make` saves each batch as it is made, and passes over what lies in the output folder with the same
record.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property, partial
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from platform import python_version
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from analysis.modes.decoding import decode
from analysis.modes.options import Settings
from analysis.modes.sampling import Conditions, denoise, draws
from analysis.modes.source import Sample
from analysis.results.outputs import OUT, Saved, finished, identity, read_record, save
from analysis.results.result import Result, flat_record, joined
from lib.files import held_interrupts, next_number
from lib.fingerprints import fingerprint, model_digests, tensor_digest
from lib.model import VersatileDiffusion
from lib.noise import SampleNoise
from lib.sampler import Step

Tick = Callable[[], Any]
"""To be called after each prediction that a bar counts."""


@dataclass(frozen=True, eq=False)
class Job:
    """Samples to make: everything is checked, nothing is computed yet.

    Attributes:
        vd: the model.
        mode: name of what is done, and of the results' folder.
        data: "image" or "text": what is generated.
        how: value along the strip -> settings with steps and scale.
        samples: what is to be made.
        records: what each sample's record has of its own, besides its seed.
        condition: samples of one batch (and a `Tick`, with a `lead`) -> what conditions them.
        shape: of one latent.
        settings: what all records share, besides the model.
        components: of the model that are used.
        batch_size: how many samples are in memory at a time.
        start: numbers of inputs -> latents to start from, for fidelity > 0.
        finish: (a sample, its picture) -> the picture as it is handed out.
        latents: (samples, ...) initial noise, instead of the seeds'.
        by_value: whether a batch has samples of one value of the strip only.
        lead: predictions that `condition` makes for a sample (an inversion, for example), and
            tells by a `Tick`: the bar counts each as a step. 0 is for none worth counting.
    """

    vd: VersatileDiffusion
    mode: str
    data: str
    how: Sequence[Settings]
    samples: Sequence[Sample]
    records: Sequence[dict[str, Any]]
    condition: Callable[..., Conditions]
    shape: Sequence[int]
    settings: dict[str, Any]
    components: Sequence[str]
    batch_size: int = 1
    start: Callable[[Sequence[int]], Tensor] | None = None
    finish: Callable[[Sample, Image.Image], Image.Image] | None = None
    latents: Tensor | None = None
    by_value: bool = False
    lead: int = 0

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def seeds(self) -> list[int]:
        """One a sample."""
        return [sample.seed for sample in self.samples]

    @cached_property
    def whole(self) -> list[int]:
        """The seeds, each once, in order: rows of the draw where noise is official."""
        return sorted(set(self.seeds))

    @cached_property
    def shared(self) -> dict[str, Any]:
        """What the records of all samples share."""
        official = {"noise_seed": self.whole[0], "noise_batch": len(self.whole)}
        weights = {name: fingerprint(self.vd.component(name)) for name in self.components}
        packages = ("torch", "transformers", "numpy", "pillow")
        return {
            "mode": self.mode,
            **self.settings,
            **(official if self.how[0].noise == "official" else {}),
            "model": {"name": self.vd.spec.name, "weights": weights, **model_digests(self.vd)},
            "dtype": str(self.vd.dtype).removeprefix("torch."),
            "device": self.vd.device.type,
            "versions": {"python": python_version(), **{p: version(p) for p in packages}},
        }

    def record_of(self, k: int) -> dict[str, Any]:
        """The record that sample k is going to have, but for when it was made."""
        return flat_record(self.shared, self._own(k))

    def run(self, only: Sequence[int] | None = None, progress: bool = True) -> Iterator[Result]:
        """Make the samples, a batch at a time.

        Args:
            only: numbers of the samples to make; None makes all.
            progress: whether to show a bar.

        Yields:
            A `Result` a batch.
        """
        numbers = list(range(len(self)) if only is None else only)
        steps = self.lead + len(self.how[0].timesteps(self.vd.schedule))
        options = {"desc": self.mode, "unit": "step", "disable": not progress, "smoothing": 0.1}
        with tqdm(total=len(numbers) * steps, **options) as bar:
            for _, alike in groupby(numbers, self._value if self.by_value else lambda k: 0):
                which = list(alike)
                for i in range(0, len(which), self.batch_size):
                    yield self._batch(which[i : i + self.batch_size], bar)

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
            fidelity leaves no timestep. Along a strip of weights, all steps of one value, then
            those of the next.

        Example:
            >>> for step in text_to_image.job(vd, "a ring", seed=20).steps():
            ...     film += to_pil(vd.decode_image(step.x0))
        """
        numbers = list(range(len(self)) if only is None else only)
        for _, alike in groupby(numbers, self._value if self.by_value else lambda k: 0):
            yield from self._begin(list(alike))[-1]

    def _value(self, k: int) -> int:
        return self.samples[k].value

    def _begin(
        self, which: list[int], tick: Tick = lambda: None
    ) -> tuple[SampleNoise, Conditions, Tensor | None, Iterator[Step]]:
        """Random numbers, conditions, what is there before the first step, and the steps."""
        samples = [self.samples[k] for k in which]
        how = self.how[samples[0].value if self.by_value else 0]
        noise = draws(how, [sample.seed for sample in samples], self.whole, self.vd.device)
        start = None
        if self.start is not None and how.fidelity > 0:
            start = self.start([sample.input for sample in samples])
        conditions = self.condition(samples, *([tick] if self.lead else []))
        latents = conditions.latents if self.latents is None else self.latents[which]
        steps = denoise(self.vd, self.data, conditions, noise, how, latents, start, self.shape)
        return noise, conditions, latents if start is None else start, steps

    def _batch(self, which: list[int], bar: tqdm) -> Result:
        began = time.perf_counter()
        tick = partial(bar.update, len(which))
        noise, conditions, x, steps = self._begin(which, tick)
        for step in steps:
            x = step.x
            tick()
        finish = None if self.finish is None else partial(self._finished, which)
        how = self.how[self.samples[which[0]].value if self.by_value else 0]
        try:
            if not bool(torch.isfinite(x).all()):
                raise FloatingPointError("The latents are not finite.")
            # finite ones may still be too large for the decoder
            decoded = decode(
                self.vd, self.data, x, how.output, noise, how.temperature, finish, self.shape
            )
        except FloatingPointError as error:
            advice = "a smaller scale, or look for NaN in the weights"
            if self.vd.dtype != torch.float32:
                advice = "float32 (dtype), or a smaller scale"
            raise FloatingPointError(
                f"Sampling left the range of {self.vd.dtype} (scale {how.scale:g}, {how.steps} "
                f"steps): use {advice}."
            ) from error
        record = {
            **self.shared,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - began, 3),
            "samples": [self._own(k) for k in which],
        }
        if conditions.notes is not None:
            for sample, notes in zip(record["samples"], conditions.notes, strict=True):
                sample["found"] = dict(notes)
        return Result(self.mode, record, **decoded)

    def _finished(self, which: list[int], images: list[Image.Image]) -> list[Image.Image]:
        return [self.finish(self.samples[k], i) for k, i in zip(which, images, strict=True)]

    def _own(self, k: int) -> dict[str, Any]:
        own = {**self.records[k], "seed": self.samples[k].seed}
        if self.latents is not None:
            own["latents_sha256"] = tensor_digest(self.latents[k])
        return own


def make(
    job: Job,
    out: str | Path = OUT,
    *,
    again: bool = False,
    progress: bool = True,
    report: Callable[[Saved], None] = lambda saved: None,
    share: tuple[int, int] | None = None,
    first: int | None = None,
) -> None:
    """Make a job's samples, saving each batch as soon as it is there.

    Processes that share a job write the very files that one alone writes: sample k has the running
    number `first + k`, which the first of them notes in the folder until all is there.

    Args:
        job: what to make.
        out: folder; results go to `out/<mode>/`.
        again: make also what is there already (nothing is overwritten, it gets another number).
        progress: show a bar.
        report: called with each result, first those that were there, then each that is saved.
        share: (i, n): make only every n-th sample from the i-th on, as one of n processes.
        first: running number of sample 0; None: the next free one.

    Raises:
        KeyboardInterrupt: Ctrl-C; what was reported is saved.
        OSError: a result could not be saved; those reported are.
    """
    there = {} if again else finished(out, job.mode)
    asked = [identity(job.record_of(k)) for k in range(len(job))]
    mine, n = share or (0, 1)
    todo: list[int] = []
    for k in range(mine, len(job), n):
        path = there.get(asked[k])
        if path is None:
            todo.append(k)
        else:
            report(Saved(path, read_record(path), new=False))
    folder = Path(out) / job.mode
    owner = hashlib.sha256("\n".join(asked).encode()).hexdigest()[:16]
    shared = n > 1 and not set(asked) <= there.keys()
    if shared and first is None:
        first = next_number(folder, owner)
    done = 0
    for part in job.run(todo, progress) if todo else ():
        with held_interrupts():
            for k in range(len(part)):
                number = None if first is None else [first + todo[done]]
                (path,) = save(part[k], out, number)
                done += 1
                report(Saved(path, read_record(path), new=True))
    if shared and set(asked) <= finished(out, job.mode).keys():
        (folder / f".{owner}.plan").unlink(missing_ok=True)
