"""Sentences about scenes: `write` composes one, `parse` reads one back to its scene.

The language is small but has synonyms and several word orders, so that one scene has hundreds of
captions and a good variation of a caption is simply another one:

    [on BACKGROUND,] [a STYLE picture of] THING [RELATION THING] [in STYLE style] [on BACKGROUND]
    [on BACKGROUND,] RELATION THING is THING ...         ("left of a small star is a large ring")

where a THING is "a large red circle", with the style before the colour if it is said nowhere
else, and a pair is told from either side ("A left of B", "B right of A"). Every complete caption
determines its whole scene: `parse(write(scene, rng)) == scene`, always.

Reading is tolerant of case, punctuation, articles and the order of the parts, and strict about
meaning: what it cannot read or what is left open raises `CaptionError` saying so.
`read_attributes` also takes captions that leave things open, such as a user's prompt.
"""

from __future__ import annotations

import re
from difflib import get_close_matches

import numpy as np

from data.scenes.world import (
    ATTRIBUTES,
    BACKGROUNDS,
    CANONICAL_RELATIONS,
    COLORS,
    OPPOSITE,
    SHAPES,
    Scene,
    Thing,
)

SIZE_WORDS = {"small": ("small", "tiny", "little"), "large": ("large", "big")}
STYLE_ADJECTIVES = {
    "flat": ("flat", "solid"),
    "outlined": ("outlined", "hollow"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted"),
}
STYLE_PHRASES = {
    "flat": ("in flat style", "with solid fill"),
    "outlined": ("in outlined style", "with outlines"),
    "striped": ("in striped style", "with stripes"),
    "dotted": ("in dotted style", "with dots"),
}
RELATION_PHRASES = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
PICTURE_WORDS = ("picture", "drawing")
BACKGROUND_PHRASES = ("on a {} background", "against a {} background", "on {}")

# What reading takes besides what writing uses.
_ALSO_READ = {"grey": "gray", "image": "picture", "spots": "dots", "outline": "outlines"}
_FILLERS = {"there", "is", "and", "showing"}
_ARTICLES = {"a", "an", "the"}

_ONLY_OF_TWO = ("relation", "size2", "color2", "shape2")

_STYLE_OF = {
    **{word: style for style, words in STYLE_ADJECTIVES.items() for word in words},
    "outlines": "outlined",
    "stripes": "striped",
    "dots": "dotted",
}
_SIZE_OF = {word: size for size, words in SIZE_WORDS.items() for word in words}
_RELATION_OF = {
    ("on", "top", "of"): "above",
    **{("on", side, "of"): f"{side} of" for side in ("left", "right")},
    **{
        tuple(word for word in phrase.split() if word not in _ARTICLES): relation
        for relation, phrases in RELATION_PHRASES.items()
        for phrase in phrases
    },
}


def _words_of_write() -> frozenset[str]:
    tables = (SIZE_WORDS, STYLE_ADJECTIVES, STYLE_PHRASES, RELATION_PHRASES)
    phrases = [phrase for table in tables for group in table.values() for phrase in group]
    phrases += [*BACKGROUND_PHRASES, *BACKGROUNDS, *COLORS, *SHAPES, *PICTURE_WORDS]
    words = " ".join(phrases).replace("{}", "").split()
    return frozenset([*words, "a", "an", "of", "is"])


VOCABULARY = _words_of_write()


class CaptionError(ValueError):
    """A caption that cannot be read as a scene; the message says which part and why."""


# ---------------------------------------------------------------- writing


def _with_article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def canonical_caption(scene: Scene) -> str:
    """The one plain wording of a scene, the same for equal scenes.

    Example:
        "a striped picture of a large red circle above a small blue square on a white background"
    """
    scene = scene.canonical()
    content = f" {scene.relation} ".join(_with_article(str(thing)) for thing in scene.things)
    background = BACKGROUND_PHRASES[0].format(scene.background)
    return f"{_with_article(scene.style)} picture of {content} {background}"


def write(
    scene: Scene, rng: np.random.Generator, complete: bool = True, reading_order: bool = False
) -> str:
    """Compose a caption: lower case, at most one comma, at most 26 words.

    Args:
        scene: what to describe; which of two equal forms is given makes no difference.
        rng: numpy generator that chooses words and word order.
        complete: say everything. With False the style and the background are each left out
            half of the time and each size one time in ten, as in the prompts people type.
        reading_order: name the left or upper thing first, as one reads a page ("A left of B",
            "right of A is B"). Otherwise either is named first, half of the time each.
    """

    def one_of(options: tuple[str, ...]) -> str:
        return options[rng.integers(len(options))]

    def dropped(probability: float) -> bool:
        return not complete and rng.random() < probability

    scene = scene.canonical()
    if rng.random() < 0.5 and not reading_order:
        scene = scene.swapped()
    adjective = one_of(STYLE_ADJECTIVES[scene.style])
    style_place = "nowhere" if dropped(0.5) else one_of(("thing", "picture", "end", "end"))

    def noun(thing: Thing) -> str:
        words = [] if dropped(0.1) else [one_of(SIZE_WORDS[thing.size])]
        words += [adjective] if style_place == "thing" else []
        return _with_article(" ".join([*words, thing.color, thing.shape]))

    nouns = [noun(thing) for thing in scene.things]
    if scene.relation is None:
        content = nouns[0]
    else:
        first, second = nouns
        if style_place != "picture" and rng.random() < 0.25:
            opposite = one_of(RELATION_PHRASES[OPPOSITE[scene.relation]])
            content = f"{opposite} {first} is {second}"
        else:
            content = f"{first} {one_of(RELATION_PHRASES[scene.relation])} {second}"
    if style_place == "picture":
        content = f"{_with_article(adjective)} {one_of(PICTURE_WORDS)} of {content}"

    endings = [one_of(STYLE_PHRASES[scene.style])] if style_place == "end" else []
    if not dropped(0.5):
        background = one_of(BACKGROUND_PHRASES).format(scene.background)
        if rng.random() < 0.35:
            content = f"{background}, {content}"
        else:
            endings.insert(rng.integers(len(endings) + 1), background)
    return " ".join([content, *endings])


# ---------------------------------------------------------------- reading


class _Reader:
    """One pass over the words of a caption.

    Each `take_*` notes what the phrase at a place says and returns how many words it ate.
    """

    def __init__(self, text: str) -> None:
        words = re.sub(r"[^\w\s]|_", " ", text.lower()).split()
        words = [_ALSO_READ.get(word, word) for word in words]
        self.words = [word for word in words if word not in _ARTICLES]
        self.background: str | None = None
        self.style: str | None = None
        self.relation: str | None = None
        self.relation_first = False
        self.things: list[dict[str, str | None]] = []
        self.open: dict[str, str] = {}  # what is said so far of a thing not yet named

    def read(self) -> None:
        if not self.words:
            raise CaptionError("the caption is empty; describe one or two shapes.")
        i = 0
        while i < len(self.words):
            i += (
                self.take_relation(i)
                or self.take_phrase(i)
                or self.take_background(i)
                or self.take_style(i)
                or self.take_word(i)
            )
        if self.open:
            said = " ".join(self.open.values())
            raise CaptionError(f"{said!r} describes no shape; add one of {', '.join(SHAPES)}.")
        if not self.things:
            raise CaptionError(f"no shape is named; name one or two of {', '.join(SHAPES)}.")
        if self.relation and len(self.things) == 1:
            raise CaptionError(f"{self.relation!r} needs two shapes, but only one is named.")

    def word(self, i: int) -> str:
        return self.words[i] if i < len(self.words) else ""

    def take_relation(self, i: int) -> int:
        for length in (3, 2, 1):
            relation = _RELATION_OF.get(tuple(self.words[i : i + length]))
            if relation is None:
                continue
            if self.relation is not None:
                raise CaptionError(f"two relations, {self.relation!r} and {relation!r}; give one.")
            if self.open:
                said = " ".join(self.open.values())
                raise CaptionError(f"{said!r} before {relation!r} describes no shape.")
            if len(self.things) == 2:
                raise CaptionError(f"{relation!r} stands after both shapes; put it before one.")
            self.relation, self.relation_first = relation, not self.things
            return length
        return 0

    def take_phrase(self, i: int) -> int:
        """A phrase begun by a preposition: a background or the style."""
        word = self.words[i]
        if word not in ("on", "against", "in", "with"):
            return 0
        eaten = self.take_background(i + 1)
        if not eaten and word in ("in", "with"):
            eaten = self.take_style(i + 1)
        if not eaten:
            said = " ".join(self.words[i : i + 2])
            raise CaptionError(
                f"cannot read {said!r}; a background ({', '.join(BACKGROUNDS)}) "
                f"or a style is expected after {word!r}."
            )
        return 1 + eaten

    def take_background(self, i: int) -> int:
        word = self.word(i)
        if word not in BACKGROUNDS:
            return 0
        if self.background is not None:
            raise CaptionError(f"two backgrounds, {self.background!r} and {word!r}; give one.")
        self.background = word
        return 2 if self.word(i + 1) == "background" else 1

    def take_style(self, i: int) -> int:
        style = _STYLE_OF.get(self.word(i))
        if style is None:
            return 0
        if self.style not in (None, style):
            raise CaptionError(f"two styles, {self.style!r} and {style!r}; a picture has one.")
        self.style = style
        return 2 if self.word(i + 1) in ("style", "fill") else 1

    def take_word(self, i: int) -> int:
        word = self.words[i]
        if word in PICTURE_WORDS:
            return 2 if self.word(i + 1) == "of" else 1
        if word in _SIZE_OF:
            self.describe("size", _SIZE_OF[word])
        elif word in COLORS:
            self.describe("color", word)
        elif word in SHAPES:
            self.name(word)
        elif word not in _FILLERS:
            if word in VOCABULARY:
                raise CaptionError(f"{word!r} does not make sense where it stands.")
            close = get_close_matches(word, sorted(VOCABULARY), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise CaptionError(f"unknown word {word!r}{hint}")
        return 1

    def describe(self, attribute: str, value: str) -> None:
        if attribute in self.open:
            said = f"{self.open[attribute]!r} and {value!r}"
            raise CaptionError(f"one thing has two {attribute}s, {said}; give one.")
        self.open[attribute] = value

    def name(self, shape: str) -> None:
        if len(self.things) == 2:
            raise CaptionError(f"{shape!r} is a third shape; a scene has one or two.")
        self.things.append({"size": None, "color": None, **self.open, "shape": shape})
        self.open = {}


def read_attributes(text: str) -> dict[str, str | int | None]:
    """Read what a caption says, in canonical form; what it leaves open is None.

    Args:
        text: a caption or a prompt; case, punctuation and articles do not matter.

    Returns:
        A dict over `data.scenes.world.ATTRIBUTES`; "count" is always 1 or 2.

    Raises:
        CaptionError: for an unknown word, a contradiction, or no shape at all.
    """
    reader = _Reader(text)
    reader.read()
    things, relation = reader.things, reader.relation
    if reader.relation_first:  # "left of B is A"
        things = things[::-1]
    if relation is not None and relation not in CANONICAL_RELATIONS:
        things, relation = things[::-1], OPPOSITE[relation]
    values: dict[str, str | int | None] = dict.fromkeys(ATTRIBUTES)
    values |= {"background": reader.background, "style": reader.style}
    values |= {"count": len(things), "relation": relation}
    for i, thing in enumerate(things, 1):
        values |= {f"{attribute}{i}": value for attribute, value in thing.items()}
    return values


def parse(text: str) -> Scene:
    """Read a complete caption as its scene (in canonical form).

    Raises:
        CaptionError: where `read_attributes` does, if the caption leaves any attribute open, or
            if it describes two identical things.
    """
    values = read_attributes(text)
    needed = [a for a in ATTRIBUTES if values["count"] == 2 or a not in _ONLY_OF_TWO]
    missing = [attribute for attribute in needed if values[attribute] is None]
    if missing:
        raise CaptionError(f"the caption does not say: {', '.join(missing)}.")
    try:
        return Scene.from_attributes(values)
    except ValueError as error:
        raise CaptionError(str(error)) from error
