"""Names in a list of pictures, as people mean them.

With backslashes from Windows, with composed or decomposed letters (macOS), with or without the
picture's ending. Unless it is allowed, names do not lead out of the folder; links in it
are followed.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from data.entries import Entry, Item, entry
from data.folders import Skipped, picture_endings, shown

_PROBED = 100  # names that a folder of pictures is looked for by


class Names:
    """Finds the files that a list names.

    Args:
        folder: what names are relative to.
        inside: folders that no name may leave; none: names may lead anywhere.
    """

    def __init__(self, folder: Path, inside: Iterable[Path] = ()) -> None:
        self.folder = Path(os.path.abspath(folder))
        self.inside = [Path(os.path.abspath(top)) for top in inside]
        self._held: dict[Path, dict[str, str]] = {}

    def file(self, name: str) -> Path:
        """The file, or where it should be.

        Raises:
            ValueError: it lies outside.
        """
        path = Path(os.path.normpath(self.folder / name))
        if "\\" in name and not path.exists():
            path = Path(os.path.normpath(self.folder / name.replace("\\", "/")))
        if self.inside and not any(path.is_relative_to(top) for top in self.inside):
            raise ValueError("lies outside of the folder: move it there, or allow that (--outside)")
        return path if "\0" in name or path.exists() else self._as_meant(path)

    def _as_meant(self, path: Path) -> Path:
        here = Path(path.anchor)
        for part in path.parts[1:]:
            if not (here / part).exists():
                part = self._listing(here).get(_normal(part))
                if part is None:
                    return path
            here /= part
        return here

    def _listing(self, folder: Path) -> dict[str, str]:
        """Normal forms of names in a folder, and of pictures' names without ending."""
        if folder not in self._held:
            try:
                names = sorted(os.listdir(folder))
            except OSError:  # whoever opens the file will hear of it
                names = []
            pictures = [name for name in names if Path(name).suffix.lower() in picture_endings()]
            self._held[folder] = {_normal(Path(name).stem): name for name in reversed(pictures)}
            self._held[folder] |= {_normal(name): name for name in names}
        return self._held[folder]


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def listed(
    captions: Mapping[str, list[Any]],
    root: Path,
    top: Path,
    prefix: str = "",
    outside: bool = False,
) -> Iterator[Item]:
    """The pictures that a list names.

    Args:
        captions: name of a picture -> its captions, and the row with further facts.
        root: the folder that names are relative to.
        top: no name may leave this folder.
        prefix: of the pictures' names.
        outside: names may lead anywhere.
    """
    names = Names(root, () if outside else (top, root))
    for name, texts in captions.items():
        try:
            path = names.file(name)
        except ValueError as error:
            yield Skipped(shown(name), str(error))
            continue
        facts = next((text for text in texts if isinstance(text, dict)), {})
        below = name if path.name == name or "/" in name else name.replace("\\", "/")
        yield entry((PurePosixPath(prefix) / below).as_posix(), texts, path, facts=facts)


def merged(items: Iterable[Item]) -> Iterator[Item]:
    """Entries of the same picture as one, with all their captions."""
    entries: dict[Path, Entry] = {}
    for item in items:
        if isinstance(item, Skipped):
            yield item
        elif (first := entries.setdefault(item.path, item)) is not item:
            entries[item.path] = replace(first, captions=first.captions + item.captions)
    yield from entries.values()


def folder_of_pictures(file: Path, names: Iterable[str]) -> tuple[Path, int]:
    """Where the pictures lie that a list names, and how many of the first names it holds.

    Beside the file, or in a folder beside it (`val2017` beside `annotations`): that one is taken
    which holds most of the first names.
    """
    first = list(names)[:_PROBED]
    tops = [file.parent, *([file.parent.parent] if file.parent.name == "annotations" else [])]
    held = {top: _count(top, first) for top in tops}
    if max(held.values()) < len(first):
        below = [sub for top in tops for sub in sorted(top.iterdir()) if sub.is_dir()]
        held |= {sub: _count(sub, first) for sub in below if not sub.name.startswith(".")}
    best = max(held, key=held.__getitem__)
    return best, held[best]


def _count(folder: Path, names: list[str]) -> int:
    find = Names(folder)
    return sum("\0" not in name and find.file(name).is_file() for name in names)
