"""What captioning keeps on disk: a journal of what is done, and a ledger of files that are ours.

    <out>/.caption/journal.jsonl    a line a picture: its candidates with scores and seeds
    <out>/.caption/made.jsonl       a line a file that was written: its name and SHA-256

Both only grow, by whole lines; a line that a killed process has left unfinished is cut off. A file
that is not in the ledger, or has been edited since, belongs to somebody else and is never touched.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.folders import shown
from lib.files import held_interrupts

log = logging.getLogger(__name__)

STATE = ".caption"


class Lines:
    """A file of JSON lines that only grows.

    Attributes:
        path: the file.
        rows: what it holds, oldest first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        data = path.read_bytes() if path.is_file() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(path, len(whole))
        for line in whole.splitlines():
            try:
                self.rows.append(dict(json.loads(line)))
            except (ValueError, TypeError) as error:
                log.warning("a line of %s is damaged (%s) and passed over", path.name, error)

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows, all together, so that they are there when this returns."""
        rows = list(rows)
        if not rows:
            return
        text = "".join(json.dumps(row) + "\n" for row in rows)
        with held_interrupts(), self.path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        self.rows += rows


class Ledger:
    """Writes files below a folder, and knows which ones are its own.

    Args:
        out: the folder.
        again: files of others may be replaced, too.
    """

    def __init__(self, out: Path, again: bool = False) -> None:
        self.out = out
        self.again = again
        self._lines = Lines(out / STATE / "made.jsonl")
        self._made: dict[str, dict[str, str]] = {}
        for row in self._lines.rows:
            self._made.setdefault(row["name"], {})[row["sha256"]] = row.get("of", "")

    @property
    def names(self) -> list[str]:
        """Of all files that were ever written."""
        return list(self._made)

    def foreign(self, name: str) -> bool:
        """Whether there is a file of that name which is not ours, or no longer."""
        path = self.out / name
        return path.exists() and (not path.is_file() or _digest(path) not in self._known(name))

    def refuse_foreign(self, names: Iterable[str]) -> None:
        """Check, before hours of work, that these files may be written.

        Raises:
            ValueError: names the first one that may not.
        """
        for name in () if self.again else names:
            if self.foreign(name):
                raise ValueError(
                    f"{shown(self.out / name)} was not made by this command, or was edited since: "
                    "move it away, choose another folder (--out), or replace it (--again)."
                )

    def place(self, name: str, content: bytes) -> bool:
        """Write a file whole or not at all; returns whether it holds that content now.

        It does not if somebody else's file is in the way.
        """
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(content)
            return self.place_file(name, temporary)
        finally:
            temporary.unlink(missing_ok=True)

    def place_file(self, name: str, temporary: Path, of: str = "") -> bool:
        """As `place`, of a file that was written beside it already.

        Args:
            name: the final one.
            temporary: on the same file system; afterwards it may be gone.
            of: what the file was made of, for `made_of`.
        """
        path = self.out / name
        digest = _digest(temporary)
        if path.is_file() and _digest(path) == digest:
            return True
        if not self.again and self.foreign(name):
            return False
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        # noted first: a file that is noted and not there does no harm
        with held_interrupts():
            self._lines.append([{"name": name, "sha256": digest, "of": of}])
            self._made.setdefault(name, {})[digest] = of
            os.replace(temporary, path)
        return True

    def made_of(self, name: str, of: str) -> bool:
        """Whether the file is there, ours, and made of that."""
        path = self.out / name
        return of in self._known(name).values() and (
            path.is_file() and self._known(name).get(_digest(path)) == of
        )

    def remove(self, name: str) -> None:
        """Delete a file if it is ours."""
        if not self.foreign(name):
            (self.out / name).unlink(missing_ok=True)

    def _known(self, name: str) -> dict[str, str]:
        return self._made.get(name, {})


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
