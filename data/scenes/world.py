"""What a scene is: its attributes, its canonical form, and which scenes training may see.

A scene is a background, a rendering style, and one or two things, each a size, a colour and a
shape; two things stand in a relation. Style belongs to the whole picture, so "style" and
"content" can be told apart by construction. "A left of B" and "B right of A" are the same scene:
equality, hash and `Scene.key` all go by the canonical form, in which the left or upper thing
comes first.

Three kinds of scenes are kept from training, so that what a model makes can be measured:

- scenes with one of the `HELD_OUT` (colour, shape) pairs: is the unseen composed?
- *test* and *validation* scenes, a sixteenth of all each, chosen by a hash of the scene itself,
  so that no list has to be stored and no seed can mix them up.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

BACKGROUNDS = ("white", "gray", "cream", "cyan")
STYLES = ("flat", "outlined", "striped", "dotted")
SIZES = ("small", "large")
COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "black", "pink")
SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "cross", "diamond")
RELATIONS = ("left of", "right of", "above", "below")

CANONICAL_RELATIONS = ("left of", "above")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

# Every colour and every shape once: each is still seen in training, only not together.
HELD_OUT = (
    ("red", "ring"),
    ("green", "heart"),
    ("blue", "star"),
    ("yellow", "cross"),
    ("purple", "circle"),
    ("orange", "square"),
    ("black", "triangle"),
    ("pink", "diamond"),
)

ATTRIBUTE_VALUES: dict[str, tuple] = {
    "background": BACKGROUNDS,
    "style": STYLES,
    "count": (1, 2),
    "relation": CANONICAL_RELATIONS,
    "size1": SIZES,
    "color1": COLORS,
    "shape1": SHAPES,
    "size2": SIZES,
    "color2": COLORS,
    "shape2": SHAPES,
}
"""What can be said of a canonical scene: thing 1 is the left or upper one."""
ATTRIBUTES = tuple(ATTRIBUTE_VALUES)

SPLITS = ("test", "heldout", "validation")
TWO_THINGS = 0.6  # how often a scene has two things, unless the caller says
_BUCKETS, _TEST_BUCKET, _VALIDATION_BUCKET = 16, 0, 8


def _check(what: str, value: object, allowed: tuple) -> None:
    if value not in allowed:
        raise ValueError(f"{what} is {value!r}; choose one of {', '.join(map(str, allowed))}.")


@dataclass(frozen=True)
class Thing:
    """One object: size, colour and shape.

    Raises:
        ValueError: for a value outside `SIZES`, `COLORS`, `SHAPES`.
    """

    size: str
    color: str
    shape: str

    def __post_init__(self) -> None:
        _check("size", self.size, SIZES)
        _check("color", self.color, COLORS)
        _check("shape", self.shape, SHAPES)

    @property
    def held_out(self) -> bool:
        """Whether this (colour, shape) pair is never seen in training."""
        return (self.color, self.shape) in HELD_OUT

    def __str__(self) -> str:
        return f"{self.size} {self.color} {self.shape}"


@dataclass(frozen=True, eq=False)
class Scene:
    """A whole picture's meaning; `things[0]` stands in `relation` to `things[1]`.

    Compared and hashed in canonical form.

    Raises:
        ValueError: for an unknown value, for none or more than two things, for two identical
            things, for two things without a relation or one thing with one.
    """

    background: str
    style: str
    things: tuple[Thing, ...]
    relation: str | None = None

    def __post_init__(self) -> None:
        _check("background", self.background, BACKGROUNDS)
        _check("style", self.style, STYLES)
        object.__setattr__(self, "things", tuple(self.things))
        for thing in self.things:
            if not isinstance(thing, Thing):
                raise ValueError(f"things holds {thing!r}; give Thing(size, color, shape).")
        if len(self.things) not in (1, 2):
            raise ValueError(f"a scene has 1 or 2 things, not {len(self.things)}.")
        if len(self.things) == 1 and self.relation is not None:
            raise ValueError(
                f"one thing has no relation, but {self.relation!r} was given; drop it."
            )
        if len(self.things) == 2:
            _check("relation", self.relation, RELATIONS)
            if self.things[0] == self.things[1]:
                raise ValueError(
                    f"both things are a {self.things[0]}; let them differ in size, color or shape."
                )

    @property
    def held_out(self) -> bool:
        """Whether any of the things is a held-out (colour, shape) pair."""
        return any(thing.held_out for thing in self.things)

    def canonical(self) -> Scene:
        """The same scene with the left or upper thing first: relation "left of" or "above"."""
        if self.relation is None or self.relation in CANONICAL_RELATIONS:
            return self
        return self.swapped()

    def swapped(self) -> Scene:
        """The same scene told from the other thing; a scene of one thing is its own swap."""
        if self.relation is None:
            return self
        return Scene(self.background, self.style, self.things[::-1], OPPOSITE[self.relation])

    def attributes(self) -> dict[str, str | int | None]:
        """The canonical form as a flat dict over `ATTRIBUTES`; what one thing lacks is None."""
        scene = self.canonical()
        values: dict[str, str | int | None] = dict.fromkeys(ATTRIBUTES)
        values |= {"background": scene.background, "style": scene.style}
        values |= {"count": len(scene.things), "relation": scene.relation}
        for i, thing in enumerate(scene.things, 1):
            values |= {f"size{i}": thing.size, f"color{i}": thing.color, f"shape{i}": thing.shape}
        return values

    @classmethod
    def from_attributes(cls, values: Mapping[str, str | int | None]) -> Scene:
        """Build a scene from a dict as `attributes` returns it.

        Raises:
            ValueError: for unknown or missing names, or values that make no scene.
        """
        unknown = sorted(set(values) - set(ATTRIBUTES))
        if unknown:
            raise ValueError(f"unknown attributes {unknown}; allowed are {', '.join(ATTRIBUTES)}.")
        count = values.get("count")
        _check("count", count, (1, 2))
        if count == 1:
            extra = [a for a in (*ATTRIBUTES[-3:], "relation") if values.get(a) is not None]
            if extra:
                raise ValueError(f"count is 1, but {', '.join(extra)} given; leave them None.")
        things = tuple(
            Thing(*(values.get(f"{name}{i}") for name in ("size", "color", "shape")))
            for i in range(1, count + 1)
        )
        relation = values.get("relation")
        return cls(values.get("background"), values.get("style"), things, relation)

    def key(self) -> str:
        """A stable string, the same for the same scene on every machine and in every version."""
        return "|".join(str(value) for value in self.attributes().values())

    def __eq__(self, other: object) -> bool:
        return self.key() == other.key() if isinstance(other, Scene) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key())


def _bucket(scene: Scene) -> int:
    return zlib.crc32(scene.key().encode()) % _BUCKETS


def is_test(scene: Scene) -> bool:
    """Whether a scene is reserved for testing: crc32(key) % 16 == 0."""
    return _bucket(scene) == _TEST_BUCKET


def is_validation(scene: Scene) -> bool:
    """Whether a scene is reserved for watching a training: crc32(key) % 16 == 8."""
    return _bucket(scene) == _VALIDATION_BUCKET


def is_training(scene: Scene) -> bool:
    """Whether training may see a scene: nothing held out, not reserved."""
    return not (scene.held_out or is_test(scene) or is_validation(scene))


def _draw(rng: np.random.Generator, held_out: bool | None, n_things: int) -> Scene:
    """One scene, uniform over attributes; with `held_out` one thing is made a held-out pair."""

    def one_of(values: tuple):
        return values[rng.integers(len(values))]

    things = [Thing(one_of(SIZES), one_of(COLORS), one_of(SHAPES)) for _ in range(n_things)]
    if held_out:
        i = rng.integers(n_things)
        things[i] = Thing(things[i].size, *one_of(HELD_OUT))
    if n_things == 2 and things[0] == things[1]:
        return _draw(rng, held_out, n_things)
    relation = one_of(RELATIONS) if n_things == 2 else None
    return Scene(one_of(BACKGROUNDS), one_of(STYLES), tuple(things), relation)


def _sample(
    rng: np.random.Generator,
    allowed: Callable[[Scene], bool],
    held_out: bool | None,
    n_things: int | None,
) -> Scene:
    """Draw until `allowed`; the number of things is drawn first, so rejection leaves it alone."""
    if n_things is None:
        n_things = 2 if rng.random() < TWO_THINGS else 1
    _check("n_things", n_things, (1, 2))
    while True:
        scene = _draw(rng, held_out, n_things)
        if allowed(scene):
            return scene


def sample_scene(
    rng: np.random.Generator, held_out: bool | None = False, n_things: int | None = None
) -> Scene:
    """Draw a scene.

    Args:
        rng: numpy generator; everything random comes from it.
        held_out: False draws what training may see (no held-out pair, no reserved scene);
            True draws scenes with at least one held-out pair; None draws any scene.
        n_things: 1 or 2; None draws two with probability `TWO_THINGS`.

    Raises:
        ValueError: for `n_things` other than 1, 2, None.
    """
    if held_out is False:
        return _sample(rng, is_training, False, n_things)
    return _sample(rng, lambda scene: True, held_out, n_things)


def split(name: str, n: int, seed: int = 0, n_things: int | None = None) -> list[Scene]:
    """A fixed sample of scenes that training never sees: the same for the same arguments.

    "test" and "validation" hold seen (colour, shape) pairs in unseen scenes, "heldout" scenes
    with at least one held-out pair. Scenes are drawn independently, so a long split repeats some
    (there are only about a hundred test scenes of one thing), and a shorter one is its beginning.

    Raises:
        ValueError: for an unknown name or a negative number.
    """
    _check("split", name, SPLITS)
    if n < 0:
        raise ValueError(f"n is {n}; a split has 0 or more scenes.")
    rng = np.random.default_rng([SPLITS.index(name), seed])
    if name == "heldout":
        return [sample_scene(rng, True, n_things) for _ in range(n)]
    reserved = is_test if name == "test" else is_validation
    return [
        _sample(rng, lambda scene: reserved(scene) and not scene.held_out, False, n_things)
        for _ in range(n)
    ]
