"""Films: pictures one after the other, as an animated GIF or as MP4.

GIF needs nothing, plays everywhere by itself and for ever, and has 256 colours a frame. MP4 (H.264)
has all colours and is smaller where pictures are large; it is written by PyAV, whose packages bring
the encoder along (nothing to install besides) and which writes to memory, so that a film appears
whole or not at all. PyAV is only imported for MP4.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from analysis.results.outputs import OUT, Saved, as_json, slug
from analysis.results.result import title
from lib.checks import number
from lib.files import write_numbered

KINDS = ("gif", "mp4")
_SHARP = 256
_QUALITY = {"crf": "12", "preset": "slow"}  # x264: 0 is lossless, 18 is said to look so


def film(
    images: Sequence[Image.Image], seconds: float = 0.15, back: bool = True, kind: str = "gif"
) -> bytes:
    """Pictures of one size as a film.

    GIF: each frame has its own palette of 256 colours, without dithering, which would flicker; it
    plays endlessly. MP4: colour is stored at half the resolution, so pictures of fewer than 256
    pixels a side are enlarged by a whole factor, every pixel to a square; a side that is odd then
    gets its last line twice.

    Args:
        images: at least two.
        seconds: a frame is shown; counted in hundredths.
        back: play them to the end and back again, up to the frame after the first.
        kind: "gif" or "mp4".

    Raises:
        ValueError: fewer than two pictures, other sizes, a time that cannot be shown, or a kind
            that cannot be written (`check_film`).
    """
    check_film(kind)
    if len(images) < 2 or len({image.size for image in images}) > 1:
        raise ValueError("A film takes two or more pictures of one size.")
    shown = round(number("seconds", seconds, 0.02, 60) * 100) * 10
    order = [*images, *reversed(images[1:-1])] if back else list(images)
    frames = [image.convert("RGB") for image in order]
    return _gif(frames, shown) if kind == "gif" else _mp4(frames, shown)


def check_film(kind: str) -> None:
    """ValueError unless films of that kind can be written here."""
    if kind not in KINDS:
        raise ValueError(f"The kind of film is {kind!r}: choose {' or '.join(KINDS)}.")
    if kind == "mp4":
        _av()


def save_film(
    saved: Sequence[Saved],
    out: str | Path = OUT,
    seconds: float = 0.15,
    back: bool = True,
    kind: str = "gif",
) -> Path:
    """Put saved pictures on one film, in `out/films/`, with a record beside it.

    Args:
        saved: pictures, at least two; shown in order of their seeds, and along a strip.
        out: folder.
        seconds, back, kind: as in `film`.

    Raises:
        ValueError: a picture is no longer there, or they make no film.
        OSError: it could not be saved.
    """
    from data.pictures import open_picture  # torch takes seconds

    saved = sorted(saved, key=lambda k: (k.record["seed"], k.record.get("position", 0)))
    content = film([open_picture(frame.path) for frame in saved], seconds, back, kind)
    first = saved[0].record
    record = {
        "mode": "films",
        "of": [f"{frame.record['mode']}/{frame.record['file']}" for frame in saved],
        "prompt": title(first),
        "seed": first["seed"],
        "seconds_a_frame": seconds,
        "back": back,
    }

    def contents(number: int) -> dict[str, bytes]:
        stem = f"{number:04d}_{slug(title(first))}_seed{first['seed']}"
        text = as_json({**record, "file": f"{stem}.{kind}"})
        return {f"{stem}.json": text.encode(), f"{stem}.{kind}": content}

    return write_numbered(Path(out) / "films", contents)[-1]


def _gif(frames: Sequence[Image.Image], milliseconds: int) -> bytes:
    quantized = [frame.quantize(256, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    options = {"append_images": quantized[1:], "duration": milliseconds, "loop": 0}
    quantized[0].save(buffer, "GIF", save_all=True, **options)
    return buffer.getvalue()


def _mp4(frames: Sequence[Image.Image], milliseconds: int) -> bytes:
    av = _av()
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(1000, milliseconds))
        stream.height, stream.width = _even(frames[0]).shape[:2]
        stream.pix_fmt, stream.options = "yuv420p", _QUALITY  # the format that every player reads
        stream.codec_context.thread_count = 1  # the same file everywhere
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_even(frame), "rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def _even(image: Image.Image) -> np.ndarray:
    """Enlarged if it is small, with even sides."""
    factor = max(1, math.ceil(_SHARP / min(image.size)))
    width, height = (side * factor for side in image.size)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.NEAREST))
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), "edge")


def _av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise ValueError(
            "An MP4 film needs PyAV, which is not installed: `pip install av`, or choose gif."
        ) from error
    return av
