"""What the card of a model of drawings says besides its numbers."""

from __future__ import annotations

from analysis.measure.model_card import Card
from data.emoji import load_artists
from data.emoji.captions import GROUNDS
from data.emoji.judge import JUDGE_FOLDER


def _artists() -> str:
    rows = [f"| {a.name} | {a.title} | {a.author} | {a.license_title} |" for a in load_artists()]
    return "\n".join(["| in captions | set | author | licence |", "|---|---|---|---|", *rows])


_HELD, _OF = ("t2i", "heldout", "shown"), ("t2i", "heldout", "of_real")

CARD = Card(
    headlines=(
        ("text to image", "the thing asked for, as a share of real drawings", (*_OF, "concept")),
        ("", "among the judge's first five, as a share", (*_OF, "concept_top5")),
        ("", "the hand asked for, as a share", (*_OF, "artist")),
        ("image variation", "the thing kept, as a share", ("i2i", "of_real", "concept")),
        ("", "the hand kept, as a share", ("i2i", "of_real", "artist")),
        ("image to text", "the thing named", ("i2t", "concept")),
        ("", "the hand named", ("i2t", "artist")),
        ("text variation", "the same thing", ("t2t", "concept")),
        ("", "in other words", ("t2t", "reworded")),
        ("", "put into the other language", ("t2t", "translated", "all")),
        ("image VAE", "reconstruction (PSNR)", ("reconstruction", "image", "psnr")),
        ("text VAE", "captions returned word for word", ("reconstruction", "text", "exact_match")),
        ("visual search", "a caption finds its thing first", ("search", "same_thing", "recall@1")),
    ),
    extras=(
        ("text to image", "the thing itself", (*_HELD, "concept")),
        ("", "among the first five", (*_HELD, "concept_top5")),
        ("", "the hand itself", (*_HELD, "artist")),
        ("", "KID from real held-out drawings", ("t2i", "heldout", "kernel_distance")),
        ("", "of pairs that training saw: the thing", ("t2i", "seen", "shown", "concept")),
        ("", "of such pairs: the hand", ("t2i", "seen", "shown", "artist")),
        ("image variation", "KID from real held-out drawings", ("i2i", "kernel_distance")),
        ("image to text", "thing, hand and ground", ("i2t", "everything")),
        ("", "the thing named, best of several by CLIP", ("caption", "concept")),
        ("", "in French where that is asked for", ("french", "in_french")),
        ("", "and the thing named", ("french", "concept")),
        ("focus", "full style: thing lost", ("focus", "thing_lost")),
        ("", "full style: hand lost", ("focus", "hand_lost")),
        (
            "dual",
            "the text's thing in the drawing's hand, half and half",
            ("dual", "0.5", "asked_concept_top5_in_the_same_hand"),
        ),
        ("not a copy", "distance to the nearest training drawing", ("not_a_copy", "distance_made")),
        ("", "of real held-out drawings", ("not_a_copy", "distance_real_heldout")),
        ("", "nearer than 95 % of those", ("not_a_copy", "nearer_than_real_made")),
    ),
    inputs="drawings whose (thing, artist) pair training never saw",
    readers="What a picture shows is read by a classifier that stands on a frozen network of "
    "others and never saw a made picture. It errs on real drawings, too, so shares of pictures "
    "stand beside its figure on the real drawings of the same inputs.",
    breakdown=(
        "What the classifier reads right, of real drawings and of made ones:",
        {
            "real, held out": ("real", "heldout"),
            "from captions": _HELD,
            "variations": ("i2i", "shown"),
            "real, of training": ("real", "seen"),
            "from captions of training pairs": ("t2i", "seen", "shown"),
        },
    ),
    origin="""\
It was trained from nothing by `training/` on two processor cores: pictures from texts and from
pictures, texts from pictures and from texts, in English and in French.""",
    world=f"""\
Drawings of concrete things (animals, food, objects, places, vehicles) by eight artists train what
knows captions, drawings of all kinds by the same artists the image VAE; (thing, artist) pairs and
whole things are held out. Captions are made from the names and keywords of Unicode CLDR
(emojibase-data), with the artist's name and a plain ground ({", ".join(GROUNDS)}):
`data/emoji/captions.py`. A text is answered in the language that it asks for ("en français: a frog
by noto"), a picture in French by `describe(vd, picture, "en français", strength=0.4)`.

{_artists()}

Links and licence texts: `data/emoji/ATTRIBUTION.md`. A frozen EfficientNet-Lite0 (Apache 2.0,
trained by others on photographs) taught CLIP; it is no part of the model.""",
    limits="""\
- It knows about two hundred things, eight hands and seven grounds, at {side} x {side} pixels, and
  draws nonsense for everything else.
- Whoever shows what it draws in one of these hands should name the set that it imitates; the CC BY
  sets ask for that.
- The classifier behind the numbers misreads many real drawings: trust comparisons more than single
  figures, and contact sheets most: [from captions](../../assets/emoji/from-captions.png),
  [variations](../../assets/emoji/variations.png), [focus](../../assets/emoji/focus.png),
  [dual](../../assets/emoji/dual.png).""",
    not_for="""\
Logos, brands, or anything that could be taken for the artists' own work; deciding what a picture
shows; people's photographs, which it has never seen.""",
    licence="MIT, as the code; the drawings have their artists' licences (above).",
    judge=JUDGE_FOLDER,
)
