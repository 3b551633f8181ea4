"""Captions of drawings in two languages: what is written is read back, by rules checked by hand."""

import numpy as np
import pytest

from data.emoji import load
from data.emoji.captions import GROUNDS, LANGUAGES, PARTS, Captions
from data.emoji.samples import concrete


@pytest.fixture(scope="module")
def captions() -> Captions:
    drawings = concrete(load(), artists=7)
    return Captions(drawings.concepts, drawings.artists, drawings.concept.tolist())


def number(captions: Captions, name: str) -> int:
    return next(i for i, names in captions.names.items() if names["english"] == name)


def hand(captions: Captions, name: str) -> int:
    return [artist.name for artist in captions.artists].index(name)


@pytest.mark.parametrize(
    ("text", "concept", "artist", "ground", "language", "asked"),
    [
        (
            "a frog in the style of noto on a sky blue background",
            *("frog", "noto", "sky blue", "english", "english"),
        ),
        (
            "une grenouille dans le style noto sur fond bleu ciel",
            *("frog", "noto", "sky blue", "french", "french"),
        ),
        (
            "Grenouille, style fluent flat, blanc",
            *("frog", "fluent flat", "white"),
            *2 * ("french",),
        ),
        ("a white flower", "white flower", None, None, "english", "english"),
        ("a rose by fluent on pink", "rose", "fluent", "pink", "english", "english"),
        ("une rose sur un fond rose", "rose", None, "pink", "french", "french"),
        ("en français: a rocket", "rocket", None, None, "english", "french"),
        ("in English", None, None, None, "english", "english"),
        ("a drawing of a griffin by noto", None, "noto", None, "english", "english"),
        ("un feu d’artifice", "fireworks", None, None, "french", "french"),
    ],
)
def test_sentences_are_read(captions, text, concept, artist, ground, language, asked):
    said = captions.read(text)
    assert said.concept == (None if concept is None else number(captions, concept))
    assert said.artist == (None if artist is None else hand(captions, artist))
    assert (said.ground, said.language, said.asked) == (ground, language, asked)


@pytest.mark.parametrize("language", list(LANGUAGES))
@pytest.mark.parametrize(
    "parts", [PARTS, ("concept",), ("concept", "ground"), ("artist", "ground")]
)
def test_all_that_is_written_is_read_back(captions, language, parts):
    rng = np.random.default_rng(0)
    for concept in captions.names:
        artist, ground = int(rng.integers(8)), list(GROUNDS)[rng.integers(len(GROUNDS))]
        text = captions.write(
            concept,
            artist,
            ground,
            rng,
            language=language,
            parts=parts,
            keywords=0.5,
            asks="french",
        )
        assert text.startswith("en français: ")
        said = captions.read(text)
        assert said.asked == "french"
        wanted = {"concept": concept, "artist": artist, "ground": ground}
        told = {part: getattr(said, part) for part in PARTS}
        assert told == {part: wanted[part] if part in parts else None for part in PARTS}, text


@pytest.mark.parametrize(
    ("name", "english", "french"),
    [
        ("frog", "a frog", "une grenouille"),
        ("octopus", "an octopus", "une pieuvre"),
        ("unicorn", "a unicorn", "une licorne"),
        ("cherries", "cherries", "des cerises"),
        ("glasses", "glasses", "des lunettes de vue"),
        ("bus", "a bus", "un bus"),
        ("Statue of Liberty", "the Statue of Liberty", "une statue de la Liberté"),
        ("pineapple", "a pineapple", "un ananas"),
        ("house with garden", "a house with garden", "une maison avec jardin"),
    ],
)
def test_articles(captions, name, english, french):
    rng, concept = np.random.default_rng(0), number(captions, name)
    for language, wanted in {"english": english, "french": french}.items():
        said = {
            captions.write(concept, 0, "white", rng, language=language, parts=("concept",))
            for _ in range(60)
        }
        assert wanted in said
        assert f"a drawing of {english}" in said or language == "french"


def test_a_keyword_belongs_to_one_thing(captions):
    for language in LANGUAGES:
        every = [word for own in captions.keywords.values() for word in own[language]]
        assert len(every) == len(set(every)) > 300
    rabbit = number(captions, "rabbit")
    assert "bunny" not in captions.keywords[rabbit]["english"]  # rabbit face is a bunny, too
