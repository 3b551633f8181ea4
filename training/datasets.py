"""What `--data` names: samples to train on, others to measure on, and a model of their size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.samples import Samples
from lib.config import ModelSpec
from lib.specs import VD_EMOJI, VD_MINI
from training import folders, parallel

NAMED = ("scenes", "emoji")


@dataclass(frozen=True)
class Data:
    """Captioned pictures for all stages.

    Attributes:
        spec: sizes of a fresh model.
        samples: of one stage: (to train on, to measure on).
        uncaptioned: whether the image VAE's samples have pictures that those of the flows lack, as
            they need no captions.
    """

    spec: ModelSpec
    samples: Callable[[str], tuple[Samples, Samples]]
    uncaptioned: bool = False


def open_data(
    name: str,
    runs: Path,
    *,
    scenes: int = 80_000,
    cached: int = 48_000,
    side: int | None = None,
    fit: str = "crop",
    mirror: bool = False,
    exchanged: float = 0.0,
    **filters: Any,
) -> Data:
    """The data of a name or of a path.

    Args:
        name: "scenes", "emoji", or a folder, `.tar` or list of captioned pictures.
        runs: where renders are kept.
        scenes: size of the pool of "scenes".
        cached: how many of them are encoded for the flows.
        exchanged: share of captions of "scenes" whose words are exchanged, for texts alone.
        side, fit, mirror, filters: of pictures of a folder, and `outside` (see `training.folders`).

    Raises:
        ValueError: no such data, words of others than "scenes" are to be exchanged, or a model of
            our own sizes cannot make pictures of that side.
    """
    if name == "scenes":
        return Data(VD_MINI, _Scenes(runs, scenes, cached, exchanged))
    if exchanged:
        raise ValueError("Words are exchanged in captions of scenes only: leave out --exchanged.")
    if name == "emoji":
        return Data(VD_EMOJI, _emoji, uncaptioned=True)
    if not Path(name).exists():
        raise ValueError(
            f"There is no data {name!r}: give {', '.join(NAMED)} or a folder of captioned pictures."
        )
    spec = replace(VD_EMOJI, image_size=side or VD_EMOJI.image_size)
    places = {"left_out": Path(runs) / "left-out.jsonl", "kept": Path(runs) / "cache"}
    how = {"how": fit, "mirror": mirror, "progress": parallel.rank() == 0, **places, **filters}
    pair = folders.folder(Path(name), spec.image_size, **how)
    return Data(spec, lambda stage: pair)


class _Scenes:
    def __init__(self, runs: Path, n: int, cached: int, exchanged: float) -> None:
        self.runs, self.n, self.cached, self.exchanged = runs, n, cached, exchanged

    def __call__(self, stage: str) -> tuple[Samples, Samples]:
        from data.scenes.samples import pool, validation

        whole = pool(self.runs, self.n)
        if stage == "flows":
            few = min(self.cached, self.n)
            whole = replace(whole, scenes=whole.scenes[:few], images=whole.images[:few])
        if stage in ("optimus", "flows"):
            whole = replace(whole, exchanged=self.exchanged)
        return whole, validation(1000)


def _emoji(stage: str) -> tuple[Samples, Samples]:
    """All drawings for the image VAE, those of concrete things for what knows captions."""
    from data.emoji import load
    from data.emoji.samples import EmojiSamples, concrete

    drawings = load()
    if stage != "autoencoder":
        drawings = concrete(drawings)
    concepts = drawings.concept.tolist()
    train, pair = (drawings.where(drawings.split == split) for split in ("train", "pair"))
    grounds = 3 if stage == "autoencoder" else 4
    return (
        EmojiSamples(train, grounds=grounds, concepts=concepts),
        EmojiSamples(pair, grounds=1, jitter=False, concepts=concepts),
    )
