"""What trackers are told is what the log says."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.training.test_loop import Toy, recipe
from training.loop import train
from training.tracking import tracker


def test_tensorboard_gets_the_numbers_of_the_log(tmp_path):
    train(Toy(recipe()), tmp_path / "runs", track=("tensorboard", tmp_path / "board"))
    log = (tmp_path / "runs" / "toy" / "log.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in log]
    events = EventAccumulator(str(tmp_path / "board" / "toy"))
    events.Reload()
    for name in ("loss", "norm", "lr"):
        got = [(event.step, event.value) for event in events.Scalars(name)]
        assert got == [(line["step"], pytest.approx(line[name], rel=1e-5)) for line in lines]


def test_a_tracker_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="nothing"), tracker("nothing", tmp_path, "run"):
        pass
    needed = pytest.raises(ValueError, match="needs its package: `pip install comet_ml`")
    with needed, tracker("comet_ml", tmp_path, "run"):
        pass
