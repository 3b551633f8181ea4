"""Versatile Diffusion asked questions: everything that a notebook needs, under one name.

>>> from analysis import load, text_to_image, save, show
>>> vd = load("vd-mini")
>>> pictures = text_to_image(vd, "a large red circle on a white background", n=4, seed=20)
>>> save(pictures)                       # output/t2i/0001_..., each with its record
>>> show(pictures)

A name is imported when it is first used: `import analysis` costs nothing.
"""

from importlib import import_module
from typing import Any

_ROOMS = {
    "lib.checkpoints": "load",
    "lib.noise": "SampleNoise",
    "data.pictures": "open_picture",
    "analysis.modes": (
        "MODES text_to_image image_variation image_to_text text_variation dual_guided describe "
        "focus blend interpolate edit latent_edit encode"
    ),
    "analysis.modes.job": "make",
    "analysis.results": "Result read save",
    "analysis.results.result": "show",
    "analysis.results.figures": "save_figure",
    "analysis.results.films": "save_film",
    "analysis.inside": "plots walkthrough",
    "analysis.inside.trace": "trace",
    "analysis.inside.heatmaps": "heat_maps",
    "analysis.inside.readability": "attribute_readability",
    "analysis.folders.caption": "caption_folder",
    "analysis.folders.search": "update_index find as_result",
    "analysis.widgets": "playground",
}
"""Module -> names of it that are public here."""

_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names.split()}

__all__ = list(_ROOM_OF)


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"analysis has no {name!r}: choose from {', '.join(__all__)}.")
    room = import_module(_ROOM_OF[name])
    value = getattr(room, name, None)  # a module of a room is no attribute before it is imported
    globals()[name] = import_module(f"{room.__name__}.{name}") if value is None else value
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
