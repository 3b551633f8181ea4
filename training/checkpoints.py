"""Checkpoints of a training, and what they have to agree on to be continued."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lib.checkpoints.tensor_files import save_pickle
from lib.files import replacing
from training import memory, parallel

if TYPE_CHECKING:
    from training.loop import Ema
    from training.stage import Stage


DAMAGED = "{path} is no checkpoint of this program ({error}): delete it to start this stage again."


def fingerprint(stage: Stage) -> dict[str, Any]:
    """What must be equal for a checkpoint to be continued, as plain JSON types."""
    recipe = asdict(stage.recipe)
    for free in ("save_every", "log_every"):
        recipe.pop(free)
    if recipe["optimizer"] == "adamw":  # as before there was another: older checkpoints go on
        del recipe["optimizer"]
    # n batches of one process are what n processes see, so each goes on where the other stopped
    shares = parallel.world() * recipe.pop("accumulate")
    shapes = {name: list(p.shape) for name, p in stage.modules.named_parameters()}
    made = {"processes": shares, "model sizes": shapes, **stage.identity()}
    return json.loads(json.dumps(recipe | made))


def save(path: Path, stage: Stage, optimizer: Any, ema: Ema, step: int, seconds: float) -> None:
    """Write a checkpoint, whole or not at all.

    Where weights are divided over processes, all have to call this; the first one writes.
    """
    parameters, moments = memory.trained(stage.modules), optimizer.state_dict()
    for k, values in moments["state"].items():
        moments["state"][k] = {n: memory.whole(v, parameters[k]) for n, v in values.items()}
    state = {
        "fingerprint": fingerprint(stage),
        "run": stage.run,
        "modules": {name: memory.whole(value, value) for name, value in stage.kept().items()},
        "optimizer": moments,
        "ema": [memory.whole(*pair) for pair in zip(ema.shadow, parameters, strict=True)],
        "step": step,
        "seconds": seconds,
    }
    if parallel.rank():
        return
    with replacing() as temporary:
        save_pickle(state, temporary(path))


def resume(folder: Path, stage: Stage, optimizer: Any, ema: Ema) -> tuple[int, float]:
    """Take up the last checkpoint, or the one before the cooldown if the recipe was prolonged.

    Returns:
        Step and seconds to go on from; 0 and 0 without a checkpoint.

    Raises:
        ValueError: a checkpoint that is damaged, or of another recipe, model or data.
    """
    for path in (folder / "checkpoint.pt", folder / "stable.pt"):
        if not path.exists():
            continue
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            made, step = {**state["fingerprint"]}, int(state["step"])
        except (MemoryError, OSError):  # not the file's fault
            raise
        except Exception as error:  # torch and pickle raise whatever the bytes lead them to
            raise ValueError(DAMAGED.format(path=path, error=repr(error)[:200])) from error
        changed = changes(made, fingerprint(stage))
        if changed == ["steps"] and step <= _stable_until(made):
            changed = []
        if not changed:
            try:
                stage.run = state["run"]
                _take_up(state, stage, optimizer, ema)
                return step, float(state["seconds"])
            except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
                if "memory" in str(error).lower():  # which it was right to say so
                    raise
                raise ValueError(DAMAGED.format(path=path, error=repr(error))) from error
        refused = f"{path} was made with other {', '.join(changed)}"
        if changed != ["steps"]:
            raise ValueError(f"{refused}: use what it was made with, or another run folder.")
    if (folder / "checkpoint.pt").exists():
        raise ValueError(
            f"{refused}: only a trapezoid can be prolonged; use the old number of steps to go on, "
            "or another run folder to start again."
        )
    return 0, 0.0


@torch.no_grad()
def _take_up(state: dict[str, Any], stage: Stage, optimizer: Any, ema: Ema) -> None:
    own = stage.kept()
    if own.keys() != state["modules"].keys():
        raise ValueError(f"The checkpoint of {stage.name} has other weights than this model.")
    for name, weight in own.items():
        memory.local(weight).copy_(memory.part_of(state["modules"][name], weight))
    moments = state["optimizer"]["state"]
    for k, parameter in enumerate(memory.trained(stage.modules)):
        if k in moments:
            moments[k] = {n: memory.part_of(v, parameter) for n, v in moments[k].items()}
        ema.shadow[k].copy_(memory.part_of(state["ema"][k], parameter))
    optimizer.load_state_dict(state["optimizer"])


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Names of what two fingerprints do not agree on."""
    return sorted(name for name in {*old, *new} if old.get(name) != new.get(name))


def _stable_until(recipe: dict[str, Any]) -> int:
    """The step up to which a recipe's learning rate does not know when it will end."""
    if recipe["decay"] != "trapezoid":
        return -1
    return round(recipe["steps"] * (1 - recipe["cooldown"]))
