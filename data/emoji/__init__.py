"""Drawings of a few hundred things by eight artists, with names in English and French.

`load` reads the prepared set that lies in this folder (an atlas of 64 x 64 drawings an artist,
`drawings.json` with whose and what they are, `ATTRIBUTION.md`); `data.emoji.prepare` makes it
again from the artists' packages.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lib.checks import read_json

HERE = Path(__file__).parent
SPLITS = ("train", "pair", "concept")
ACROSS = 32  # drawings in a row of an atlas


@dataclass(frozen=True)
class Artist:
    """Who drew: name in captions, one word for the look, and what an attribution needs."""

    key: str
    name: str
    look: str
    title: str
    author: str
    home: str
    license: str
    license_title: str
    license_url: str


@dataclass(frozen=True)
class Concept:
    """What is drawn: its character, and its names and keywords in two languages (Unicode CLDR)."""

    code: str
    english: str
    french: str
    tags_english: tuple[str, ...]
    tags_french: tuple[str, ...]
    group: str
    subgroup: str


@dataclass(frozen=True)
class Drawings:
    """N drawings.

    Attributes:
        pictures: (N, 64, 64, 4) uint8, straight alpha.
        concept, artist: (N,) indices into `concepts` and `artists`.
        split: (N,) of `SPLITS`: "train", "pair" (concept and artist are in training, the pair is
            not) or "concept" (nobody's drawing of it is in training).
    """

    pictures: np.ndarray
    concept: np.ndarray
    artist: np.ndarray
    split: np.ndarray
    concepts: list[Concept]
    artists: list[Artist]

    def __len__(self) -> int:
        return len(self.pictures)

    def where(self, keep: np.ndarray) -> Drawings:
        """The drawings of a boolean mask or of indices; concepts and artists keep their numbers."""
        return Drawings(
            self.pictures[keep],
            self.concept[keep],
            self.artist[keep],
            self.split[keep],
            self.concepts,
            self.artists,
        )

    def on(self, background: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
        """(N, 64, 64, 3) uint8: the drawings on a plain ground."""
        alpha = self.pictures[..., 3:].astype(np.uint16)
        color = self.pictures[..., :3] * alpha + np.array(background, np.uint16) * (255 - alpha)
        return ((color + 127) // 255).astype(np.uint8)


def save(drawings: Drawings, folder: Path) -> None:
    """Write atlases, table and attributions."""
    folder.mkdir(parents=True, exist_ok=True)
    table = {
        "artists": [asdict(artist) for artist in drawings.artists],
        "concepts": [asdict(concept) for concept in drawings.concepts],
        "drawings": {},
    }
    for i, artist in enumerate(drawings.artists):
        rows = np.flatnonzero(drawings.artist == i)
        down = -(-len(rows) // ACROSS)
        side = drawings.pictures.shape[1]
        tiles = np.zeros((down * ACROSS, side, side, 4), np.uint8)
        tiles[: len(rows)] = drawings.pictures[rows]
        tiles[tiles[..., 3] == 0] = 0
        atlas = tiles.reshape(down, ACROSS, side, side, 4).swapaxes(1, 2)
        image = Image.fromarray(atlas.reshape(down * side, ACROSS * side, 4))
        image.save(folder / f"{artist.key}.webp", lossless=True, quality=100, method=6)
        table["drawings"][artist.key] = [
            [int(drawings.concept[row]), str(drawings.split[row])] for row in rows
        ]
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":"))
    (folder / "drawings.json").write_text(text.replace('},{"', '},\n{"') + "\n", encoding="utf-8")
    (folder / "ATTRIBUTION.md").write_text(attribution(drawings.artists), encoding="utf-8")


def load(folder: Path = HERE) -> Drawings:
    """Read a prepared set.

    Raises:
        ValueError: the folder holds none.
    """
    table, artists = _table(folder), load_artists(folder)
    tuples = [f.name for f in fields(Concept) if f.name.startswith("tags")]
    concepts = [
        Concept(**{k: tuple(v) if k in tuples else v for k, v in row.items()})
        for row in table["concepts"]
    ]
    pictures, concept, artist, split = [], [], [], []
    for i, who in enumerate(artists):
        rows = table["drawings"][who.key]
        atlas = np.asarray(Image.open(Path(folder) / f"{who.key}.webp").convert("RGBA"))
        side = atlas.shape[1] // ACROSS
        tiles = atlas.reshape(-1, side, ACROSS, side, 4).swapaxes(1, 2).reshape(-1, side, side, 4)
        pictures.append(tiles[: len(rows)])
        concept += [row[0] for row in rows]
        split += [row[1] for row in rows]
        artist += [i] * len(rows)
    return Drawings(
        np.concatenate(pictures),
        np.array(concept),
        np.array(artist),
        np.array(split),
        concepts,
        artists,
    )


def load_artists(folder: Path = HERE) -> list[Artist]:
    """Whose drawings a prepared set holds; ValueError as `load`."""
    return [Artist(**row) for row in _table(folder)["artists"]]


def _table(folder: Path) -> dict[str, Any]:
    path = Path(folder) / "drawings.json"
    if not path.is_file():
        raise ValueError(
            f"{path} is not there: make the prepared set with `python -m data emoji {folder}`."
        )
    return read_json(path, "make the prepared set again")


def attribution(artists: list[Artist]) -> str:
    """Whose drawings these are and under which licence, as Markdown."""
    lines = ["# Whose drawings these are", ""]
    lines += [
        f"- {a.title}, {a.author} ({a.home}), {a.license_title} ({a.license_url}); drawn at 64 "
        "pixels."
        for a in artists
    ]
    lines.append("- Names and keywords: emojibase-data (MIT), from Unicode CLDR (Unicode License).")
    return "\n".join(lines) + "\n"
