"""Drawings as training samples: what is shown is what is told."""

import numpy as np
import pytest
import torch

from data.emoji import load
from data.emoji.captions import GROUNDS
from data.emoji.samples import EmojiSamples, concrete


@pytest.fixture(scope="module")
def samples() -> EmojiSamples:
    drawings = concrete(load())
    return EmojiSamples(
        drawings.where(np.arange(40)), grounds=3, concepts=drawings.concept.tolist()
    )


def test_concrete_things_are_drawn_by_all_artists():
    drawings = concrete(load())
    drawn = np.bincount(drawings.concept)
    assert set(drawn[drawn > 0]) == {8}
    names = {drawings.concepts[i].english for i in drawings.concept}
    assert {"frog", "rocket", "castle"} <= names
    assert not {"heart", "back arrow", "kissing face"} & names


def test_pictures_lie_on_the_ground_that_is_told(samples):
    indices = range(len(samples))
    pictures = samples.pictures(indices, np.random.default_rng(0))
    assert pictures.shape == (120, 3, 64, 64)
    grounds = list(GROUNDS.values())
    corner = (pictures[:, :, 0, 0] * 255).round()
    told = torch.tensor([grounds[int(g)][1] for g in samples.labels(indices)[:, 2]])
    assert (corner == told).all(1).float().mean() > 0.9  # a drawing may fill its corner
    assert set(samples.labels(range(0, 120, 3))[:, 2].tolist()) == {0}  # the first is on white


def test_captions_say_only_what_is_there(samples):
    indices = np.arange(len(samples)).repeat(5)
    texts = samples.captions(indices, np.random.default_rng(0))
    said, seen = samples.read(texts), samples.labels(indices)
    assert ((said == seen) | (said == -1)).all()
    assert 0.5 < (said >= 0).all(1).float().mean() < 0.75
    assert torch.equal(samples.read(samples.targets(indices, np.random.default_rng(0))), seen)


def test_a_sample_is_called_what_is_drawn(samples):
    keys = [samples.key(index) for index in range(len(samples))]
    assert len(set(keys)) == len(keys) == 120
    assert all(key.endswith(" on white") for key in keys[::3])
    read = samples.read([key.replace(" by ", ", ").replace(" on ", ", ") for key in keys])
    assert torch.equal(read, samples.labels(range(len(samples))))


def test_targets_answer_what_is_asked_in_the_language_that_is_asked_for(samples):
    rng = np.random.default_rng(0)
    questions = ["in English", "en français", "", "en français: a frog", "une grenouille, noto"]
    answers = samples.targets([0] * 5, rng, questions)
    read = [samples.grammar.read(answer) for answer in answers]
    assert [said.language for said in read] == ["english", "french", "english", "french", "french"]
    assert [said.parts for said in read[:3]] == [("concept", "artist", "ground")] * 3
    assert read[3].parts == ("concept",)
    assert read[4].parts == ("concept", "artist")


def test_the_same_generator_gives_the_same_pictures(samples):
    a, b = (samples.pictures([5, 6], np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, samples.pictures([5, 6], np.random.default_rng(4)))
    still = EmojiSamples(samples.drawings, grounds=1, jitter=False)
    a, b = (still.pictures([5], np.random.default_rng(k)) for k in range(2))
    assert torch.equal(a, b)
