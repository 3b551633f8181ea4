"""Pictures and masks as people give them: files, folders, PIL pictures, tensors; opened as sRGB.

Bad input is a `ValueError` of one sentence: what was given, what is allowed, what to do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.decode import decode, read
from data.folders import Skipped, picture_endings, shown
from lib.checks import listed
from lib.images import color_and_alpha, to_pil, to_rgb


@dataclass(frozen=True)
class Picture:
    """A picture that was found good when it was given, and is opened again when it is needed.

    So thousands of files are known to be readable before the first one is worked on, while no more
    than a batch of them is in memory.

    Attributes:
        source: path of the file, or the picture itself.
        sha256: of the file's bytes, or of the picture's RGB pixels.
    """

    source: Path | Image.Image
    sha256: str

    @classmethod
    def of(cls, picture: str | Path | Image.Image | Picture) -> Picture:
        """Open and check a file or a picture.

        Raises:
            ValueError: missing, unreadable, damaged, or no picture at all.
        """
        if isinstance(picture, Picture):
            return picture
        if isinstance(picture, Image.Image):
            image = to_rgb(picture)
            return cls(image, hashlib.sha256(image.tobytes()).hexdigest())
        if not isinstance(picture, (str, Path)):
            raise ValueError(
                f"A picture is of type {type(picture).__name__}: give a PIL picture or a file's "
                "path."
            )
        path = Path(picture)
        data = read(path)
        decode(path, data)
        return cls(path, hashlib.sha256(data).hexdigest())

    @property
    def name(self) -> str:
        """The file's name; empty for a picture given as an object."""
        return self.source.name if isinstance(self.source, Path) else ""

    def open(self, convert: Callable[[Image.Image], Any] = to_rgb) -> Any:
        """The picture as RGB, or as `convert` makes it of what PIL reads.

        Raises:
            ValueError: the file has changed or gone since it was given.
        """
        if isinstance(self.source, Image.Image):
            return convert(self.source)
        data = read(self.source)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise ValueError(f"{self.source} has changed since it was given: start again.")
        return decode(self.source, data, convert)

    def describe(self) -> dict[str, Any]:
        """For records: what it was, without where it lay."""
        if isinstance(self.source, Path):
            name = self.name.encode(errors="backslashreplace").decode()  # any bytes can name a file
            return {"file": name, "sha256": self.sha256}
        return {"size": list(self.source.size), "pixels_sha256": self.sha256}


def open_picture(path: str | Path, data: bytes | None = None) -> Image.Image:
    """A picture file as RGB, in any format, mode and size that PIL reads; of a film, one frame.

    Args:
        path: of the file.
        data: its bytes, if they were read already or come out of an archive.

    Raises:
        ValueError: missing, unreadable, damaged, or no picture at all.
    """
    return decode(Path(path), read(Path(path)) if data is None else data)


def pictures(images: Any) -> list[Picture]:
    """One picture or many: PIL pictures, paths, or a float tensor (B, 3, H, W) in [0, 1].

    Raises:
        ValueError: none, or one of them is no picture.
    """
    if isinstance(images, Tensor):
        images = to_pil(images)
    elif isinstance(images, (str, Path, Image.Image, Picture)):
        images = [images]
    opened = [Picture.of(image) for image in listed(images, "images")]
    if not opened:
        raise ValueError("There is no picture: give at least one.")
    return opened


def names_a_picture(text: str) -> bool:
    """Whether a text is the path of a file that looks like a picture's: probably not a prompt."""
    try:
        return Path(text).suffix.lower() in picture_endings() and Path(text).is_file()
    except (OSError, ValueError):  # too long for a path, or with characters that no path has
        return False


def picture_files(paths: Iterable[str | Path]) -> list[Path]:
    """Paths with every folder replaced by the picture files in it, sorted by name.

    Hidden files, subfolders and files of other kinds in a folder are passed over
    (`read_pictures` names them).

    Raises:
        ValueError: a folder without pictures, or one that cannot be read.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        files += _in_folder(path)[0] if path.is_dir() else [path]
    return files


def read_pictures(paths: Iterable[str | Path]) -> tuple[list[Picture], list[Skipped]]:
    """Good pictures among files and folders, and what was passed over in folders.

    A file named by itself has to be good. In a folder, files of other kinds are passed over
    (`Skipped.failed` is False), and so are pictures that cannot be opened (it is True).

    Raises:
        ValueError: a file that is no good picture, or a folder without any.
    """
    good: list[Picture] = []
    skipped: list[Skipped] = []
    for path in map(Path, paths):
        if not path.is_dir():
            good.append(Picture.of(path))
            continue
        files, others = _in_folder(path)
        skipped += [Skipped(shown(other), "is no picture", failed=False) for other in others]
        before = len(good)
        for file in files:
            try:
                good.append(Picture.of(file))
            except ValueError as error:
                why = str(error).removeprefix(f"{file} ").removeprefix(f"{str(file)!r} ")
                skipped.append(Skipped(shown(file), why.rstrip(".")))
        if len(good) == before:
            raise ValueError(
                f"None of the pictures in {shown(path)} can be opened ({skipped[-1].name}: "
                f"{skipped[-1].why}): give a folder of pictures."
            )
    return good, skipped


def _in_folder(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files with a picture's ending, and others."""
    try:
        files = sorted(p for p in folder.iterdir() if not (p.name.startswith(".") or p.is_dir()))
    except OSError as error:
        raise ValueError(f"{folder} cannot be read ({error.strerror}).") from error
    pictures = [p for p in files if p.suffix.lower() in picture_endings()]
    if not pictures:
        raise ValueError(f"The folder {folder} holds no pictures: give one that does, or files.")
    return pictures, [p for p in files if p not in set(pictures)]


def open_mask(picture: str | Path | Image.Image | Picture) -> Tensor:
    """A picture as weights (H, W) in [0, 1]: 1 is in, 0 is out.

    An opaque picture weighs by its brightness. Where it has an alpha channel, that is its coverage,
    and what is transparent is out: the weight is brightness times coverage, or coverage alone if
    everything drawn has one brightness (black strokes on a transparent layer mark what is in, too).

    Raises:
        ValueError: missing, unreadable, damaged, or no picture at all.
    """
    if isinstance(picture, Image.Image):
        colors, alpha = color_and_alpha(picture)  # a `Picture` would have lost its coverage
    else:
        colors, alpha = Picture.of(picture).open(color_and_alpha)
    weights = np.asarray(colors.convert("L"), np.float32) / 255
    if alpha is not None:
        coverage = np.asarray(alpha, np.float32) / 255
        drawn = weights[coverage > 0]
        plain = coverage.min() < 1 and drawn.size and np.ptp(drawn) == 0
        weights = coverage if plain else weights * coverage
    return torch.from_numpy(weights)
