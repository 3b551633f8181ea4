"""What flows are given: of any type the same, and what is wrong is one sentence."""

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.modes import image_to_text, image_variation, text_to_image
from analysis.results.outputs import identity
from data.pictures import Picture, open_picture, picture_files, pictures
from lib.model import Context
from tests.analysis.modes.test_flows import QUIET, same
from tests.conftest import drawing


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"texts": ""}, "prompt is empty"),
        ({"texts": ["a", " \n"]}, "Prompt 2 of 2 is empty"),
        ({"texts": []}, "no prompt"),
        ({"texts": None}, "no prompt"),
        ({"texts": [3]}, "prompt is of type int: give a string"),
        ({"texts": 3}, "prompt is of type int: give one"),
        ({"texts": "a \ud800"}, "not valid Unicode"),
        ({"texts": "red " * 100}, r"tokens.*limit is 32.*shorten"),
        ({"negative_prompt": "red " * 100}, "limit is 32"),
        ({"negative_prompt": 3}, "prompts is of type int: give one, or a list"),
        ({"negative_prompt": ["a", 3]}, "Negative prompt 2 of 2 is of type int"),
        ({"negative_prompt": ["a", "b"]}, "negative_prompt has 2 for 1 inputs"),
        ({"n": 0}, "n is 0: give a whole number from 1 to 100000"),
        ({"n": 100_000_000}, "n is 100000000: give a whole number from 1 to 100000"),
        ({"n": 2.5}, "n is 2.5"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1000}, "steps is 1000: give a whole number from 1 to 999"),
        ({"steps": 501, "spacing": "released"}, "choose 1 to 500"),
        ({"spacing": "even"}, "spacing is 'even': choose exact or released"),
        ({"steps": "50"}, "steps is '50'"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"scale": -1}, "scale is -1"),
        ({"scale": 1e10}, "scale is 10000000000.0: give a number from 0 to 100"),
        ({"scale": float("inf")}, "scale is inf"),
        ({"eta": 1.5}, "eta is 1.5"),
        (
            {"sampler": "plms"},
            "sampler is 'plms': choose ddim or .* or unipc",
        ),
        ({"sampler": "unipc", "eta": 0.5}, "unipc is deterministic"),
        ({"sampler": ["ddim"]}, r"sampler is \['ddim'\]"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63 - 1, "n": 2}, "seed is"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"latents": torch.zeros(1, 4, 8, 7)}, r"got shape \(1, 4, 8, 7\), need \(1, 4, 8, 8\)"),
        ({"latents": 0.0}, "latents is a float: give"),
        ({"latents": torch.full((1, 4, 8, 8), torch.nan)}, "latents hold NaN"),
        ({"start": drawing(0)}, "give fidelity > 0, too"),
        ({"fidelity": 0.5}, "there is nothing to start from: give start="),
        ({"context": Context("image", torch.zeros(1, 5, 16))}, "kind 'image'"),
        ({"context": Context("text", torch.zeros(2, 32, 16))}, "2 samples for 1 inputs"),
        ({"context": Context("text", torch.zeros(1, 32, 15))}, r"samples, 32, 16\)"),
        ({"context": Context("text", torch.full((1, 32, 16), torch.inf))}, "infinite"),
    ],
)
def test_bad_input_of_a_prompt(vd, monkeypatch, given, message):
    monkeypatch.setattr(vd, "_eps", None)  # found before any compute
    with pytest.raises(ValueError, match=message):
        text_to_image(vd, **({"texts": "a red circle", **QUIET} | given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fidelity": 1.1}, "fidelity is 1.1"),
        ({"fidelity": "high"}, "fidelity is 'high'"),
        ({"color_match": 2}, "color_match is 2"),
        ({"color_match": 1, "color_method": "best"}, "color_method is 'best'"),
        ({"images": []}, "no picture"),
        ({"images": 5}, "images is of type int"),
        ({"images": [5]}, "A picture is of type int"),
        ({"images": torch.full((1, 3, 4, 4), 2.0)}, "give them in"),
        (
            {"images": None, "context": Context("image", torch.ones(1, 5, 16)), "fidelity": 0.5},
            "there is nothing to start from",
        ),
    ],
)
def test_bad_input_of_a_picture(vd, monkeypatch, given, message):
    monkeypatch.setattr(vd, "_eps", None)
    with pytest.raises(ValueError, match=message):
        image_variation(vd, **({"images": drawing(0), **QUIET} | given))


def test_bad_temperature(vd):
    with pytest.raises(ValueError, match="temperature is -1"):
        image_to_text(vd, drawing(0), temperature=-1)


def bad_files(folder):
    good = folder / "good.png"
    drawing(0, (64, 64)).save(good)
    files = {
        "missing.png": (None, "no file"),
        "folder": (None, "is a folder"),
        "empty.png": (b"", "is empty"),
        "text.png": (b"hello", "not a picture"),
        "cut.png": (good.read_bytes()[:3000], "damaged"),
        "broken.png": (good.read_bytes()[:100] + b"x" * 5000, "damaged"),
    }
    (folder / "folder").mkdir()
    for name, (content, _) in files.items():
        if content is not None:
            (folder / name).write_bytes(content)
    return {name: message for name, (_, message) in files.items()}


@pytest.mark.parametrize(
    "name", ["missing.png", "folder", "empty.png", "text.png", "cut.png", "broken.png"]
)
def test_bad_picture_files_by_name(vd, tmp_path, name):
    message = bad_files(tmp_path)[name]
    for given in (tmp_path / name, [str(tmp_path / "good.png"), str(tmp_path / name)]):
        with pytest.raises(ValueError, match=message) as error:
            image_variation(vd, given, **QUIET)
        assert name in str(error.value)
        assert "BytesIO" not in str(error.value)


@pytest.mark.parametrize("image_mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("size", [(1, 1), (3, 200)])
def test_pictures_of_any_mode_and_size(vd, image_mode, size):
    image = Image.new(image_mode, size)
    result = image_variation(vd, image, seed=0, steps=1, fidelity=0.0, color_match=0.5, **QUIET)
    assert result.images[0].size == (16, 16)
    assert len(image_to_text(vd, image, seed=0, steps=1, **QUIET)) == 1


def test_files_tensors_and_objects_are_the_same_picture(vd, tmp_path):
    image = drawing(0, (16, 16))
    image.save(tmp_path / "x.png")
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    results = [
        image_variation(vd, given, seed=0, **QUIET)
        for given in (image, tmp_path / "x.png", str(tmp_path / "x.png"), tensor)
    ]
    for result in results[1:]:
        assert same(results[0], result)
    assert results[1].record_of(0)["input"]["file"] == "x.png"
    assert open_picture(tmp_path / "x.png").tobytes() == image.tobytes()


def test_a_file_that_changes_in_between_is_noticed(tmp_path):
    drawing(0).save(tmp_path / "x.png")
    (picture,) = pictures(tmp_path / "x.png")
    assert picture.open().size == (20, 14)
    drawing(1).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="has changed"):
        picture.open()
    assert Picture.of(picture) is picture


def test_folders_are_expanded_sorted(tmp_path):
    for name in ("b.png", "a.JPG", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "sub.png").mkdir()
    (tmp_path / "sub.png" / "x").touch()
    found = picture_files([tmp_path / "z.png", tmp_path])
    assert [path.name for path in found] == ["z.png", "a.JPG", "b.png"]
    with pytest.raises(ValueError, match="holds no pictures"):
        picture_files([tmp_path / "sub.png"])


def test_numbers_of_any_type_ask_for_the_same(vd):
    ours = text_to_image.job(vd, "a ring", seed=3, steps=4, scale=3)
    theirs = text_to_image.job(
        vd, "a ring", seed=np.int64(3), steps=np.int32(4), scale=np.float32(3), n=np.int8(1)
    )
    assert identity(ours.record_of(0)) == identity(theirs.record_of(0))


@pytest.mark.parametrize("interval", [(1,), (1, 2, 3), "ab", 5, (9, 3), (-1, 5), (0, None)])
def test_bad_intervals(vd, interval):
    with pytest.raises(ValueError, match="interval is"):
        text_to_image(vd, "a large red circle", interval=interval, **QUIET)
