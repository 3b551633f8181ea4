"""Captions with exchanged words, mostly nonsense: "a big dotted heart", "a tiny ring red".

Whoever learns from true captions alone learns which words stand beside each other, and then has no
way to say a pair that it never met. Where any word may follow any other, there is nothing of that
kind to learn. No pair of colour and shape and no scene that is kept from training is ever written.
"""

from __future__ import annotations

import numpy as np

from data.scenes.captions import SIZE_WORDS, STYLE_ADJECTIVES, CaptionError, parse
from data.scenes.world import BACKGROUNDS, COLORS, HELD_OUT, SHAPES, is_training

EXCHANGED = 0.6
"""Share of the words for colours and shapes that give way to another."""
NAMES = (*COLORS, *SHAPES)
OTHERS = (
    *(word for words in SIZE_WORDS.values() for word in words),
    *(word for words in STYLE_ADJECTIVES.values() for word in words),
    *BACKGROUNDS,
)
AMONG_NAMES = 0.75  # of the words that take their place
AFTER = 2  # words behind a shape in which its held-out colour may not stand either


def exchange(text: str, rng: np.random.Generator) -> str:
    """A caption with some words for colours and shapes exchanged.

    Args:
        text: as `data.scenes.captions.write` writes it, of a scene that training may see.
        rng: numpy generator; everything random comes from it.

    Returns:
        As many words, articles made to fit: mostly nonsense, now and then another true caption.
    """
    while True:
        words = [_other(word, rng) for word in text.split()]
        made = " ".join(_fitting(words))
        if not names_held_out(words) and not _reserved(made):
            return made


def names_held_out(words: list[str]) -> bool:
    """Whether words give a shape its held-out colour, in any way that a reader could take them.

    That is: it stands anywhere between the shape before and this one, or right behind it.
    """
    words = [word.strip(",") for word in words]
    colors = {shape: color for color, shape in HELD_OUT}
    start = 0
    for i, word in enumerate(words):
        if word in SHAPES:
            if colors[word] in words[start : i + 1 + AFTER]:
                return True
            start = i + 1
    return False


def _reserved(text: str) -> bool:
    """Whether it tells of a scene that training may not see."""
    try:
        return not is_training(parse(text))
    except CaptionError:
        return False


def _other(word: str, rng: np.random.Generator) -> str:
    if word not in NAMES or rng.random() >= EXCHANGED:
        return word
    words = NAMES if rng.random() < AMONG_NAMES else OTHERS
    return words[rng.integers(len(words))]


def _fitting(words: list[str]) -> list[str]:
    following = [*words[1:], ""]
    return [
        ("an" if after[:1] in ("a", "e", "i", "o", "u") else "a") if word in ("a", "an") else word
        for word, after in zip(words, following, strict=True)
    ]
