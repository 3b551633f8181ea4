"""Damaged files in a run folder are named in one sentence, or made again."""

import json

import numpy as np
import pytest
import torch

from lib.files import write_atomic
from tests.training.test_loop import Toy, recipe
from training.__main__ import main
from training.cache import CHUNK, _encoded
from training.export import current_spec, recorded
from training.loop import train
from training.plots import plot_losses, read_log
from training.stages import warm_start

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


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.pop("run"),
        lambda state: state.pop("seconds"),
        lambda state: state.update(seconds="x"),
        lambda state: state.update(fingerprint=[]),
        lambda state: state.pop("modules"),
        lambda state: state.update(modules=3),
        lambda state: state["modules"].update({"a.weight": torch.zeros(9, 9)}),
        lambda state: state["modules"].update({"a.weight": None}),
        lambda state: state["modules"].pop("a.weight"),
        lambda state: state.update(optimizer={}),
        lambda state: state["optimizer"].update(param_groups=[]),
        lambda state: state["optimizer"]["state"].update({0: 3}),
        lambda state: state.update(ema=[]),
        lambda state: state["ema"].__setitem__(0, torch.zeros(2, 2)),
    ],
)
def test_a_checkpoint_that_lacks_something_is_one_sentence(damage, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(Toy(recipe(), stop_after=4), tmp_path)
    path = tmp_path / "toy" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    damage(state)
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"checkpoint.pt is no checkpoint of this program \(.*del"):
        train(Toy(recipe()), tmp_path)


def test_what_the_machine_says_of_a_checkpoint_is_not_its_fault(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        train(Toy(recipe(), stop_after=4), tmp_path)
    for error in (MemoryError(), PermissionError(13, "Permission denied")):

        def failing(*arguments, error=error, **more):
            raise error

        monkeypatch.setattr(torch, "load", failing)
        with pytest.raises(type(error)):
            train(Toy(recipe()), tmp_path)


@pytest.mark.parametrize("held", [3, {"modules": [1]}, {"modules": {1: torch.zeros(1)}}])
def test_a_start_from_something_else_is_one_sentence(held, tmp_path):
    torch.save(held, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x.pt holds nothing that toy trains: give another"):
        warm_start(Toy(recipe()), tmp_path / "x.pt")


def test_a_damaged_cache_is_made_again(tmp_path):
    calls, n, path = [], CHUNK + 5, tmp_path / "latents-x.npy"

    def encode(rows: range) -> torch.Tensor:
        calls.append(rows)
        return torch.arange(rows.start, rows.stop)[:, None] * torch.ones(2)

    def encoded() -> np.ndarray:
        return _encoded(path, n, encode, torch.device("cpu"))

    wanted = np.arange(n)[:, None] * np.ones(2)
    assert np.array_equal(encoded(), wanted) and encoded().dtype == np.float16
    assert calls == [range(CHUNK), range(CHUNK, n)]
    good = path.read_bytes()
    for damaged in (b"", good[:100], good[:-1], b"[" * 100_000):
        write_atomic(path, damaged)
        calls.clear()
        assert np.array_equal(encoded(), wanted) and len(calls) == 2
        assert path.read_bytes() == good


@pytest.mark.parametrize("place", ["--runs", "--out"])
@pytest.mark.parametrize("where", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_one_sentence(place, where, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("training.vocabulary.CORPUS", 50)
    (tmp_path / "file").write_text("")
    places = {"--runs": tmp_path / "runs", "--out": tmp_path / "out"} | {place: tmp_path / where}
    words = [str(word) for pair in places.items() for word in pair]
    assert main(["autoencoder", "--scenes", "64", "--steps", "1", *words]) in (1, 2)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and "file" in error and len(error) < 300
