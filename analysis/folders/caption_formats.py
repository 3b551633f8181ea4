"""Captions in the formats that people train on.

| format | files | for |
|---|---|---|
| `sidecar` | `x.txt` for `x.png`, in the same subfolder | most trainers |
| `jsonl` | `metadata.jsonl`: file_name, text, score, seed, candidates | `datasets.imagefolder` |
| `csv` | `metadata.csv`: file_name, text, score, seed | tables |
| `webdataset` | `00000.tar`, ...: picture, .txt, .json a sample, as of img2dataset | webdataset |

With the pictures' own folder as output, sidecars and metadata lie where readers look for them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import math
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from analysis.folders.caption_files import Ledger
from data.folders import Broken, Found, shown
from data.pictures import open_picture

log = logging.getLogger(__name__)

FORMATS = ("sidecar", "jsonl", "csv", "webdataset")
_SHARD_DIGITS = 5
_KEPT = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
"""Formats that every reader knows: files of these are put into shards as they are."""


@dataclass(frozen=True)
class Candidate:
    """A caption that was generated.

    Attributes:
        text: one line.
        score: cosine of its CLIP vector with the picture's.
        seed: `python -m analysis i2t PICTURE --seed SEED` makes it again.
    """

    text: str
    score: float
    seed: int


@dataclass(frozen=True)
class Captioned(Found):
    """A picture with its captions.

    Attributes:
        sha256: of the file's bytes.
        candidates: best first; the first one is the caption.
    """

    sha256: str
    candidates: tuple[Candidate, ...]

    @property
    def text(self) -> str:
        """The caption."""
        return self.candidates[0].text

    def describe(self) -> dict[str, Any]:
        """For records: in plain JSON types."""
        best = self.candidates[0]
        each = [asdict(candidate) for candidate in self.candidates]
        return {
            "file_name": self.name,
            "text": best.text,
            "score": best.score,
            "seed": best.seed,
            "candidates": each,
        }


Row = Captioned | Broken


class Sidecars:
    """One text file a picture. Pictures that differ only in their ending get `x.png.txt`."""

    partial = True
    """Whether it is worth finishing when the work was interrupted."""

    def __init__(self, ledger: Ledger, names: Sequence[str]) -> None:
        self.ledger = ledger
        stems = Counter(str(PurePosixPath(name).with_suffix("")) for name in names)
        self.files = {}
        for name in names:
            stem = str(PurePosixPath(name).with_suffix(""))
            self.files[name] = f"{stem if stems[stem] == 1 else name}.txt"

    def kept(self, name: str) -> bool:
        """Whether somebody else has captioned that picture."""
        return not self.ledger.again and self.ledger.foreign(self.files[name])

    def add(self, row: Captioned) -> None:
        """Take in the next picture, in the order of names."""
        self.ledger.place(self.files[row.name], f"{row.text}\n".encode())

    def finish(self) -> None:
        """There are no more."""


class Table:
    """All captions in one file, which is written at the end."""

    partial = True

    def __init__(self, ledger: Ledger, kind: str) -> None:
        self.ledger, self.kind = ledger, kind
        self.file = f"metadata.{kind}"
        self.rows: list[dict[str, Any]] = []
        ledger.refuse_foreign([self.file])

    def kept(self, name: str) -> bool:
        """See `Sidecars.kept`."""
        return False

    def add(self, row: Captioned) -> None:
        """Take in the next picture."""
        self.rows.append(row.describe())

    def finish(self) -> None:
        """Write the file."""
        text = self._csv() if self.kind == "csv" else "".join(map(_json_line, self.rows))
        self.ledger.place(self.file, text.encode(errors="backslashreplace"))

    def _csv(self) -> str:
        buffer = io.StringIO()
        columns = ("file_name", "text", "score", "seed")
        table = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        return buffer.getvalue()


class Shards:
    """Archives of `size` samples each. One that is there and holds the same is left as it is."""

    partial = False

    def __init__(self, ledger: Ledger, folder: Path, size: int) -> None:
        self.ledger, self.folder, self.size = ledger, folder, size
        self.rows: list[Captioned] = []
        self.count = 0
        ledger.refuse_foreign(sorted(path.name for path in ledger.out.glob("*.tar")))
        for path in ledger.out.glob(".[0-9]*.tar.*.tmp"):  # of a killed process
            path.unlink(missing_ok=True)

    def kept(self, name: str) -> bool:
        """See `Sidecars.kept`."""
        return False

    def add(self, row: Captioned) -> None:
        """Take in the next picture; a full shard is written."""
        self.rows.append(row)
        if len(self.rows) == self.size:
            self._write()

    def finish(self) -> None:
        """Write the last shard, and remove those that are left from a larger collection."""
        if self.rows:
            self._write()
        for name in self.ledger.names:
            number = name.removesuffix(".tar")
            if name.endswith(".tar") and number.isdigit() and int(number) >= self.count:
                self.ledger.remove(name)

    def _write(self) -> None:
        rows, self.rows = self.rows, []
        shard, self.count = self.count, self.count + 1
        name = f"{shard:0{_SHARD_DIGITS}d}.tar"
        known = [[self.size, row.sha256, row.describe()] for row in rows]
        of = hashlib.sha256(json.dumps(known).encode()).hexdigest()
        if self.ledger.made_of(name, of):
            return
        temporary = self.ledger.out / f".{name}.{os.getpid()}.tmp"
        try:
            with tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as tar:
                for i, row in enumerate(rows):
                    self._add_sample(tar, sample_key(shard, i, self.size), row)
            self.ledger.place_file(name, temporary, of)
        finally:
            temporary.unlink(missing_ok=True)

    def _add_sample(self, tar: tarfile.TarFile, key: str, row: Captioned) -> None:
        try:
            data = row.below(self.folder).read_bytes()
        except OSError:
            data = b""
        if hashlib.sha256(data).hexdigest() != row.sha256:
            log.warning("%s has changed since it was captioned: left out", shown(row.name))
            return
        with Image.open(io.BytesIO(data)) as image:
            (width, height), ending = image.size, _KEPT.get(image.format)
        if ending is None:
            buffer, ending = io.BytesIO(), "png"
            open_picture(row.below(self.folder)).save(buffer, "PNG")
            data = buffer.getvalue()
        about = {
            "key": key,
            "url": shown(row.name),
            "caption": row.text,
            "status": "success",
            "error_message": None,
            "width": width,
            "height": height,
            "sha256": row.sha256,
            **{k: v for k, v in row.describe().items() if k not in ("file_name", "text")},
        }
        for kind, content in ((ending, data), ("txt", row.text), ("json", json.dumps(about))):
            content = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(f"{key}.{kind}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


Writer = Sidecars | Table | Shards


def make_writer(
    kind: str, ledger: Ledger, folder: Path, names: Sequence[str], shard_size: int
) -> Writer:
    """The writer of a format.

    Raises:
        ValueError: an unknown format, or somebody else's file is where it would write.
    """
    if kind not in FORMATS:
        raise ValueError(f"format is {kind!r}: choose {', '.join(FORMATS)}.")
    if kind == "sidecar":
        return Sidecars(ledger, names)
    if kind == "webdataset":
        return Shards(ledger, folder, shard_size)
    return Table(ledger, kind)


class InOrder:
    """Hands rows to a writer in the order of names, however they come."""

    def __init__(self, writer: Writer, names: Sequence[str]) -> None:
        self.writer, self.names = writer, names
        self.ready: dict[str, Row] = {}
        self._at = 0

    def put(self, rows: Iterable[Row]) -> None:
        """Take in rows; write those whose turn it is."""
        self.ready |= {row.name: row for row in rows}
        while self._at < len(self.names) and self.names[self._at] in self.ready:
            self._write(self.ready[self.names[self._at]])
            self._at += 1

    def flush(self) -> None:
        """Write all that is there, with gaps, and finish."""
        for name in self.names[self._at :]:
            if name in self.ready:
                self._write(self.ready[name])
        self.writer.finish()

    def rows(self) -> list[Row]:
        """In the order of names."""
        return [self.ready[name] for name in self.names]

    def _write(self, row: Row) -> None:
        if isinstance(row, Captioned):
            self.writer.add(row)


def sample_key(shard: int, i: int, size: int) -> str:
    """Name of sample i of a shard of `size`, as img2dataset counts: unique over all shards."""
    digits = max(1, math.ceil(math.log10(size)))
    return f"{shard * 10**digits + i:0{_SHARD_DIGITS + digits}d}"


def _json_line(row: dict[str, Any]) -> str:
    return json.dumps({**row, "file_name": shown(row["file_name"])}, ensure_ascii=False) + "\n"
