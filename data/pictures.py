"""Picture files and pictures as people have them: found, checked, opened as RGB.

Bad input is a `ValueError` of one sentence: what was given, what is allowed, what to do.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lib.checks import listed
from lib.images import to_pil, to_rgb


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
    def of(cls, given: str | Path | Image.Image | Picture) -> Picture:
        """Open and check what was given.

        Raises:
            ValueError: missing, unreadable, damaged, or no picture at all.
        """
        if isinstance(given, Picture):
            return given
        if isinstance(given, Image.Image):
            image = to_rgb(given)
            return cls(image, hashlib.sha256(image.tobytes()).hexdigest())
        if not isinstance(given, (str, Path)):
            raise ValueError(
                f"A picture is of type {type(given).__name__}: give a PIL picture or a file's path."
            )
        path = Path(given)
        data = _read(path)
        _decode(path, data)
        return cls(path, hashlib.sha256(data).hexdigest())

    @property
    def name(self) -> str:
        """The file's name; empty for a picture given as an object."""
        return self.source.name if isinstance(self.source, Path) else ""

    def open(self) -> Image.Image:
        """The picture as RGB.

        Raises:
            ValueError: the file has changed or gone since it was given.
        """
        if isinstance(self.source, Image.Image):
            return self.source
        data = _read(self.source)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise ValueError(f"{self.source} has changed since it was given: start again.")
        return _decode(self.source, data)

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
    return _decode(Path(path), _read(Path(path)) if data is None else data)


def pictures(given: Any) -> list[Picture]:
    """One picture or many: PIL pictures, paths, or a float tensor (B, 3, H, W) in [0, 1].

    Raises:
        ValueError: none, or one of them is no picture.
    """
    if isinstance(given, Tensor):
        given = to_pil(given)
    elif isinstance(given, (str, Path, Image.Image, Picture)):
        given = [given]
    found = [Picture.of(one) for one in listed(given, "images")]
    if not found:
        raise ValueError("There is no picture: give at least one.")
    return found


def names_a_picture(text: str) -> bool:
    """Whether a text is the path of a file that looks like a picture's: probably not a prompt."""
    try:
        return Path(text).suffix.lower() in Image.registered_extensions() and Path(text).is_file()
    except (OSError, ValueError):  # too long for a path, or with characters that no path has
        return False


def picture_files(given: Iterable[str | Path]) -> list[Path]:
    """Paths with every folder replaced by the picture files in it, sorted by name.

    Hidden files, subfolders and files of other kinds in a folder are passed over.

    Raises:
        ValueError: a folder without pictures, or one that cannot be read.
    """
    files: list[Path] = []
    known = Image.registered_extensions()
    for path in map(Path, given):
        if not path.is_dir():
            files.append(path)
            continue
        try:
            held = sorted(p for p in path.iterdir() if p.suffix.lower() in known and p.is_file())
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror}).") from error
        held = [p for p in held if not p.name.startswith(".")]
        if not held:
            raise ValueError(f"The folder {path} holds no pictures: give one that does, or files.")
        files += held
    return files


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give picture files.")
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"There is no file {path}: give the path of a picture.") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise ValueError(f"{str(path)!r} cannot be read ({error}).") from error


def _decode(path: Path, data: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return to_rgb(image)
    except UnidentifiedImageError as error:
        what = "is empty" if not data else "is not a picture in a format that is known here"
        raise ValueError(f"{path} {what}: give a PNG, JPEG or WebP file, for example.") from error
    except MemoryError:
        raise
    except Exception as error:  # every decoder breaks in its own way
        raise ValueError(
            f"{path} is damaged, or not a picture that can be used ({error}): "
            "copy or save it again."
        ) from error
