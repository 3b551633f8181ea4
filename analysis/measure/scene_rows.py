"""What one picture or one caption says about a scene, as a row of plain numbers."""

from __future__ import annotations

import numpy as np
from PIL import Image

from analysis.measure.rows import Row
from analysis.metrics.metrics import absolute_distance
from data.scenes.captions import CaptionError, parse, read_attributes
from data.scenes.draw import SIZE
from data.scenes.judge import Reading, compare
from data.scenes.world import Scene

FOREGROUND = 24 / 255
"""How far a pixel is from the background to belong to a thing."""
LEAST_FOREGROUND = 8
"""Fewer pixels are no thing."""


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


def at_size(image: Image.Image, side: int) -> Image.Image:
    """A picture at a model's size, as `encode_image` would resize it."""
    if image.size == (side, side):
        return image
    return image.resize((side, side), Image.Resampling.BICUBIC)


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
    found: dict[str, float | None] = {
        "pixels": float(absolute_distance(a.ravel(), b.ravel())),
        "position": None,
        "size": None,
    }
    first, second = layout(a), layout(b)
    if first is not None and second is not None:
        found["position"] = float(np.linalg.norm(first[0] - second[0]))
        found["size"] = abs(first[1] - second[1])
    return found
