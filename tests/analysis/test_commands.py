"""The applications as commands, on the tiny model."""

import json
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from analysis import __main__ as cli
from analysis.commands import APPLICATIONS
from analysis.modes.edit import EDIT_SCALE, edit
from analysis.modes.mix import blend, dual_guided
from analysis.results import read
from analysis.results.outputs import read_record
from tests.analysis.modes.test_mix import same
from tests.analysis.test_cli import ROOT, run, saved  # noqa: F401  (run is a fixture)
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
    more = ["--first-release"] if release else ["--fidelity", 0.5]
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


@pytest.mark.parametrize("command", list(APPLICATIONS))
def test_help_shows_an_example_that_parses(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    assert f"example:\n  {cli.PROG} {command} " in capsys.readouterr().out
    args = cli.build_parser(command).parse_args(shlex.split(APPLICATIONS[command].example))
    assert args.command == command


def test_help_of_edit_states_its_own_scale(capsys):
    with pytest.raises(SystemExit):
        cli.main(["edit", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert f"without --scale, edit takes {EDIT_SCALE:g}, not the model's" in told


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
    assert "also a picture's file" in err and "--pictures" in err


def test_help_does_not_wait_for_torch():
    code = (
        "import sys, analysis.__main__ as m\n"
        "try: m.main(['blend', '--help'])\n"
        "except SystemExit: assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["dual", "PICTURE"], "Neither of --text and --text-context"),
        (["dual", "no.png", "--text", "a"], "There is no file no.png"),
        (["dual", "PICTURE", "--text", "a", "--strength", 2], "'2' is not a number from 0 to 1"),
        (["dual", "PICTURE", "--text", "a", "--interval", 9, 3], "the lower timestep first"),
        (["dual", "PICTURE", "--text", "a", "--sampler", "heun", "--eta", 1], "deterministic"),
        (["focus", "PICTURE", "--level", -1], "level is -1.0: give a number from 0 to 1"),
        (["blend", "PICTURE", "--masks", "PICTURE", "PICTURE"], "2 masks for 1 pictures"),
        (["interpolate", "a", "b", "--frames", 1], "'1' is not a whole number from 2"),
        (["interpolate", "a", "b", "--makes", "text", "--film", "gif"], "--film is for pictures"),
        (["interpolate", "a", "b", "--film", "avi"], "invalid choice: 'avi'"),
        (["interpolate", "a", "b", "--film", "gif", "--as", "tensor"], "--film need pictures"),
        (["dual", "PICTURE", "--text", "a", "--sheet", "--as", "latents"], "need pictures"),
        (["interpolate", "a", "--noise", "official"], "A film between latents"),
        (["edit", "PICTURE", "--target", "a", "--n", 2], "nothing in it is random"),
        (["latent-edit", "PICTURE"], "nothing to remove or to add"),
    ],
)
def test_bad_input_is_one_sentence(run, tmp_path, argv, message):  # noqa: F811
    drawing(0).save(tmp_path / "x.png")
    argv = [str(tmp_path / "x.png") if a == "PICTURE" else a for a in argv]
    status, out, err = run(*argv, "--quiet")
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert message in err
    assert not list((tmp_path / "out").rglob("*.*"))
