"""Automatic captions: every picture of a folder gets a text, the best of several.

`n` candidates a picture are generated (image-to-text) and ranked by the cosine of CLIP's vectors,
<picture, text>; the best one is the caption. A picture's first seed comes from its content and
the given seed, so a caption depends on nothing else in the folder, and on no interruption:

    seed of candidate k = SHA-256("<seed> <sha256 of the file>") mod 2^32 + k

What is done is written to a journal after every batch (`analysis.folders.caption_files`), whatever
the format, so the same command goes on where it stopped, and another format costs no generation.

    >>> caption_folder(vd, "photos", "output/caption/photos", form="jsonl")
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import ChainMap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from analysis.folders.caption_files import STATE, Ledger, Lines
from analysis.folders.caption_formats import FORMATS, Candidate, Captioned, Row, make_writer
from analysis.folders.encoders import TOWERS, own_clip
from analysis.folders.reading import Unread, disk_errors, is_unchanged, read_picture
from analysis.modes import image_to_text
from analysis.modes.decoding import default_batch
from analysis.results.outputs import OUT, VOLATILE, slug
from data.folders import (
    Broken,
    Found,
    Skipped,
    one_writer,
    others_below,
    pictures_below,
    relative_to,
    shown,
)
from lib.checks import parse_json, whole_number
from lib.files import held_interrupts, write_atomic
from lib.fingerprints import fingerprint
from lib.model import VersatileDiffusion
from lib.noise import check_seed

MODE = "caption"
RECORD = "captions.json"
_LOCAL = (*VOLATILE, "mode", "device", "input", "seed")
"""What a setting's identity does not depend on."""


@dataclass
class Captions:
    """What was done.

    Attributes:
        out: where the captions are.
        record: model, settings, counts; as written to `captions.json`.
        rows: every captioned picture, sorted by name.
        new: how many were captioned just now.
        kept: pictures whose sidecar somebody else has written; they are left alone.
        broken: file -> why it has no caption: it could not be opened, or its caption not written.
        others: files of the folder that are no pictures.
    """

    out: Path
    record: dict[str, Any] = field(default_factory=dict)
    rows: list[Captioned] = field(default_factory=list)
    new: int = 0
    kept: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    others: list[Skipped] = field(default_factory=list)


def caption(
    vd: VersatileDiffusion,
    images: Sequence[Image.Image],
    seeds: Sequence[int],
    n: int = 4,
    **options: Any,
) -> list[tuple[Candidate, ...]]:
    """Candidates for each picture, best first.

    Args:
        vd: a model with the flow "i2t", and "clip_text".
        images: pictures.
        seeds: of each picture's first candidate; the others count on.
        n: candidates a picture.
        options: steps, scale, temperature, ... as `analysis.image_to_text` takes them.

    Raises:
        ValueError: bad input.
        FloatingPointError: the precision is too low for the model.
    """
    seeds = [check_seed(seed + k) for seed in seeds for k in range(n)]
    job = image_to_text.job(vd, list(images), n=n, seed=seeds, **options)
    texts = [" ".join(text.split()) for text in job.result(progress=False).texts]
    clip = own_clip(vd)
    pictures = clip.images(images).cpu().repeat_interleave(n, dim=0)
    scores = (pictures * clip.texts(texts).cpu()).sum(dim=1)
    if not bool(torch.isfinite(scores).all()):
        raise FloatingPointError(f"CLIP's vectors left the range of {vd.dtype}: use float32.")
    candidates = [
        Candidate(text, round(float(score), 6), seed)
        for text, score, seed in zip(texts, scores, seeds, strict=True)
    ]
    # an empty caption is none, whatever it scores
    order = {"key": lambda candidate: (bool(candidate.text), candidate.score), "reverse": True}
    return [tuple(sorted(candidates[i : i + n], **order)) for i in range(0, len(candidates), n)]


def caption_folder(
    vd: VersatileDiffusion,
    folder: str | Path,
    out: str | Path | None = None,
    *,
    form: str = "sidecar",
    n: int = 4,
    seed: int = 0,
    shard_size: int = 1000,
    again: bool = False,
    progress: bool = True,
    **options: Any,
) -> Captions:
    """Caption the pictures of a folder, or those that have no caption yet.

    A picture that cannot be opened, or a sidecar that cannot be written, is named in the result and
    does not stop the others; what cannot be read for a moment is tried again by the next call.

    Args:
        vd: as for `caption`.
        folder: pictures, also in subfolders.
        out: where captions go; None is `output/caption/<name of the folder>`.
        form: one of `analysis.folders.caption_formats.FORMATS`.
        n: candidates a picture.
        seed: together with a picture's content, chooses its seeds.
        shard_size: samples a webdataset shard.
        again: caption also what is done, and replace files that somebody else has written.
        progress: show a bar.
        options: steps, scale, temperature, ... as `analysis.image_to_text` takes them.

    Raises:
        ValueError: bad input, no pictures, or somebody else's file is in the way.
        OSError: the disk is full; what was captioned is kept.
        KeyboardInterrupt: what was done is kept.
    """
    folder = Path(folder)
    check_options(form, n, seed, shard_size)
    files = pictures_below(folder)
    out = Path(OUT, MODE, slug(folder.resolve().name)) if out is None else Path(out)
    settings = _settings(vd, n, seed, options)
    asked = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    size = max(1, (options.get("batch_size") or default_batch(vd, "text")) // n)
    done = Captions(out)
    with one_writer(out / STATE), disk_errors(out):
        _claim(out, folder)
        journal, ledger = _Journal(out / STATE / "journal.jsonl", asked, again), Ledger(out, again)
        ledger.refuse_foreign([RECORD])
        writer = make_writer(form, ledger, folder, [file.name for file in files], shard_size)
        wanted = set(writer.names)
        done.kept = [file.name for file in files if file.name not in wanted]
        files = [file for file in files if file.name in wanted]
        known = [journal.rows.get(file.name) for file in files]
        writer.add(was for was, now in zip(known, files, strict=True) if is_unchanged(was, now))
        todo = [file for file in files if file.name not in writer.rows]
        try:
            with tqdm(total=len(todo), desc=MODE, unit="picture", disable=not progress) as bar:
                for i in range(0, len(todo), size):
                    part = todo[i : i + size]
                    rows = _captioned(vd, folder, part, journal.contents, n, seed, options)
                    journal.append(rows)
                    done.new += sum(isinstance(row, Captioned) for row in rows)
                    writer.add(rows)
                    bar.update(len(part))
            writer.finish()
        except KeyboardInterrupt:
            if writer.partial:
                with held_interrupts():
                    writer.finish()
            raise
        rows = [writer.rows[file.name] for file in files]
        done.rows = [row for row in rows if isinstance(row, Captioned)]
        done.broken = {row.name: row.why for row in rows if isinstance(row, Broken)}
        done.broken |= writer.failed
        done.record = _record(vd, done, form, settings)
        ledger.place(RECORD, (json.dumps(done.record, indent=2) + "\n").encode())
        ours = {os.path.abspath(out / name) for name in ledger.names}
        done.others = [
            file for file in others_below(folder) if os.path.abspath(folder / file.name) not in ours
        ]
    return done


def check_options(form: str, n: int, seed: int, shard_size: int = 1) -> None:
    """ValueError unless these are options of `caption_folder`."""
    if form not in FORMATS:
        raise ValueError(f"format is {form!r}: choose {', '.join(FORMATS)}.")
    whole_number("n", n, 1, 1000)
    check_seed(seed)
    whole_number("shard_size", shard_size, 1, 10**6)


def first_seed(seed: int, sha256: str) -> int:
    """Seed of the first candidate of a picture with that content."""
    return int(hashlib.sha256(f"{seed} {sha256}".encode()).hexdigest()[-8:], 16)


class _Journal:
    """What is captioned already with the same settings: by file, and by content."""

    def __init__(self, path: Path, asked: str, again: bool) -> None:
        self.asked = asked
        self.rows: dict[str, Row] = {}
        self.contents: dict[str, tuple[Candidate, ...]] = {}
        self._lines = Lines(path, self._note if not again else lambda row: None)

    def _note(self, row: dict[str, Any]) -> None:
        if row.pop("asked") != self.asked:
            return
        if "why" in row:
            row = Broken(**row)
        else:
            row["candidates"] = tuple(
                Candidate(str(c["text"]), float(c["score"]), int(c["seed"]))
                for c in row["candidates"]
            )
            row = Captioned(**row)
            row.describe()  # fails without a candidate
            self.contents[row.sha256] = row.candidates
        self.rows[row.name] = row

    def append(self, rows: Sequence[Row]) -> None:
        """Note what was captioned, or is broken for good."""
        self._lines.append(
            {"asked": self.asked, **asdict(row)} for row in rows if not isinstance(row, Unread)
        )


def _captioned(
    vd: VersatileDiffusion,
    folder: Path,
    files: Sequence[Found],
    contents: dict[str, tuple[Candidate, ...]],
    n: int,
    seed: int,
    options: dict[str, Any],
) -> list[Row]:
    """Caption files; equal contents are captioned once, and noted in `contents`."""
    images: dict[str, Image.Image] = {}
    rows: list[Broken | str] = []
    for file in files:
        content = read_picture(file, folder, ChainMap(images, contents))
        if not isinstance(content, Broken):
            content, image = content
            if image is not None:
                images[content] = image
        rows.append(content)
    if images:
        seeds = [first_seed(seed, sha256) for sha256 in images]
        candidates = caption(vd, list(images.values()), seeds, n, **options)
        contents |= dict(zip(images, candidates, strict=True))
    return [
        row
        if isinstance(row, Broken)
        else Captioned(file.name, file.size, file.mtime_ns, row, contents[row])
        for row, file in zip(rows, files, strict=True)
    ]


def _settings(vd: VersatileDiffusion, n: int, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """All that a caption depends on besides its picture; checks it on the way."""
    vd.require(*TOWERS)
    job = image_to_text.job(vd, [Image.new("RGB", (8, 8))], n=n, seed=0, **options)
    ranking = {name: fingerprint(vd.component(name)) for name in TOWERS}
    kept = {key: value for key, value in job.record_of(0).items() if key not in _LOCAL}
    return {**kept, "n": n, "seed": seed, "ranked_by": ranking}


def _record(
    vd: VersatileDiffusion, done: Captions, form: str, settings: dict[str, Any]
) -> dict[str, Any]:
    scores = [row.candidates[0].score for row in done.rows]
    return {
        "mode": MODE,
        **settings,
        "device": vd.device.type,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "format": form,
        "pictures": len(done.rows),
        "mean_score": sum(scores) / len(scores) if scores else None,
        "kept": [shown(name) for name in done.kept],
        "broken": done.broken,
    }


def _claim(out: Path, folder: Path) -> None:
    """Note whose captions these are, or check that they are of the same folder."""
    path = out / STATE / "folder.json"
    if path.is_file():
        try:
            noted = parse_json(path.read_bytes())["folder"]
            before = Path(os.path.normpath(out.resolve() / noted))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{shown(path)} is damaged ({error}): delete it if these are captions of "
                f"{shown(folder)}, or choose another folder (--out)."
            ) from error
        if before != folder.resolve() and before.exists():
            raise ValueError(
                f"{shown(out)} holds captions of {shown(before)}: choose another folder for those "
                f"of {shown(folder)} (--out)."
            )
    write_atomic(path, json.dumps({"folder": relative_to(folder, out)}) + "\n")
