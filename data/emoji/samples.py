"""Drawings as training samples: a drawing on a plain ground, and sentences that name both.

A sample is a drawing and one of `GROUNDS`. Every time it is asked for, it is drawn a little
differently (mirrored, shifted, scaled) and told in other words, English or French: what a caption
does not name is free.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.emoji import Drawings
from data.emoji.captions import GROUNDS, LANGUAGES, PARTS, Captions

CONCRETE = {
    "animals-nature": (),
    "food-drink": (),
    "activities": ("award-medal",),
    "travel-places": ("place-map", "time"),
    "objects": ("mail", "office", "book-paper", "sound", "money", "other-object", "writing"),
    "smileys-emotion": (
        *("emotion", "face-affection", "face-concerned", "face-hand", "face-neutral-skeptical"),
        *("face-sleepy", "face-tongue", "face-unwell"),
    ),
}
"""Groups of Unicode that hold things one can point at, with the subgroups that do not."""

LOOK_ALIKE = ("moon", "clock", "kissing", "grinning", "smiling cat", "oncoming")
"""Words of names that several concepts share which a 64-pixel drawing hardly tells apart."""

TWINS = {
    *("ox", "water buffalo", "boar", "ram", "ewe", "poodle", "cow face", "mouse face"),
    *("beating heart", "growing heart", "revolving hearts", "smiling face with smiling eyes"),
    *("love hotel", "hospital", "office building", "Japanese castle", "musical score"),
    *("minibus", "trolleybus", "fire engine", "railway car", "clinking beer mugs"),
    *("umbrella with rain drops", "sun behind cloud", "construction", "enraged face"),
}
"""Things that are hardly told from another one, which is in."""

MIN_ARTISTS = 8
MIRROR, SHIFT, SCALE = 0.5, 4, (0.85, 1.0)

TOLD = {
    ("concept", "artist", "ground"): 0.6,
    ("concept", "artist"): 0.15,
    ("concept", "ground"): 0.1,
    ("concept",): 0.12,
    ("artist", "ground"): 0.03,
}
"""What captions that condition say -> how often."""
KEYWORDS = 0.12  # of them call a thing by a keyword of its own
ASKS = 0.15  # of them ask for an answer in a language


def concrete(drawings: Drawings, artists: int = MIN_ARTISTS) -> Drawings:
    """Drawings of things that all eight artists (or so many) drew and that one can tell apart."""
    drawn = np.bincount(drawings.concept, minlength=len(drawings.concepts))
    keep = np.array(
        [
            drawn[i] >= artists
            and concept.group in CONCRETE
            and concept.subgroup not in CONCRETE[concept.group]
            and concept.english not in TWINS
            and not any(word in concept.english for word in LOOK_ALIKE)
            for i, concept in enumerate(drawings.concepts)
        ]
    )
    return drawings.where(keep[drawings.concept])


class EmojiSamples:
    """Drawings times grounds, as training sees them.

    Args:
        drawings: which drawings.
        grounds: how many samples of each drawing; the first is on white, the others on grounds of
            other colours, chosen once by `seed`.
        seed: what the choice of grounds follows from.
        jitter: whether pictures are mirrored, shifted and scaled at random.
        concepts: numbers of the concepts that captions are about (those of the drawings by
            default): the same for all splits of a set.

    Attributes:
        attributes: what captions tell -> its values; `labels` and `read` number them.
        words: what may be asked of whoever answers with a text: nothing, or a language.
    """

    def __init__(
        self,
        drawings: Drawings,
        grounds: int = 3,
        seed: int = 0,
        jitter: bool = True,
        concepts: Collection[int] | None = None,
    ) -> None:
        self.drawings, self.grounds, self.seed, self.jitter = drawings, grounds, seed, jitter
        rng = np.random.default_rng((seed, 4))
        colors = len(GROUNDS) - 1
        chosen = rng.permuted(np.tile(np.arange(1, colors + 1), (len(drawings), 1)), axis=1)
        self.ground = np.concatenate([np.zeros((len(drawings), 1), int), chosen], axis=1)[
            :, :grounds
        ]

        # every concept of the set, training's or not, so that splits share one numbering
        among = sorted(set(concepts if concepts is not None else drawings.concept.tolist()))
        self._number = {concept: k for k, concept in enumerate(among)}
        self.grammar = Captions(drawings.concepts, drawings.artists, among)
        self.attributes = {
            "concept": [self.grammar.names[i]["english"] for i in among],
            "artist": [artist.name for artist in drawings.artists],
            "ground": list(GROUNDS),
        }
        self.words = ("", *LANGUAGES.values())

    def __len__(self) -> int:
        return len(self.drawings) * self.grounds

    def key(self, index: int) -> str:
        """What is drawn, by whom and on which ground."""
        concept, artist, ground = self.told(index)
        name, artists = self.grammar.names[concept]["english"], self.drawings.artists
        return f"{name} by {artists[artist].name} on {ground}"

    def identity(self) -> dict[str, int | str]:
        """What the samples depend on, as plain JSON types."""
        return {
            "data": "emoji",
            "drawings": len(self.drawings),
            "grounds": self.grounds,
            "seed": self.seed,
        }

    def pictures(self, indices: Sequence[int], rng: np.random.Generator) -> Tensor:
        """(B, 3, 64, 64) float32 in [0, 1], each jittered anew."""
        colors = [color for _, color in GROUNDS.values()]
        out = []
        for index in indices:
            row, ground = self._parts(index)
            image = Image.fromarray(self.drawings.pictures[row])
            if self.jitter:
                image = _jittered(image, rng, mirror=not self._sided(row))
            canvas = Image.new("RGBA", image.size, (*colors[ground], 255))
            canvas.alpha_composite(image)
            out.append(np.asarray(canvas.convert("RGB")))
        return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).float() / 255

    def captions(self, indices: Sequence[int], rng: np.random.Generator) -> list[str]:
        """A fresh caption of each sample, as prompts are: English or French, all or part told."""
        return [self._caption(index, rng) for index in indices]

    def targets(
        self, indices: Sequence[int], rng: np.random.Generator, asked: Sequence[str] | None = None
    ) -> list[str]:
        """A fresh caption of each sample, as an answer to what is asked.

        An answer is in the language that is asked for, and says what the question says; a question
        that says nothing ("in English", "") is answered by everything.
        """
        out = []
        for index, question in zip(indices, asked or [""] * len(indices), strict=True):
            said = self.grammar.read(question)
            out.append(
                self.grammar.write(
                    *self.told(index), rng, language=said.asked, parts=said.parts or PARTS
                )
            )
        return out

    def labels(self, indices: Sequence[int]) -> Tensor:
        """(B, 3) int64: each sample's concept, artist and ground, as indices of `attributes`."""
        rows = [self.told(index) for index in indices]
        return torch.tensor(
            [[self._number[c], a, list(GROUNDS).index(ground)] for c, a, ground in rows]
        )

    def read(self, texts: Sequence[str]) -> Tensor:
        """(B, 3) int64: what captions say, as `labels`; -1 where they say nothing."""
        rows = []
        for text in texts:
            said = self.grammar.read(text)
            rows.append(
                [
                    -1 if said.concept is None else self._number[said.concept],
                    -1 if said.artist is None else said.artist,
                    -1 if said.ground is None else list(GROUNDS).index(said.ground),
                ]
            )
        return torch.tensor(rows)

    def _parts(self, index: int) -> tuple[int, int]:
        row, which = divmod(int(index), self.grounds)
        return row, int(self.ground[row, which])

    def _sided(self, row: int) -> bool:
        """Whether the name tells left from right."""
        name = self.drawings.concepts[self.drawings.concept[row]].english
        return any(word in name for word in ("left", "right"))

    def told(self, index: int) -> tuple[int, int, str]:
        """Numbers of concept and artist, and name of the ground, of a sample."""
        row, ground = self._parts(index)
        concept, artist = self.drawings.concept[row], self.drawings.artist[row]
        return int(concept), int(artist), list(GROUNDS)[ground]

    def _caption(self, index: int, rng: np.random.Generator) -> str:
        language = list(LANGUAGES)[rng.integers(2)]
        parts = list(TOLD)[rng.choice(len(TOLD), p=list(TOLD.values()))]
        return self.grammar.write(
            *self.told(index),
            rng,
            language=language,
            parts=parts,
            keywords=KEYWORDS,
            asks=list(LANGUAGES)[rng.integers(2)] if rng.random() < ASKS else None,
        )


def _jittered(image: Image.Image, rng: np.random.Generator, mirror: bool) -> Image.Image:
    """Mirrored in half of all cases, up to 15 % smaller, up to 4 pixels off."""
    side = image.size[0]
    if mirror and rng.random() < MIRROR:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = rng.uniform(*SCALE)
    dx, dy = rng.uniform(-SHIFT, SHIFT, size=2)
    middle = side / 2
    matrix = (
        1 / scale,
        0,
        middle - (middle + dx) / scale,
        0,
        1 / scale,
        middle - (middle + dy) / scale,
    )
    # with colours weighed by coverage, or the transparent surroundings would darken edges
    turned = image.convert("RGBa").transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC
    )
    return turned.convert("RGBA")
