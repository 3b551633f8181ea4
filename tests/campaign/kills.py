"""kill -9 at a random moment of a command, again and again, until the same command gets through.

Half of the kills come after a random time, half at a random one of the process's dealings with
files (Python's audit events), where a half-done change would show; the latter repeat exactly for
a seed. Processes are forked from this one, which has imported everything.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from tqdm import tqdm

from analysis import cli
from analysis.results.outputs import VOLATILE, read_record
from tests.campaign import stages
from tests.campaign.table import Outcome
from tests.campaign.worker import leftovers
from tests.campaign.world import PROMPT, World

SECONDS = 120
KILLS = 6
"""At most so many in one story; then it is left to finish."""
_EVENTS = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
_KEPT = {"mode", "index", *VOLATILE}


@dataclass(frozen=True)
class Story:
    """A command that is killed.

    Attributes:
        run: in a folder; its exit status.
        made: what came of it, name -> digest; names and digests depend on the command alone.
    """

    run: Callable[[World, Path], int]
    made: Callable[[Path], dict[str, str]]


def start(run: Callable[[], int], die_at: int = 0, count: Path | None = None) -> int:
    """Fork a process that runs a command, quietly; dies at an event, or counts them in a file."""
    if (child := os.fork()) != 0:
        return child
    status = 70
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(null, stream)
        tqdm.set_lock(threading.RLock())  # processes have one lock, which a killed one may hold
        events = [0]

        def audit(event: str, arguments: Any) -> None:
            if event in _EVENTS:
                events[0] += 1
                if events[0] == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(audit)
        status = run()
        if count is not None:
            count.write_text(str(events[0]))
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 70
    except BaseException:
        status = 70
    finally:
        os._exit(status)


def finish(child: int, seconds: float = SECONDS) -> int | None:
    """Exit status of a process, negative for the signal that ended it; None if it hangs."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, ended = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(ended)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


class Kills:
    """All stories of one kind, with what comes of it if nothing happens."""

    def __init__(self, name: str, story: Story, trials: int) -> None:
        self.name, self.story, self.trials = name, story, trials
        self.whole: dict[str, str] = {}
        self.events, self.seconds = 0, 0.0

    def __call__(self, world: World, seed: int) -> Iterator[Outcome]:
        """Kill, check that nothing is lost, go on, compare. One outcome a kill."""
        draw = random.Random(f"{seed} {self.name}")
        if not self.whole:
            self._undisturbed(world)
        for trial in range(self.trials):
            place = Path(tempfile.mkdtemp())
            kept = f"seed {seed}, {self.name}, trial {trial}"
            outcomes = list(self._trial(world, place, draw))
            shutil.rmtree(place, ignore_errors=True)
            for outcome in outcomes:
                yield Outcome(outcome.status, outcome.said, kept)

    def _undisturbed(self, world: World) -> None:
        place = Path(tempfile.mkdtemp())
        began = time.monotonic()
        status = finish(start(lambda: self.story.run(world, place), count=place / "events"))
        self.seconds = time.monotonic() - began
        if status != 0:
            raise RuntimeError(f"{self.name} ends with {status} when nothing happens")
        self.events = int((place / "events").read_text())
        self.whole = self.story.made(place)
        shutil.rmtree(place)

    def _trial(self, world: World, place: Path, draw: random.Random) -> Iterator[Outcome]:
        def run() -> int:
            return self.story.run(world, place)

        before: dict[str, str] = {}
        killed = 0
        while killed < KILLS:
            by_event = draw.random() < 0.5
            if by_event:
                child = start(run, die_at=draw.randint(1, self.events))
            else:
                child = start(run)
                time.sleep(draw.uniform(0, self.seconds))
                os.kill(child, signal.SIGKILL)
            status = finish(child)
            if status != -signal.SIGKILL:
                break
            killed += 1
            now = self.story.made(place)
            lost = [name for name in before if before[name] != now.get(name)]
            yield Outcome("loss", f"a kill takes {', '.join(lost)}") if lost else Outcome("ok")
            before = now
        status = finish(start(run))
        if status != 0:
            yield Outcome("hang" if status is None else "traceback", f"goes on with {status}")
            return
        now = self.story.made(place)
        wrong = [name for name in {*self.whole, *now} if self.whole.get(name) != now.get(name)]
        if wrong:
            yield Outcome("loss", f"after {killed} kills differ {', '.join(sorted(wrong))[:300]}")
        if left := leftovers(place):
            yield Outcome("leftover", f"after {killed} kills: {', '.join(left)[:300]}")


# ---------------------------------------------------------------------- what comes of commands


def digest(value: bytes | Any) -> str:
    """Of bytes, or of a JSON value."""
    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()[:16]


def results(place: Path) -> dict[str, str]:
    """Saved results by what was asked for; one that is there twice counts as another."""
    made: dict[str, str] = {}
    for path in sorted(place.rglob("[0-9]*_*.png")) + sorted(place.rglob("[0-9]*_*.txt")):
        record = read_record(path)
        name = digest({key: record[key] for key in record if key not in VOLATILE})
        content = path.read_bytes() if path.suffix == ".txt" else pixels(path)
        made[name + ("" if name not in made else f" again {path.name}")] = digest(content)
    return made


def pixels(path: Path) -> bytes:
    """Of a picture's file."""
    from PIL import Image

    with Image.open(path) as image:
        return image.tobytes()


def captions(place: Path) -> dict[str, str]:
    """Files of captions, and what their record says; none before the first is whole."""
    made = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if path.is_file() and not any(part.startswith(".") for part in Path(name).parts):
            content: Any = path.read_bytes()
            if path.name == "captions.json":
                content = {k: v for k, v in json.loads(content).items() if k != "created"}
            made[name] = digest(content)
    return {name: made[name] for name in made if name not in ("events", "model-places")}


def index(place: Path) -> dict[str, str]:
    """The index that readers see."""
    manifest = place / "index" / "index.json"
    if not manifest.is_file():
        return {}
    held = json.loads(manifest.read_bytes())
    vectors = load_file(place / "index" / held.pop("vectors"))["vectors"]
    held.pop("folder")
    return {"index": digest(held), "vectors": digest(vectors.numpy().tobytes())}


def report(place: Path) -> dict[str, str]:
    """What an evaluation has measured."""
    reports = [json.loads(path.read_bytes()) for path in place.rglob("report.json")]
    return {f"report {k}": digest(held["measures"]) for k, held in enumerate(reports)}


def _cli(*argv: object) -> Callable[[World, Path], int]:
    """A command; `photos`, `model` and `place` stand for these."""

    def run(world: World, place: Path) -> int:
        places = {"photos": world.photos, "model": world.model, "place": place}
        places |= {"INDEX": place / "index"}
        argv_ = [str(places.get(word, word)) for word in argv]
        return cli.main([*argv_, "--model", str(world.model), "--quiet"])

    return run


_FORMS = ("sidecar", "jsonl", "csv", "webdataset")
_SHORT = ("--n", 1, "--steps", 1, "--seed", 1, "--batch", 2)
_EVALUATE = ("evaluate", "--suite", "folder", "--features", "own", "--data", "photos", "--n", 4)
STORIES: dict[str, Kills] = {
    "kills of generation": Kills(
        "kills of generation",
        Story(
            _cli(
                "t2i", PROMPT, "--n", 4, *_SHORT[2:4], "--batch", 2, "--seed", 1, "--out", "place"
            ),
            results,
        ),
        4,
    ),
    "kills of texts": Kills(
        "kills of texts", Story(_cli("i2t", "photos", *_SHORT, "--out", "place"), results), 2
    ),
    **{
        f"kills of captions ({form})": Kills(
            f"kills of captions ({form})",
            Story(_cli("caption", "photos", "--format", form, *_SHORT, "--out", "place"), captions),
            2,
        )
        for form in _FORMS
    },
    "kills of an index": Kills(
        "kills of an index",
        Story(_cli("search", "index", "photos", "--batch", 2, "--index", "INDEX"), index),
        4,
    ),
    "kills of an evaluation": Kills(
        "kills of an evaluation",
        Story(
            _cli(*_EVALUATE, "--steps", 1, "--flows", "t2i,i2t", "--out", "place"),
            report,
        ),
        1,
    ),
    **{
        f"kills of training ({stage})": Kills(
            f"kills of training ({stage})",
            Story(lambda world, place, stage=stage: stages.run(world, place, stage), stages.made),
            1,
        )
        for stage in stages.STAGES
    },
}
"""Kind -> its kills."""
