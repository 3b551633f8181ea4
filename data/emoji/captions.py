"""Sentences about a drawing, in English and in French, and what they say read back.

    a frog in the style of noto on a sky blue background
    une grenouille, style noto, fond bleu ciel

A caption says any of three things: what is drawn, whose hand drew it, and on which ground. One that
begins with a word for a language (`LANGUAGES`) asks whoever answers it to do so in that language.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.emoji import Artist, Concept

GROUNDS = {
    "white": ("blanc", (255, 255, 255)),
    "cream": ("crème", (253, 243, 215)),
    "gray": ("gris", (205, 205, 205)),
    "sky blue": ("bleu ciel", (176, 224, 247)),
    "mint": ("vert menthe", (190, 235, 205)),
    "pink": ("rose", (250, 200, 215)),
    "dark blue": ("bleu nuit", (30, 42, 92)),
}
"""Name of a plain background -> its French name and colour."""

LANGUAGES = {"english": "in English", "french": "en français"}
"""Language -> the words that ask for it."""

PARTS = ("concept", "artist", "ground")
# ---------------------------------------------------------------- articles
_SINGULAR_S = {"bus", "minibus", "trolleybus", "cactus", "octopus", "glass", "dress", "compass"}
_BARE_ENGLISH = {
    *("tennis", "bowling", "camping", "construction", "fog", "foggy", "fire", "bread", "sushi"),
    *("spaghetti", "oden", "dango", "rolling on the floor laughing", "cooking", "high voltage"),
    *("cooked rice", "shaved ice", "mount fuji", "fried shrimp", "poultry leg", "custard"),
}
_THE = {"Statue of Liberty", "milky way"}
_VOWEL_SOUND = re.compile(r"(?!uni|ewe|euro|one|u[sk])[aeiou]", re.IGNORECASE)
_AFTER_HEAD = re.compile(r" (?:of|with|in|on|from|without|behind|to|over|at|and|rolling) ")
_SINGULAR_S_FRENCH = {
    *("ananas", "bus", "minibus", "trolleybus", "tas", "souris", "vis", "dindon", "ours", "gros"),
}
_BARE_FRENCH = {
    *("dans", "se", "trinquer", "rugby", "tennis", "bowling", "basket", "baseball", "camping"),
    *("ski", "brume", "mont", "koinobori"),
}
_FEMININE = set(
    """
    abeille ambulance ampoule ancre antenne araignée assiette baignoire bague baleine banane barre
    boisson botte bougie boule boulette bouteille boîte brochette caméra carte cassette
    chaussure chenille chope châtaigne chèvre clé coccinelle coquille couronne course cravate
    crème cuisse douche décoration disquette enseigne étoile feuille fleur fontaine fourchette
    fourmi fraise fusée galette gare glace goutte grande grenouille guitare haute imprimante
    jeune lettre licorne locomotive loupe machine main maison mandarine marmite moto notation
    note nuit palette partition pastèque patate pellicule pierre pieuvre pile pilule pizza
    plage planète poire pomme pompe porte poule pêche radio robe rose rosette sandale seringue
    souris statue sucette supérette tasse tente tomate toque torche tortue toile trompette
    tête usine vache vague viande ville vis voie voiture école église île""".split()  # noqa: SIM905
)
"""First words of French names that are feminine; checked for the concrete things only."""


def _english(name: str) -> str:
    """The name with its article: a frog, an owl, grapes."""
    head = _AFTER_HEAD.split(name)[0].split()[-1]
    plural = head.endswith("s") and not head.endswith(("ss", "'s")) and head not in _SINGULAR_S
    if name in _BARE_ENGLISH or plural:
        return name
    if name in _THE:
        return f"the {name}"
    return f"an {name}" if _VOWEL_SOUND.match(name) else f"a {name}"


def _french(name: str) -> str:
    """The name with its article: une grenouille, un hibou, des raisins."""
    head = name.split()[0]
    if head in _BARE_FRENCH:
        return name
    if head.endswith(("s", "x")) and head not in _SINGULAR_S_FRENCH:
        return f"des {name}"
    return f"une {name}" if head in _FEMININE else f"un {name}"


# ---------------------------------------------------------------- sentences
_WORDINGS = {
    "english": {
        "concept": ("{a}", "{a}", "a drawing of {a}"),
        "artist": ("in the style of {artist}", "by {artist}", "in {artist} style"),
        "ground": ("on a {ground} background", "on {ground}"),
        "short": {
            "concept": ("{name}",),
            "artist": ("{artist} style", "{artist}"),
            "ground": ("{ground} background", "{ground}"),
        },
        "alone": "a drawing",
    },
    "french": {
        "concept": ("{a}", "{a}", "un dessin : {name}"),
        "artist": ("dans le style {artist}", "par {artist}", "façon {artist}"),
        "ground": ("sur fond {ground}", "sur un fond {ground}"),
        "short": {
            "concept": ("{name}",),
            "artist": ("style {artist}", "{artist}"),
            "ground": ("fond {ground}", "{ground}"),
        },
        "alone": "un dessin",
    },
}


@dataclass(frozen=True)
class Said:
    """What a caption says; None where it says nothing.

    Attributes:
        concept, artist: numbers.
        ground: a key of `GROUNDS`.
        language: a key of `LANGUAGES`: what it is written in.
        asked: the language that it asks to be answered in, which is its own unless it says another.
    """

    concept: int | None
    artist: int | None
    ground: str | None
    language: str
    asked: str

    @property
    def parts(self) -> tuple[str, ...]:
        """Which of `PARTS` are said."""
        return tuple(part for part in PARTS if getattr(self, part) is not None)


class Captions:
    """Writes and reads captions about a set of concepts and artists.

    Args:
        concepts: what is drawn; a caption names it by its name or by a keyword that no other has.
        artists: whose hands.
        among: numbers of the concepts that are meant (all by default): the names of others are not
            understood, and a keyword need only be its concept's own among these.
    """

    def __init__(
        self,
        concepts: Sequence[Concept],
        artists: Sequence[Artist],
        among: Collection[int] | None = None,
    ) -> None:
        self.artists = artists
        among = range(len(concepts)) if among is None else sorted(set(among))
        self.names = {
            i: {"english": _plain(concepts[i].english), "french": _plain(concepts[i].french)}
            for i in among
        }
        tags = {
            i: {
                "english": [_plain(tag) for tag in concepts[i].tags_english],
                "french": [_plain(tag) for tag in concepts[i].tags_french],
            }
            for i in among
        }
        self.keywords: dict[int, dict[str, list[str]]] = {}
        self._known: dict[str, dict[str, int]] = {}
        for language in LANGUAGES:
            taken = {name for i in among for name in self.names[i].values()}
            taken |= set(_WORDINGS[language]["alone"].split())  # "a drawing" names no thing
            count = Counter(tag for i in among for tag in set(tags[i][language]))
            for i in among:
                own = [
                    tag
                    for tag in tags[i][language]
                    if count[tag] == 1 and tag not in taken and len(tag) > 2 and " " not in tag
                ]
                self.keywords.setdefault(i, {})[language] = own
            # a name that two things share means the first of them
            known: dict[str, int] = {}
            for i in among:
                for name in (self.names[i][language], *self.keywords[i][language]):
                    known.setdefault(name.lower(), i)
            self._known[language] = known
        by_length = sorted({artist.name for artist in artists}, key=len, reverse=True)
        hands = "|".join(map(re.escape, by_length))
        self._artist = {
            "english": re.compile(
                rf",? ?\b(?:in the style of|by|in)? ?\b({hands})\b(?: style)?", re.IGNORECASE
            ),
            "french": re.compile(
                rf",? ?\b(?:dans le style|par|façon|style)? ?\b({hands})\b", re.IGNORECASE
            ),
        }
        colors = {
            "english": "|".join(sorted(GROUNDS, key=len, reverse=True)),
            "french": "|".join(sorted((g for g, _ in GROUNDS.values()), key=len, reverse=True)),
        }
        # a colour alone is a ground only after a comma: there are white flowers and roses
        self._ground = {
            "english": re.compile(
                rf",? ?\bon (?:a )?({colors['english']})(?: background)?\b"
                rf"|,? ?\b({colors['english']}) background\b|, ({colors['english']})(?=,|$)",
                re.IGNORECASE,
            ),
            "french": re.compile(
                rf",? ?\b(?:sur (?:un )?)?fond ({colors['french']})\b"
                rf"|, ({colors['french']})(?=,|$)",
                re.IGNORECASE,
            ),
        }

    def write(
        self,
        concept: int,
        artist: int,
        ground: str,
        rng: np.random.Generator,
        *,
        language: str = "english",
        parts: Collection[str] = PARTS,
        keywords: float = 0.0,
        asks: str | None = None,
    ) -> str:
        """A sentence about a drawing.

        Args:
            concept: a number of `names`.
            artist: index into the artists.
            ground: a key of `GROUNDS`.
            rng: chooses the words.
            language: a key of `LANGUAGES`.
            parts: which of `PARTS` it says.
            keywords: probability of a keyword of the thing's own instead of its name.
            asks: the language to be answered in, put in front.
        """
        wordings = _WORDINGS[language]
        name = self.names[concept][language]
        own = self.keywords[concept][language]
        article = {"english": _english, "french": _french}[language]
        called = article(name)
        if own and rng.random() < keywords:
            name = called = own[rng.integers(len(own))]
        words = {
            "a": called,
            "name": name,
            "artist": self.artists[artist].name,
            "ground": ground if language == "english" else GROUNDS[ground][0],
        }

        def say(part: str, short: bool) -> str:
            choices = wordings["short"][part] if short else wordings[part]
            return choices[rng.integers(len(choices))].format(**words)

        rest = [part for part in ("artist", "ground") if part in parts]
        if len(rest) == 2 and rng.random() < 0.25:
            rest.reverse()
        short = rng.random() < 0.3
        told = [say("concept", short)] if "concept" in parts else [wordings["alone"]]
        told += [say(part, short) for part in rest]
        text = (", " if short else " ").join(told)
        return text if asks is None else f"{LANGUAGES[asks]}: {text}"

    def read(self, caption: str) -> Said:
        """What a caption says, of what `write` can say; words that it cannot say are no thing."""
        text, asked = _plain(caption).strip(), None
        for language, words in LANGUAGES.items():
            if text.lower().startswith(words.lower()):
                text, asked = text[len(words) :].lstrip(" :,"), language
        readings = [self._read(text, language) for language in LANGUAGES]
        best = max(readings, key=lambda said: (said.concept is not None, len(said.parts)))
        return best if asked is None else replace(best, asked=asked)

    def _read(self, text: str, language: str) -> Said:
        ground = self._ground[language].search(text)
        if ground:
            text = text[: ground.start()] + text[ground.end() :]
        artist = self._artist[language].search(text)
        if artist:
            text = text[: artist.start()] + text[artist.end() :]
        thing = _BEGINNING[language].sub("", text.strip(" ,")).lower()
        color = next(filter(None, ground.groups())).lower() if ground else None
        names = {french: english for english, (french, _) in GROUNDS.items()}
        hands = [a.name.lower() for a in self.artists]
        return Said(
            concept=self._known[language].get(thing),
            artist=hands.index(artist[1].lower()) if artist else None,
            ground=names[color] if color and language == "french" else color,
            language=language,
            asked=language,
        )


_BEGINNING = {
    "english": re.compile(r"^(?:a drawing of )?(?:an? |the )?", re.IGNORECASE),
    "french": re.compile(r"^(?:un dessin : )?(?:une? |des )?", re.IGNORECASE),
}


def _plain(name: str) -> str:
    """As people type it: straight apostrophes."""
    return name.replace("’", "'").replace("\u00a0", " ")
