"""Folders of pictures to search and to caption, and what comes of them."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysis.folders import caption as captioning
from lib.model import VersatileDiffusion
from tests.conftest import drawing


def photo_folder(folder: Path) -> Path:
    """Eight pictures in a folder with a subfolder, a broken file and things to pass over."""
    (folder / "sub" / ".hidden").mkdir(parents=True)
    for seed in range(8):
        drawing(seed).save(folder / ("sub" if seed > 4 else "") / f"{seed}.png")
    (folder / "bad.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture either")
    drawing(9).save(folder / "sub" / ".hidden" / "9.png")
    drawing(9).save(folder / ".9.png")
    return folder


def matrix(vd: VersatileDiffusion, photos: Path) -> np.ndarray:
    """What an index holds, the plain way."""
    files = [p for p in sorted(photos.rglob("[0-9].png")) if ".hidden" not in p.parts]
    names = sorted(files, key=lambda p: p.relative_to(photos).as_posix())
    return np.concatenate([vd.image_features([Image.open(p)]).numpy() for p in names])


def few_photos(folder: Path) -> Path:
    """Six pictures, two of the same content, and a broken file."""
    (folder / "sub").mkdir(parents=True)
    for seed in range(4):
        drawing(seed).save(folder / f"{seed}.png")
    drawing(4).save(folder / "sub" / "4.jpg")
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


def run_batches(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[int]:
    """Note the size of each generated batch; press Ctrl-C in one of them (0 is the first)."""
    sizes, real = [], captioning.caption

    def noted(model, images, *args, **how):
        sizes.append(len(images))
        if len(sizes) - 1 == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return real(model, images, *args, **how)

    monkeypatch.setattr(captioning, "caption", noted)
    return sizes


def texts(out: Path) -> dict[str, str]:
    """Sidecars by their path below a folder."""
    return {p.relative_to(out).as_posix(): p.read_text() for p in sorted(out.rglob("*.txt"))}
