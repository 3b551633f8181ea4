"""What `python -m training` says to people."""

import pytest

from training.__main__ import main


def test_flows_before_their_encoders_are_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("training.vocabulary.CORPUS", 50)
    out = tmp_path / "model"
    arguments = ["flows", "--runs", str(tmp_path), "--out", str(out), "--scenes", "64"]
    assert main(arguments) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert str(out) in error


@pytest.mark.parametrize("wrong", [["sleep"], ["flows", "--steps", "0"], ["flows", "--steps", "x"]])
def test_wrong_arguments_are_refused(wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        main(wrong)
    assert stop.value.code == 2
    assert wrong[-1] in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupted(name, args):
        raise KeyboardInterrupt

    monkeypatch.setattr("training.stages.run", interrupted)
    assert main(["classifier", "--runs", str(tmp_path)]) == 130
    assert "goes on from the last checkpoint" in capsys.readouterr().err
