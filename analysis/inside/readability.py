"""When in time does a scene become readable? The judge reads the estimates of x_0 on the way.

At every step the sampler has an estimate of the clean picture. Decoded and shown to the judge,
it tells which attributes are settled by then: whether layout comes before colour, and style last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.modes import text_to_image
from data.scenes.captions import canonical_caption
from data.scenes.judge import HEADS, Reader, compare
from data.scenes.world import Scene
from lib.images import to_pil
from lib.model import VersatileDiffusion


@dataclass(frozen=True, eq=False)
class Readability:
    """What was read right, when.

    Attributes:
        t: timesteps at which the estimate was read, noisiest first, (S,).
        right: attribute, and "all" -> (S, N) bool; N differs, as only scenes that have the
            attribute count.
        num_timesteps: T of the schedule.
    """

    t: list[int]
    right: dict[str, Tensor]
    num_timesteps: int

    def share(self, name: str) -> Tensor:
        """(S,) share of scenes whose attribute is read right at each step."""
        return self.right[name].double().mean(dim=1)

    def readable_from(self, name: str) -> Tensor:
        """(N,) timestep from which it is read right at this and every later step; -1 is never."""
        steady = self.right[name].flip(0).long().cumprod(dim=0).sum(dim=0)  # right steps at the end
        return torch.tensor([*self.t, -1])[len(self.t) - steady]

    def median(self, name: str) -> int | None:
        """Timestep by which half of the scenes are read right for good; None if fewer ever are."""
        since = self.readable_from(name).sort(descending=True).values
        middle = since[(len(since) - 1) // 2].item()
        return None if middle < 0 else middle


def attribute_readability(
    vd: VersatileDiffusion,
    judge: Reader,
    scenes: Sequence[Scene],
    *,
    seed: int = 0,
    steps: int | None = None,
    scale: float | None = None,
    every: int = 1,
    caption: Callable[[Scene], str] = canonical_caption,
    batch_size: int | None = None,
) -> Readability:
    """Generate pictures of scenes from captions, and read every estimate of x_0.

    Args:
        vd: a model with the flow "t2i".
        judge: reads pictures.
        scenes: to draw, one picture each; scene k has the seed `seed + k`.
        seed: of the first.
        steps, scale: of sampling; None is the model's default.
        every: read every so many steps, and the last.
        caption: the prompt of a scene; by default its one plain wording, which names everything.
        batch_size: pictures in memory at a time; None chooses by the model's size.

    Raises:
        ValueError: no scenes, or a number out of range.
    """
    if not scenes or every < 1:
        raise ValueError(f"{len(scenes)} scenes, every {every} steps: give at least one of each.")
    options = {"seed": seed, "steps": steps, "scale": scale, "batch_size": batch_size}
    job = text_to_image.job(vd, [caption(scene) for scene in scenes], **options)
    times: list[int] = []
    right: dict[str, list[list[bool]]] = {}
    for start in range(0, len(scenes), job.batch_size):
        which = range(start, min(start + job.batch_size, len(scenes)))
        walk = list(job.steps(which))
        chosen = [step for step in walk if step.i % every == 0 or step is walk[-1]]
        times = [step.t for step in chosen]
        rows: dict[tuple[str, int], list[bool]] = {}
        for step in chosen:
            readings = judge.read(to_pil(vd.decode_image(step.x0)))
            for k, reading in zip(which, readings, strict=True):
                for name, value in compare(reading, scenes[k]).items():
                    rows.setdefault((name, k), []).append(value)
        for (name, _), values in rows.items():
            right.setdefault(name, []).append(values)
    names = [name for name in (*HEADS, "all") if name in right]
    tables = {name: torch.tensor(right[name]).T for name in names}
    return Readability(times, tables, vd.spec.num_timesteps)
