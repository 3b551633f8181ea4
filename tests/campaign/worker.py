"""Inputs tried one after the other in a forked process, each judged by what comes of it.

The process has imported everything already, so a chunk of inputs costs what they cost. It says what
came of each through a pipe; if it ends or stops talking, the input it was at is to blame.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import resource
import select
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis.strategies import SearchStrategy

from analysis import cli
from lib import __main__ as shell
from tests.campaign.table import Outcome

ROOT = Path(__file__).resolve().parents[2]
OURS = tuple(str(ROOT / room) for room in ("lib", "data", "training", "analysis"))
SECONDS = 60
MEMORY = 4 * 2**30
"""What an input may take."""
LEFTOVER = (".tmp", ".claim")


class Refused(Exception):
    """A command has said what is wrong, in a line."""


class Hang(BaseException):
    """Too long."""


def attempt(run: Callable[[Path, Any], None], value: Any) -> Outcome:
    """Try one input in a folder of its own, and judge what comes of it."""
    place = Path(tempfile.mkdtemp())
    try:
        with _limit(SECONDS):
            run(place, value)
        outcome = Outcome("ok")
    except Hang as error:
        outcome = Outcome("hang", _where(error))
    except Refused as error:
        outcome = Outcome("sentence", str(error))
    except BaseException as error:
        good = isinstance(error, (ValueError, OSError, FloatingPointError)) and is_sentence(error)
        outcome = Outcome("sentence", str(error)) if good else Outcome("traceback", _where(error))
    left = leftovers(place)
    if left and outcome.status in ("ok", "sentence"):
        outcome = Outcome("leftover", ", ".join(left))
    shutil.rmtree(place, ignore_errors=True)
    return outcome


def is_sentence(error: BaseException) -> bool:
    """Whether an error was raised by our own code, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].filename.startswith(OURS) and "\n" not in str(error).strip()


def leftovers(folder: Path) -> list[str]:
    """Temporary files and claims below a folder."""
    names = (path for path in folder.rglob(".*") if path.name.endswith(LEFTOVER))
    return sorted(path.relative_to(folder).as_posix() for path in names)


def command(*argv: object, main: Callable[[list[str]], int] = cli.main) -> str:
    """Run a command in this process; what it printed.

    Raises:
        Refused: it ended with a sentence, and an exit status that says so.
        AssertionError: with a status and words that do not belong together.
    """
    told, out = StringIO(), StringIO()
    raised: list[BaseException] = []
    complain = shell.complain

    def noted(message: str, status: int) -> int:
        if (error := sys.exc_info()[1]) is not None:
            raised.append(error)
        return complain(message, status)

    cli.complain = shell.complain = noted
    try:
        with redirect_stderr(told), redirect_stdout(out):
            try:
                status = main([str(word) for word in argv])
            except SystemExit as error:
                status = error.code
    finally:
        cli.complain = shell.complain = complain
    lines = [line for line in told.getvalue().splitlines() if line.startswith("error")]
    last = lines[-1] if lines else ""
    assert status in (0, 1, 2) and len(lines) == (status == 2 or bool(lines)), (status, lines)
    for error in raised:
        assert is_sentence(error), (_where(error), last)
    if lines:
        raise Refused(last)
    return out.getvalue()


@contextmanager
def _limit(seconds: int) -> Iterator[None]:
    def ring(number: int, frame: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(OURS)] or frames
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
    return f"{type(error).__name__} at {place}: {' '.join(str(error).split())[:300]}"


def chunk(
    run: Callable[[Path, Any], None],
    strategy: SearchStrategy,
    count: int,
    seed: int,
    kept: Path,
) -> Iterator[Outcome]:
    """Try `count` inputs of a strategy in a process of their own; an input that fails is `kept`."""
    seen, tries = 0, 0
    reading, writing = os.pipe()
    current = kept / f"seed-{seed}.pickle"
    if (child := os.fork()) == 0:
        os.close(reading)
        _child(run, strategy, count, seed, current, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        status = "traceback"
        while True:
            if not select.select([pipe], [], [], SECONDS + 30)[0]:
                os.kill(child, signal.SIGKILL)
                status = "hang"
                break
            line = pipe.readline()
            if not line:
                break
            said = json.loads(line)
            if "begin" in said:
                tries += 1
                continue
            seen += 1
            yield Outcome(**said)
    _, ended = os.waitpid(child, 0)
    if tries > seen or ended:
        yield Outcome(status, f"the process ended ({ended})", str(current))


def _child(
    run: Callable[[Path, Any], None],
    strategy: SearchStrategy,
    count: int,
    seed: int,
    current: Path,
    writing: int,
) -> None:
    """Never returns: the rest of the program belongs to the parent."""
    status = 3
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):  # what native code prints
            os.dup2(null, stream)
        number = 0

        def say(what: dict[str, str]) -> None:
            os.write(writing, json.dumps(what).encode() + b"\n")

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(strategy)
        def every(value: Any) -> None:
            nonlocal number
            number += 1
            current.write_bytes(pickle.dumps(value))
            say({"begin": str(number)})
            outcome = attempt(run, value)
            where = ""
            if outcome.status not in ("ok", "sentence"):
                where = str(current.with_name(f"seed-{seed}-{number}.pickle"))
                shutil.copy(current, where)
            say({"status": outcome.status, "said": outcome.said, "kept": where})
            gc.collect(0)

        every()
        current.unlink(missing_ok=True)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
