"""Finished weights move from the run folder into the model folder that the library loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.checkpoints import save
from lib.checkpoints.sources import read_spec
from lib.checks import read_json
from lib.config import ModelSpec
from lib.files import alone, write_atomic
from lib.model import VersatileDiffusion
from training import parallel

if TYPE_CHECKING:
    from training.stage import Stage

RECORD = "training.json"


def current_spec(folder: Path, otherwise: ModelSpec | None) -> ModelSpec | None:
    """The spec in a model folder's `config.json`, or another where there is none yet."""
    folder = Path(folder)
    return read_spec(folder) if (folder / "config.json").exists() else otherwise


def export(
    stage: Stage,
    measured: dict[str, float],
    seconds: float,
    change: Callable[[ModelSpec], ModelSpec] = lambda spec: spec,
    only: tuple[str, ...] | None = None,
) -> None:
    """Save a stage's modules as components of the model in `stage.out`, half precision.

    Args:
        stage: with the finished weights.
        measured: what `stage.measure` found; goes into `training.json` with recipe and duration.
        seconds: how long training took.
        change: puts what this stage found out (a latent scale) into the spec. It is applied to the
            spec that the folder holds *now*: stages may be trained side by side.
        only: which of the modules are components (all by default; readers are dropped).
    """
    modules = {name: m for name, m in stage.modules.items() if only is None or name in only}
    with alone(stage.out):
        spec = change(current_spec(stage.out, stage.spec))
        save(VersatileDiffusion(spec, modules), stage.out, max_file=stage.max_file)
        record(stage, measured, seconds)


def settle(folder: Path, spec: ModelSpec) -> None:
    """Write the spec of a model that is going to be trained, unless its folder has one.

    Stages that are trained side by side then agree on it, whichever is finished first.
    """
    with alone(folder):
        path = Path(folder) / "config.json"
        if not path.exists():
            write_atomic(path, json.dumps(spec.to_dict(), indent=2) + "\n")


def record(stage: Stage, measured: dict[str, float], seconds: float) -> None:
    """Add a stage to `training.json` of its output folder, in the order of training.

    After a warm start, what was trained before stays there under another name: it is part of how
    the weights were made. A stage that began from nothing takes the place of all earlier runs, and
    a run that is prolonged or measured again that of itself.
    """
    known = recorded(stage.out)
    earlier = known.pop(stage.name, None)
    runs = [name for name in known if name.partition(",")[0] == stage.name]
    if not stage.warm:
        for name in runs:
            del known[name]
    elif earlier is not None and earlier.get("run") != stage.run:
        known[f"{stage.name}, run {len(runs) + 1}"] = earlier
    known[stage.name] = {
        "measured": {key: round(value, 5) for key, value in measured.items()},
        "minutes": round(seconds / 60, 1),
        "processes": parallel.world(),
        "samples": stage.samples() * parallel.world(),
        "recipe": asdict(stage.recipe),
        "run": stage.run,
        **stage.identity(),
    }
    write_atomic(Path(stage.out) / RECORD, json.dumps(known, indent=2) + "\n")


def recorded(folder: Path) -> dict[str, dict[str, Any]]:
    """What `training.json` of a folder says of how its weights were made, by stage.

    Raises:
        ValueError: it is damaged.
    """
    path, otherwise = Path(folder) / RECORD, "remove it, and give the same command again"
    known = read_json(path, otherwise) if path.exists() else {}
    if not all(isinstance(about, dict) for about in known.values()):
        raise ValueError(f"{path} is damaged (not all stages are objects): {otherwise}.")
    return known
