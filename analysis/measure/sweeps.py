"""Sweeps: the same inputs and seeds, sampled otherwise.

| section of the report | flow | compared |
|---|---|---|
| `sweep` | t2i, i2t | guidance scales |
| `sweep_steps` | t2i | numbers of steps, with several samplers |
| `sweep_fidelity` | i2i | how late sampling starts from the input |

Since inputs and seeds are the same, runs are compared input by input: where rows say what is right,
`all_minus_ddim_50` is the difference of two shares with the interval of paired observations. A run
that the evaluation makes anyhow (its own scale, sampler and steps) is not made twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from analysis.measure.numbers import Section
from analysis.measure.protocol import SWEEPS, Settings
from analysis.measure.rows import Rows, Task
from analysis.metrics.statistics import Estimate, paired_difference
from lib.guidance import guided
from lib.sampler import SAMPLERS
from lib.schedule import NoiseSchedule

if TYPE_CHECKING:
    from analysis.measure.suite import Suite

BASE = "ddim"
"""With the most steps of the sweep, it is what all others are compared with."""


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


def points(settings: Settings, main: Mapping[str, str]) -> list[Point]:
    """All runs that resolved settings ask for.

    Args:
        settings: what to sweep.
        main: flow -> the task of the evaluation's own run.
    """
    s, runs = settings, []

    def add(section: str, flow: str, label: str, name: str, **changes: Any) -> None:
        usual = {"scale": s.scale(flow), "steps": s.steps, "sampler": s.sampler, "fidelity": 0.0}
        anyhow = all(usual[key] == value for key, value in changes.items())
        task = main[flow] if anyhow else f"sweep-{flow}-{name}"
        runs.append(Point(section, flow, label, task, changes))

    for flow in (flow for flow in SWEEPS["scale"] if flow in s.flows):
        for scale in s.sweep_scale:
            add("sweep", flow, f"{scale:g}", f"{scale:g}", scale=scale)
    for sampler in s.sweep_sampler:
        for steps in s.sweep_steps:
            label = f"{sampler}, {steps}"
            add("sweep_steps", "t2i", label, f"{sampler}-{steps}", sampler=sampler, steps=steps)
    for fidelity in s.sweep_fidelity:
        name = f"fidelity-{fidelity:g}"
        add("sweep_fidelity", "i2i", f"{fidelity:g}", name, fidelity=fidelity)
    return runs


def tasks(suite: Suite) -> list[Task]:
    """What has to be measured for sweeps, besides what is measured anyhow."""
    n = min(suite.settings.n, suite.settings.sweep_n)
    return [
        Task(point.task, n, partial(suite.swept(point.flow), **point.changes))
        for point in points(suite.settings, suite.main)
        if point.task != suite.main[point.flow]
    ]


def summarise(suite: Suite, rows: Mapping[str, Rows]) -> Section:
    """Sections of all sweeps: {section: {flow: {label: measures}}}.

    Args:
        suite: with resolved settings.
        rows: of all tasks, by name.
    """
    runs, sections = points(suite.settings, suite.main), {}
    n = min(suite.settings.n, suite.settings.sweep_n)
    of_base = [p for p in runs if p.changes.get("sampler") == BASE]
    base = max(of_base, key=lambda point: point.changes["steps"], default=None)
    for point in runs:
        part = rows[point.task][:n]
        measured = suite.compared(point.section, point.flow, part, rows)
        if point.section == "sweep_steps":
            scale = suite.settings.scale(point.flow)
            count = evaluations(suite.vd.schedule, **point.changes, scale=scale)
            measured = {"network_evaluations": Estimate(count, None, None, 0, "count")} | measured
            if base is not None and point is not base and "right" in part[0]:
                name = f"all_minus_{BASE}_{base.changes['steps']}"
                measured[name] = _difference(part, rows[base.task][:n])
        runs_of_flow = sections.setdefault(point.section, {}).setdefault(point.flow, {})
        runs_of_flow[point.label] = measured
    return sections


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
    for _ in SAMPLERS[sampler](eps, torch.zeros(1, 1), schedule, schedule.timesteps(steps)):
        pass
    return count


def _difference(rows: Rows, base: Rows) -> Estimate:
    """Share with every attribute right, minus that of the base."""
    pairs = [(a["right"]["all"], b["right"]["all"]) for a, b in zip(rows, base, strict=True)]
    return paired_difference(pairs.count((True, False)), pairs.count((False, True)), len(pairs))
