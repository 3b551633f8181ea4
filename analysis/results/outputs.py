"""Results, and results on disk.

    output/<mode>/0007_a-large-red-circle_seed20.png     the picture; carries its record as text
    output/<mode>/0007_a-large-red-circle_seed20.json    the record: all it takes to make it again

Texts are .txt; tensors and latents .safetensors, with their record as metadata, to be read again by
`analysis.modes.latents`.

Nothing is ever overwritten, also with many processes writing at once, and no half-written file ever
has a final name (`lib.files`).
"""

from __future__ import annotations

import html
import io
import json
import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from analysis.results.sheets import contact_sheet
from lib.files import claimed_number, held_interrupts, write_all

if TYPE_CHECKING:  # torch takes seconds, and only tensors need it
    from torch import Tensor

OUT = "output"
VOLATILE = ("created", "seconds", "versions", "file", "text", "found")
"""What a record says of one making, and not of what was asked for."""

_KEY = "record"


@dataclass(frozen=True, eq=False)
class Result:
    """What a mode made, and everything needed to make it again: pictures, texts or tensors.

    Attributes:
        mode: what made it; the name of its folder.
        record: plain JSON types: what all samples share, and under "samples" what each has of its
            own (its seed, its prompt or input).
        images: RGB pictures, if the mode makes pictures.
        texts: strings, if it makes texts.
        tensors: (B, ...) instead of both, for the outputs "tensor" and "latents"
            (`analysis.modes.decoding`).
    """

    mode: str
    record: dict[str, Any]
    images: list[Image.Image] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    tensors: Tensor | None = None

    def __post_init__(self) -> None:
        counts = {len(self.items), len(self.record["samples"])}
        kinds = bool(self.images) + bool(self.texts) + (self.tensors is not None)
        assert len(counts) == 1 and kinds <= 1, (counts, kinds)

    @property
    def items(self) -> list[Image.Image] | list[str] | list[Tensor]:
        """The pictures, the texts, or the tensors."""
        return list(self.tensors) if self.tensors is not None else self.images or self.texts

    @property
    def seeds(self) -> list[int]:
        """One a sample."""
        return [sample["seed"] for sample in self.record["samples"]]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, k: int) -> Result:
        """One sample, as a result of its own."""
        record = {**self.record, "samples": [self.record["samples"][k]]}
        if self.tensors is not None:
            return Result(self.mode, record, tensors=self.tensors[k][None])
        if self.images:
            return Result(self.mode, record, images=[self.images[k]])
        return Result(self.mode, record, texts=[self.texts[k]])

    def record_of(self, k: int) -> dict[str, Any]:
        """The whole record of one sample, flat."""
        return flat_record(self.record, self.record["samples"][k])

    def sheet(self, columns: int | None = None, **options: Any) -> Image.Image:
        """The pictures on a contact sheet: a row an input if there are several, seeds below.

        A strip has a row for each seed, in order of what was slid, which stands below.

        Args:
            columns: pictures a row.
            options: as `analysis.results.sheets.contact_sheet` takes them.

        Raises:
            ValueError: the result holds texts or tensors.
        """
        if not self.images:
            instead = "print its texts" if self.texts else "decode them (analysis.modes.latents)"
            raise ValueError(f"{self!r} holds no pictures, so there is no sheet: {instead}.")
        records = [self.record_of(k) for k in range(len(self))]
        strip = records[0].get("strip")
        if strip and all(strip in record for record in records):
            keys = [(title(record), record["seed"]) for record in records]
            seeds = list(dict.fromkeys(keys))
            rows = [(seeds.index(key), r[strip]) for key, r in zip(keys, records, strict=True)]
            order = sorted(range(len(self)), key=rows.__getitem__)
            labels = [f"{strip} {record[strip]:.3g}, seed {record['seed']}" for record in records]
            labels = options.pop("labels", labels)
            return contact_sheet(
                [self.images[k] for k in order],
                columns or len(records) // len(seeds),
                labels and [labels[k] for k in order],
                **options,
            )
        titles = [title(record) for record in records]
        several = len(set(titles)) > 1
        if columns is None and several:
            first = next(k for k, name in enumerate(titles) if name != titles[0])
            columns = first if first > 1 else None
        labels = [
            f"seed {record['seed']}" + (f": {name}" if several else "")
            for name, record in zip(titles, records, strict=True)
        ]
        return contact_sheet(self.images, columns, options.pop("labels", labels), **options)

    def __repr__(self) -> str:
        kind = "picture" if self.images else "text" if self.tensors is None else "tensor"
        plural = "" if len(self) == 1 else "s"
        seeds = ", ".join(map(str, self.seeds[:4])) + (", ..." if len(self) > 4 else "")
        return f"Result({self.mode}: {len(self)} {kind}{plural}, seed{plural} {seeds})"

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows of pictures."""
        if not self.images:
            return None
        buffer = io.BytesIO()
        self.sheet().save(buffer, "PNG")
        return buffer.getvalue()

    def _repr_html_(self) -> str | None:
        """What a notebook shows of texts."""
        if not self.texts:
            return None
        rows = (
            f"<tr><td>{html.escape(title(self.record_of(k)))}</td>"
            f"<td>{self.seeds[k]}</td><td>{html.escape(text)}</td></tr>"
            for k, text in enumerate(self.texts)
        )
        head = "<tr><th>input</th><th>seed</th><th>text</th></tr>"
        return f"<table>{head}{''.join(rows)}</table>"


def joined(parts: Iterable[Result]) -> Result:
    """Results of one job, or of jobs of one mode, made batch by batch, as one.

    What the parts' records do not agree on becomes each sample's own.
    """
    parts = list(parts)
    first = parts[0].record
    differing = {
        key
        for part in parts
        for key, value in part.record.items()
        if key not in ("samples", "created", "seconds") and first.get(key, part) != value
    }
    record = {
        **{key: value for key, value in first.items() if key not in differing},
        "samples": [
            {**sample, **{key: part.record[key] for key in sorted(differing)}}
            for part in parts
            for sample in part.record["samples"]
        ],
        "seconds": round(sum(part.record.get("seconds", 0) for part in parts), 3),
    }
    images = [image for part in parts for image in part.images]
    texts = [text for part in parts for text in part.texts]
    tensors = [part.tensors for part in parts if part.tensors is not None]
    if tensors:
        import torch

        return Result(parts[0].mode, record, tensors=torch.cat(tensors))
    return Result(parts[0].mode, record, images, texts)


def flat_record(shared: dict[str, Any], sample: dict[str, Any]) -> dict[str, Any]:
    """What all samples share and what one has of its own, as one record."""
    own = {"mode": shared["mode"], **sample}
    return own | {key: value for key, value in shared.items() if key != "samples"}


def title(record: dict[str, Any]) -> str:
    """What a result is called: its prompt, or its input file's name without ending, or ""."""
    return record.get("prompt") or Path((record.get("input") or {}).get("file", "")).stem


def slug(text: str, longest: int = 40) -> str:
    """A piece of a file name that is safe everywhere, from any text: a-z, 0-9 and hyphens.

    Cut at a word's end where there is one; "untitled" if nothing is left.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.findall("[a-z0-9]+", plain.replace("'", ""))
    short = words[0][:longest] if words else "untitled"
    for word in words[1:]:
        if len(short) + 1 + len(word) > longest:
            break
        short += f"-{word}"
    return short


def save(result: Result, out: str | Path = OUT) -> list[Path]:
    """Write every sample to `out/<mode>/`, with its record beside it.

    Ctrl-C while saving takes effect when everything is saved.

    Returns:
        The path of each picture (.png), text (.txt) or tensor (.safetensors); the record has the
        same name, as .json.

    Raises:
        OSError: it could not be written (disk full, no permission); samples before it are saved,
            of it nothing is left behind, nothing is overwritten.
    """
    folder = Path(out) / result.mode
    paths: list[Path] = []
    with held_interrupts():
        for k in range(len(result)):
            try:
                paths.append(_save_one(folder, result, k))
            except OSError as error:
                before = f" The {k} before it are saved." if k else ""
                raise OSError(
                    f"Result {k + 1} of {len(result)} could not be saved in {folder} "
                    f"({error.strerror or error}): free some space or choose another folder, and "
                    f"save again; nothing was overwritten.{before}"
                ) from error
    return paths


def prepare(out: str | Path, mode: str) -> None:
    """Make the folder of a mode, and try that it can be written: before hours of work, not after.

    Raises:
        ValueError: it cannot.
    """
    folder = Path(out) / mode
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".trial.{os.getpid()}"
        trial.touch()
        trial.unlink()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"Results cannot be written to {str(folder)!r} "
            f"({getattr(error, 'strerror', None) or error}): choose another folder."
        ) from error


def read_record(path: str | Path) -> dict[str, Any]:
    """The record of a saved result.

    Args:
        path: of a .png or .safetensors (the record is in it, wherever it was copied to), a .json,
            or a .txt (read from the .json beside it).

    Raises:
        ValueError: there is no record, or it is damaged.
    """
    path = Path(path)
    try:
        if path.suffix == ".png":
            with Image.open(path) as image:
                text = getattr(image, "text", {})[_KEY]
        elif path.suffix == ".safetensors":
            with path.open("rb") as file:  # the format begins with the length of a JSON header
                header = file.read(int.from_bytes(file.read(8), "little"))
            text = json.loads(header).get("__metadata__", {})[_KEY]
        else:
            text = path.with_suffix(".json").read_text(encoding="utf-8")
        record = json.loads(text)
    except FileNotFoundError as error:
        raise ValueError(f"There is no record of {path}: {error.filename} is missing.") from error
    except KeyError as error:
        raise ValueError(f"{path} carries no record: it was not saved by this project.") from error
    except (OSError, SyntaxError, ValueError) as error:  # not a PNG, a broken one; not JSON
        raise ValueError(f"The record of {path} is damaged ({error}).") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} is not the record of a result.")
    return record


def identity(record: dict[str, Any]) -> str:
    """What was asked for, as one string: equal for two makings of the same."""
    asked = {key: value for key, value in record.items() if key not in VOLATILE}
    return json.dumps(asked, sort_keys=True)


def finished(out: str | Path, mode: str) -> dict[str, Path]:
    """Identity -> path of everything that is in a mode's folder, complete."""
    found: dict[str, Path] = {}
    for sidecar in sorted((Path(out) / mode).glob("[0-9]*.json")):
        try:
            record = read_record(sidecar)
        except ValueError:  # not ours, or damaged: so it does not count as done
            continue
        path = sidecar.parent / Path(str(record.get("file", ""))).name
        if path.is_file():
            found.setdefault(identity(record), path)
    return found


def _save_one(folder: Path, result: Result, k: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    record = result.record_of(k)
    ending = "png" if result.images else "txt" if result.tensors is None else "safetensors"
    with claimed_number(folder) as number:
        stem = f"{number:04d}_{slug(title(record))}_seed{record['seed']}"
        record |= {"file": f"{stem}.{ending}"}
        if result.texts:
            record |= {"text": result.texts[k]}
        text = json.dumps(record, allow_nan=False, ensure_ascii=False, indent=2) + "\n"
        if result.images:
            content = _png(result.images[k], text)
        elif result.texts:
            content = f"{result.texts[k]}\n".encode()
        else:
            from safetensors.torch import save as packed

            content = packed({record["output"]: result.tensors[k].contiguous()}, {_KEY: text})
        write_all({folder / f"{stem}.{ending}": content, folder / f"{stem}.json": text.encode()})
        return folder / f"{stem}.{ending}"


def _png(image: Image.Image, record: str) -> bytes:
    info = PngInfo()
    info.add_itxt(_KEY, record)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
