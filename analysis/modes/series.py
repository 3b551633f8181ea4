"""Strips along which weights and guidance change: a job for each value, used like one job."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from analysis.modes.sampling import Job
from analysis.results import Result, joined
from lib.sampler import Step


@dataclass(frozen=True, eq=False)
class Series:
    """Jobs with the same inputs and other settings each, one after the other, used like one job.

    For strips along which weights and guidance change: those are the same within a batch.

    Attributes:
        jobs: at least one.
    """

    jobs: Sequence[Job]

    @property
    def mode(self) -> str:
        """Name of the application."""
        return self.jobs[0].mode

    @property
    def data(self) -> str:
        """What is generated."""
        return self.jobs[0].data

    @property
    def seeds(self) -> list[int]:
        """One a sample."""
        return [seed for job in self.jobs for seed in job.seeds]

    def __len__(self) -> int:
        return sum(map(len, self.jobs))

    def record_of(self, k: int) -> dict[str, Any]:
        """As `Job.record_of`."""
        job, m = divmod(k, len(self.jobs[0]))
        return self.jobs[job].record_of(m)

    def run(self, only: Sequence[int] | None = None, progress: bool = True) -> Iterator[Result]:
        """As `Job.run`."""
        for job, mine in self._split(only):
            yield from job.run(mine, progress)

    def steps(self, only: Sequence[int] | None = None) -> Iterator[Step]:
        """As `Job.steps`, for one job after the other; i begins again with each."""
        for job, mine in self._split(only):
            yield from job.steps(mine)

    def result(self, progress: bool = True) -> Result:
        """All samples as one result."""
        return joined(self.run(progress=progress))

    def _split(self, only: Sequence[int] | None) -> Iterator[tuple[Job, list[int]]]:
        """The jobs that have some of these samples, and their own numbers of them."""
        size = len(self.jobs[0])
        todo = range(len(self)) if only is None else only
        for i, job in enumerate(self.jobs):
            mine = [k - i * size for k in todo if k // size == i]
            if mine:
                yield job, mine


def along(name: str, values: Sequence[Any], job_at: Callable[[Any], Job]) -> Series:
    """A job for each value of a strip; their records say which, and that it is a strip."""
    jobs = []
    for value in values:
        job = job_at(value)
        samples = [{**sample, name: value} for sample in job.samples]
        jobs.append(replace(job, samples=samples, settings={**job.settings, "strip": name}))
    return Series([replace(job, seeds=jobs[0].seeds) for job in jobs])
