"""Numbers of a training for whoever watches, through accelerate's trackers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Track = Callable[[dict[str, float], int], None]


@contextmanager
def tracker(name: str | None, folder: Path, run: str) -> Iterator[Track]:
    """A function that takes the numbers of a step.

    Args:
        name: "tensorboard", or another of accelerate's trackers whose package is installed; None
            tracks nothing.
        folder: for those that write files.
        run: name of the run.

    Raises:
        ValueError: no such tracker, or a package is missing.
    """
    if name is None:
        yield lambda values, step: None
        return
    try:
        from accelerate.state import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, filter_trackers
    except ImportError as error:
        raise ValueError("--track needs `pip install accelerate tensorboard`.") from error
    if not filter_trackers([name], folder):
        raise ValueError(f"The tracker {name} needs its package: `pip install {name}`.")
    PartialState(cpu=True)  # it looks for processes of its own otherwise
    kind = LOGGER_TYPE_TO_CLASS[name]
    tracking = kind(run, folder) if kind.requires_logging_directory else kind(run)
    tracking.start()
    try:
        yield lambda values, step: tracking.log(values, step=step)
    finally:
        tracking.finish()
