"""Captioned pictures named by JSON files: COCO's captions, the metadata of kohya's trainers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.entries import Item, captions_of
from data.folders import Skipped, shown
from data.names import folder_of_pictures, listed
from data.tables import read_list
from lib.checks import parse_json


def coco_files(folder: Path) -> list[Path]:
    """The COCO caption files of a folder and of its `annotations`."""
    files = [*sorted(folder.glob("*.json")), *sorted(folder.glob("annotations/*.json"))]
    return [file for file in files if is_coco(file)]


def is_coco(file: Path) -> bool:
    """Whether a file holds COCO captions, or means to."""
    try:
        data = read_list(file)
    except ValueError:  # whoever asks for this file will hear of it
        return False
    return all(word in data for word in (b'"images"', b'"annotations"', b'"caption"'))


def kohya_files(folder: Path) -> list[Path]:
    """The metadata files of kohya's trainers in a folder."""
    return [file for file in sorted(folder.glob("meta*.json")) if _kohya(file)]


def _only(path: Path, files: list[Path], what: str) -> Path:
    if len(files) != 1:
        names = ", ".join(shown(file.relative_to(path)) for file in files) or "none"
        raise ValueError(f"{shown(path)} holds {what} in: {names}; give one such file.")
    return files[0]


def _kohya(file: Path) -> dict[str, Any]:
    """Rows of kohya's metadata by picture; empty if it is none."""
    try:
        table = parse_json(read_list(file))
    except ValueError:
        return {}
    rows = list(table.values()) if isinstance(table, dict) else []
    good = rows and all(isinstance(row, dict) for row in rows)
    return table if good and any({"caption", "tags"} & set(row) for row in rows) else {}


def read_kohya(path: Path, outside: bool = False) -> Iterator[Item]:
    """Pictures and captions of kohya's metadata: {name: {"caption": ..., "tags": ...}}.

    Tags are the caption where there is no other.

    Raises:
        ValueError: no such file, or several of them.
    """
    file = path if path.is_file() else _only(path, kohya_files(path), "kohya's metadata")
    table = _kohya(file)
    if not table:
        raise ValueError(
            f"{shown(file)} holds neither COCO captions (images, annotations) nor kohya's metadata "
            '({"name": {"caption": ...}}): give one of these.'
        )
    captions = {name: captions_of(row) or [row.get("tags")] for name, row in table.items()}
    root, _ = folder_of_pictures(file, captions)
    yield from listed(captions, root, _top(path, file), outside=outside)


def read_coco(path: Path, outside: bool = False) -> Iterator[Item]:
    """Pictures and captions of a COCO file; ids may be numbers or texts.

    Raises:
        ValueError: no such file, several of them, another layout, or no folder with its pictures.
    """
    file = path if path.is_file() else _only(path, coco_files(path), "COCO captions")
    try:
        data = parse_json(read_list(file))
        images, annotations = data["images"], data["annotations"]
        if not isinstance(images, list) or not isinstance(annotations, list):
            raise TypeError("images and annotations are not lists")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{shown(file)} is no file of COCO captions ({error!r}): give one with images and "
            "annotations."
        ) from error
    texts: dict[str, list[Any]] = {}
    for i, row in enumerate(annotations):
        if (
            isinstance(row, dict)
            and "caption" in row
            and isinstance(row.get("image_id"), int | str)
        ):
            texts.setdefault(str(row["image_id"]), []).append(row["caption"])
        else:
            yield Skipped(f"annotation {i}", "has no caption or no image_id")
    captions: dict[str, list[Any]] = {}
    for i, row in enumerate(images):
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            yield Skipped(f"image {i}", "has no file_name")
            continue
        captions.setdefault(row["file_name"], []).extend(texts.pop(str(row.get("id")), []))
    root, count = folder_of_pictures(file, captions)
    if not count:
        raise ValueError(
            f"The pictures that {shown(file)} names ({', '.join(list(captions)[:2]) or 'none'} "
            f"...) lie neither beside it nor in a folder there: put them beside the file."
        )
    yield from listed(captions, root, _top(path, file), outside=outside)
    for key in texts:
        yield Skipped(f"image_id {key}", "has captions, but is not among the images")


def _top(path: Path, file: Path) -> Path:
    """The folder that names may not leave."""
    if path.is_dir():
        return path
    return file.parent.parent if file.parent.name == "annotations" else file.parent
