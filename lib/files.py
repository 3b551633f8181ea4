"""Writing side by side: numbers that nobody else gets, files that are whole or not there.

A running number is claimed first, by creating a file of that number exclusively; whoever holds the
claim of a number that no finished file has is the only one to write it. Contents are written under
hidden names, then linked to their final ones.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NUMBERED = re.compile(r"\.?(\d{4,})[._]")


@contextmanager
def claimed_number(folder: Path) -> Iterator[int]:
    """A number that no file in the folder has, and that nobody else gets while it is held.

    Files belong to it by their name: `0007_...`.
    """
    number = 1 + max(_numbers(folder), default=0)
    while True:
        claim = folder / f".{number:04d}.claim"
        try:
            claim.open("xb").close()
        except FileExistsError:
            number += 1
            continue
        # Somebody may have claimed, written and released this number since the folder was listed.
        # Files stand before their claim goes, so from here on what is seen is how it stays.
        if not any(folder.glob(f"{number:04d}_*")):
            break
        claim.unlink()
        number += 1
    try:
        yield number
    finally:
        claim.unlink(missing_ok=True)


def _numbers(folder: Path) -> Iterator[int]:
    """Running numbers of finished files and of claims."""
    for entry in os.scandir(folder):
        match = _NUMBERED.match(entry.name)
        if match:
            yield int(match[1])


def write_all(contents: dict[Path, bytes]) -> None:
    """Write all files, or none, and none over another.

    Raises:
        OSError: as usual; nothing is left behind.
    """
    temporary = {path: path.with_name(f".{path.name}.tmp") for path in contents}
    placed: list[Path] = []
    try:
        for path, content in contents.items():
            with temporary[path].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path in contents:
            _place(temporary[path], path)
            placed.append(path)
    except BaseException:  # also Ctrl-C: a picture without its record is no result
        for path in placed:
            path.unlink(missing_ok=True)
        raise
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)


def write_atomic(path: Path, text: str) -> None:
    """Write a text file whole or not at all, over another if there is one; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _place(temporary: Path, path: Path) -> None:
    """Give a file its final name, unless something has it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links; the claimed number keeps others away
        if path.exists():
            raise
        os.rename(temporary, path)


@contextmanager
def held_interrupts() -> Iterator[None]:
    """Ctrl-C waits until the end of the block: what was made is worth the moment it takes to save.

    In threads other than the main one, which Ctrl-C does not reach, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
        if pressed:
            signal.raise_signal(signal.SIGINT)
