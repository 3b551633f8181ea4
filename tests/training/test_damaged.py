"""Damaged files in a run folder are named in one sentence, or made again."""

import json

import pytest

from tests.training.test_loop import Toy, recipe
from training.export import current_spec, recorded
from training.loop import train
from training.plots import plot_losses, read_log

DEEP = "[" * 100_000


@pytest.fixture
def finished(tmp_path):
    train(Toy(recipe()), tmp_path)
    return tmp_path / "toy"


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        '{"steps": 12, "measured": {',
        "[]",
        '{"steps": 12}',
        '{"steps": "x", "measured": {}, "fingerprint": {}}',
        '{"steps": 12, "measured": {"a": "b"}, "fingerprint": {}}',
        '{"steps": 12, "measured": {}, "fingerprint": 3}',
        b"\xff\xfe\xfa",
    ],
)
def test_what_a_finished_run_left_is_named_and_made_again(finished, content):
    path = finished / "measured.json"
    good = json.loads(path.read_text())
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"measured.json is damaged \(.*\): delete it, and"):
        train(Toy(recipe()), finished.parent)
    path.unlink()
    assert train(Toy(recipe()), finished.parent) == good["measured"]
    again = json.loads(path.read_text())
    assert again == good | {"seconds": again["seconds"]}


def test_damaged_lines_of_a_log_are_passed_over(finished, tmp_path):
    path = finished / "log.jsonl"
    good = path.read_text().splitlines()
    damaged = [DEEP, "3", "null", '{"loss": 1}', '{"step": "x"}', '{"step": 3, "lo', "\ufffd"]
    path.write_text("\n".join([*damaged, good[0], *damaged, *good[1:]]) + "\n\n")
    path.write_bytes(path.read_bytes() + b"\xff\n")
    assert read_log(path) == [json.loads(line) for line in good]
    plot_losses(path, tmp_path / "losses.png")
    assert (tmp_path / "losses.png").stat().st_size > 1000
    (finished / "measured.json").unlink()
    train(Toy(recipe()), finished.parent)  # which takes up the log again
    assert path.read_text().splitlines() == good


def test_without_a_log_there_is_no_plot(tmp_path):
    (tmp_path / "log.jsonl").write_text('nothing\n{"step": 3, "seconds": 1}\n')
    for log in ("log.jsonl", "none.jsonl"):
        plot_losses(tmp_path / log, tmp_path / "losses.png")
    assert not (tmp_path / "losses.png").exists()


@pytest.mark.parametrize("content", [DEEP, "[]", "{", '{"clip": 3}'])
def test_the_record_of_a_model_is_named(content, tmp_path):
    assert recorded(tmp_path) == {}
    (tmp_path / "training.json").write_text(content)
    with pytest.raises(ValueError, match=r"training.json is damaged \(.*\): remove it"):
        recorded(tmp_path)


@pytest.mark.parametrize("content", [DEEP, "[]", '{"unet": {"model_channels": 0}, "name": "x"}'])
def test_the_configuration_of_a_model_is_named(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json"):
        current_spec(tmp_path, None)
