"""Finished weights move from the run folder into the model folder that the library loads."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lib.config import ModelSpec
from lib.model import VersatileDiffusion
from lib.weights import save

if TYPE_CHECKING:
    from training.loop import Stage


def export(stage: Stage, spec: ModelSpec, measured: dict[str, float], seconds: float) -> None:
    """Save a stage's modules as components of the model in `stage.out`, half precision.

    What was measured, how long training took and by which recipe is added to `training.json`
    beside them.
    """
    vd = VersatileDiffusion(spec, dict(stage.modules))
    save(vd, stage.out, components=tuple(stage.modules))
    record(stage, measured, seconds)


def record(stage: Stage, measured: dict[str, float], seconds: float) -> None:
    """Add a stage to `training.json` of its output folder."""
    path = Path(stage.out) / "training.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known[stage.name] = {
        "measured": {key: round(value, 5) for key, value in measured.items()},
        "minutes": round(seconds / 60, 1),
        "recipe": asdict(stage.recipe),
    }
    path.write_text(json.dumps(known, indent=2) + "\n")
