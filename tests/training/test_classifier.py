"""The stage that trains the judge of drawings, on features that are computed once."""

import json

import numpy as np
import pytest
import torch

from data.captioned_samples import CaptionedSamples
from data.emoji import judge as module
from data.emoji.judge import load_judge
from lib.files import write_atomic
from lib.images import to_pil
from tests.data.emoji.frozen import Colors
from tests.training.tiny_stages import RECIPE, check, drawing_samples, folder_samples
from training.classifier import ClassifierStage


@pytest.fixture
def frozen(monkeypatch):
    monkeypatch.setattr(module, "Frozen", Colors)


def test_the_head_is_trained_measured_and_kept(frozen, tmp_path):
    samples = drawing_samples(None)
    out, runs = tmp_path / "judge", tmp_path / "runs"
    runs.mkdir()
    stage = ClassifierStage(samples, samples, samples, out, RECIPE, runs, count=20)
    check(stage)
    again = ClassifierStage(samples, samples, samples, out, RECIPE, runs, count=20)
    assert len(list(runs.glob("judge-*"))) == 1
    assert torch.equal(again.seen_before["features"], stage.seen_before["features"])
    (path,) = runs.glob("judge-*")
    good = path.read_bytes()
    write_atomic(path, good[:99])  # damaged: made again
    again = ClassifierStage(samples, samples, samples, out, RECIPE, runs, count=20)
    assert torch.equal(again.seen_before["features"], stage.seen_before["features"])
    assert path.read_bytes() == good
    stage.modules.eval()
    measured = stage.measure()
    assert set(samples.attributes) <= set(measured)
    stage.export(measured, 60.0)
    told = json.loads((out / "training.json").read_text())["judge"]
    assert told["recipe"]["batch"] == RECIPE.batch and told["minutes"] == 1.0
    pictures = samples.pictures(range(4), np.random.default_rng(0))
    read = load_judge(out).read(to_pil(pictures))
    wanted = samples.labels(range(4))
    for k, (name, rows) in enumerate(read.items()):
        assert rows.shape == (4, len(samples.attributes[name]))
        right = (rows.argmax(1) == wanted[:, k].numpy()).mean()
        assert 0 <= right <= 1


def test_what_another_network_sees_is_not_taken_for_its_own(frozen, tmp_path, monkeypatch):
    samples = drawing_samples(None)
    first = ClassifierStage(samples, samples, samples, tmp_path, RECIPE, tmp_path, count=4)
    monkeypatch.setattr(Colors, "GAINS", (1.0, 2.0))
    other = ClassifierStage(samples, samples, samples, tmp_path, RECIPE, tmp_path, count=4)
    assert len(list(tmp_path.glob("judge-*"))) == 2
    assert not torch.equal(first.seen_before["features"], other.seen_before["features"])


def test_captions_alone_are_no_subject(frozen, tmp_path):
    samples: CaptionedSamples = folder_samples(tmp_path / "pictures")
    with pytest.raises(ValueError, match="A classifier needs attributes"):
        ClassifierStage(samples, samples, samples, tmp_path, RECIPE, tmp_path)
