"""The applications as commands, on the tiny model."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from analysis.modes import blend, dual_guided, edit, image_to_text, text_to_image
from analysis.modes.tensors import latents_of
from analysis.results import read
from analysis.results.outputs import read_record
from tests.analysis.modes.test_mix import same
from tests.analysis.test_cli import run, saved  # noqa: F401  (run is a fixture)
from tests.conftest import drawing

TEXT = "a tiny striped star on gray"


def opened(paths):
    return [Image.open(path).convert("RGB") for path in paths]


def test_dual_is_the_function_and_makes_a_strip(run, vd, tmp_path, picture_files):  # noqa: F811
    options = ["--strength", 0, 0.5, 1, "--seed", 3, "--n", 2, "--scale-text", 4, "--sheet"]
    status, out, _ = run("dual", picture_files[0], "--text", TEXT, *options)
    assert status == 0
    paths = saved(tmp_path, "dual", "png")
    assert len(paths) == 6 and out.split()[:6] == [str(path) for path in paths]
    made = dual_guided(
        vd, picture_files[0], TEXT, strength=[0, 0.5, 1], seed=3, n=2, scale_text=4, steps=2,
        progress=False,
    )  # fmt: skip
    assert same(opened(paths), made.images)
    (sheet,) = saved(tmp_path, "sheets", "png")
    with Image.open(sheet) as image:  # a row for each seed
        assert image.width > image.height
    # started again, nothing is missing
    status, out, _ = run("dual", picture_files[0], "--text", TEXT, *options[:-1])
    assert out.count("(was there)") == 6


def test_describe_tells_texts(run, tmp_path, picture_files):  # noqa: F811
    status, out, _ = run(
        "describe", *picture_files, "--text", "a ring", "--seed", 1, "--temperature", 0, "--json"
    )
    results = json.loads(out)["results"]
    assert status == 0
    assert [result["input"]["file"] for result in results] == ["a.png", "b.png"]
    assert [path.read_text() for path in saved(tmp_path, "describe", "txt")] == [
        result["text"] + "\n" for result in results
    ]


@pytest.mark.parametrize("release", [False, True])
def test_focus_levels_of_both_kinds(run, tmp_path, picture_files, release):  # noqa: F811
    levels = [-2, 0, 2] if release else [0, 0.5, 1]
    more = ["--scheme", "first_release"] if release else ["--fidelity", 0.5]
    status, _, err = run("focus", picture_files[0], "--level", *levels, *more, "--seed", 1)
    assert status == 0, err
    records = [read_record(path) for path in saved(tmp_path, "focus", "png")]
    assert [record["level"] for record in records] == levels
    assert records[0]["scheme"] == ("first_release" if release else "focus")


def test_blend_is_the_function(run, vd, tmp_path, picture_files):  # noqa: F811
    mask = tmp_path / "mask.png"
    Image.fromarray(np.tile(np.arange(0, 256, 16, dtype=np.uint8), (16, 1))).save(mask)
    status, _, _ = run(
        "blend", *picture_files, "--weights", 1, 0.5, "--focus", 0.2, 0.5, "--masks", "-", mask,
        "--text", "a ring", "--strength", 0.3, "--seed", 4, "--interval", 100, 900,
        "--sampler", "dpmpp_2m",
    )  # fmt: skip
    assert status == 0
    made = blend(
        vd, picture_files, "a ring", weights=[1, 0.5], focus=[0.2, 0.5], masks=[None, mask],
        strength=0.3, seed=4, steps=2, interval=(100, 900), sampler="dpmpp_2m", progress=False,
    )  # fmt: skip
    (path,) = saved(tmp_path, "blend", "png")
    assert same(opened([path]), made.images)
    record = read_record(path)
    assert (record["interval"], record["sampler"]) == ([100, 900], "dpmpp_2m")


def test_interpolate_with_a_film(run, tmp_path, picture_files):  # noqa: F811
    status, out, _ = run("interpolate", "a ring", TEXT, "--frames", 3, "--seed", 2, "--film", "gif")
    assert status == 0
    assert out.split()[-1] == str(tmp_path / "out" / "films" / "0001_a-ring_seed2.gif")
    with Image.open(out.split()[-1]) as film:
        assert film.n_frames == 4
    assert run("interpolate", *picture_files, "--pictures", "--makes", "text", "--seed", 2)[0] == 0
    more = ["--json", "--frames", 2, "--film", "mp4"]
    assert run("interpolate", "a ring", "--seed", 2, *more)[0] == 0
    assert [path.name for path in saved(tmp_path, "films", "mp4")] == ["0002_a-ring_seed2.mp4"]
    assert len(saved(tmp_path, "interpolate", "png")) == 5
    assert len(saved(tmp_path, "interpolate", "txt")) == 9


def test_numbers_and_noise_of_the_released_code(run, vd, tmp_path, picture_files):  # noqa: F811
    options = ["--strength", 0, 1, "--seed", 3, "--n", 2, "--noise", "official", "--batch", 1]
    status, out, _ = run("dual", picture_files[0], "--text", TEXT, *options, "--as", "latents")
    paths = saved(tmp_path, "dual", "safetensors")
    assert status == 0 and out.split() == [str(path) for path in paths]
    made = dual_guided(
        vd, picture_files[0], TEXT, strength=[0, 1], seed=3, n=2, noise="official", steps=2,
        output="latents", progress=False,
    )  # fmt: skip
    assert torch.allclose(read(paths).tensors, made.tensors, atol=1e-5)
    assert [read_record(path)["noise_batch"] for path in paths] == [2] * 4
    # started again, nothing is missing; pictures are something else
    again = run("dual", picture_files[0], "--text", TEXT, *options, "--as", "latents")[1]
    assert again.count("(was there)") == 4
    assert len(saved(tmp_path, "dual", "safetensors")) == 4
    assert "was" not in run("dual", picture_files[0], "--text", TEXT, *options)[1]


def test_edits(run, vd, tmp_path, picture_files):  # noqa: F811
    status, _, _ = run(
        "edit", picture_files[0], "--source", "a ring", "--target", TEXT, "--scale", 4,
        "--iterations", 2,
    )  # fmt: skip
    made = edit(
        vd, picture_files[0], "a ring", TEXT, scale=4, iterations=2, steps=2, progress=False
    )
    (path,) = saved(tmp_path, "edit", "png")
    assert status == 0 and same(opened([path]), made.images)
    assert read_record(path)["found"]["inversion_error"] >= 0
    status, _, _ = run("latent-edit", *picture_files, "--remove", "ring", "--add", "star")
    records = [read_record(path) for path in saved(tmp_path, "latent-edit", "png")]
    assert status == 0 and len(records) == 2
    assert set(records[0]["found"]) == {"caption", "edited_caption"}


def test_a_flow_from_a_context_and_latents(run, vd, tmp_path):  # noqa: F811
    context, noise = vd.text_context([TEXT, "a star"]), torch.randn(2, *vd.latent_shape("image"))
    save_file({"tokens": context.tokens}, tmp_path / "c.safetensors")
    np.save(tmp_path / "x.npy", noise.numpy())
    command = ["t2i", "--context", tmp_path / "c.safetensors", "--latents", tmp_path / "x.npy"]
    status, _, err = run(*command, "--seed", 3)
    assert status == 0, err
    made = text_to_image(vd, context=context, latents=noise, seed=3, steps=2, progress=False)
    paths = saved(tmp_path, "t2i", "png")
    assert same(opened(paths), made.images)
    first, second = (read_record(path) for path in paths)
    assert first["text_context"]["sha256"] != second["text_context"]["sha256"]
    assert first["latents_sha256"] != second["latents_sha256"]
    # the same files again: there; other latents: another result
    assert run(*command, "--seed", 3)[1].count("was there") == 2
    np.save(tmp_path / "x.npy", noise.numpy() + 1)
    run(*command, "--seed", 3)
    assert len(saved(tmp_path, "t2i", "png")) == 4


def test_what_was_saved_as_latents_can_be_given_back(run, vd, tmp_path, picture_files):  # noqa: F811
    run("i2t", picture_files[0], "--seed", 3, "--as", "latents")
    (path,) = saved(tmp_path, "i2t", "safetensors")
    assert run("i2t", picture_files[0], "--seed", 3, "--latents", path)[0] == 0
    latents = latents_of(path, vd.latent_shape("text"), 1)
    made = image_to_text(vd, drawing(1), latents=latents, seed=3, steps=2, progress=False)
    (text,) = saved(tmp_path, "i2t", "txt")
    assert text.read_text() == made.texts[0] + "\n"


def test_encoded_and_given_back_it_is_the_same_picture(run, tmp_path, picture_files):  # noqa: F811
    assert run("encode", picture_files[0].parent, "--pictures", steps=None)[0] == 0
    contexts = saved(tmp_path, "encode", "safetensors")
    assert [read_record(path)["input"]["file"] for path in contexts] == ["a.png", "b.png"]
    assert run("encode", *picture_files, "--pictures", steps=None)[1].count("was there") == 2
    assert run("i2i", "--context", *contexts, "--seed", 5)[0] == 0
    assert run("i2i", *picture_files, "--seed", 5)[0] == 0
    pictures = opened(saved(tmp_path, "i2i", "png"))
    assert len(pictures) == 4 and same(pictures[:2], pictures[2:])
    assert run("encode", TEXT, "a ring", "--what", "latents", "--json", steps=None)[0] == 0
    assert [read_record(p)["prompt"] for p in saved(tmp_path, "encode", "safetensors")[2:]] == [
        TEXT,
        "a ring",
    ]


def test_starts_nulls_negatives_and_sizes(run, vd, tmp_path, picture_files):  # noqa: F811
    options = ["--start", picture_files[0].parent, "--fidelity", 0.5, "--null", picture_files[1]]
    more = ["--negative", "a ring", "--negative", "a heart", "--height", 24, "--seed", "7,9"]
    status, _, err = run("dual", *picture_files, "--text", TEXT, *options, *more, "--n", 2)
    assert status == 0, err
    made = dual_guided(
        vd,
        picture_files,
        TEXT,
        start=picture_files,
        fidelity=0.5,
        null=picture_files[1],
        negative_prompt=["a ring", "a heart"],
        height=24,
        seed=[7, 9],
        n=2,
        steps=2,
        progress=False,
    )
    paths = saved(tmp_path, "dual", "png")
    assert same(opened(paths), made.images) and made.images[0].size == (16, 24)
    assert [read_record(path)["seed"] for path in paths] == [7, 9, 7, 9]
    assert [read_record(path)["negative_prompt"] for path in paths[1:3]] == ["a ring", "a heart"]
    assert read_record(paths[0])["null"]["file"] == picture_files[1].name


def test_focus_has_bands_and_matches_colours(run, tmp_path, picture_files):  # noqa: F811
    options = ["--level", 0.3, "--seed", 1, "--color-match", 0.5, "--color-method", "histogram"]
    assert run("focus", picture_files[0], *options, "--bands", 1, 1, 5, 1)[0] == 0
    record = read_record(saved(tmp_path, "focus", "png")[0])
    assert (record["color_match"], record["color_method"]) == (0.5, "histogram")
    assert record["bands"] == {"content": 1, "style": 1, "rank": 5, "alone": 1}


@pytest.mark.parametrize("ends", [["PICTURE"], ["a ring", "PICTURE"]])
def test_a_picture_without_pictures_is_said_before_a_model_is_loaded(
    run,  # noqa: F811
    tmp_path,
    picture_files,
    ends,
):
    ends = [picture_files[0] if end == "PICTURE" else end for end in ends]
    status, _, err = run("interpolate", *ends, model=tmp_path / "no model")
    assert (status, len(err.splitlines())) == (2, 1)
    assert "also a file" in err and "--pictures" in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["dual"], "There is no picture: give at least one"),
        (["dual", "no.png", "--text", "a"], "There is no file no.png"),
        (["dual", "PICTURE", "--text", "a", "--strength", 2], "'2' is not allowed: give 0 to 1"),
        (["dual", "PICTURE", "--text", "a", "--interval", 9, 3], "the lower timestep first"),
        (["dual", "PICTURE", "--text", "a", "--sampler", "heun", "--eta", 1], "deterministic"),
        (
            ["focus", "PICTURE", "--level", -1],
            "scheme 'focus' has the numbers from 0 to 1",
        ),
        (["blend", "PICTURE", "--masks", "PICTURE", "PICTURE"], "2 values for masks, 1 pictures"),
        (["interpolate", "a", "b", "--frames", 1], "'1' is not allowed: give 2 to 10000"),
        (["interpolate", "a", "b", "--makes", "text", "--film", "gif"], "--film is for pictures"),
        (["interpolate", "a", "b", "--film", "avi"], "invalid choice: 'avi'"),
        (["interpolate", "a", "b", "--film", "gif", "--as", "tensor"], "--film need pictures"),
        (["dual", "PICTURE", "--text", "a", "--sheet", "--as", "latents"], "need pictures"),
        (["interpolate", "a", "--noise", "official"], "A film between latents"),
        (
            ["edit", "PICTURE", "--target", "a", "--n", 2],
            "unrecognized arguments: --n 2",
        ),
        (["edit", "PICTURE"], "There is no prompt"),
        (["edit", "PICTURE", "--target", "a", "--mask", "no.png"], "There is no file no.png"),
        (
            ["edit", "PICTURE", "--target", "a", "--feather", "1e10"],
            "is not allowed: give 0 to 512",
        ),
        (["blend", "PICTURE", "--masks", "no.png"], "There is no file no.png"),
        (["blend"], "blend needs images: pictures, their files"),
        (["focus", "PICTURE", "--bands", 1, 2, 3, "x"], "give Bands(content"),
        (["focus", "no.png"], "There is no file no.png"),
        (["interpolate", "no.png", "PICTURE", "--pictures"], "There is no file no.png"),
        (["interpolate"], "the following arguments are required"),
        (["t2i", "--context", "no.safetensors"], "There is no file no.safetensors"),
        (["i2i", "PICTURE", "--context", "PICTURE"], "cannot hold context: give a file of"),
        (["t2i", "a", "--latents", "PICTURE"], "cannot hold latents"),
        (["i2i", "PICTURE", "--null", "white"], "choose zeros, black or grey"),
        (["i2i", "PICTURE", "--start", "PICTURE"], "give fidelity > 0, too"),
        (["encode", "PICTURE"], "is a text here, but also a file"),
        (["latent-edit", "PICTURE"], "nothing to remove or to add"),
    ],
)
def test_bad_input_is_one_sentence(run, tmp_path, argv, message):  # noqa: F811
    drawing(0).save(tmp_path / "x.png")
    argv = [str(tmp_path / "x.png") if a == "PICTURE" else a for a in argv]
    status, out, err = run(*argv, "--quiet", steps=None if argv[0] == "encode" else 2)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert message in err
    assert not list((tmp_path / "out").rglob("*.*"))
