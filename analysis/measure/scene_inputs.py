"""Suites on drawn scenes: their inputs, the judge's examination, and rows of what is seen and said.

A scene has an exact meaning, so what a picture or a caption says of it can be read and compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from analysis.measure.numbers import Section
from analysis.measure.protocol import Settings
from analysis.measure.rows import Row, Rows, Task
from analysis.measure.suite import Suite
from analysis.metrics.statistics import share
from data.scenes.captions import (
    BACKGROUND_PHRASES,
    STYLE_PHRASES,
    CaptionError,
    parse,
    read_attributes,
    write,
)
from data.scenes.draw import SIZE, render
from data.scenes.judge import JUDGE_FOLDER, MIN_ACCURACY, Reading, compare, load_judge
from data.scenes.world import ATTRIBUTE_VALUES, ATTRIBUTES, Scene, is_test, sample_scene, split
from lib.checks import whole_number
from lib.devices import choose_device

SPLITS = ("test", "heldout")
"""Unseen scenes, and scenes with a pair of colour and shape that was never seen."""
DISTINCT = "distinct"
FOREGROUND = 24 / 255
"""How far a pixel is from the background to belong to a thing."""
LEAST_FOREGROUND = 8
"""Fewer pixels are no thing."""


class SceneSuite(Suite):
    """A suite whose inputs are scenes, and whose pictures a judge reads."""

    about: Mapping[str, Any] = {
        "splits": "data.scenes.world.split: test (unseen scenes), "
        "heldout (unseen colour-shape pairs)",
        "prompts": "complete captions by data.scenes.captions.write",
        "resize": "none for 64x64 pictures; else bilinear (judge), bicubic (context), box (pixels)",
    }

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._splits: dict[tuple[str, int], list[Scene]] = {}

    @classmethod
    def read(cls, args: argparse.Namespace, settings: Settings) -> dict[str, Any]:
        """The judge, if pictures are going to be made."""
        if not cls.judged(settings):
            return {}
        return {"judge": load_judge(args.judge or JUDGE_FOLDER).to(choose_device(args.device))}

    @classmethod
    def judged(cls, settings: Settings) -> bool:
        """Whether pictures are made that have to be judged."""
        return bool({"t2i", "i2i"} & set(settings.flows))

    def examination(self, name: str) -> Task:
        """The judge's: real renders, before anything is generated for it to read.

        The task's check raises a ValueError if it misreads too many.
        """
        if self.judge is None:
            raise ValueError("Pictures have to be judged: give a judge, or make only texts.")

        def read(indices: range) -> list[Row]:
            scenes = self.scenes(name, indices)
            readings = self.judge.read(self.renders(name, indices, "examination"))
            return [seen(scene, r) for scene, r in zip(scenes, readings, strict=True)]

        check = partial(licence, name)
        return Task(f"judge-{name}", self.settings.licence_n, read, check)

    # ------------------------------------------------------------------ inputs

    def scenes(self, name: str, indices: range) -> list[Scene]:
        """Scenes of a split, or the `DISTINCT` ones of the test split.

        A shorter list is the beginning of a longer one.
        """
        n = self.settings.n
        key = name, n if indices.stop <= n else max(n, self.settings.licence_n)
        if key not in self._splits:
            make = distinct_scenes if name == DISTINCT else partial(split, name)
            self._splits[key] = make(key[1], self.settings.seed)
        return self._splits[key][indices.start : indices.stop]

    def captions(self, name: str, indices: range) -> list[str]:
        """A complete caption of each scene."""
        return self._each(name, indices, "captions", write)

    def renders(self, name: str, indices: range, which: str = "given") -> list[Image.Image]:
        """A picture of each scene; another `which` is another draw of the nuisance."""
        return self._each(name, indices, f"renders {which}", render)

    def _each(self, name: str, indices: range, purpose: str, make: Callable[..., Any]) -> list[Any]:
        return [
            make(scene, self.rng(f"{name} {purpose}", i))
            for scene, i in zip(self.scenes(name, indices), indices, strict=True)
        ]


def licence(name: str, rows: Rows) -> Section:
    """How well the judge reads real renders of a split: share right of each attribute.

    Raises:
        ValueError: less than `MIN_ACCURACY` on an attribute: such a judge judges nothing.
    """
    shares = attributes([row["right"] for row in rows])
    poor = [
        f"{attribute} {e.value:.2%} ({name})"
        for attribute, e in shares.items()
        if e.value is not None and e.value < MIN_ACCURACY
    ]
    if poor:
        raise ValueError(
            f"The judge misreads real renders: {', '.join(poor)}; {MIN_ACCURACY:.1%} is needed of "
            "every attribute, so nothing was judged. Train it longer "
            "(`python -m training classifier`)."
        )
    return shares


def attributes(rights: Sequence[Row]) -> Section:
    """Share right of each attribute, over the scenes that have it."""
    return {name: share(r[name] for r in rights if name in r) for name in ATTRIBUTES}


def distinct_scenes(n: int, seed: int) -> list[Scene]:
    """The first n different scenes of the test split.

    Raises:
        ValueError: n below 1, or more than there are.
    """
    drawn = whole_number("n", n)
    while True:
        scenes = list(dict.fromkeys(split("test", drawn, seed)))
        if len(scenes) >= n:
            return scenes[:n]
        if drawn > 100 * n:
            raise ValueError(f"There are fewer than {n} test scenes: choose a smaller n.")
        drawn *= 2


# ---------------------------------------------------------------------- scenes beside scenes


def counterpart(scene: Scene, rng: np.random.Generator) -> Scene:
    """A test scene of as many things, and with every other attribute different."""
    values = scene.attributes()
    while True:
        others = {
            name: value if name == "count" or value is None else _other(name, value, rng)
            for name, value in values.items()
        }
        other = _scene(others)
        if other is not None and is_test(other):
            return other


def changed(scene: Scene, kinds: Sequence[str], rng: np.random.Generator) -> tuple[Scene, str]:
    """The scene with an attribute of one of those kinds changed, and the attribute's name.

    Where both things share an attribute's value it is left alone: a word could mean either thing.
    """
    values = scene.attributes()
    while True:
        kind = kinds[rng.integers(len(kinds))]
        names = [name for name in values if name.rstrip("12") == kind and values[name] is not None]
        name = names[rng.integers(len(names))]
        other = _scene(values | {name: _other(name, values[name], rng)})
        shared = len(names) == 2 and len({values[n] for n in names}) == 1
        if other is not None and not shared:
            return other, name


def two_things(rng: np.random.Generator) -> tuple[Scene, int]:
    """A test scene of two things of different colour and shape, and which of them to hide."""
    while True:
        scene = sample_scene(rng, None, 2).canonical()
        a, b = scene.things
        if is_test(scene) and not scene.held_out and a.color != b.color and a.shape != b.shape:
            return scene, int(rng.integers(2))


def hiding(
    scene: Scene, places: Sequence[tuple[float, float, float]], hidden: int, size: int = SIZE
) -> Tensor:
    """A mask that hides a thing's side of the picture, up to the middle between the two things.

    Args:
        scene: a canonical one of two things.
        places: centre x, y and radius of each (`data.scenes.draw.layout`).
        hidden: 0 or 1.
        size: pixels a side.

    Returns:
        (size, size), 1 where the other thing is.
    """
    axis = 0 if scene.relation == "left of" else 1
    first, second = places
    cut = (first[axis] + first[2] + second[axis] - second[2]) / 2
    along = torch.arange(size) + 0.5
    keep = (along > cut if hidden == 0 else along < cut).float()
    return keep.expand(size, size) if axis == 0 else keep[:, None].expand(size, size)


def phrase(name: str, value: str) -> str:
    """The words that say one attribute, for what edits by words."""
    if name == "background":
        return BACKGROUND_PHRASES[0].format(value)
    return STYLE_PHRASES[value][0] if name == "style" else value


def _other(name: str, value: Any, rng: np.random.Generator) -> Any:
    """Another value of an attribute."""
    others = [v for v in ATTRIBUTE_VALUES[name] if v != value]
    return others[rng.integers(len(others))]


def _scene(values: Mapping[str, Any]) -> Scene | None:
    """The scene of some attributes, without pairs of colour and shape that are never seen."""
    try:
        scene = Scene.from_attributes(values)
    except ValueError:  # two identical things
        return None
    return None if scene.held_out else scene


# ---------------------------------------------------------------------- rows


def seen(scene: Scene, reading: Reading) -> Row:
    """What a picture shows, and which of the wanted attributes are right."""
    right = {name: bool(value) for name, value in compare(reading, scene).items()}
    row = {"scene": scene.attributes(), "seen": dict(reading.attributes), "right": right}
    return row | {"confidence": float(reading.confidence)}


def said(scene: Scene, text: str) -> Row:
    """What a caption says.

    Returns:
        A row: "parsed": it describes a whole scene; "exact": this one; "right": which attributes,
        or None if no sense can be made of it ("error" says why).
    """
    row: Row = {"scene": scene.attributes(), "text": text}
    row |= {"parsed": False, "exact": False, "right": None, "error": None}
    try:
        row["right"] = compare(Reading(read_attributes(text), 1.0), scene)
        row["exact"] = parse(text) == scene
        row["parsed"] = True
    except CaptionError as error:
        row["error"] = str(error)
    return row


def told(text: str) -> Row | None:
    """The attributes that a text says (None where it leaves one open), or None if unreadable."""
    try:
        return read_attributes(text)
    except CaptionError:
        return None


def pixels(image: Image.Image) -> np.ndarray:
    """A picture as (64, 64, 3) in [0, 1]."""
    image = image.convert("RGB")
    if image.size != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float64) / 255


def layout(image: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Where the things are and how far they reach, measured on pixels.

    The background is the median of the picture's border; what differs from it is foreground.

    Args:
        image: (H, W, 3) in [0, 1].

    Returns:
        Centre of the foreground (y, x) and its root mean square distance from there, in pixels;
        None if there is hardly any.
    """
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    away = np.abs(image - np.median(border, axis=0)).max(axis=-1) > FOREGROUND
    places = np.argwhere(away)
    if len(places) < LEAST_FOREGROUND:
        return None
    center = places.mean(axis=0)
    return center, float(np.sqrt(((places - center) ** 2).sum(axis=1).mean()))


def differences(a: Image.Image, b: Image.Image) -> dict[str, float | None]:
    """How far two pictures of one scene are: mean pixel distance, and their layouts' in pixels."""
    a, b = pixels(a), pixels(b)
    first, second = layout(a), layout(b)
    there = first is not None and second is not None
    return {
        "pixels": float(np.abs(a - b).mean()),
        "position": float(np.linalg.norm(first[0] - second[0])) if there else None,
        "size": abs(first[1] - second[1]) if there else None,
    }
