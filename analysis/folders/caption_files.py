"""What captioning keeps on disk: a journal of what is done, and a ledger of files that are ours.

    <out>/.caption/journal.jsonl    a line a picture: its candidates with scores and seeds
    <out>/.caption/made.jsonl       a line a file that was written: its name and SHA-256

Both only grow, by whole lines; a line that a killed process has left unfinished is cut off. A file
that is not in the ledger, or has been edited since, belongs to somebody else and is never touched.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from analysis.folders.reading import digest_of
from data.folders import shown
from lib.checks import parse_json
from lib.files import beside, held_interrupts, put

log = logging.getLogger(__name__)

STATE = ".caption"


class Lines:
    """A file of JSON lines that only grows.

    Args:
        path: the file.
        note: takes the object of each line that is there, oldest first; what it raises passes the
            line over, with a warning.

    Raises:
        ValueError: something that is no file lies there.
    """

    def __init__(self, path: Path, note: Callable[[dict[str, Any]], Any]) -> None:
        self.path = path
        if path.exists() and not path.is_file():  # a pipe would wait, a device forget
            raise ValueError(f"{shown(path)} is no regular file: delete it.")
        data = path.read_bytes() if path.is_file() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(path, len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                note(parse_json(line))
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                what = "line %d of %s is damaged or of another version (%r): passed over"
                log.warning(what, number, path.name, error)

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows, all together, so that they are there when this returns."""
        text = "".join(json.dumps(row) + "\n" for row in rows)
        with held_interrupts(), self.path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())


class Ledger:
    """Writes files below a folder, and knows which ones are its own.

    Args:
        out: the folder.
        again: files of others may be replaced, too.
    """

    def __init__(self, out: Path, again: bool = False) -> None:
        self.out = out
        self.again = again
        self._made: dict[str, dict[str, str]] = {}  # name -> SHA-256 -> what it was made of
        self._lines = Lines(out / STATE / "made.jsonl", self._note)

    def _note(self, row: dict[str, str]) -> None:
        self._made.setdefault(str(row["name"]), {})[row["sha256"]] = row.get("of", "")

    @property
    def names(self) -> list[str]:
        """Of all files that were ever written."""
        return list(self._made)

    def foreign(self, name: str) -> bool:
        """Whether there is something of that name which is not ours, or no longer."""
        path = self.out / name
        try:
            ours = path.is_file() and digest_of(path) in self._made.get(name, {})
        except OSError:  # unreadable, or a name that is too long to be there
            ours = False
        return os.path.lexists(path) and not ours

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

    def place(self, name: str, content: bytes | Callable[[Path], None], of: str = "") -> bool:
        """Write a file whole or not at all.

        Args:
            name: of the file.
            content: its bytes, or what writes them to a path.
            of: what the file is made of, for `is_made_of`.

        Returns:
            Whether it holds that content now; it does not if somebody else's file is in the way.
        """
        path = self.out / name
        with beside(path) as temporary:
            if isinstance(content, bytes):
                temporary.write_bytes(content)
            else:
                content(temporary)
            digest = digest_of(temporary)
            if path.is_file() and digest_of(path) == digest:
                return True
            if not self.again and self.foreign(name):
                return False
            # noted first: a file that is noted and not there does no harm
            with held_interrupts():
                row = {"name": name, "sha256": digest, "of": of}
                self._lines.append([row])
                self._note(row)
                put(temporary, path)
        return True

    def is_made_of(self, name: str, of: str) -> bool:
        """Whether the file is there, ours, and made of that."""
        path, made = self.out / name, self._made.get(name, {})
        return of in made.values() and path.is_file() and made.get(digest_of(path)) == of

    def remove(self, name: str) -> None:
        """Delete a file if it is ours."""
        if not self.foreign(name):
            (self.out / name).unlink(missing_ok=True)
