"""Films as MP4, read back by the library that wrote them and by what can be said of them."""

import io
import sys

import av
import numpy as np
import pytest
from PIL import Image

from analysis.results import Saved
from analysis.results.films import check_film, film, save_film
from analysis.results.outputs import Result, read_record, save

COLORS = [(200, 30, 30), (30, 160, 60), (40, 60, 190)]


def frames(size=(64, 48)):
    """Left half one colour, right half another."""
    made = []
    for k, color in enumerate(COLORS):
        pixels = np.full((size[1], size[0], 3), color, np.uint8)
        pixels[:, size[0] // 2 :] = COLORS[k - 1]
        made.append(Image.fromarray(pixels))
    return made


def read_back(content):
    with av.open(io.BytesIO(content)) as container:
        (stream,) = container.streams
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return stream, shown


@pytest.mark.parametrize(("back", "order"), [(True, [0, 1, 2, 1]), (False, [0, 1, 2])])
def test_mp4_shows_the_pictures_in_order(back, order):
    stream, shown = read_back(film(frames(), seconds=0.2, back=back, kind="mp4"))
    assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    assert stream.average_rate == 5
    assert len(shown) == len(order)
    for found, k in zip(shown, order, strict=True):
        wanted = np.asarray(frames()[k].resize((384, 288), Image.Resampling.NEAREST), int)
        assert found.shape == wanted.shape
        assert np.abs(found - wanted)[:, 8:180].max() <= 6  # away from the border of colours
        assert np.abs(found - wanted).mean() < 2


@pytest.mark.parametrize(
    ("size", "stored"),
    [((300, 257), (300, 258)), ((257, 301), (258, 302)), ((16, 16), (256, 256))],
)
def test_sides_become_even_and_small_pictures_large(size, stored):
    _, shown = read_back(film(frames(size), kind="mp4"))
    assert shown[0].shape[1::-1] == stored
    assert np.abs(shown[0][-1].astype(int) - shown[0][-2].astype(int)).max() <= 8


def test_the_same_film_twice_is_the_same_file():
    assert film(frames(), kind="mp4") == film(frames(), kind="mp4")


def test_a_saved_film_has_a_record_and_a_number(tmp_path):
    samples = [{"prompt": "a ring", "seed": 4, "position": k / 2} for k in range(3)]
    paths = save(
        Result("interpolate", {"mode": "interpolate", "samples": samples}, frames()), tmp_path
    )
    told = [Saved(path, read_record(path), new=True) for path in paths]
    for kind in ("gif", "mp4"):
        path = save_film(told, tmp_path, kind=kind)
    assert path == tmp_path / "films" / "0002_a-ring_seed4.mp4"
    assert len(read_back(path.read_bytes())[1]) == 4
    record = read_record(path.with_suffix(".json"))
    assert record["file"] == path.name and len(record["of"]) == 3


def test_kinds_that_cannot_be_written(monkeypatch):
    with pytest.raises(ValueError, match="'avi': choose gif or mp4"):
        film(frames(), kind="avi")
    monkeypatch.setitem(sys.modules, "av", None)
    check_film("gif")
    with pytest.raises(ValueError, match="pip install av"):
        check_film("mp4")
