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
import math
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from analysis.folders.caption_files import Ledger
from data.decode import decode, read
from data.folders import Broken, Found, shown
from lib.files import DISK

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


def sidecar_names(names: Sequence[str]) -> dict[str, str]:
    """Picture -> its text file: `x.txt` for `x.png`; `x.png.txt` where another picture claims that.

    No two pictures share a file, also on disks that take `X` for `x`, or one spelling of an accent
    for the other.
    """
    files = {name: f"{PurePosixPath(name).with_suffix('')}.txt" for name in names}
    while True:
        taken = Counter(_folded(file) for file in files.values())
        shared = [n for n, f in files.items() if taken[_folded(f)] > 1 and f != f"{n}.txt"]
        if not shared:
            return files
        files |= {name: f"{name}.txt" for name in shared}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


class Writer:
    """Writes captions in the order of the pictures' names, however they come.

    Attributes:
        rows: name -> what is known of that picture.
        failed: name -> why its caption could not be written.
        partial: whether the files are worth finishing when the work was interrupted.
    """

    partial = True

    def __init__(self, ledger: Ledger, names: Sequence[str]) -> None:
        self.ledger = ledger
        self.names = [name for name in names if not self.is_kept(name)]
        self.rows: dict[str, Row] = {}
        self.failed: dict[str, str] = {}
        self._at = 0

    def is_kept(self, name: str) -> bool:
        """Whether somebody else has captioned that picture, so that it is left alone."""
        return False

    def add(self, rows: Iterable[Row]) -> None:
        """Take in rows; write those whose turn it is."""
        self.rows |= {row.name: row for row in rows}
        while self._at < len(self.names) and self.names[self._at] in self.rows:
            self._write(self.names[self._at])
            self._at += 1

    def finish(self) -> None:
        """Write all that is there, also after a gap; there is no more to come."""
        for name in self.names[self._at :]:
            self._write(name)
        self.close()

    def _write(self, name: str) -> None:
        if isinstance(self.rows.get(name), Captioned):
            self.write(self.rows[name])

    def write(self, row: Captioned) -> None:
        """Write the next picture's caption, if that can be done before the last."""

    def close(self) -> None:
        """Write the rest."""


class Sidecars(Writer):
    """One text file a picture (`sidecar_names`)."""

    def __init__(self, ledger: Ledger, names: Sequence[str]) -> None:
        self.files = sidecar_names(names)
        super().__init__(ledger, names)

    def is_kept(self, name: str) -> bool:
        """Whether there is a text file that is not ours."""
        return not self.ledger.again and self.ledger.foreign(self.files[name])

    def write(self, row: Captioned) -> None:
        """Write the file; one that cannot be written does not stop the others."""
        try:
            self.ledger.place(self.files[row.name], f"{row.text}\n".encode())
        except OSError as error:
            if error.errno in DISK:
                raise
            self.failed[row.name] = f"its caption could not be written ({error.strerror})"


class Table(Writer):
    """All captions in one file, which is written at the end."""

    def __init__(self, ledger: Ledger, names: Sequence[str], kind: str) -> None:
        super().__init__(ledger, names)
        self.kind = kind
        ledger.refuse_foreign([f"metadata.{kind}"])

    def close(self) -> None:
        """Write the file."""
        rows = [self.rows[name] for name in self.names if name in self.rows]
        described = [row.describe() for row in rows if isinstance(row, Captioned)]
        text = _csv(described) if self.kind == "csv" else _jsonl(described)
        self.ledger.place(f"metadata.{self.kind}", text.encode(errors="backslashreplace"))


def _csv(rows: Iterable[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    columns = ("file_name", "text", "score", "seed")
    table = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return buffer.getvalue()


def _jsonl(rows: Iterable[dict[str, Any]]) -> str:
    rows = ({**row, "file_name": shown(row["file_name"])} for row in rows)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


class Shards(Writer):
    """Archives of `size` samples each. One that is there and holds the same is left as it is."""

    partial = False

    def __init__(self, ledger: Ledger, names: Sequence[str], folder: Path, size: int) -> None:
        super().__init__(ledger, names)
        self.folder, self.size = folder, size
        self.samples: list[Captioned] = []
        self.count = 0
        ledger.refuse_foreign(sorted(path.name for path in ledger.out.glob("*.tar")))

    def write(self, row: Captioned) -> None:
        """Keep a sample; a full shard is written."""
        self.samples.append(row)
        if len(self.samples) == self.size:
            self._write_shard()

    def close(self) -> None:
        """Write the last shard, and remove those that are left from a larger collection."""
        if self.samples:
            self._write_shard()
        for name in self.ledger.names:
            number = name.removesuffix(".tar")
            if name.endswith(".tar") and number.isdigit() and int(number) >= self.count:
                self.ledger.remove(name)

    def _write_shard(self) -> None:
        samples, self.samples = self.samples, []
        shard, self.count = self.count, self.count + 1
        name = f"{shard:0{_SHARD_DIGITS}d}.tar"
        known = [[self.size, row.sha256, row.describe()] for row in samples]
        of = hashlib.sha256(json.dumps(known).encode()).hexdigest()

        def pack(path: Path) -> None:
            with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
                for i, row in enumerate(samples):
                    self._add_sample(tar, sample_key(shard, i, self.size), row)

        if not self.ledger.is_made_of(name, of):
            self.ledger.place(name, pack, of)

    def _add_sample(self, tar: tarfile.TarFile, key: str, row: Captioned) -> None:
        path = row.below(self.folder)
        try:
            data = read(path)
        except ValueError:
            data = b""
        if hashlib.sha256(data).hexdigest() != row.sha256:
            self.failed[row.name] = "has changed since it was captioned, and is in no shard"
            return
        size, kind = decode(path, data, lambda image: (image.size, image.format))
        ending = _KEPT.get(kind)
        if ending is None:
            buffer, ending = io.BytesIO(), "png"
            decode(path, data).save(buffer, "PNG")
            data = buffer.getvalue()
        about = {
            "key": key,
            "url": shown(row.name),
            "caption": row.text,
            "status": "success",
            "error_message": None,
            "width": size[0],
            "height": size[1],
            "sha256": row.sha256,
            **{k: v for k, v in row.describe().items() if k not in ("file_name", "text")},
        }
        for kind, content in ((ending, data), ("txt", row.text), ("json", json.dumps(about))):
            content = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(f"{key}.{kind}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


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
        return Shards(ledger, names, folder, shard_size)
    return Table(ledger, names, kind)


def sample_key(shard: int, i: int, size: int) -> str:
    """Name of sample i of a shard of `size`, as img2dataset counts: unique over all shards."""
    digits = max(1, math.ceil(math.log10(size)))
    return f"{shard * 10**digits + i:0{_SHARD_DIGITS + digits}d}"
