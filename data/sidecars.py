"""Captioned pictures as people keep them by hand: a text file of the same name beside each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.entries import Item, beside, entry
from data.folders import CAPTION_BYTES, Skipped, is_regular, pictures_below, read_file, shown

CAPTION_FILES = (".txt", ".caption")


def read_sidecars(folder: Path) -> Iterator[Item]:
    """Pictures with a .txt or .caption beside them, or with a .json that has a caption.

    Raises:
        ValueError: no folder, or one without pictures.
    """
    for picture in pictures_below(folder):
        path = picture.below(folder)
        texts, about = (_beside(path, endings) for endings in (CAPTION_FILES, (".json",)))
        if texts is None and about is None:
            yield Skipped(shown(picture.name), "has no .txt or .caption beside it")
            continue
        try:
            captions, facts = beside(
                *(file and read_file(file, CAPTION_BYTES) for file in (texts, about))
            )
        except (OSError, ValueError) as error:
            yield Skipped(shown(picture.name), f"its caption cannot be read ({error})")
            continue
        yield entry(picture.name, captions, path, facts=facts)


def _beside(picture: Path, endings: tuple[str, ...]) -> Path | None:
    stems = (picture.with_suffix(""), picture)
    files = (Path(f"{stem}{ending}") for stem in stems for ending in endings)
    return next(filter(is_regular, files), None)
