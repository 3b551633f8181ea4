"""Many results, safe at any moment: saved as they are made, and not made twice.

A job with given seeds says exactly what it is going to make. What lies in the output folder with
the same record is passed over, so an interrupted job goes on where it stopped when it is started
again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from analysis.modes.job import Job
from analysis.results.outputs import OUT, Saved, finished, identity, read_record, save
from lib.files import held_interrupts


def make(
    job: Job,
    out: str | Path = OUT,
    *,
    again: bool = False,
    progress: bool = True,
    report: Callable[[Saved], None] = lambda saved: None,
) -> None:
    """Make a job's samples, saving each batch as soon as it is there.

    Args:
        job: what to make.
        out: folder; results go to `out/<mode>/`.
        again: make also what is there already (nothing is overwritten, it gets another number).
        progress: show a bar.
        report: called with each result, first those that were there, then each that is saved.

    Raises:
        KeyboardInterrupt: Ctrl-C; what was reported is saved.
        OSError: a result could not be saved; those reported are.
    """
    there = {} if again else finished(out, job.mode)
    todo: list[int] = []
    for k in range(len(job)):
        path = there.get(identity(job.record_of(k)))
        if path is None:
            todo.append(k)
        else:
            report(Saved(path, read_record(path), new=False))
    for part in job.run(todo, progress) if todo else ():
        with held_interrupts():
            for k in range(len(part)):
                (path,) = save(part[k], out)
                report(Saved(path, read_record(path), new=True))
