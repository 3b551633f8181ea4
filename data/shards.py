"""Captioned pictures in webdataset's `.tar` shards, as img2dataset writes them.

A sample is all members of one name but for its ending: key.jpg, key.txt, key.json. No picture is
opened: the places of members are noted, so each can be read by itself later, in any order.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data.entries import Item, beside, entry, read_span
from data.folders import (
    CAPTION_BYTES,
    PICTURE_BYTES,
    Skipped,
    files_below,
    is_regular,
    picture_endings,
    shown,
)

_SAMPLE = re.compile(r"^((?:.*/)?[^/.]+)\.([^/]+)$")
"""A member of a shard: its sample's key up to the first dot of the name, then its kind."""
_BLOCK = 512  # bytes of a tar's unit; two of zeros are its end
_TEXTS = ("txt", "caption", "text")

Parts = dict[str, tuple[int, int]]
"""Kinds of a sample's members -> (offset, size) in the archive."""


def read_shards(path: Path) -> Iterator[Item]:
    """Samples of `.tar` shards, of subfolders, too, in the order of the archives.

    Raises:
        ValueError: there is no shard.
    """
    files = [path] if path.is_file() else files_below(path, "*.tar")
    if not files:
        raise ValueError(f"{shown(path)} holds no .tar shards: give a folder of them, or one.")
    for file in files:
        shard = file.relative_to(path).as_posix() if path.is_dir() else file.name
        samples, broken = _members(file)
        if broken:
            yield Skipped(shown(shard), broken)
        for key, parts in samples.items():
            yield _sample(file, f"{shard}/{key}", parts)


def _members(file: Path) -> tuple[dict[str, Parts], str]:
    """The samples of a shard, and what is wrong with it."""
    samples: dict[str, Parts] = {}
    if not is_regular(file):
        return samples, "is no regular file"
    try:
        size = file.stat().st_size
        with _Bounded(file) as data, tarfile.open(fileobj=data, mode="r:") as tar:
            for member in tar:
                match = _SAMPLE.match(member.name) if member.isreg() else None
                if match is None or PurePosixPath(member.name).name.startswith("."):
                    continue
                if member.offset_data + member.size > size:
                    return samples, f"is cut: {shown(member.name)} does not end in it"
                samples.setdefault(match[1], {})[match[2].lower()] = (
                    member.offset_data,
                    member.size,
                )
            # tarfile takes an archive that was cut between two members for a whole one
            data.seek(max(0, size - _BLOCK))
            whole = not data.read().strip(b"\0")
    except Exception as error:  # a damaged archive breaks tarfile in many ways
        return samples, f"is damaged or no archive ({error}), read up to there"
    return samples, "" if whole else "has no end mark: samples may be missing"


class _Bounded(io.FileIO):
    """A file of which no header can ask for more than a caption's size at once."""

    def read(self, size: int = -1) -> bytes:
        return super().read(CAPTION_BYTES if size < 0 else min(size, CAPTION_BYTES))


def _sample(file: Path, name: str, parts: Parts) -> Item:
    picture = next((kind for kind in parts if f".{kind}" in picture_endings()), None)
    name += f".{picture}" if picture else ""
    kind = next((kind for kind in _TEXTS if kind in parts), None)
    try:
        with file.open("rb") as data:
            texts, about = (
                read_span(data, *parts[part])
                if part in parts and parts[part][1] <= CAPTION_BYTES
                else None
                for part in (kind, "json")
            )
        captions, facts = beside(texts, about)
    except (OSError, ValueError) as error:
        return Skipped(shown(name), f"its caption cannot be read ({error})")
    if picture is None:
        status = facts.get("status", "success")
        why = "" if status == "success" else f" ({status}, {facts.get('error_message')})"
        return Skipped(shown(name), f"has no picture{why}")
    if parts[picture][1] > PICTURE_BYTES:
        return Skipped(shown(name), f"is too large: at most {PICTURE_BYTES:,} bytes are read")
    return entry(name, captions, file, parts[picture], facts)
