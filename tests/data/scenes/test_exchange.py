"""Exchanged words: any beside any, but nothing that is kept from training."""

import re

import numpy as np
import pytest

from data.scenes.captions import CaptionError, read_attributes, write
from data.scenes.exchange import AFTER, NAMES, exchange, names_held_out
from data.scenes.samples import SceneSamples
from data.scenes.world import COLORS, HELD_OUT, SHAPES, Scene, is_training, sample_scene


@pytest.fixture(scope="module")
def made() -> list[tuple[str, str]]:
    """Captions of training scenes, and what became of them."""
    rng = np.random.default_rng(0)
    captions = [write(sample_scene(rng), rng, complete=k % 4 > 0) for k in range(4000)]
    return [(caption, exchange(caption, rng)) for caption in captions]


def test_only_names_are_exchanged_and_articles_fit(made):
    for before, after in made:
        assert len(before.split()) == len(after.split())
        for old, new in zip(before.split(), after.split(), strict=True):
            assert old == new or old in NAMES or {old, new} == {"a", "an"}
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", after)


def test_nothing_that_is_held_out_is_told(made):
    truths = 0
    for _, text in made:
        for color, shape in HELD_OUT:
            assert f"{color} {shape}" not in text and f"{shape} {color}" not in text
        try:
            said = read_attributes(text)
        except CaptionError:
            continue
        assert not {(said[f"color{k}"], said[f"shape{k}"]) for k in (1, 2)} & set(HELD_OUT)
        try:
            assert is_training(Scene.from_attributes(said))
        except ValueError:  # left open
            continue
        truths += 1
    assert 100 < truths < 3000  # most are nonsense


def test_all_names_stand_before_all_names_but_what_is_held_out(made):
    met = {pair for _, text in made for pair in zip(text.split(), text.split()[1:], strict=False)}
    never = {(a, b) for a in NAMES for b in NAMES} - met
    assert never == {(a, b) for c, s in HELD_OUT for a, b in ((c, s), (s, c))}
    assert all(("large", shape) in met for shape in SHAPES)
    assert all((color, "dotted") in met for color in COLORS)


@pytest.mark.parametrize(
    "text",
    [
        "a red ring",
        "a red small ring",
        "a ring red",
        "a ring a red",
        "red on white, a ring",
        "a blue heart above a red blue ring",
    ],
)
def test_a_pair_is_found_however_a_reader_takes_it(text):
    assert names_held_out(text.split())


@pytest.mark.parametrize("text", ["a red heart above a ring", "a ring over a large red heart"])
def test_both_words_may_be_there_apart(text):
    assert AFTER < 4 and not names_held_out(text.split())


def test_samples_answer_nonsense_with_itself():
    rng = np.random.default_rng(3)
    world = [sample_scene(rng) for _ in range(60)]
    plain = SceneSamples(world, np.empty((60, 0)))
    samples = SceneSamples(world, np.empty((60, 0)), exchanged=0.5)
    asked = samples.captions(range(60), rng)
    answers = samples.targets(range(60), np.random.default_rng(1), asked)
    usual = plain.targets(range(60), np.random.default_rng(1), asked)
    said, labels = samples.read(asked), samples.labels(range(60))
    true = ((said < 0) | (said == labels)).all(1) & (said >= 0).any(1)
    assert 20 < true.sum() < 45
    for tells, question, answer, wanted in zip(true, asked, answers, usual, strict=True):
        assert answer == (wanted if tells else question)
    # nothing asked is answered by the scene
    assert samples.targets(range(60), np.random.default_rng(1), [""] * 60) == usual
    assert samples.identity() == plain.identity() | {"exchanged": 0.5}
