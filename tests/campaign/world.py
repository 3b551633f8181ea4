"""What the campaign works on: a tiny model, a folder of pictures, and what was made of them."""

from __future__ import annotations

import io
import json
import logging
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from analysis.folders.caption import caption_folder
from analysis.folders.search import update_index
from analysis.modes import image_to_text, text_to_image
from analysis.results.outputs import save
from lib.checkpoints import load
from lib.model import VersatileDiffusion
from tests.conftest import drawing, save_tiny

PROMPT = "a large red circle above a small blue square"


@dataclass(frozen=True, eq=False)
class World:
    """Places that inputs are copied from; nothing here is changed after it was made.

    Attributes:
        folder: holds all below.
        vd: the model of `model`.
        model: its folder.
        photos: six pictures, three of them below, and captions beside them.
        index: of the photos.
        captions: of the photos, with the journal.
        results: of text to image and image to text: pictures, texts and tensors.
        sets: name -> a captioned set in that format.
    """

    folder: Path
    vd: VersatileDiffusion
    model: Path
    photos: Path
    index: Path
    captions: Path
    results: Path
    sets: dict[str, Path]


def build(folder: Path) -> World:
    """Make everything."""
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    model, photos = folder / "tiny", folder / "photos"
    save_tiny(model, folder / "words")
    vd = load(model, device="cpu", dtype=torch.float32)
    (photos / "sub").mkdir(parents=True)
    for seed in range(6):
        path = photos / ("sub" if seed > 2 else "") / f"{seed}.png"
        drawing(seed).save(path)
        path.with_suffix(".txt").write_text(f"{PROMPT}, {seed}\n")
    index, captions, results = (folder / name for name in ("index", "captions", "results"))
    update_index(vd, photos, index, progress=False)
    caption_folder(vd, photos, captions, form="jsonl", n=2, steps=1, progress=False)
    save(text_to_image(vd, PROMPT, steps=1, seed=1, n=2, progress=False), results)
    latents = text_to_image(vd, PROMPT, steps=1, seed=1, output="latents", progress=False)
    save(latents, results / "latents")
    picture = photos / "0.png"
    save(image_to_text(vd, [picture], steps=1, seed=1, n=2, progress=False), results)
    sets = {name: _captioned(folder / "sets" / name, name) for name in FORMATS}
    return World(folder, vd, model, photos, index, captions, results, sets)


FORMATS = (
    *("metadata.jsonl", "metadata.csv", "table.tsv", "captions.txt", "coco.json"),
    *("meta_cap.json", "0.tar", "sidecar"),
)


def _captioned(folder: Path, name: str) -> Path:
    """Three pictures and what says of each what it shows."""
    folder.mkdir(parents=True)
    names = [f"{i}.png" for i in range(3)]
    for i, picture in enumerate(names):
        drawing(i).save(folder / picture)
    lines = {picture: f"{PROMPT}, {i}" for i, picture in enumerate(names)}
    if name == "metadata.jsonl":
        rows = [json.dumps({"file_name": p, "text": t}) for p, t in lines.items()]
        text = "\n".join(rows)
    elif name == "coco.json":
        text = json.dumps(
            {
                "images": [{"id": i, "file_name": p} for i, p in enumerate(names)],
                "annotations": [
                    {"image_id": i, "caption": t} for i, t in enumerate(lines.values())
                ],
            }
        )
    elif name == "meta_cap.json":
        text = json.dumps({p: {"caption": t} for p, t in lines.items()})
    elif name in ("0.tar", "sidecar"):
        for picture, caption in lines.items():
            (folder / picture).with_suffix(".txt").write_text(caption)
        if name == "0.tar":
            with tarfile.open(folder / name, "w") as tar:
                for path in sorted(folder.glob("[0-9].*g")) + sorted(folder.glob("*.txt")):
                    tar.add(path, path.name)
            for path in (*folder.glob("*.png"), *folder.glob("*.txt")):
                path.unlink()
        return folder
    else:
        mark = "\t" if name.endswith(".tsv") else ","
        text = "\n".join([f"image{mark}caption", *(f'{p}{mark}"{t}"' for p, t in lines.items())])
    (folder / name).write_text(text + "\n")
    return folder


def pictures() -> list[bytes]:
    """Good pictures' files of many formats, modes and metadata."""
    image = drawing(3)
    files = []
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK", "F"):
        converted = image.convert("RGBA" if mode == "RGBA" else "L" if mode in ("I;16",) else mode)
        converted = converted.convert("I;16") if mode == "I;16" else converted
        for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "TGA", "ICO", "PPM", "JPEG2000"):
            buffer = io.BytesIO()
            try:
                converted.save(buffer, kind)
            except (OSError, ValueError, KeyError):  # a mode that the format does not have
                continue
            files.append(buffer.getvalue())
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif, icc_profile=b"no profile")
    return [*files, buffer.getvalue()]


def linked_model(world: World, place: Path, without: str) -> Path:
    """A model folder of links, in which a file can be replaced."""
    folder = place / "model"
    folder.mkdir(parents=True)
    for path in world.model.iterdir():
        if path.name != without and not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    return folder


def copied(source: Path, place: Path) -> Path:
    """A copy that an input may damage."""
    return Path(shutil.copytree(source, place / source.name))
