import itertools

import numpy as np
import pytest

from data.scenes.world import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLORS,
    HELD_OUT,
    SHAPES,
    SIZES,
    SPLITS,
    STYLES,
    Scene,
    Thing,
    is_test,
    is_training,
    is_validation,
    sample_scene,
    split,
)

RED, BLUE = Thing("large", "red", "circle"), Thing("small", "blue", "square")


def pair(relation, things=(RED, BLUE)):
    return Scene("white", "flat", things, relation)


@pytest.mark.parametrize(("one", "other"), [("left of", "right of"), ("above", "below")])
def test_a_pair_told_from_either_side_is_one_scene(one, other):
    scene, same = pair(one), pair(other, (BLUE, RED))
    assert scene == same and hash(scene) == hash(same) and scene.key() == same.key()
    assert same.canonical().things == (RED, BLUE) and same.canonical().relation == one
    assert scene != pair(other) and scene != pair(one, (BLUE, RED))
    assert scene.swapped().things == (BLUE, RED) and scene.swapped().relation == other
    assert scene != "a scene"


def test_attributes_invert():
    rng = np.random.default_rng(0)
    for _ in range(500):
        scene = sample_scene(rng, None)
        values = scene.attributes()
        assert tuple(values) == ATTRIBUTES
        assert Scene.from_attributes(values) == scene


def test_attributes_of_one_thing():
    assert Scene("cyan", "dotted", (BLUE,)).attributes() == {
        "background": "cyan",
        "style": "dotted",
        "count": 1,
        "relation": None,
        "size1": "small",
        "color1": "blue",
        "shape1": "square",
        "size2": None,
        "color2": None,
        "shape2": None,
    }


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Thing("huge", "red", "circle"), "'huge'.*small, large"),
        (lambda: Thing("small", "teal", "circle"), "'teal'"),
        (lambda: Thing("small", "red", "blob"), "'blob'"),
        (lambda: Scene("black", "flat", (RED,)), "background is 'black'"),
        (lambda: Scene("white", "shiny", (RED,)), "style is 'shiny'"),
        (lambda: Scene("white", "flat", ()), "1 or 2 things, not 0"),
        (lambda: Scene("white", "flat", (RED, BLUE, RED), "above"), "not 3"),
        (lambda: Scene("white", "flat", (RED,), "above"), "one thing has no relation"),
        (lambda: pair(None), "relation is None"),
        (lambda: pair("behind"), "'behind'"),
        (lambda: pair("above", (RED, RED)), "both things are a large red circle"),
        (lambda: Scene("white", "flat", ("red circle",)), "'red circle'; give Thing"),
        (lambda: Scene.from_attributes({"count": 3}), "count is 3"),
        (lambda: Scene.from_attributes({"colour": "red"}), "unknown attributes.*colour"),
        (
            lambda: Scene.from_attributes(pair("above").attributes() | {"count": 1}),
            "count is 1, but",
        ),
        (lambda: sample_scene(np.random.default_rng(0), n_things=3), "n_things is 3"),
        (lambda: split("train", 3), "split is 'train'.*test, heldout, validation"),
        (lambda: split("test", -1), "n is -1"),
    ],
)
def test_what_makes_no_scene_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_held_out_pairs_use_every_color_and_shape_once():
    assert sorted(color for color, _ in HELD_OUT) == sorted(COLORS)
    assert sorted(shape for _, shape in HELD_OUT) == sorted(SHAPES)


def test_training_scenes_hold_nothing_held_out_or_reserved():
    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng) for _ in range(3000)]
    for scene in scenes:
        assert not any((t.color, t.shape) in HELD_OUT for t in scene.things)
        assert not is_test(scene) and not is_validation(scene) and is_training(scene)
    pairs = {(t.color, t.shape) for scene in scenes for t in scene.things}
    assert pairs == set(itertools.product(COLORS, SHAPES)) - set(HELD_OUT)
    assert 0.56 < np.mean([len(scene.things) == 2 for scene in scenes]) < 0.64


@pytest.mark.parametrize("n_things", [1, 2])
def test_sampling_held_out(n_things):
    rng = np.random.default_rng(2)
    scenes = [sample_scene(rng, held_out=True, n_things=n_things) for _ in range(300)]
    assert all(scene.held_out and len(scene.things) == n_things for scene in scenes)
    assert not any(is_training(scene) for scene in scenes)


def test_sampling_anything_reaches_all_kinds():
    rng = np.random.default_rng(3)
    scenes = [sample_scene(rng, held_out=None) for _ in range(1000)]
    for kind in (is_test, is_validation, is_training, lambda scene: scene.held_out):
        assert any(map(kind, scenes))


@pytest.mark.parametrize("name", SPLITS)
def test_splits_are_fixed_and_never_trained_on(name):
    scenes = split(name, 300, seed=5)
    assert scenes == split(name, 300, seed=5) and scenes[:40] == split(name, 40, seed=5)
    assert scenes != split(name, 300, seed=6)
    assert not any(is_training(scene) for scene in scenes)
    assert all(scene.held_out == (name == "heldout") for scene in scenes)
    assert {len(scene.things) for scene in split(name, 50, n_things=1)} == {1}


def test_splits_share_no_scene():
    sets = [set(split(name, 400)) for name in ("test", "validation")]
    assert not sets[0] & sets[1]


def test_the_reserve_is_the_documented_hash():
    """The keys and their hash are a promise: changing either would leak test scenes."""
    scene = Scene("white", "flat", (BLUE, RED), "right of")
    assert scene.key() == "white|flat|2|left of|large|red|circle|small|blue|square"
    lone = Scene("white", "flat", (RED,))
    assert lone.key() == "white|flat|1|None|large|red|circle|None|None|None"


def test_about_a_sixteenth_of_lone_things_is_reserved_evenly():
    things = itertools.product(SIZES, COLORS, SHAPES)
    scenes = [
        Scene(background, style, (Thing(*thing),))
        for thing in things
        for background in BACKGROUNDS
        for style in STYLES
    ]
    assert len(scenes) == 2048
    test = [scene for scene in scenes if is_test(scene)]
    assert 0.05 < len(test) / 2048 < 0.075
    for name in ("background", "style", "size1", "color1", "shape1"):
        values = {scene.attributes()[name] for scene in test}
        assert values == {scene.attributes()[name] for scene in scenes}
