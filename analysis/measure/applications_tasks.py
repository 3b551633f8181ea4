"""The suite `applications`, first half: let each application act on scenes, and note what it did.

Each task below turns indices into rows (`analysis.measure.rows`), as in `analysis.measure.scene_tasks`: everything
random about input i is owned by (seed, purpose, i), and pictures are read by the judge, captions by
`data.scenes.captions`. Nothing is decided here; `analysis.measure.applications_summary` counts.

| task | input i | what is slid or compared |
|---|---|---|
| `fidelity` | a render | variations at each of `FIDELITIES` |
| `focus` | a render | variations at each of `LEVELS` |
| `dual` | a render of A, a caption of B | pictures at each of `STRENGTHS` |
| `describe` | the same | texts at each of `STRENGTHS` |
| `interpolate` | captions of A and B | pictures at `FRAMES` positions, and of A and B alone |
| `blend` | two renders of a scene of two things | with one thing masked in both, and without |
| `edit`, `latent-edit` | a render, one attribute to change | the picture after the edit |

B is a scene that differs from A in every attribute but the number of things, so that each attribute
of a result comes from A, from B, or from nowhere. Along a strip the noise is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from analysis.measure.rows import Row, Task
from analysis.measure.scene_rows import differences
from analysis.measure.scene_tasks import Bench
from data.scenes.captions import (
    BACKGROUND_PHRASES,
    STYLE_PHRASES,
    CaptionError,
    canonical_caption,
    read_attributes,
    write,
)
from data.scenes.draw import SIZE, layout, render
from data.scenes.world import ATTRIBUTE_VALUES, Scene, is_test, sample_scene

PARTS = ("fidelity", "focus", "dual", "describe", "interpolate", "blend", "edit", "latent-edit")
FIDELITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
FRAMES = 5
EDITED = ("background", "style", "size", "color", "shape")
"""Kinds of attributes that an edit changes, each as often."""


@dataclass(frozen=True)
class ApplicationBench(Bench):
    """`Bench` for applications: `modes` has one function for each, named as in `analysis`.

    Attributes:
        parts: any of `PARTS`.
    """

    parts: tuple[str, ...] = PARTS

    def tasks(self) -> list[Task]:
        """The judge's examination, unless only texts are made, and then the parts."""
        tasks = []
        if set(self.parts) - {"describe"}:
            licence = self.settings.licence_n
            tasks.append(Task("judge-test", licence, lambda which: self.judged("test", which)))
        for part in self.parts:
            measure = getattr(self, part.replace("-", "_"))
            tasks.append(Task(part, self.settings.n, measure))
        return tasks

    # ------------------------------------------------------------------ inputs

    def options(self, purpose: str, indices: range) -> dict[str, Any]:
        """What all applications take by keyword: input i gets the seed that belongs to it."""
        chosen = self.sampling("t2i", purpose, indices)
        del chosen["scale"]  # of the contexts' kinds: `scales`, or one of them
        return chosen

    @property
    def scales(self) -> dict[str, float]:
        """Guidance of both kinds of contexts."""
        return {"scale_text": self.settings.scale_text, "scale_image": self.settings.scale_image}

    def pairs(self, indices: range) -> list[tuple[Scene, Scene]]:
        """Scenes A, and for each a B that shares nothing with it."""
        return [
            (scene, counterpart(scene, self.rng("counterparts", i)))
            for scene, i in zip(self.scenes("test", indices), indices, strict=True)
        ]

    def edits(self, indices: range) -> list[tuple[Scene, Scene, str]]:
        """Scenes, what they shall become, and the name of the attribute that tells them apart."""
        return [
            (scene, *changed(scene, self.rng("edits", i)))
            for scene, i in zip(self.scenes("test", indices), indices, strict=True)
        ]

    def given(self, indices: range) -> list[Image.Image]:
        """A render of each test scene, the same for all applications."""
        return self.renders("test", indices, "given")

    # ------------------------------------------------------------------ sliders

    def fidelity(self, indices: range) -> list[Row]:
        """How far variations are from their input, as fidelity grows."""
        given, rows = self.given(indices), [{"distance": []} for _ in indices]
        for fidelity in FIDELITIES:
            how = self.options("fidelity", indices) | {"scale": self.settings.scale_image}
            made = self.modes.image_variation(self.vd, given, fidelity=fidelity, **how).images
            for row, picture, image in zip(rows, given, made, strict=True):
                row["distance"].append(differences(picture, image)["pixels"])
        return rows

    def focus(self, indices: range) -> list[Row]:
        """What variations show, from content to style."""
        how = self.options("focus", indices) | {"scale": self.settings.scale_image}
        made = self.modes.focused(self.vd, self.given(indices), levels=list(LEVELS), **how)
        seen = self.seen(made.images)  # by input, then level
        return [
            {"first": scene.attributes(), "seen": seen[k * len(LEVELS) : (k + 1) * len(LEVELS)]}
            for k, scene in enumerate(self.scenes("test", indices))
        ]

    def dual(self, indices: range) -> list[Row]:
        """What pictures show that are made from a picture of A and a text about B."""
        return self.mixed("dual_guided", indices)

    def describe(self, indices: range) -> list[Row]:
        """What texts say that are made from a picture of A and a text about B."""
        return self.mixed("describe", indices)

    def mixed(self, mode: str, indices: range) -> list[Row]:
        """Picture of A and text about B, from the picture alone to the text alone."""
        pairs = self.pairs(indices)
        texts = [
            write(b, self.rng("second captions", i))
            for (_, b), i in zip(pairs, indices, strict=True)
        ]
        how = self.options(mode, indices) | self.scales | {"strength": list(STRENGTHS)}
        made = getattr(self.modes, mode)(self.vd, self.given(indices), texts, **how)
        seen = [told(text) for text in made.texts] if made.texts else self.seen(made.images)
        # by strength, then input
        return [between(*pair, seen[k :: len(pairs)]) for k, pair in enumerate(pairs)]

    def interpolate(self, indices: range) -> list[Row]:
        """What pictures show on the way from a caption of A to one of B."""
        pairs = self.pairs(indices)
        ends = [[canonical_caption(pair[k]) for pair in pairs] for k in (0, 1)]
        scale = {"scale": self.settings.scale_text}
        how = self.options("interpolate", indices) | scale
        alone = [self.modes.text_to_image(self.vd, texts, **how).images for texts in ends]
        rows = []
        for k, (pair, i) in enumerate(zip(pairs, indices, strict=True)):
            how = self.options("interpolate", range(i, i + 1)) | scale
            a, b = ends[0][k], ends[1][k]
            film = self.modes.interpolate(self.vd, a, b, frames=FRAMES, **how).images
            apart = [
                differences(alone[0][k], film[0])["pixels"],
                differences(alone[1][k], film[-1])["pixels"],
            ]
            rows.append(between(*pair, self.seen(film)) | {"ends": apart})
        return rows

    # ------------------------------------------------------------------ masks and edits

    def blend(self, indices: range) -> list[Row]:
        """Two renders of a scene of two things, blended with one thing masked in both, or none."""
        rows = []
        for i in indices:
            scene, hidden = two_things(self.rng("blend scenes", i))
            images, masks = [], []
            for which in ("first", "second"):
                purpose = f"blend renders {which}"
                images.append(render(scene, self.rng(purpose, i)))
                masks.append(hiding(scene, layout(scene, self.rng(purpose, i)), hidden))
            how = self.options("blend", range(i, i + 1))
            how["scale_image"] = self.settings.scale_image
            plain = self.modes.blend(self.vd, images, **how).images
            masked = self.modes.blend(self.vd, images, masks=masks, **how).images
            seen = dict(zip(("plain", "masked"), self.seen([*plain, *masked]), strict=True))
            rows.append({"first": scene.attributes(), "hidden": hidden} | seen)
        return rows

    def edit(self, indices: range) -> list[Row]:
        """Renders edited by inversion: the text of their scene, and that with one thing changed."""
        edits = self.edits(indices)
        source, target = ([canonical_caption(edit[k]) for edit in edits] for k in (0, 1))
        how = self.options("edit", indices)  # at its own guidance
        del how["sampler"]  # what is inverted is DDIM
        made = self.modes.edit(self.vd, self.given(indices), source, target, **how)
        return [
            after(*edit, seen) | {"inversion_error": sample["found"]["inversion_error"]}
            for edit, seen, sample in zip(
                edits, self.seen(made.images), made.record["samples"], strict=True
            )
        ]

    def latent_edit(self, indices: range) -> list[Row]:
        """Renders edited by words to remove and to add."""
        rows = []
        for edit, image, i in zip(self.edits(indices), self.given(indices), indices, strict=True):
            before, wanted, name = edit
            remove, add = (phrase(name, scene.attributes()[name]) for scene in (before, wanted))
            how = self.options("latent edit", range(i, i + 1)) | self.scales
            made = self.modes.latent_edit(self.vd, image, remove, add, **how)
            found = made.record["samples"][0]["found"]
            captions = {key: told(found[key]) for key in ("caption", "edited_caption")}
            (seen,) = self.seen(made.images)
            rows.append(after(*edit, seen) | {"said": captions})
        return rows

    def seen(self, images: Sequence[Image.Image]) -> list[Row]:
        """The attributes that the judge reads off each picture."""
        return [dict(reading.attributes) for reading in self.judge.read(images)]


# ---------------------------------------------------------------------- rows and inputs


def between(first: Scene, second: Scene, seen: Sequence[Row | None]) -> Row:
    """A row of what was seen at each value of a strip from one scene to another."""
    return {"first": first.attributes(), "second": second.attributes(), "seen": list(seen)}


def after(first: Scene, wanted: Scene, name: str, seen: Row) -> Row:
    """A row of what was seen after an edit of the attribute `name`."""
    return {"first": first.attributes(), "wanted": wanted.attributes(), "named": name, "seen": seen}


def told(text: str) -> Row | None:
    """The attributes that a text says (None where it leaves one open), or None if unreadable."""
    try:
        return read_attributes(text)
    except CaptionError:
        return None


def counterpart(scene: Scene, rng: np.random.Generator) -> Scene:
    """A test scene of as many things, and with every other attribute different."""
    values = scene.attributes()
    while True:
        others = {
            name: value if name == "count" or value is None else _other(name, value, rng)
            for name, value in values.items()
        }
        found = _scene(others)
        if found is not None and is_test(found):
            return found


def changed(scene: Scene, rng: np.random.Generator) -> tuple[Scene, str]:
    """The scene with one attribute changed, and the attribute's name.

    Where both things share an attribute's value it is left alone: a word could mean either thing.
    """
    values = scene.attributes()
    while True:
        kind = EDITED[rng.integers(len(EDITED))]
        names = [name for name in values if name.rstrip("12") == kind and values[name] is not None]
        name = names[rng.integers(len(names))]
        found = _scene(values | {name: _other(name, values[name], rng)})
        shared = len(names) == 2 and len({values[n] for n in names}) == 1
        if found is not None and not shared:
            return found, name


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
