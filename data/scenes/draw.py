"""Paint a scene: 64x64 RGB, drawn at four times the size and averaged down.

What a caption says is drawn clearly; what it does not say is *nuisance*, drawn from the random
generator: position (+-2.5 px), size (+-6 %), the gap between two things, the phase of stripes and
dots. The same seed gives the same layout whatever the style and the colours, so pictures that
differ in one attribute only can be made.

Shapes are cached masks (a pattern is pasted through them), which makes a picture cost well under a
millisecond. Masks and patterns live on the four times finer grid ("fine pixels" below).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from data.scenes.world import Scene

SIZE = 64
FINE = 4  # supersampling

BACKGROUND_RGB = {
    "white": (255, 255, 255),
    "gray": (176, 176, 180),
    "cream": (255, 236, 190),
    "cyan": (140, 226, 240),
}
# The colour, and the clearly lighter tone that stripes and dots alternate it with.
COLOR_RGB = {
    "red": ((212, 24, 32), (246, 160, 160)),
    "green": ((20, 142, 56), (150, 216, 160)),
    "blue": ((32, 72, 216), (150, 178, 250)),
    "yellow": ((250, 210, 0), (255, 242, 150)),
    "purple": ((120, 36, 164), (204, 160, 226)),
    "orange": ((246, 124, 8), (255, 202, 140)),
    "black": ((14, 14, 18), (128, 128, 134)),
    "pink": ((255, 112, 186), (255, 206, 232)),
}

RADIUS = {"small": 8.8, "large": 13.0}
LONE_GROWTH = 1.08  # a thing alone has room to be a little larger
MARGIN = 2.25  # two pixels, and room for rounding to fine pixels
GAP = (3.5, 9.0)
POSITION_JITTER = 2.5
SIZE_JITTER = 0.06
STRIPE_PERIOD = 5.0
DOT_SPACING = 6.5
DOT_RADIUS = 2.1
DOT_JITTER = 1.0
PLAIN_EDGE = 0.8
CIRCLE_CORNERS = 96
APART = 45  # distance in RGB from which a colour is another one
SHOWN = 24  # of 255 from the background: what belongs to a thing
LIGHTER = 0.6  # of the way to white: the tone of a colour without a name


def _regular(points: int, radii: tuple[float, ...], center_y: float = 0.0) -> np.ndarray:
    """Corners around the middle, the first one up, at the radii in turn."""
    angle = -np.pi / 2 + 2 * np.pi * np.arange(points) / points
    radius = np.resize(radii, points)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle) + center_y], axis=1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    x = np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
    return np.stack([x, y - 0.10], axis=1)


def _cross(half_width: float) -> np.ndarray:
    a, b = half_width, 0.97
    corners = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a)]
    return np.array(corners + [(-x, -y) for x, y in corners])


# Outlines in the box [-1, 1]^2, y down, of about equal visual weight.
OUTLINES = {
    "circle": _regular(CIRCLE_CORNERS, (0.95,)),
    "square": np.array([(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)]),
    "triangle": np.array([(0.0, -0.95), (1.0, 0.85), (-1.0, 0.85)]),
    "star": _regular(10, (1.05, 0.49), center_y=0.09),
    "heart": _heart(),
    "ring": _regular(CIRCLE_CORNERS, (1.0,)),
    "cross": _cross(0.40),
    "diamond": np.array([(0.0, -1.0), (0.80, 0.0), (0.0, 1.0), (-0.80, 0.0)]),
}
RING_HOLE = 0.45
OUTLINED_RING_HOLE = 0.28  # a wider band, so that its two contours leave room between them


def _polygon(points: np.ndarray, radius: int) -> Image.Image:
    """A filled polygon, given in the box [-1, 1]^2, on a tile of fine pixels."""
    tile = Image.new("L", (2 * radius + 1, 2 * radius + 1))
    ImageDraw.Draw(tile).polygon([tuple(p) for p in radius * (1 + points)], fill=255)
    return tile


def _edge(points: np.ndarray, radius: int, width: float, inward: bool = True) -> Image.Image:
    """A band of `width` fine pixels along an outline, inside it for sure (clip what is outside)."""
    if len(points) == CIRCLE_CORNERS:  # scaling is exact for a circle, and smoother than a line
        shift = width / (radius * np.linalg.norm(points[0]))
        pair = (points, points * (1 - shift)) if inward else (points * (1 + shift), points)
        return ImageChops.subtract(*(_polygon(p, radius) for p in pair))
    # A line twice as wide keeps sharp corners once the shape clips its outer half.
    tile = Image.new("L", (2 * radius + 1, 2 * radius + 1))
    line = [tuple(p) for p in radius * (1 + points)]
    ImageDraw.Draw(tile).line([*line, *line[:2]], fill=255, width=round(2 * width), joint="curve")
    return tile


@lru_cache(maxsize=4096)
def _masks(shape: str, radius: int, style: str) -> tuple[Image.Image, Image.Image]:
    """Where a shape of `radius` fine pixels is, and where it is not within its edge.

    The edge is the stroke of the outlined style. The patterned styles keep a thin edge of plain
    colour, so that a light tone never eats into the silhouette.
    """
    outlined = style == "outlined"
    width = 1.3 * FINE + 0.13 * radius if outlined else PLAIN_EDGE * FINE
    outline = OUTLINES[shape]
    mask, edge = _polygon(outline, radius), _edge(outline, radius, width)
    if shape == "ring":
        hole = outline * (OUTLINED_RING_HOLE if outlined else RING_HOLE)
        mask = ImageChops.subtract(mask, _polygon(hole, radius))
        edge = ImageChops.lighter(edge, _edge(hole, radius, width, inward=False))
    return mask, ImageChops.subtract(mask, edge)


@lru_cache(maxsize=2)
def _pattern(style: str) -> Image.Image:
    """Where the light tone is: a plane of diagonal stripes or of dots, to be cropped anywhere."""
    y, x = np.mgrid[: 2 * SIZE * FINE, : 2 * SIZE * FINE] / FINE
    if style == "striped":
        light = (x + y) / math.sqrt(2) % STRIPE_PERIOD < STRIPE_PERIOD / 2
    else:
        dx, dy = ((v + DOT_SPACING / 2) % DOT_SPACING - DOT_SPACING / 2 for v in (x, y))
        light = dx**2 + dy**2 < DOT_RADIUS**2
    return Image.fromarray(np.where(light, 255, 0).astype(np.uint8))


def _pattern_corner(style: str, radius: int, phase: np.ndarray) -> tuple[int, int]:
    """Where to crop the pattern for a thing, from a phase in [-1, 1]^2."""
    if style == "striped":  # shifting along one axis reaches every phase of diagonal stripes
        return round((phase[0] + 1) / 2 * STRIPE_PERIOD * math.sqrt(2) * FINE), 0
    # A dot lies near the middle, so that every shape, however small, shows whole dots.
    left, top = (8 * DOT_SPACING + DOT_JITTER * phase) * FINE - radius
    return round(left), round(top)


def _nuisance(rng: np.random.Generator) -> np.ndarray:
    """All nuisance of a picture, uniform in [-1, 1]: always as many numbers, whatever the scene."""
    return rng.uniform(-1, 1, size=(2, 6))


def _place(scene: Scene, u: np.ndarray) -> list[tuple[float, float, float]]:
    """Centre x, y and radius of each thing of a canonical scene, in pixels."""
    growth = LONE_GROWTH if len(scene.things) == 1 else 1.0
    radii = [
        RADIUS[thing.size] * growth * (1 + SIZE_JITTER * u[i, 0])
        for i, thing in enumerate(scene.things)
    ]
    across = SIZE / 2 + POSITION_JITTER * u[:, 1]
    if len(radii) == 1:
        return [(across[0], SIZE / 2 + POSITION_JITTER * u[0, 2], radii[0])]
    room = SIZE - 2 * MARGIN - 2 * sum(radii)
    gap = GAP[0] + (min(GAP[1], room) - GAP[0]) * (u[0, 3] + 1) / 2
    slack = min(POSITION_JITTER, (room - gap) / 2)
    start = MARGIN + (room - gap) / 2 + slack * u[0, 2]
    along = (start + radii[0], start + 2 * radii[0] + gap + radii[1])
    if scene.relation == "left of":
        return [(along[i], across[i], radii[i]) for i in range(2)]
    return [(across[i], along[i], radii[i]) for i in range(2)]


def layout(scene: Scene, seed: int | np.random.Generator) -> list[tuple[float, float, float]]:
    """Where `render` puts the things of the canonical scene: (centre x, centre y, radius), pixels.

    A generator is advanced exactly as by `render`.
    """
    return _place(scene.canonical(), _nuisance(np.random.default_rng(seed)))


Tones = tuple[tuple[int, int, int], tuple[int, int, int]]


def unnamed(background: str, rng: np.random.Generator) -> Tones:
    """A colour without a name here, and its lighter tone: far from the background, both.

    The colour itself is also far from the deep tones of those that have a name.
    """
    known = np.array([deep for deep, _ in COLOR_RGB.values()])
    ground = np.array(BACKGROUND_RGB[background])
    while True:
        deep = rng.integers(256, size=3)
        light = np.round(deep + LIGHTER * (255 - deep)).astype(int)
        seen = np.abs(deep - ground).max() > 2 * APART and np.abs(light - ground).max() > SHOWN
        if seen and np.linalg.norm(known - deep, axis=1).min() > APART:
            return tuple(map(int, deep)), tuple(map(int, light))


def _paint(scene: Scene, u: np.ndarray, tones: Sequence[Tones] | None = None) -> Image.Image:
    scene = scene.canonical()
    canvas = Image.new("RGB", (SIZE * FINE, SIZE * FINE), BACKGROUND_RGB[scene.background])
    for i, (thing, place) in enumerate(zip(scene.things, _place(scene, u), strict=True)):
        x, y, radius = (round(v * FINE) for v in place)
        corner = (x - radius, y - radius)
        deep, light = COLOR_RGB[thing.color] if tones is None else tones[i]
        mask, inner = _masks(thing.shape, radius, scene.style)
        canvas.paste(deep, corner, mask)
        if scene.style == "outlined":
            canvas.paste(BACKGROUND_RGB[scene.background], corner, inner)
        elif scene.style != "flat":
            left, top = _pattern_corner(scene.style, radius, u[i, 4:6])
            crop = (left, top, left + mask.width, top + mask.height)
            pattern = _pattern(scene.style).crop(crop)
            canvas.paste(light, corner, ImageChops.darker(inner, pattern))
    return canvas.reduce(FINE)


def render(
    scene: Scene, seed: int | np.random.Generator, tones: Sequence[Tones] | None = None
) -> Image.Image:
    """Paint a scene as a 64x64 RGB picture.

    Args:
        scene: what to paint; scenes that are equal are painted equally.
        seed: owner of the nuisance, a seed (the same picture every time) or a numpy generator.
        tones: colours of the things instead of their own (`unnamed`).
    """
    return _paint(scene, _nuisance(np.random.default_rng(seed)), tones)


def render_batch(scenes: list[Scene], rng: np.random.Generator) -> np.ndarray:
    """Paint many scenes: uint8 (B, 64, 64, 3), nuisance from one generator in order."""
    batch = np.empty((len(scenes), SIZE, SIZE, 3), np.uint8)
    for i, scene in enumerate(scenes):
        batch[i] = np.asarray(_paint(scene, _nuisance(rng)))
    return batch
