"""Films: pictures one after the other, as an animated GIF."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from analysis.batch import Saved
from analysis.files import claimed_number, write_all
from analysis.inputs import number, open_picture
from analysis.outputs import OUT, slug, title


def film(images: Sequence[Image.Image], seconds: float = 0.15, back: bool = True) -> bytes:
    """Pictures of one size as an endless GIF.

    Each frame has its own palette of 256 colours, without dithering, which would flicker.

    Args:
        images: at least two.
        seconds: a frame is shown; GIF counts in hundredths.
        back: play them to the end and back again.

    Raises:
        ValueError: fewer than two pictures, other sizes, or a time that cannot be shown.
    """
    if len(images) < 2 or len({image.size for image in images}) > 1:
        raise ValueError("A film takes two or more pictures of one size.")
    shown = round(number("seconds", seconds, 0.02, 60) * 100) * 10
    order = [*images, *reversed(images[1:-1])] if back else list(images)
    frames = [image.convert("RGB").quantize(256, dither=Image.Dither.NONE) for image in order]
    buffer = io.BytesIO()
    options = {"save_all": True, "append_images": frames[1:], "duration": shown, "loop": 0}
    frames[0].save(buffer, "GIF", **options)
    return buffer.getvalue()


def save_film(
    saved: Sequence[Saved], out: str | Path = OUT, seconds: float = 0.15, back: bool = True
) -> Path:
    """Put saved pictures on one film, in `out/films/`, with a record beside it.

    Args:
        saved: pictures, at least two; shown in order of their seeds, and along a strip.
        out: folder.
        seconds, back: as in `film`.

    Raises:
        ValueError: a picture is no longer there, or they make no film.
        OSError: it could not be saved.
    """
    saved = sorted(saved, key=lambda one: (one.record["seed"], one.record.get("position", 0)))
    content = film([open_picture(one.path) for one in saved], seconds, back)
    folder = Path(out) / "films"
    folder.mkdir(parents=True, exist_ok=True)
    first = saved[0].record
    record = {
        "mode": "films",
        "of": [f"{one.record['mode']}/{one.record['file']}" for one in saved],
        "prompt": title(first),
        "seed": first["seed"],
        "seconds_a_frame": seconds,
        "back": back,
    }
    with claimed_number(folder) as free:
        path = folder / f"{free:04d}_{slug(title(first))}_seed{first['seed']}.gif"
        text = json.dumps({**record, "file": path.name}, ensure_ascii=False, indent=2) + "\n"
        write_all({path: content, path.with_suffix(".json"): text.encode()})
    return path
