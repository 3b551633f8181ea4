"""Automatic captions: every picture of a folder gets a text, the best of several.

`n` candidates a picture are generated (image-to-text) and ranked by the cosine of CLIP's vectors,
<picture, text>; the best one is the caption. A picture's first seed comes from its content and
the given seed, so a caption depends on nothing else in the folder, and on no interruption:

    seed of candidate k = SHA-256("<seed> <sha256 of the file>") mod 2^32 + k

What is done is written to a journal after every batch (`analysis.folders.caption_files`), whatever the
format, so the same command goes on where it stopped, and another format costs no generation.

    >>> caption_folder(vd, "photos", "output/caption/photos", form="jsonl")
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from analysis.folders.caption_files import STATE, Ledger, Lines
from analysis.folders.caption_formats import (
    FORMATS,
    Candidate,
    Captioned,
    InOrder,
    Row,
    make_writer,
)
from analysis.modes.flows import flow_job
from analysis.modes.sampling import default_batch, fingerprint
from analysis.results.outputs import OUT, VOLATILE, slug
from data.folders import (
    Broken,
    Found,
    one_writer,
    pictures_below,
    relative_to,
    shown,
)
from data.pictures import Picture
from lib.checks import whole_number
from lib.files import held_interrupts, write_atomic
from lib.model import VersatileDiffusion
from lib.noise import check_seed

MODE = "caption"
RECORD = "captions.json"
_LOCAL = (*VOLATILE, "mode", "device")
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
        broken: file -> why it could not be opened.
    """

    out: Path
    record: dict[str, Any] = field(default_factory=dict)
    rows: list[Captioned] = field(default_factory=list)
    new: int = 0
    kept: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)


def caption(
    vd: VersatileDiffusion,
    images: Sequence[Image.Image],
    seeds: Sequence[int],
    n: int = 4,
    **how: Any,
) -> list[tuple[Candidate, ...]]:
    """Candidates for each picture, best first.

    Args:
        vd: a model with the flow "i2t", and "clip_text".
        images: pictures.
        seeds: of each picture's first candidate; the others count on.
        n: candidates a picture.
        how: steps, scale, temperature, ... as `analysis.modes.generate.image_to_text` takes them.

    Raises:
        ValueError: bad input.
        FloatingPointError: the precision is too low for the model.
    """
    job = flow_job(vd, "i2t", list(images), n=n, seed=0, **how)
    job = replace(job, seeds=[check_seed(seed + k) for seed in seeds for k in range(n)])
    texts = [" ".join(text.split()) for text in job.result(progress=False).texts]
    pictures = vd.image_features(images).cpu().repeat_interleave(n, dim=0)
    scores = (pictures * _text_vectors(vd, texts)).sum(dim=1)
    if not bool(torch.isfinite(scores).all()):
        raise FloatingPointError(f"CLIP's vectors left the range of {vd.dtype}: use float32.")
    made = [
        Candidate(text, round(float(score), 6), seed)
        for text, score, seed in zip(texts, scores, job.seeds, strict=True)
    ]
    # an empty caption is none, whatever it scores
    order = {"key": lambda one: (bool(one.text), one.score), "reverse": True}
    return [tuple(sorted(made[i : i + n], **order)) for i in range(0, len(made), n)]


def caption_folder(
    vd: VersatileDiffusion,
    folder: str | Path,
    out: str | Path | None = None,
    *,
    form: str = "sidecar",
    n: int = 4,
    seed: int = 0,
    batch_size: int | None = None,
    shard_size: int = 1000,
    again: bool = False,
    progress: bool = True,
    **how: Any,
) -> Captions:
    """Caption the pictures of a folder, or those that have no caption yet.

    Args:
        vd: as for `caption`.
        folder: pictures, also in subfolders; broken ones are reported and passed over.
        out: where captions go; None is `output/caption/<name of the folder>`.
        form: one of `analysis.folders.caption_formats.FORMATS`.
        n: candidates a picture.
        seed: together with a picture's content, chooses its seeds.
        batch_size: texts generated at a time.
        shard_size: samples a webdataset shard.
        again: caption also what is done, and replace files that somebody else has written.
        progress: show a bar.
        how: steps, scale, temperature, ... as `analysis.modes.generate.image_to_text` takes them.

    Raises:
        ValueError: bad input, no pictures, or somebody else's file is in the way.
        KeyboardInterrupt: what was done is kept.
    """
    folder = Path(folder)
    check_options(form, n, seed, batch_size, shard_size)
    found = pictures_below(folder)
    out = default_out(folder) if out is None else Path(out)
    settings = _settings(vd, n, seed, how)
    asked = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    size = max(1, (batch_size or default_batch(vd, "text")) // n)
    done = Captions(out)
    with one_writer(out / STATE):
        _claim(out, folder)
        journal, ledger = Lines(out / STATE / "journal.jsonl"), Ledger(out, again)
        ledger.refuse_foreign([RECORD])
        writer = make_writer(form, ledger, folder, [one.name for one in found], shard_size)
        done.kept = [one.name for one in found if writer.kept(one.name)]
        rest = [one for one in found if one.name not in set(done.kept)]
        known, contents = ({}, {}) if again else _known(journal, asked)
        line = InOrder(writer, [one.name for one in rest])
        line.put(known[one.name] for one in rest if _same(known.get(one.name), one))
        todo = [one for one in rest if one.name not in line.ready]
        bar = tqdm(total=len(todo), desc=MODE, unit="picture", disable=not progress)
        try:
            for i in range(0, len(todo), size):
                made = _captioned(vd, folder, todo[i : i + size], contents, n, seed, how)
                journal.append({"asked": asked, **asdict(one)} for one in made)
                done.new += sum(isinstance(one, Captioned) for one in made)
                line.put(made)
                bar.update(len(made))
            writer.finish()
        except KeyboardInterrupt:
            if writer.partial:
                with held_interrupts():
                    line.flush()
            raise
        finally:
            bar.close()
        done.rows = [one for one in line.rows() if isinstance(one, Captioned)]
        done.broken = {one.name: one.why for one in line.rows() if isinstance(one, Broken)}
        done.record = _record(vd, done, form, settings)
        ledger.place(RECORD, (json.dumps(done.record, indent=2) + "\n").encode())
    return done


def default_out(folder: str | Path) -> Path:
    """Where captions of a folder go if nothing else is said."""
    return Path(OUT) / MODE / slug(Path(folder).resolve().name)


def check_options(
    form: str, n: int, seed: int, batch_size: int | None = None, shard_size: int = 1
) -> None:
    """ValueError unless these are options of `caption_folder`."""
    if form not in FORMATS:
        raise ValueError(f"format is {form!r}: choose {', '.join(FORMATS)}.")
    whole_number("n", n)
    check_seed(seed)
    whole_number("batch_size", 1 if batch_size is None else batch_size)
    whole_number("shard_size", shard_size)


def first_seed(seed: int, sha256: str) -> int:
    """Seed of the first candidate of a picture with that content."""
    return int(hashlib.sha256(f"{seed} {sha256}".encode()).hexdigest()[-8:], 16)


def _captioned(
    vd: VersatileDiffusion,
    folder: Path,
    files: Sequence[Found],
    contents: dict[str, tuple[Candidate, ...]],
    n: int,
    seed: int,
    how: dict[str, Any],
) -> list[Row]:
    """Caption files; equal contents are captioned once, and noted in `contents`."""
    rows: list[Row | None] = []
    hashes: list[str] = []
    images: dict[str, Image.Image] = {}
    for one in files:
        path = one.below(folder)
        try:
            picture = Picture.of(path)
            if picture.sha256 not in contents:
                images[picture.sha256] = picture.open()
            rows.append(None)
            hashes.append(picture.sha256)
        except ValueError as error:
            why = shown(error).replace(shown(path), shown(one.name))
            rows.append(Broken(one.name, one.size, one.mtime_ns, why))
            hashes.append("")
    if images:
        seeds = [first_seed(seed, sha256) for sha256 in images]
        made = caption(vd, list(images.values()), seeds, n, **how)
        contents |= dict(zip(images, made, strict=True))
    return [
        row or Captioned(one.name, one.size, one.mtime_ns, sha256, contents[sha256])
        for row, one, sha256 in zip(rows, files, hashes, strict=True)
    ]


def _known(journal: Lines, asked: str) -> tuple[dict[str, Row], dict[str, tuple[Candidate, ...]]]:
    """What the journal holds of this: by file, and by content."""
    files: dict[str, Row] = {}
    contents: dict[str, tuple[Candidate, ...]] = {}
    for row in journal.rows:
        if row.get("asked") != asked:
            continue
        own = {key: value for key, value in row.items() if key != "asked"}
        if "why" in own:
            files[own["name"]] = Broken(**own)
            continue
        own["candidates"] = tuple(Candidate(**one) for one in own["candidates"])
        files[own["name"]] = Captioned(**own)
        contents[own["sha256"]] = own["candidates"]
    return files, contents


def _same(was: Found | None, now: Found) -> bool:
    return was is not None and (was.size, was.mtime_ns) == (now.size, now.mtime_ns)


def _settings(vd: VersatileDiffusion, n: int, seed: int, how: dict[str, Any]) -> dict[str, Any]:
    """All that a caption depends on besides its picture; checks it on the way."""
    vd.require("clip_text", "clip_vision")
    shared = flow_job(vd, "i2t", [Image.new("RGB", (8, 8))], n=n, seed=0, **how).shared
    ranking = {name: fingerprint(vd.component(name)) for name in ("clip_text", "clip_vision")}
    kept = {key: value for key, value in shared.items() if key not in _LOCAL}
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
        told = json.loads(path.read_text(encoding="utf-8"))["folder"]
        before = Path(os.path.normpath(out.resolve() / told))
        if before != folder.resolve() and before.exists():
            raise ValueError(
                f"{shown(out)} holds captions of {shown(before)}: choose another folder for those "
                f"of {shown(folder)} (--out)."
            )
    write_atomic(path, json.dumps({"folder": relative_to(folder, out)}) + "\n")


def _text_vectors(vd: VersatileDiffusion, texts: Sequence[str]) -> Tensor:
    """(B, D); a text that is too long for CLIP is compared without its end."""
    try:
        return vd.text_features(texts).cpu()
    except ValueError:
        if len(texts) > 1:
            return torch.cat([_text_vectors(vd, [text]) for text in texts])
        words = texts[0].split()
        if not words:
            raise
        return _text_vectors(vd, [" ".join(words[: len(words) * 3 // 4])])
