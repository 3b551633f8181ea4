"""The command line, on the tiny model: what lies on disk, what is said, and the exit status."""

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis import cli
from analysis.modes import MODES, job
from analysis.results.outputs import read_record
from lib import files

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "a large red circle"


@pytest.fixture
def run(model_folder, tmp_path, capsys):
    """Run a command on the tiny model; gives exit status, stdout and stderr."""

    def run(*argv: object, model: object = model_folder, steps: int | None = 2):
        capsys.readouterr()
        options = ["--model", model, "--out", tmp_path / "out"]
        options += [] if steps is None else ["--steps", steps]
        try:
            status = cli.main([str(a) for a in (*argv, *options)])
        except SystemExit as error:
            status = error.code
        return status, *capsys.readouterr()

    return run


def saved(tmp_path: Path, mode: str, ending: str) -> list[Path]:
    return sorted((tmp_path / "out" / mode).glob(f"*.{ending}"))


def interrupt_at(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """Press Ctrl-C in the middle of a batch (0 is the first)."""
    real, calls = job.denoise, []

    def denoise(*args: object, **options: object):
        calls.append(args)
        for i, step in enumerate(real(*args, **options)):
            if i == 1 and len(calls) == batch + 1:
                os.kill(os.getpid(), signal.SIGINT)
            yield step

    monkeypatch.setattr(job, "denoise", denoise)


def test_t2i_saves_and_tells_paths(run, tmp_path):
    status, out, err = run("t2i", PROMPT, "a ring", "--n", 2, "--seed", 20)
    assert status == 0
    pictures = saved(tmp_path, "t2i", "png")
    assert out.split() == [str(path) for path in pictures]
    assert [read_record(path)["seed"] for path in pictures] == [20, 21, 22, 23]
    assert [path.name for path in pictures][2] == "0003_a-ring_seed22.png"
    assert "8/8" in err


def test_t2t_tells_its_texts(run, tmp_path):
    status, out, err = run("t2t", PROMPT, "--seed", 1, "--quiet")
    (path,) = saved(tmp_path, "t2t", "txt")
    assert (status, err) == (0, "")
    assert out == f"{path}  {path.read_text()}"


def test_i2i_takes_files_folders_and_its_options(run, tmp_path, picture_files):
    status, _, _ = run(
        "i2i", picture_files[0].parent, picture_files[1], "--seed", 1, "--fidelity", 0.5,
        "--color-match", 0.5, "--color-method", "histogram", "--negative", "a star",
        "--scale", 3, "--eta", 1, "--dtype", "float32", "--device", "cpu", "--batch", 2, "--sheet",
    )  # fmt: skip
    assert status == 0
    records = [read_record(path) for path in saved(tmp_path, "i2i", "png")]
    assert [record["input"]["file"] for record in records] == ["a.png", "b.png", "b.png"]
    asked = {
        "fidelity": 0.5,
        "color_match": 0.5,
        "color_method": "histogram",
        "negative_prompt": "a star",
        "scale": 3.0,
        "eta": 1.0,
        "steps": 2,
    }
    assert records[2].items() >= asked.items()
    (sheet,) = saved(tmp_path, "sheets", "png")
    assert read_record(sheet)["of"] == [f"i2i/{record['file']}" for record in records]


def test_i2t_json_is_one_document_of_records(run, tmp_path, picture_files):
    status, out, _ = run("i2t", *picture_files, "--n", 2, "--seed", 3, "--temperature", 0, "--json")
    document = json.loads(out)
    assert status == 0
    assert (document["mode"], document["interrupted"]) == ("i2t", False)
    assert len(document["results"]) == 4
    for result in document["results"]:
        path, new = Path(result.pop("path")), result.pop("new")
        assert new
        assert result == read_record(path)
        assert path.read_text() == result["text"] + "\n"


def test_started_again_it_makes_only_what_is_missing(run, tmp_path):
    run("t2i", PROMPT, "--n", 3, "--seed", 5)
    before = saved(tmp_path, "t2i", "png")
    before[1].unlink()
    status, out, _ = run("t2i", PROMPT, "--n", 4, "--seed", 5, "--json")
    results = json.loads(out)["results"]
    assert status == 0
    assert sorted((r["seed"], r["new"]) for r in results) == [
        (5, False),
        (6, True),
        (7, False),
        (8, True),
    ]
    assert [path.name[:4] for path in saved(tmp_path, "t2i", "png")] == [
        "0001",
        "0003",
        "0004",
        "0005",
    ]
    assert "(was there)" in run("t2i", PROMPT, "--seed", 5)[1]


@pytest.mark.parametrize("other", [["--again"], ["--scale", 3], ["--negative", "a star"]])
def test_other_settings_are_made_and_again_makes_all(run, tmp_path, other):
    for _ in range(2):
        run("t2i", PROMPT, "--seed", 5)
    assert len(saved(tmp_path, "t2i", "png")) == 1
    run("t2i", PROMPT, "--seed", 5, *other)
    assert len(saved(tmp_path, "t2i", "png")) == 2


def test_another_model_of_the_same_name_is_not_the_same(run, tmp_path, model_folder, monkeypatch):
    run("t2i", PROMPT, "--seed", 5)
    monkeypatch.setattr(job, "fingerprint", lambda module: "trained on")
    run("t2i", PROMPT, "--seed", 5)
    assert len(saved(tmp_path, "t2i", "png")) == 2


@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_interrupt_keeps_what_is_finished_and_goes_on(run, tmp_path, monkeypatch, json_too):
    with monkeypatch.context() as patch:
        interrupt_at(patch, batch=1)
        status, out, err = run("t2i", PROMPT, "--n", 6, "--seed", 5, "--batch", 2, *json_too)
    assert status == 130
    assert err.splitlines()[-1] == (
        "interrupted; 2 of 6 results are saved, and the same command with --seed 5 makes the others"
    )
    first = saved(tmp_path, "t2i", "png")
    assert [read_record(path)["seed"] for path in first] == [5, 6]
    if json_too:
        document = json.loads(out)
        assert document["interrupted"]
        assert [result["path"] for result in document["results"]] == list(map(str, first))
    assert run("t2i", PROMPT, "--n", 6, "--seed", 5)[0] == 0
    seeds = [read_record(path)["seed"] for path in saved(tmp_path, "t2i", "png")]
    assert seeds == [5, 6, 7, 8, 9, 10]
    assert not [p for p in (tmp_path / "out").rglob(".*") if p.is_file()]


def test_interrupt_while_saving_saves_the_whole_batch_first(run, tmp_path, monkeypatch):
    real = files._place

    def pressed(*args: Path) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        real(*args)

    monkeypatch.setattr(files, "_place", pressed)
    status, _, err = run("t2i", PROMPT, "--n", 4, "--seed", 5, "--batch", 3)
    assert status == 130
    assert "3 of 4" in err
    assert len(saved(tmp_path, "t2i", "png")) == len(saved(tmp_path, "t2i", "json")) == 3


def test_interrupt_while_loading(run, monkeypatch):
    monkeypatch.setattr(cli, "load_model", lambda *a, **k: os.kill(os.getpid(), signal.SIGINT))
    status, _, err = run("t2i", PROMPT)
    assert (status, err) == (130, "interrupted\n")


def test_full_disk_is_one_sentence_and_keeps_what_is_saved(run, tmp_path, monkeypatch):
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(files.os, "fsync", full)
    status, out, err = run("t2i", PROMPT, "--n", 3, "--seed", 5, "--quiet")
    assert status == 1
    assert len(out.splitlines()) == len(saved(tmp_path, "t2i", "png")) == 2
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert "No space left on device" in err
    assert "2 of 3 results are saved" in err


def test_out_of_memory_is_one_sentence(run, monkeypatch):
    def denoise(*args: object, **options: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr(job, "denoise", denoise)
    status, _, err = run("t2i", PROMPT, "--quiet")
    assert status == 1
    assert err == (
        "error: CUDA out of memory. Tried to allocate 2 GiB. Try a smaller --batch, "
        "or --dtype float16.\n"
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["t2i", ""], "prompt is empty"),
        (["t2i", "red " * 100], "limit is 32"),
        (["t2i", PROMPT, "--steps-", "3"], "unrecognized"),
        (["t2i", PROMPT, "--n", "0"], "'0' is not allowed: give 1 to 100000"),
        (["t2i", PROMPT, "--n", "many"], "'many' is not allowed: give 1 to 100000"),
        (["t2i", PROMPT, "--seed", "-1"], "'-1' is not allowed: give 0 to 2**63 - 1"),
        (["t2i", PROMPT, "--scale", "nan"], "'nan' is not allowed: give 0 to 100"),
        (["t2i", PROMPT, "--eta", "2"], "'2' is not allowed: give 0 to 1"),
        (["t2i", PROMPT, "--dtype", "int8"], "invalid choice: 'int8'"),
        (["t2i", PROMPT, "--device", "gpu"], "device is 'gpu'"),
        (
            ["t2i", PROMPT, "--sampler", "plms"],
            "'plms' is not allowed: give ddim or dpmpp_2m",
        ),
        (["t2i", PROMPT, "--n", "100000000"], "is not allowed: give 1 to 100000"),
        (["t2i", PROMPT, "--scale", "1e10"], "is not allowed: give 0 to 100"),
        (["t2i", PROMPT, "--seed", "9" * 400], "is not allowed: give 0 to 2**63 - 1"),
        (["t2i", PROMPT, "--seed", "1,2,3", "--n", "2"], "3 seeds for 2 samples"),
        (["t2i", PROMPT, "--height", "30"], "choose a multiple of 4"),
        (["t2t", PROMPT, "--height", "32"], "unrecognized"),
        (["t2i"], "There is no prompt"),
        (["t2i", PROMPT, "--fidelity", "0.5"], "nothing to start from: give start="),
        (["t2i", "PICTURES/a.png"], "is a text here, but also a file"),
        (["t2i", PROMPT, "--prompts", "PICTURES/a.png"], "Both prompts and --prompts"),
        (["t2i", "--prompts", "none.txt"], "There is no file none.txt"),
        (["i2i", "missing.png"], "There is no file missing.png"),
        (["i2i", "x" * 5000 + ".png"], f"File name too long ({'x' * 200}...{'x' * 46}.png)."),
        (["i2i", "x" * 300 + ".png"], "File name too long"),
        (["t2i", "--context", "x" * 5000 + ".pt"], "File name too long"),
        (["i2t", "PICTURES/bad.png"], "not a picture"),
        (["i2t", "PICTURES/none"], "holds no pictures"),
        (["i2i", "PICTURES/a.png", "--fidelity", "1.5"], "'1.5' is not allowed: give 0 to 1"),
        (["x2y", "a"], "invalid choice: 'x2y'"),
    ],
)
def test_bad_input_is_one_sentence_and_makes_nothing(run, tmp_path, picture_files, argv, message):
    folder = picture_files[0].parent
    (folder / "bad.png").write_bytes(b"no picture")
    (folder / "none").mkdir()
    status, out, err = run(*(a.replace("PICTURES", str(folder)) for a in argv), "--quiet")
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert message in err
    assert not list((tmp_path / "out").rglob("*.*"))


def test_bad_steps_model_and_folder(run, tmp_path, model_folder, capsys):
    status, _, err = run("t2i", PROMPT, model="no-such-model")
    assert status == 2
    assert "There is no model 'no-such-model'" in err
    status, _, err = run("t2i", PROMPT, model="x" * 5000)
    assert status == 2 and len(err) < 500
    (tmp_path / "file").touch()
    options = ["--model", str(model_folder), "--out"]
    assert cli.main(["t2i", PROMPT, *options, str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert (
        cli.main(
            [
                "t2i",
                PROMPT,
                "--steps",
                "501",
                "--spacing",
                "released",
                *options,
                str(tmp_path / "out"),
            ]
        )
        == 2
    )
    assert "choose 1 to 500" in capsys.readouterr().err


def test_damaged_weights_are_one_sentence(run, tmp_path, model_folder):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in model_folder.glob("*.*"):
        (broken / path.name).write_bytes(path.read_bytes()[:500])
    (broken / "config.json").write_bytes((model_folder / "config.json").read_bytes())
    status, _, err = run("t2i", PROMPT, model=broken)
    assert status == 2
    assert err.startswith("error: ")
    assert "damaged" in err
    assert len(err.splitlines()) == 1


def test_seed_is_drawn_and_can_be_given_again(run, tmp_path):
    run("t2i", PROMPT)
    (first,) = saved(tmp_path, "t2i", "png")
    status, out, _ = run("t2i", PROMPT, "--seed", read_record(first)["seed"])
    assert status == 0
    assert out.startswith(str(first))


@pytest.mark.parametrize("command", list(MODES))
def test_the_example_of_the_help_parses(command):
    args = cli.build_parser(command).parse_args(shlex.split(MODES[command].example))
    assert args.command == command


def test_prompts_from_a_file(run, tmp_path):
    lines = [{"prompt": "a ring"}, {"prompt": PROMPT}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    status, _, err = run("t2i", "--prompts", tmp_path / "x.jsonl", "--seed", 4, "--quiet")
    assert (status, err) == (0, "")
    records = [read_record(path) for path in saved(tmp_path, "t2i", "png")]
    assert [record["prompt"] for record in records] == ["a ring", PROMPT]


def test_what_other_programs_call_an_option_is_told_in_python_only(run):
    """The shell has the flags of `--help`; a hint would have to guess what was meant."""
    status, _, err = run("t2i", PROMPT, "--guidance_scale", 3)
    assert status == 2 and "unrecognized arguments: --guidance_scale" in err


def test_as_a_program(tmp_path, model_folder):
    command = [sys.executable, "-m", "analysis", "t2i", PROMPT, "--seed", "20", "--json"]
    options = ["--model", str(model_folder), "--out", str(tmp_path), "--steps", "2"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert Path(result["path"]) == tmp_path / "t2i" / "0001_a-large-red-circle_seed20.png"
    assert Path(result["path"]).is_file()


@pytest.mark.parametrize("device", ["meta", "xpu", "hpu", "cuda:99", "cpu:3"])
def test_a_device_that_is_not_here_is_one_sentence(run, tmp_path, device):
    status, out, err = run("t2i", PROMPT, "--device", device)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: device is {device!r}")
    assert len(err.splitlines()) == 1
    assert not saved(tmp_path, "t2i", "png")


def test_damaged_tokenizers_are_one_sentence(run, tmp_path, model_folder):
    broken = tmp_path / "broken"
    for path in model_folder.rglob("*.*"):
        copy = broken / path.relative_to(model_folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (broken / "tokenizers" / "clip" / "vocab.json").write_text("{")
    status, out, err = run("t2i", PROMPT, "--quiet", model=broken)
    assert (status, out) == (2, "")
    assert "tokenizers/clip is damaged" in err
    assert len(err.splitlines()) == 1


def test_overflow_in_the_decoder_is_one_sentence(tmp_path, model_folder, capsys):
    huge = tmp_path / "huge.npy"
    np.save(huge, np.full((1, 4, 8, 8), 1e30, np.float32))
    options = ["--model", str(model_folder), "--out", str(tmp_path / "out"), "--quiet"]
    assert cli.main(["t2i", PROMPT, "--fidelity", "1", "--start", str(huge), *options]) == 1
    out, err = capsys.readouterr()
    assert (out, err.startswith("error: Sampling left the range")) == ("", True)
    assert len(err.splitlines()) == 1
    assert not saved(tmp_path, "t2i", "png")
