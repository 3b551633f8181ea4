"""`python -m data`: what it says, and how it ends."""

import pytest

from data.__main__ import main
from data.emoji import prepare


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left"), 1)]
)
def test_what_is_not_the_request_s_fault(error, status, tmp_path, monkeypatch, capsys):
    def failing(*arguments):
        raise error

    monkeypatch.setattr(prepare, "prepare", failing)
    assert main(["emoji", str(tmp_path)]) == status
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_packages_that_are_not_there(tmp_path, capsys):
    assert main(["emoji", str(tmp_path / "set"), "--packages", str(tmp_path)]) == 2
    assert f"{tmp_path}" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
