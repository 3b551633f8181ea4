"""Processes side by side in one folder, readers beside writers, and disks that are full."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from analysis.folders.search import find, update_index
from tests.campaign import kills
from tests.campaign.table import Outcome
from tests.campaign.worker import leftovers
from tests.campaign.world import World

PROCESSES = 3
DISKS = 6
"""Sizes of disks that are tried in a round, for each command."""


def beside(world: World, seed: int) -> Iterator[Outcome]:
    """The same command in several processes at once: every result once, all processes content."""
    draw = random.Random(seed)
    for story in (kills.STORIES["kills of generation"], kills.STORIES["kills of texts"]):
        place = Path(tempfile.mkdtemp())

        def make(number: int, place: Path = place, story: kills.Kills = story) -> int:
            return story.story.run(world, place)

        children = [kills.start(lambda n=n: make(n)) for n in range(PROCESSES)]
        ended = [kills.finish(child) for child in children]
        if not story.whole:
            story._undisturbed(world)
        now = story.story.made(place)
        first = {name: value for name, value in now.items() if " again " not in name}
        yield _judged(ended, first == story.whole, place)
        shutil.rmtree(place)
    yield _readers(world, draw)


def _readers(world: World, draw: random.Random) -> Outcome:
    """An index is searched while another process brings it up to date, ten times."""
    place = Path(tempfile.mkdtemp())
    photos, index = place / "photos", place / "index"
    shutil.copytree(world.photos, photos)
    update_index(world.vd, photos, index, progress=False)

    def write() -> int:
        for _ in range(10):
            path = photos / f"{draw.randrange(3)}.png"
            path.write_bytes((world.photos / f"{draw.randrange(3)}.png").read_bytes())
            os.utime(path, ns=(draw.randrange(10**18), draw.randrange(10**18)))
            update_index(world.vd, photos, index, progress=False)
        return 0

    def search() -> int:
        for _ in range(30):
            assert len(find(world.vd, index, texts="red", k=6)) == 6
        return 0

    children = [kills.start(write), kills.start(search), kills.start(search)]
    outcome = _judged([kills.finish(child) for child in children], True, place)
    shutil.rmtree(place)
    return outcome


def _judged(ended: list[int | None], same: bool, place: Path) -> Outcome:
    if None in ended:
        return Outcome("hang", str(ended))
    if any(ended):
        return Outcome("traceback", f"exit statuses {ended}")
    if not same:
        return Outcome("loss", "results differ from those of one process")
    left = leftovers(place)
    return Outcome("leftover", ", ".join(left)) if left else Outcome("ok")


def full(world: World, seed: int) -> Iterator[Outcome]:
    """Commands on a disk that is too small: a sentence; with room, the same command goes on.

    The disk is a small one in memory, for which one has to be root; elsewhere nothing is tried.
    """
    draw = random.Random(seed)
    names = ["generation", "captions (jsonl)", "an index", "training (autoencoder)"]
    for name in names:
        story = kills.STORIES[f"kills of {name}"]
        if not story.whole:
            story._undisturbed(world)
        for _ in range(DISKS):
            place = Path(tempfile.mkdtemp())
            room = int(2 ** draw.uniform(2, 9))
            with _disk(place, room) as resize:
                if resize is None:
                    print("full disk: skipped, which takes root and mount")
                    return
                yield _on_a_full_disk(world, story, place, resize, f"{name}, {room} kB")


def _on_a_full_disk(
    world: World, story: kills.Kills, place: Path, resize: Callable[[], None], what: str
) -> Outcome:
    told = Path(tempfile.mkdtemp()) / "told"

    def run() -> int:
        import logging
        import sys

        with told.open("w") as file:
            sys.stderr = file
            logging.disable(logging.CRITICAL)
            return story.story.run(world, place)

    ended = kills.finish(kills.start(run))
    words = [line for line in told.read_text().splitlines() if "rror" in line]
    if ended not in (0, 1):
        return Outcome("hang" if ended is None else "traceback", f"{what}: {ended} {words}")
    bare = any("Errno" in line or "os error" in line for line in words)
    if ended == 1 and (len(words) != 1 or bare):
        return Outcome("traceback", f"{what}: no sentence: {words}")
    before = story.story.made(place)
    resize()
    ended = kills.finish(kills.start(lambda: story.story.run(world, place)))
    now = story.story.made(place)
    if ended != 0 or now != story.whole or any(before[n] != now.get(n) for n in before):
        return Outcome("loss", f"{what}: with room it ends with {ended}, {len(now)} files")
    left = leftovers(place)
    return Outcome("leftover", f"{what}: {left}") if left else Outcome("sentence")


class _disk:
    """A disk of some kB in memory at a folder; gives what makes it large, or None."""

    def __init__(self, place: Path, room: int) -> None:
        self.place = place
        mount = ["mount", "-t", "tmpfs", "-o", f"size={room}k", "tmpfs", str(place)]
        root = hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("mount")
        self.there = bool(root) and not subprocess.run(mount, capture_output=True).returncode

    def __enter__(self) -> Callable[[], None] | None:
        return self._resize if self.there else None

    def _resize(self) -> None:
        command_ = ["mount", "-o", "remount,size=512m", str(self.place)]
        subprocess.run(command_, check=True, capture_output=True)

    def __exit__(self, *error: object) -> None:
        if self.there:
            subprocess.run(["umount", "-l", str(self.place)], check=True)
        shutil.rmtree(self.place, ignore_errors=True)


PLACES: dict[str, Callable[[World, int], Iterator[Outcome]]] = {
    "processes side by side": beside,
    "full disk": full,
}
"""Kind -> its outcomes."""
