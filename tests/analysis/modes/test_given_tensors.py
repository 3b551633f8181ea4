"""Contexts and latents from files: as in Python, and one sentence for what does not fit."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from analysis import __main__ as cli
from analysis.modes.generate import image_to_text, text_to_image
from analysis.modes.given_tensors import read_context, read_latents
from analysis.modes.mix import dual_guided
from analysis.results.outputs import read_record
from tests.analysis.modes.test_mix import same
from tests.analysis.test_cli import run, saved  # noqa: F401  (run is a fixture)
from tests.conftest import drawing

TEXT = "a red circle"


def write(path, **tensors):
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    return path


def opened(paths):
    return [Image.open(path).convert("RGB") for path in paths]


def test_files_of_every_form(tmp_path):
    x = torch.randn(3, 5, 16)
    whole = write(tmp_path / "a.safetensors", anything=x)
    named = write(tmp_path / "b.safetensors", context=x, notes=torch.zeros(1))
    parts = [write(tmp_path / f"{k}.safetensors", x=x[k].half()) for k in range(3)]
    for files in ([whole], [named], parts):
        made = read_context(files, "image")
        assert made.kind == "image" and made.tokens.dtype is torch.float32
        assert torch.allclose(made.tokens, x, atol=2e-3)
    latents = write(tmp_path / "c.safetensors", z=torch.randn(8))
    assert read_latents([latents, latents], "text").shape == (2, 8)


def test_a_flow_from_a_context_and_latents(run, vd, tmp_path):  # noqa: F811
    context = vd.text_context([TEXT, "a star"])
    noise = torch.randn(2, *vd.latent_shape("image"))
    files = [
        write(tmp_path / "c.safetensors", tokens=context.tokens),
        write(tmp_path / "x.safetensors", latents=noise),
    ]
    status, _, err = run("t2i", "--context", files[0], "--latents", files[1], "--seed", 3)
    assert status == 0, err
    made = text_to_image(vd, context=context, latents=noise, seed=3, steps=2, progress=False)
    paths = saved(tmp_path, "t2i", "png")
    assert same(opened(paths), made.images)
    first, second = (read_record(path) for path in paths)
    assert first["context"]["sha256"] != second["context"]["sha256"]
    assert first["latents_sha256"] != second["latents_sha256"]
    # the same files again: there; other latents: another result
    assert (
        run("t2i", "--context", files[0], "--latents", files[1], "--seed", 3)[1].count("was") == 2
    )
    write(files[1], latents=noise + 1)
    run("t2i", "--context", files[0], "--latents", files[1], "--seed", 3)
    assert len(saved(tmp_path, "t2i", "png")) == 4


def test_what_was_saved_as_latents_can_be_given_back(run, vd, tmp_path, picture_files):  # noqa: F811
    run("i2t", picture_files[0], "--seed", 3, "--as", "latents")
    (saved_latents,) = saved(tmp_path, "i2t", "safetensors")
    assert run("i2t", picture_files[0], "--seed", 3, "--latents", saved_latents)[0] == 0
    given = read_latents([saved_latents], "text")
    made = image_to_text(vd, drawing(1), latents=given, seed=3, steps=2, progress=False)
    (path,) = saved(tmp_path, "i2t", "txt")
    assert path.read_text() == made.texts[0] + "\n"


def test_both_contexts_of_a_mix(run, vd, tmp_path):  # noqa: F811
    shown, words = vd.image_context([drawing(0)]), vd.text_context([TEXT])
    files = [
        write(tmp_path / "i.safetensors", x=shown.tokens[0]),
        write(tmp_path / "t.safetensors", x=words.tokens),
    ]
    options = ["--image-context", files[0], "--text-context", files[1], "--strength", 0.4]
    status, _, err = run("dual", *options, "--seed", 3)
    assert status == 0, err
    made = dual_guided(vd, shown, words, strength=0.4, seed=3, steps=2, progress=False)
    assert same(opened(saved(tmp_path, "dual", "png")), made.images)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": torch.zeros(2, 3), "b": torch.zeros(1)}, "holds 2 tensors, none of them 'context'"),
        ({"a": torch.zeros(4)}, "shape (4,): give floating-point numbers, (tokens, width)"),
        ({"a": torch.zeros(2, 3, dtype=torch.int64)}, "holds int64 of shape (2, 3)"),
        ({"a": torch.full((2, 16), np.nan)}, "holds NaN"),
        ({"a": torch.zeros(5, 7)}, "give (inputs, tokens, 16)"),
    ],
)
def test_files_that_do_not_fit_are_one_sentence(run, tmp_path, tensors, message):  # noqa: F811
    path = write(tmp_path / "bad.safetensors", **tensors)
    status, out, err = run("t2i", "--context", path)
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["t2i", "--context", "no.safetensors"], "There is no file no.safetensors"),
        (["t2i", TEXT, "--context", "FILE"], "Both inputs and --context"),
        (["t2i"], "There is no prompt"),
        (["i2i"], "There is no picture"),
        (["t2t", TEXT, "--latents", "FILE"], "give floating-point numbers, (width,), or several"),
        (["dual", "PICTURE"], "Neither of --text and --text-context"),
        (["dual", "PICTURE", "--image-context", "FILE", "--text", "a"], "Both pictures and"),
        (["focus", "no.png"], "There is no file no.png"),
        (["blend", "PICTURE", "--masks", "no.png"], "There is no file no.png"),
        (["edit", "PICTURE", "--target", "a", "--mask", "no.png"], "There is no file no.png"),
        (["interpolate", "no.png", "PICTURE", "--pictures"], "There is no file no.png"),
        (["t2i", TEXT, "--seed", "9" * 400], "is not a whole number"),
    ],
)
def test_wrong_arguments_before_a_model_is_loaded(
    run,  # noqa: F811
    tmp_path,
    picture_files,
    monkeypatch,
    arguments,
    message,
):
    if arguments[0] not in ("dual",):
        monkeypatch.setattr(cli, "load_model", None)
    file = write(tmp_path / "x.safetensors", x=torch.zeros(1, 5, 16))
    known = {"FILE": file, "PICTURE": picture_files[0]}
    status, out, err = run(*(known.get(word, word) for word in arguments))
    assert (status, out) == (2, "")
    assert message in err and err.count("\n") == 1


def test_focus_matches_colours_from_the_shell(run, tmp_path, picture_files):  # noqa: F811
    options = ["--level", 0.3, "--seed", 1, "--color-match", 0.5, "--color-method", "histogram"]
    assert run("focus", picture_files[0], *options)[0] == 0
    record = read_record(saved(tmp_path, "focus", "png")[0])
    assert (record["color_match"], record["color_method"]) == (0.5, "histogram")
