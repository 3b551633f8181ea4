"""The training loop: one for every stage, interruptible at any moment.

What a step sees depends on its number alone: data are drawn from `generator(seed, step, rank)`,
and torch's own stream is re-seeded with the same numbers. So the data position and the RNG need no
state of their own, and a run that was stopped and resumed is bit-identical to one that was not
(same machine, same thread and process count).

Several processes (see `training.parallel`) share a step: each takes its part of the batch,
gradients are averaged, and all apply the same update.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lib.checks import read_json, whole_number
from lib.files import write_atomic
from training import memory, parallel
from training.checkpoints import changes, fingerprint, resume, save
from training.muon import Muon
from training.plots import read_log
from training.stage import Stage, generator, native_bf16
from training.tracking import tracker

log = logging.getLogger(__name__)

FEW = 8  # samples that a sentence names


class Ema:
    """Exponential moving average `w <- d w + (1 - d) theta` of parameters."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.parameters = list(parameters)
        self.shadow = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take one step of the average."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shadow, self.parameters, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Run a block with the averaged weights in place, then put the trained ones back."""
        kept = [p.detach().clone() for p in self.parameters]
        self._copy(self.shadow)
        try:
            yield
        finally:
            self._copy(kept)

    @torch.no_grad()
    def _copy(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)


def train(
    stage: Stage,
    folder: Path,
    device: torch.device | str = "cpu",
    *,
    recompute: bool = False,
    shard: bool = False,
    track: tuple[str, Path] | None = None,
) -> dict[str, float]:
    """Train a stage to its last step, from its last checkpoint if there is one.

    Writes `checkpoint.pt` (weights, optimizer, EMA, step, seconds; replaced atomically),
    `log.jsonl` (one line every `log_every` steps) and at the end `measured.json`, all in
    `folder/<stage.name>`.
    Ctrl-C finishes the step, saves a checkpoint and stops. A finished stage is not trained again.

    Args:
        stage: what is trained.
        folder: where its run folder is.
        device: of this process.
        recompute: activations are computed twice instead of kept (`training.memory`).
        shard: weights are divided over the processes (`training.memory`).
        track: a tracker of accelerate's and its folder (`training.tracking`).

    Returns:
        What `stage.measure` found on the averaged weights; nothing in processes but the first.

    Raises:
        ValueError: the checkpoint, or the finished run, is of another recipe, another model or
            other data.
    """
    device = torch.device(device)
    rank, chief = parallel.rank(), parallel.rank() == 0
    folder = Path(folder) / stage.name
    folder.mkdir(parents=True, exist_ok=True)
    recipe = stage.recipe
    done = folder / "measured.json"
    if done.exists():
        finished = _finished(done)
        changed = changes(finished["fingerprint"], fingerprint(stage))
        longer = recipe.decay == "trapezoid" and recipe.steps > finished["steps"]
        if not changed:
            log.info("%s is finished: %s. Delete it to train again.", stage.name, done)
            return finished["measured"]
        if changed != ["steps"] or not longer:
            raise ValueError(
                f"{stage.name} in {folder} is finished, with other {', '.join(changed)}: use what "
                "it was made with, or another run folder (--runs) to train anew."
            )
    if shard and recipe.optimizer == "muon":
        raise ValueError(
            "Muon moves whole matrices, and --shard divides them over the processes: train with "
            "--optimizer adamw, or without --shard."
        )
    if recompute:
        memory.recompute(stage.modules)
    loss = memory.Sharded(stage, device) if shard else stage.loss
    stage.modules.to(device).train()
    stage.placed()
    scales = stage.gradient_scales()
    whole = memory.trained(stage.modules)
    parameters = [memory.own_part(parameter) for parameter in whole]
    how = {"lr": recipe.lr, "betas": recipe.betas, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "muon":
        optimizer = Muon(parameters, **how)
    else:
        optimizer = torch.optim.AdamW(parameters, **how, fused=True)
    ema = Ema(parameters, recipe.ema)
    stage.run = secrets.token_hex(6)
    first, seconds = resume(folder, stage, optimizer, ema)
    started = saved = time.monotonic()
    bf16 = native_bf16(device)
    losses: dict[str, list[float]] = {}

    def elapsed() -> float:
        return seconds + time.monotonic() - started

    def keep(name: str, step: int) -> None:
        if chief or shard:
            save(folder / name, stage, optimizer, ema, step, elapsed())

    log_path = folder / ("log.jsonl" if chief else f"log-{rank}.jsonl")
    steps = range(first, recipe.steps)
    bar = tqdm(steps, initial=first, total=recipe.steps, desc=stage.name, disable=not chief)
    with (
        _log_file(log_path, keep_below=first) as write,
        tracker(*(track if track and chief else (None, folder)), stage.name) as watch,
        _asked_to_stop() as asked,
    ):
        for step in bar:
            if recipe.decay == "trapezoid" and step == recipe.cooldown_start:
                keep("stable.pt", step)
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr_at(step)
            optimizer.zero_grad(set_to_none=True)
            metrics = _gradients(stage, loss, step, rank, bf16)
            if not shard:  # which averages by itself
                parallel.average_gradients(parameters)
            _scale_gradients(stage.modules, scales)
            memory.hand_over(whole, parameters)
            norm = memory.clip_gradients(parameters, recipe.clip, divided=shard)
            _check_finite(stage, step, {**metrics, "norm": norm}, folder)
            optimizer.step()
            ema.update(step)

            for key, value in {**metrics, "norm": norm}.items():
                losses.setdefault(key, []).append(value)
            if (step + 1) % recipe.log_every == 0 or step + 1 == recipe.steps:
                line = {key: round(float(np.mean(v)), 6) for key, v in losses.items()}
                losses.clear()
                clock = {"lr": recipe.lr_at(step), "seconds": round(elapsed(), 1)}
                write({"step": step + 1, **clock, **line})
                watch({**clock, **line}, step + 1)
                bar.set_postfix(loss=f"{line['loss']:.4f}")
            late = time.monotonic() - saved > recipe.save_every
            if parallel.anywhere(late) if shard else late:
                keep("checkpoint.pt", step + 1)
                saved = time.monotonic()
            if parallel.anywhere(asked()):  # or one would wait for another that has left
                keep("checkpoint.pt", step + 1)
                log.warning("%s stopped after step %d.", stage.name, step + 1)
                raise KeyboardInterrupt
    keep("checkpoint.pt", recipe.steps)
    seconds, averaged = elapsed(), ema.applied()
    if shard:
        with averaged:
            stage = loss.gathered(device)
        averaged = nullcontext()
    if not chief:
        parallel.wait()
        return {}
    stage.modules.eval()
    with averaged, torch.no_grad():
        measured = stage.measure()
        stage.export(measured, seconds)
    about = {"steps": recipe.steps, "seconds": round(seconds, 1)}
    about |= {"measured": measured, "fingerprint": fingerprint(stage)}
    write_atomic(done, json.dumps(about, indent=2))
    parallel.wait()
    return measured


def _finished(path: Path) -> dict[str, Any]:
    """What a run that reached its end has left; ValueError if it is damaged."""
    otherwise = "delete it, and the same command makes it again"
    about = {"steps": None, "measured": None, "fingerprint": None, **read_json(path, otherwise)}
    try:
        whole_number("steps", about["steps"])
        _ = about["fingerprint"].keys(), sum(about["measured"].values())
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): {otherwise}.") from error
    return about


def _gradients(
    stage: Stage, loss_of: Callable[..., Any], step: int, rank: int, bf16: bool
) -> dict[str, float]:
    """Gradients of one step of one process, left in the parameters; the loss and its parts.

    Batch m of process r of w sees what process r + m w would: accumulating is like having more
    processes.
    """
    recipe, world = stage.recipe, parallel.world()
    n = recipe.accumulate
    told: dict[str, list[float]] = {}
    seen: list[int] = []
    for m in range(n):
        place = rank + m * world
        torch.manual_seed((recipe.seed * 1_000_003 + step) * world * n + place)
        with torch.autocast(stage.device.type, torch.bfloat16, enabled=bf16):
            loss, metrics = loss_of(step, generator(recipe.seed, step, place))
        (loss if n == 1 else loss / n).backward()
        for key, value in {"loss": loss.detach(), **metrics}.items():
            told.setdefault(key, []).append(float(value))
        seen.extend(() if stage.seen is None else stage.seen)
    stage.seen = seen
    return {key: float(np.mean(values)) for key, values in told.items()}


def _check_finite(stage: Stage, step: int, numbers: dict[str, float], folder: Path) -> None:
    """Stop before a step that would spoil the weights.

    Raises:
        FloatingPointError: names what is not finite, the step, its samples (all of them in a file,
            if there are many), and the checkpoint to go on from.
    """
    wrong = [key for key, value in numbers.items() if not math.isfinite(value)]
    if wrong:
        kept = [name for name in ("checkpoint.pt", "stable.pt") if (folder / name).exists()]
        keys = [stage.key(int(number)) for number in stage.seen or ()]
        shown = f" on samples {', '.join(keys[:FEW])}" if keys else ""
        if len(keys) > FEW:
            path = folder / f"not-finite-{parallel.rank()}.txt"
            write_atomic(path, "".join(f"{key}\n" for key in keys))
            shown += f" and {len(keys) - FEW} more, all in {path}"
        last = f"the last good checkpoint is {folder / kept[0]}" if kept else "no checkpoint yet"
        raise FloatingPointError(
            f"{stage.name}: {', '.join(wrong)} not finite at step {step}{shown} ({last}): lower "
            "the learning rate (--lr), or look at what this step was given."
        )


def _scale_gradients(modules: nn.ModuleDict, scales: dict[str, float]) -> None:
    for name, scale in scales.items():
        if scale != 1:
            trained = memory.trained(modules[name])
            grads = [memory.local(p.grad) for p in trained if p.grad is not None]
            torch._foreach_mul_(grads, scale)


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Within the block Ctrl-C (or a termination) is noted, not raised: a step is done or not.

    A second Ctrl-C interrupts at once. Outside of the main thread signals are left alone.
    """
    asked = False

    def note(signum: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    here = threading.current_thread() is threading.main_thread()
    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM) if here}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _log_file(path: Path, keep_below: int) -> Iterator[Any]:
    """Append JSON lines; lines of steps that a resumed run repeats are dropped first."""
    if path.exists():
        kept = [row for row in read_log(path) if row["step"] <= keep_below]
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in kept))
    with path.open("a") as file:

        def write(line: dict[str, float]) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()

        yield write
