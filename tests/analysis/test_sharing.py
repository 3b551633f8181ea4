"""Processes that share a job write the very files that one process alone writes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysis.cli import main
from analysis.modes import text_to_image
from analysis.modes.job import make
from analysis.modes.shell import share_of

ROOT = Path(__file__).resolve().parents[2]
N = 5


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle\na blue square\na green star\n")
    return path


def job(vd):
    return text_to_image.job(vd, "a red circle", n=N, seed=3, steps=2, batch_size=2)


def files(out: Path) -> dict[str, bytes]:
    """Name -> pixels of every picture; nothing else but records may lie there."""
    folder = out / "t2i"
    assert {path.suffix for path in folder.iterdir()} == {".png", ".json"}
    return {path.name: np.asarray(Image.open(path)).tobytes() for path in folder.glob("*.png")}


@pytest.fixture
def alone(vd, tmp_path):
    make(job(vd), tmp_path / "alone", progress=False)
    return files(tmp_path / "alone")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shares_in_any_order_are_the_files_of_one_process(vd, alone, tmp_path, order):
    for share in order:
        make(job(vd), tmp_path / "shared", progress=False, share=(share, 3))
    shared = files(tmp_path / "shared")
    assert shared.keys() == alone.keys() and len(shared) == N
    apart = [
        np.abs(np.frombuffer(shared[k], np.uint8) - np.frombuffer(alone[k], np.uint8).astype(int))
        for k in alone
    ]
    assert max(a.max() for a in apart) <= 1  # other batches: up to the rounding of sums


def test_a_killed_share_goes_on_under_the_same_names(vd, alone, tmp_path):
    def stop(saved):
        raise KeyboardInterrupt

    make(job(vd), tmp_path / "out", progress=False, share=(1, 2))
    with pytest.raises(KeyboardInterrupt):
        make(job(vd), tmp_path / "out", progress=False, share=(0, 2), report=stop)
    seen = []
    for share in ((0, 2), (1, 2), (0, 2)):
        make(job(vd), tmp_path / "out", progress=False, share=share, report=seen.append)
    assert files(tmp_path / "out").keys() == alone.keys()
    assert [result.new for result in seen].count(False) > N  # nothing was made twice


def test_numbers_that_others_took_meanwhile_are_theirs(vd, tmp_path):
    folder = tmp_path / "out" / "t2i"
    make(job(vd), tmp_path / "out", progress=False, share=(0, 2))
    (folder / "0002_of-somebody-else_seed1.png").write_bytes(b"theirs")
    make(job(vd), tmp_path / "out", progress=False, share=(1, 2))
    names = sorted(path.name[:4] for path in folder.glob("*.png"))
    assert names == ["0001", "0002", "0003", "0004", "0005", "0006"]
    assert (folder / "0002_of-somebody-else_seed1.png").read_bytes() == b"theirs"


def test_two_processes_of_a_launcher(model_folder, prompts, tmp_path):
    command = [sys.executable, "-m", "analysis", "t2i", "--prompts", prompts, "--n", 2, "--seed", 3]
    command += ["--steps", 2, "--model", model_folder, "--quiet", "--out", tmp_path / "both"]
    started = [
        subprocess.Popen(
            list(map(str, command)),
            cwd=ROOT,
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
        )
        for rank in range(2)
    ]
    assert [process.wait() for process in started] == [0, 0]
    assert main([str(a) for a in [*command[3:-1], tmp_path / "one"]]) == 0
    assert files(tmp_path / "both").keys() == files(tmp_path / "one").keys()


@pytest.mark.parametrize("told", ["2/2", "1", "-1/2", "a/b", "1/0"])
def test_a_share_is_one_of_its_number(told):
    with pytest.raises(ValueError, match="give I/N"):
        share_of(told)


def test_launchers_tell_their_processes(monkeypatch):
    assert share_of(None) == (0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert share_of(None) == (1, 4)
    assert share_of("0/2") == (0, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [((), "give --seed"), (("--seed", "1", "--sheet"), "show all results")],
)
def test_what_a_share_cannot_do(model_folder, capsys, options, message):
    assert main(["t2i", "a", "--model", str(model_folder), "--share", "0/2", *options]) == 2
    assert message in capsys.readouterr().err
