"""Results on disk.

    output/<mode>/0007_a-large-red-circle_seed20.png     the picture; carries its record as text
    output/<mode>/0007_a-large-red-circle_seed20.json    the record: all it takes to make it again

Texts are .txt; tensors and latents .safetensors, with their record as metadata, to be `read` again.
A picture also carries the line of settings that common viewers of generated pictures show.

Nothing is ever overwritten, also with many processes writing at once, and no half-written file ever
has a final name (`lib.files`).
"""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from analysis.results.result import Result, joined, title
from data.folders import LIST_BYTES, PICTURE_BYTES, is_regular, read_file
from lib.checks import parse_json
from lib.files import beside, held_interrupts, printable, write_numbered

OUT = "output"
VOLATILE = ("created", "seconds", "versions", "file", "text", "found")
"""What a record says of one making, and not of what was asked for."""

_KEY = "record"
_UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError)
"""What comes of files that are no picture, no JSON, or no record of ours."""
_OF_DISK = ("file", "created", "seconds")
_SAMPLERS = {"ddim": "DDIM", "dpmpp_2m": "DPM++ 2M", "heun": "Heun", "euler": "Euler"}
_SAMPLERS["unipc"] = "UniPC"
"""Samplers by the names that viewers of generated pictures know."""


@dataclass(frozen=True)
class Saved:
    """A result on disk.

    Attributes:
        path: the picture or text.
        record: as it was saved.
        new: whether it was made just now, or lay there already.
    """

    path: Path
    record: dict[str, Any]
    new: bool


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


def save(result: Result, out: str | Path = OUT, numbers: Sequence[int] | None = None) -> list[Path]:
    """Write every sample to `out/<mode>/`, with its record beside it.

    Ctrl-C while saving takes effect when everything is saved.

    Args:
        result: what to write.
        out: folder.
        numbers: running numbers to take where they are free; None: the next free ones.

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
                wanted = None if numbers is None else numbers[k]
                paths.append(_save_one(folder, result, k, wanted))
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

    What killed processes left of a result is swept.

    Raises:
        ValueError: it cannot.
    """
    folder = Path(out) / mode
    try:
        with beside(folder / "trial") as trial:
            trial.touch()
        if any(folder.glob(".*.claim")):  # of processes that were killed, maybe
            write_numbered(folder, lambda number: {})
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
            with Image.open(io.BytesIO(read_file(path, PICTURE_BYTES))) as image:
                text = getattr(image, "text", {})[_KEY]
        elif path.suffix == ".safetensors":
            if path.exists() and not is_regular(path):
                raise ValueError("it is no regular file")
            with path.open("rb") as file:  # the format begins with the length of a JSON header
                header = file.read(min(int.from_bytes(file.read(8), "little"), LIST_BYTES))
            text = dict(dict(parse_json(header)).get("__metadata__", {}))[_KEY]
        else:
            text = read_file(path.with_suffix(".json"), LIST_BYTES)
        record = parse_json(text)
    except FileNotFoundError as error:
        raise ValueError(f"There is no record of {path}: {error.filename} is missing.") from error
    except KeyError as error:
        raise ValueError(f"{path} carries no record: it was not saved by this project.") from error
    except _UNREADABLE as error:
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
    paths: dict[str, Path] = {}
    for sidecar in sorted((Path(out) / mode).glob("[0-9]*.json")):
        try:
            record = read_record(sidecar)
        except ValueError:  # not ours, or damaged: so it does not count as done
            continue
        path = sidecar.parent / Path(str(record.get("file", ""))).name
        if path.is_file():
            paths.setdefault(identity(record), path)
    return paths


def parameters(record: dict[str, Any], size: tuple[int, int]) -> str:
    """What a picture was made with, in the words that viewers of generated pictures read.

    They look for it in a PNG's text "parameters": the prompt, then "Negative prompt: ...", then
    one line "Steps: 50, Sampler: DDIM, ..."; what the record lacks is left out.

    Args:
        record: of one sample.
        size: width and height in pixels.
    """
    sampler = record.get("sampler")
    values = {
        "Steps": record.get("steps"),
        "Sampler": _SAMPLERS.get(sampler, sampler),
        "CFG scale": record.get("scale"),
        "Seed": record.get("seed"),
        "Size": "x".join(map(str, size)),
        "Model": (record.get("model") or {}).get("name"),
    }
    negative = record.get("negative_prompt")
    lines = [record.get("prompt"), f"Negative prompt: {negative}" if negative else None]
    lines.append(", ".join(f"{k}: {_quoted(v)}" for k, v in values.items() if v is not None))
    return "\n".join(line for line in lines if line)


def _quoted(value: Any) -> str:
    """A value as those viewers split it: in quotes if it holds what stands between values."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(',:\n"') else text


def read(paths: str | Path | Sequence[str | Path]) -> Result:
    """Saved tensors or latents as a result again.

    >>> paths = save(text_to_image(vd, "a red circle", n=4, output="latents"))
    >>> latents = read(paths)

    Args:
        paths: .safetensors files that `save` wrote, of one mode and output.

    Raises:
        ValueError: none, a file that holds no result, or results of different kinds.
    """
    paths = [Path(p) for p in ([paths] if isinstance(paths, (str, Path)) else paths)]
    if not paths:
        raise ValueError("There is no file to read: give the path of at least one.")
    parts = [_read_one(path) for path in paths]
    kinds = {(part.mode, part.record["output"], part.tensors.shape[1:]) for part in parts}
    if len(kinds) > 1:
        names = ", ".join(f"{output} of {mode}" for mode, output, _ in sorted(kinds))
        raise ValueError(
            f"The files hold {names}, of {len(kinds)} kinds: read each kind by itself."
        )
    return joined(parts)


def _read_one(path: Path) -> Result:
    from lib.checkpoints.tensor_files import open_tensors

    if path.suffix != ".safetensors":
        raise ValueError(f"{path} holds no tensors: give a .safetensors file that was saved here.")
    file, record = open_tensors(path), read_record(path)
    name = str(record.get("output"))
    if list(file.shapes) != [name] or "seed" not in record:
        raise ValueError(f"{path} is not a result that was saved here: its record does not fit it.")
    sample = {key: value for key, value in record.items() if key not in _OF_DISK}
    shared = {key: sample.pop(key) for key in ("mode", "output")}
    return Result(shared["mode"], {**shared, "samples": [sample]}, tensors=file[name][None])


def save_sheet(saved: Sequence[Saved], out: str | Path = OUT) -> Path:
    """Put saved pictures on one contact sheet, as a result of its own in `out/sheets/`.

    Args:
        saved: pictures, at least one.
        out: folder.

    Raises:
        ValueError: a picture is no longer there.
        OSError: the sheet could not be saved.
    """
    from data.pictures import open_picture  # torch takes seconds

    records = [result.record for result in saved]
    images = [open_picture(result.path) for result in saved]
    sheet = Result(records[0]["mode"], {"mode": "", "samples": records}, images).sheet()
    sample = {"prompt": title(records[0]), "seed": records[0]["seed"]}
    of = [f"{record['mode']}/{record['file']}" for record in records]
    about = {"mode": "sheets", "of": of, "samples": [sample]}
    (path,) = save(Result("sheets", about, [sheet]), out)
    return path


def _save_one(folder: Path, result: Result, k: int, wanted: int | None) -> Path:
    record = result.record_of(k)
    ending = "png" if result.images else "txt" if result.tensors is None else "safetensors"

    def contents(number: int) -> dict[str, bytes]:
        stem = f"{number:04d}_{slug(title(record))}_seed{record['seed']}"
        whole = record | {"file": f"{stem}.{ending}"}
        if result.texts:
            whole |= {"text": result.texts[k]}
        text = as_json(whole)
        if result.images:
            content = _png(result.images[k], text, whole)
        elif result.texts:
            content = f"{printable(result.texts[k], 'utf-8')}\n".encode()
        else:
            from safetensors.torch import save as packed

            content = packed({record["output"]: result.tensors[k].contiguous()}, {_KEY: text})
        return {f"{stem}.json": text.encode(), whole["file"]: content}

    return write_numbered(folder, contents, wanted)[-1]


def as_json(record: dict[str, Any]) -> str:
    """A record as the text of its file."""
    text = json.dumps(record, allow_nan=False, ensure_ascii=False, indent=2) + "\n"
    return printable(text, "utf-8")  # half a pair of surrogates becomes JSON's escape of it


def _png(image: Image.Image, text: str, record: dict[str, Any]) -> bytes:
    info = PngInfo()
    info.add_itxt(_KEY, text)
    info.add_text("parameters", printable(parameters(record, image.size), "utf-8"))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
