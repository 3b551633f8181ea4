import numpy as np
import pytest

from data.scenes.captions import (
    VOCABULARY,
    CaptionError,
    canonical_caption,
    parse,
    read_attributes,
    write,
)
from data.scenes.world import Scene, Thing, sample_scene

RED, BLUE = Thing("large", "red", "circle"), Thing("small", "blue", "square")
PAIR = Scene("white", "striped", (RED, BLUE), "above")


def test_what_is_written_reads_back():
    rng = np.random.default_rng(0)
    for _ in range(4000):
        scene = sample_scene(rng, None)
        text = write(scene, rng)
        assert parse(text) == scene, text
        assert parse(text.upper() + "!") == scene
        assert parse(canonical_caption(scene)) == scene


def test_form_of_captions():
    rng = np.random.default_rng(1)
    lengths, words = [], set()
    for _ in range(4000):
        text = write(sample_scene(rng, None), rng)
        assert text == text.lower() and text.count(",") <= 1
        assert text.replace(",", "").replace(" ", "").isalpha()
        said = text.replace(",", "").split()
        lengths.append(len(said))
        words |= set(said)
    assert max(lengths) <= 26 and 12 < np.mean(lengths) < 18
    assert words == VOCABULARY and len(VOCABULARY) <= 90


def test_one_scene_has_many_captions_whichever_way_it_is_given():
    rng = np.random.default_rng(2)
    assert len({write(PAIR, rng) for _ in range(2000)}) > 500
    for seed in range(20):
        one = write(PAIR, np.random.default_rng(seed))
        assert one == write(PAIR.swapped(), np.random.default_rng(seed))


def test_reading_order_names_the_left_or_upper_thing_first_in_any_words():
    rng = np.random.default_rng(4)
    texts = [write(PAIR, rng, reading_order=True) for _ in range(2000)]
    assert all(parse(text) == PAIR for text in texts)
    assert all(text.index("red circle") < text.index("blue square") for text in texts)
    assert len(set(texts)) > 250
    words = set(" ".join(texts).split())
    assert {"above", "over", "below", "under"} <= words
    usual = [write(PAIR, rng) for _ in range(2000)]
    share = np.mean([text.index("red circle") < text.index("blue square") for text in usual])
    assert 0.45 < share < 0.55


def test_incomplete_captions_say_only_what_is_true():
    rng = np.random.default_rng(3)
    left_out = {"background": 0, "style": 0, "size1": 0, "color1": 0, "shape1": 0, "relation": 0}
    for _ in range(2000):
        scene = sample_scene(rng, None, n_things=2)
        said, whole = read_attributes(write(scene, rng, complete=False)), scene.attributes()
        assert all(value in (None, whole[name]) for name, value in said.items())
        for name in left_out:
            left_out[name] += said[name] is None
    assert 900 < left_out["background"] < 1100 and 900 < left_out["style"] < 1100
    assert 140 < left_out["size1"] < 260
    assert left_out["color1"] == left_out["shape1"] == left_out["relation"] == 0


def test_the_canonical_caption():
    text = "a striped picture of a large red circle above a small blue square on a white background"
    assert canonical_caption(PAIR) == canonical_caption(PAIR.swapped()) == text
    lone = Scene("gray", "outlined", (RED,))
    text = "an outlined picture of a large red circle on a gray background"
    assert canonical_caption(lone) == text


@pytest.mark.parametrize(
    "text",
    [
        "A large red circle above a small blue square, striped, on a white background.",
        "on white: below the big red circle there is a tiny striped blue square",
        "large stripy red circle over little stripy blue square white background",
        "over a small blue square is a large red circle with stripes against a white background",
        "with stripes, on a white background: small blue square under large red circle",
        "an image of a red, striped, large circle on top of a small blue square on white",
        "a striped style, a large red circle above a small blue square on white",
    ],
)
def test_many_wordings_of_one_scene(text):
    assert parse(text) == PAIR


@pytest.mark.parametrize(
    ("phrase", "relation"),
    [
        ("left of", "left of"),
        ("to the left of", "left of"),
        ("on the right of", "right of"),
        ("to the right of", "right of"),
        ("above", "above"),
        ("over", "above"),
        ("under", "below"),
        ("below", "below"),
    ],
)
def test_every_relation_phrase_both_ways_round(phrase, relation):
    wanted = Scene("gray", "flat", (RED, BLUE), relation)
    end = "in flat style on grey"
    assert parse(f"a large red circle {phrase} a small blue square {end}") == wanted
    assert parse(f"{phrase} a small blue square is a large red circle {end}") == wanted


def test_a_prompt_leaves_things_open():
    said = read_attributes("a circle to the right of a small blue square")
    assert said == {
        "background": None,
        "style": None,
        "count": 2,
        "relation": "left of",
        "size1": "small",
        "color1": "blue",
        "shape1": "square",
        "size2": None,
        "color2": None,
        "shape2": "circle",
    }
    said = read_attributes("a star and a heart")
    assert (said["count"], said["relation"], said["shape1"]) == (2, None, "star")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        (" ,. ", "empty"),
        ("a large purpel circle", "unknown word 'purpel'; did you mean 'purple'"),
        ("a large circle by 3 qqqq", "unknown word 'by'"),
        ("on a white background", "no shape is named"),
        ("a large red", "'large red' describes no shape"),
        ("a large above a circle", "'large' before 'above' describes no shape"),
        ("a circle above a square left of a star", "two relations, 'above' and 'left of'"),
        ("a circle above a square and a star", "'star' is a third shape"),
        ("a circle and a square above", "'above' stands after both shapes"),
        ("a red circle above", "'above' needs two shapes"),
        ("a large small circle", "two sizes, 'large' and 'small'"),
        ("a red blue circle", "two colors, 'red' and 'blue'"),
        ("a striped circle above a dotted square", "two styles, 'striped' and 'dotted'"),
        ("a circle on white on a gray background", "two backgrounds, 'white' and 'gray'"),
        ("a circle on a red background", "cannot read 'on red'"),
        ("a circle with a square", "cannot read 'with square'"),
        ("a circle on", "cannot read 'on'"),
        ("a circle left a square", "'left' does not make sense"),
        ("a circle background", "'background' does not make sense"),
    ],
)
def test_what_cannot_be_read_is_named(text, said):
    for read in (read_attributes, parse):
        with pytest.raises(CaptionError, match=said):
            read(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a large red circle in flat style", "does not say: background"),
        ("a large red circle on white", "does not say: style"),
        ("a red circle with dots on white", "does not say: size1"),
        ("a large circle with dots on white", "does not say: color1"),
        ("a large red circle and a small blue square with dots on white", "not say: relation"),
        ("a star above a small blue heart with dots on white", "not say: size1, color1"),
        ("big red ring above large red ring with dots on white", "both things are a large red"),
    ],
)
def test_parse_wants_a_whole_scene(text, said):
    with pytest.raises(CaptionError, match=said):
        parse(text)
    assert isinstance(read_attributes(text), dict)
    assert issubclass(CaptionError, ValueError)
