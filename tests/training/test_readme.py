"""The README of training: every command in it, as written, on a small folder of pictures."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from analysis import cli
from lib.checkpoints import load
from training import __main__ as training

README = (Path(training.__file__).parent / "README.md").read_text(encoding="utf-8")
MAINS = {"training": training.main, "analysis": cli.main}
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_every_command_runs_as_written(tmp_path, monkeypatch, capsys):
    """In one process, which spares the seconds that each import takes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("training.vocabulary.CORPUS", 200)  # texts, of which these have few
    rng = np.random.default_rng(0)
    Path("pictures").mkdir()
    for k in range(6):
        pixels = rng.integers(0, 255, (70, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"pictures/{k}.png")
        Path(f"pictures/{k}.txt").write_text(f"a caption as yours are, number {k}\n")
    ran = 0
    for language, block in BLOCKS:
        if language == "python":
            exec(compile(block, "README.md", "exec"), {})
            continue
        for line in block.splitlines():
            python, option, name, *arguments = shlex.split(line)
            assert (python, option) == ("python", "-m")
            assert MAINS[name](arguments) == 0, (line, capsys.readouterr().err[-500:])
            ran += 1
    assert ran == 8
    assert {p.name for p in Path("output/try").iterdir()} >= {"t2i", "i2t", "i2i"}
    learned = load_file("runs/lora/lora/adapter_model.safetensors")
    assert all(value.any() for key, value in learned.items() if ".lora_B." in key)
    merged, base = (load(f"runs/{name}", device="cpu") for name in ("lora/merged", "try/model"))
    assert merged.available == base.available and len(base.available) == 11


def test_other_commands_are_ones_that_exist():
    """Those in prose, and the options that tables name."""
    parser = training._parser()
    lines = re.findall(r"`python -m training ([^`]+)`", README)
    assert lines
    for line in lines:
        parser.parse_args(shlex.split(line))
    flags = {flag for action in parser._actions for flag in action.option_strings}
    prose = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"(--[a-z][a-z-]+)", prose))
    assert named - flags == {"--standalone", "--nproc-per-node"}
    assert flags - set(re.findall(r"--[a-z][a-z-]+", README)) == {"-h", "--help"}
    rows = "".join(re.findall(r"^\|.*$", README, re.MULTILINE))
    for cell in re.findall(r"`(--[^`]+)`", rows):
        parser.parse_args(["flows", *shlex.split(cell)])


@pytest.mark.parametrize("rate", ["nan", "0", "-1", "x"])
def test_a_rate_is_a_positive_number(rate, capsys):
    with pytest.raises(SystemExit) as stop:
        training.main(["flows", "--lr", rate])
    assert stop.value.code == 2 and rate in capsys.readouterr().err
