"""`python -m analysis caption`."""

import json
from pathlib import Path

import pytest

from analysis import __main__ as cli
from tests.analysis.photo_folders import few_photos, run_batches, texts


@pytest.fixture
def photos(tmp_path):
    return few_photos(tmp_path / "photos")


@pytest.fixture
def run(model_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        options = ["--model", model_folder, "--steps", 2, "--n", 2, "--device", "cpu"]
        try:
            status = cli.main(["caption", *map(str, (*argv, *options))])
        except SystemExit as error:
            status = error.code
        return status, *capsys.readouterr()

    return run


def test_captions_from_the_shell(run, photos, tmp_path):
    (photos / "notes.pdf").write_bytes(b"%PDF")
    status, out, err = run(photos)
    assert status == 1, "a picture has no caption"
    assert out == f"{Path('output/caption/photos')}  6 captioned (6 of them now), 1 broken\n"
    assert "passed over 2: bad.png: is not a picture" in err
    assert err.endswith("; notes.pdf: is no picture\n")
    (photos / "bad.png").unlink()
    assert len(texts(tmp_path / "output" / "caption" / "photos")) == 6
    status, out, err = run(photos, "--format", "jsonl", "--json", "--quiet", "--negative", "a star",
                           "--scale", 2, "--temperature", 0, "--eta", 0.5, "--seed", 3,
                           "--interval", 100, 900)  # fmt: skip
    told = json.loads(out)
    assert (status, err) == (0, "")
    assert [len(row["candidates"]) for row in told["captions"]] == [2] * 6
    asked = {"negative_prompt": "a star", "scale": 2, "temperature": 0, "eta": 0.5, "seed": 3}
    asked["interval"] = [100, 900]
    assert {name: told[name] for name in asked} == asked


def test_an_interrupt_says_how_to_go_on(run, vd, photos, monkeypatch):
    run_batches(monkeypatch, stop_at=1)
    status, _, err = run(photos, "--batch", 2, "--quiet")
    assert status == 130
    assert "the same command goes on" in err
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere"], "There is no folder nowhere"),
        ([], "required: FOLDER"),
        (["PHOTOS", "--format", "xml"], "invalid choice"),
        (["PHOTOS", "--batch", "0"], "'0' is not allowed: give 1 to"),
        (["PHOTOS", "--shard-size", "1000001"], "shard_size is 1000001: give a whole number"),
        (["PHOTOS", "--shard-size", "0"], "shard_size is 0"),
        (["PHOTOS", "--seed", "-1"], "seed is -1"),
        (["PHOTOS", "--scale", "-1"], "'-1' is not allowed: give 0 to"),
        (["PHOTOS", "--sampler", "none"], "'none' is not allowed: give ddim"),
        (["PHOTOS", "--interval", "9", "3"], "give the lower timestep first"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(run, photos, tmp_path, argv, message):
    status, out, err = run(*(a.replace("PHOTOS", str(photos)) for a in argv), "--quiet")
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert message in err
    assert not (tmp_path / "output").exists()
