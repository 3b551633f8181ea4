"""Sweeps of the suite `scenes`: the same inputs and seeds, sampled otherwise.

| section of the report | flow | compared |
|---|---|---|
| `sweep` | t2i, i2t | guidance scales |
| `sweep_steps` | t2i | numbers of steps, with several samplers |
| `sweep_fidelity` | i2i | how late sampling starts from the input |

Since inputs and seeds are the same, runs are compared input by input: `all_minus_ddim_50` is the
difference of two shares with the interval of paired observations. A run that the evaluation makes
anyhow (its own scale, sampler and steps) is not made twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from analysis.measure import scene_summary
from analysis.measure.protocol import SWEPT, Settings
from analysis.measure.rows import Row, Task
from analysis.measure.scene_tasks import Bench
from analysis.metrics.statistics import Estimate, paired_difference
from lib.guidance import guided
from lib.sampler import SAMPLERS
from lib.schedule import NoiseSchedule

BASE = "ddim"
"""With the most steps of the sweep, it is what all others are compared with."""
_MAIN = {"t2i": "t2i-test", "i2t": "i2t-test", "i2i": "i2i-test"}


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        section: of the report.
        flow: what is run.
        label: the run's name in the section.
        task: name of the task that has its rows.
        changes: how its sampling differs, as keyword arguments of the flow's function.
    """

    section: str
    flow: str
    label: str
    task: str
    changes: dict[str, Any]


def points(settings: Settings) -> list[Point]:
    """All runs that resolved settings ask for."""
    s, found = settings, []

    def add(section: str, flow: str, label: str, name: str, **changes: Any) -> None:
        usual = {"scale": s.scale(flow), "steps": s.steps, "sampler": s.sampler, "fidelity": 0.0}
        made = all(usual[key] == value for key, value in changes.items())
        task = _MAIN[flow] if made else f"sweep-{flow}-{name}"
        found.append(Point(section, flow, label, task, changes))

    for flow in (flow for flow in SWEPT if flow in s.flows):
        for scale in s.sweep_scale:
            add("sweep", flow, f"{scale:g}", f"{scale:g}", scale=scale)
    for sampler in s.sweep_sampler:
        for steps in s.sweep_steps:
            label = f"{sampler}, {steps}"
            add("sweep_steps", "t2i", label, f"{sampler}-{steps}", sampler=sampler, steps=steps)
    for fidelity in s.sweep_fidelity:
        name = f"fidelity-{fidelity:g}"
        add("sweep_fidelity", "i2i", f"{fidelity:g}", name, fidelity=fidelity)
    return found


def tasks(bench: Bench) -> list[Task]:
    """What has to be measured for sweeps, besides what is measured anyhow."""
    measure = {
        "t2i": partial(bench.t2i, "test"),
        "i2t": bench.i2t,
        "i2i": bench.i2i_once,
    }
    n = _inputs(bench.settings)
    return [
        Task(point.task, n, partial(measure[point.flow], **point.changes))
        for point in points(bench.settings)
        if point.task not in _MAIN.values()
    ]


def summarise(
    rows: Mapping[str, Sequence[Row]], settings: Settings, schedule: NoiseSchedule
) -> dict[str, Any]:
    """Sections of all sweeps: {section: {flow: {label: measures}}}.

    Args:
        rows: of all tasks, by name.
        settings: resolved ones.
        schedule: the model's, on which samplers take their steps.
    """
    found: dict[str, Any] = {}
    n, base = _inputs(settings), _base(settings)
    for point in points(settings):
        part = rows[point.task][:n]
        if point.section == "sweep":
            measured = scene_summary.sweep(point.flow, part)
        elif point.section == "sweep_fidelity":
            measured = scene_summary.fidelity(part)
        else:
            count = evaluations(schedule, **point.changes, scale=settings.scale(point.flow))
            measured = {"network_evaluations": Estimate(count, None, None, 0, "count")}
            measured |= scene_summary.sweep(point.flow, part)
            if base is not None and point.label != base.label:
                measured[f"all_minus_{BASE}_{base.changes['steps']}"] = _difference(
                    part, rows[base.task][:n]
                )
        section = found.setdefault(point.section, {})
        section.setdefault(point.flow, {})[point.label] = measured
    return found


def evaluations(schedule: NoiseSchedule, sampler: str, steps: int, scale: float) -> int:
    """How often the network looks at a sample: what a run costs, counted by running it on nothing.

    Guidance takes two looks a prediction, and a step of Heun's method two predictions.
    """
    count = 0

    def look(x: Tensor, t: int) -> Tensor:
        nonlocal count
        count += 1
        return torch.zeros_like(x)

    eps = guided(look, look, scale)
    for _ in SAMPLERS[sampler](eps, torch.zeros(1, 1), schedule, schedule.ddim_timesteps(steps)):
        pass
    return count


def _inputs(settings: Settings) -> int:
    return min(settings.n, settings.sweep_n)


def _base(settings: Settings) -> Point | None:
    """The run of `BASE` with the most steps, if there is one."""
    of_base: Iterator[Point] = (
        point
        for point in points(settings)
        if point.section == "sweep_steps" and point.changes["sampler"] == BASE
    )
    return max(of_base, key=lambda point: point.changes["steps"], default=None)


def _difference(rows: Sequence[Row], base: Sequence[Row]) -> Estimate:
    """Share with every attribute right, minus that of the base."""
    pairs = [(a["right"]["all"], b["right"]["all"]) for a, b in zip(rows, base, strict=True)]
    gained, lost = (sum(pair == kind for pair in pairs) for kind in ((True, False), (False, True)))
    return paired_difference(gained, lost, len(pairs))
