"""Bulk work on a Ray cluster: actors that hold the model, each making a part of the inputs.

    pip install "ray[data]"

    import ray
    from analysis.modes.on_ray import make_on_ray
    ray.init("auto")
    make_on_ray("vd-mini", "t2i", prompts, "/shared/output", seed=7, actors=8, gpus=1, n=4)

Results go through the same writer as everywhere (`analysis.modes.job.make`), under the names that
one process gives them; what is there is passed over, so the same call goes on after a crash. The
output folder has to be one that all machines see. Without Ray there is `--share`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from analysis.modes.table import MODES
from analysis.results.outputs import prepare
from lib.files import next_number


class Maker:
    """An actor: a model, and what is done with each part of the inputs."""

    def __init__(self, model: str, mode: str, out: str, options: dict[str, Any]) -> None:
        from lib.checkpoints import load

        self.vd, self.function = load(model), MODES[mode].function
        self.out, self.options = out, options

    def __call__(self, part: dict[str, Any]) -> dict[str, Any]:
        """Make the samples of some inputs, and return the paths of their files."""
        from analysis.modes.job import make

        saved: list[str] = []
        seeds = [int(seed) for seed in part["seeds"]]
        job = self.function.job(self.vd, list(part["inputs"]), seed=seeds, **self.options)
        make(
            job,
            self.out,
            first=int(part["first"]),
            progress=False,
            report=lambda one: saved.append(str(one.path)),
        )
        return {"paths": saved}


def make_on_ray(
    model: str,
    mode: str,
    inputs: Sequence[str],
    out: str | Path = "output",
    *,
    seed: int,
    actors: int = 2,
    gpus: float = 0,
    part: int = 64,
    **options: Any,
) -> list[str]:
    """Make samples of each input, on the cluster that `ray.init` has joined.

    Args:
        model: name or path, as all machines know it.
        mode: name of a mode with one input a sample, such as "t2i" or "i2i".
        inputs: prompts, or paths of pictures that all machines see.
        out: folder that all machines see; results go to `out/<mode>/`.
        seed: of the first sample; sample k of input j has `seed + j n + k`, as everywhere.
        actors: how many models are held at a time.
        gpus: of each actor.
        part: inputs that an actor is given at a time.
        options: of the mode, such as n and steps.

    Returns:
        Paths of all files, in the order of inputs, then samples.

    Raises:
        ValueError: another mode, no inputs, or Ray is not installed.
    """
    if mode not in MODES or not inputs:
        raise ValueError(
            f"{mode!r} of {len(inputs)} inputs: give one of {', '.join(MODES)}, and some inputs."
        )
    try:
        ray_data = import_module("ray.data")  # by name: it is no requirement
    except ImportError as error:
        raise ValueError('This needs Ray: pip install "ray[data]", or use --share.') from error
    n = int(options.get("n", 1))
    prepare(out, mode)
    folder = Path(out).resolve() / mode
    asked = json.dumps([model, mode, list(map(str, inputs)), seed, options], default=str)
    owner = hashlib.sha256(asked.encode()).hexdigest()[:16]
    begin = next_number(folder, owner)
    parts = [
        {
            "inputs": list(map(str, inputs[i : i + part])),
            "seeds": list(range(seed + i * n, seed + min(i + part, len(inputs)) * n)),
            "first": begin + i * n,
        }
        for i in range(0, len(inputs), part)
    ]
    how = {"model": model, "mode": mode, "out": str(folder.parent), "options": options}
    made = ray_data.from_items(parts, override_num_blocks=len(parts)).map(
        Maker, fn_constructor_kwargs=how, concurrency=actors, num_gpus=gpus
    )
    paths = sorted(path for row in made.take_all() for path in row["paths"])
    (folder / f".{owner}.plan").unlink(missing_ok=True)
    return paths
