"""The suite `emoji` on models whose quality is known: one that draws what is asked, one copies."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.folders.caption_formats import Candidate
from analysis.measure import report
from analysis.measure.emoji import LEVELS, Emoji
from analysis.measure.emoji_card import CARD
from analysis.measure.model_card import card, headline, part_of
from analysis.measure.protocol import Settings
from analysis.measure.suite import measure
from data.emoji import load, load_artists
from data.emoji.captions import GROUNDS, LANGUAGES
from data.emoji.samples import EmojiSamples, concrete
from lib.images import to_pil
from lib.specs import VD_EMOJI
from tests.analysis.known_models import FakeModel

N = 6
FLOWS = ("t2i", "i2i", "i2t", "t2t", "reconstruction", "search", "caption")
SMALL = Settings(n=N, seed=3, flows=FLOWS, suite="emoji", batch=4, steps=2)


@pytest.fixture(scope="module")
def drawings():
    """All drawings of a few things of which some pairs are held out."""
    known = concrete(load())
    things = np.unique(known.concept[known.split == "pair"])[:N]
    return known.where(np.isin(known.concept, things))


@pytest.fixture(scope="module")
def world(drawings):
    return World(drawings)


class World:
    """Knows every drawing on every ground by its pixels."""

    def __init__(self, drawings):
        self.samples = EmojiSamples(drawings, grounds=len(GROUNDS), jitter=False)
        self.grammar = self.samples.grammar
        every = range(len(self.samples))
        self.pictures = to_pil(self.samples.pictures(every, np.random.default_rng(0)))
        self.told = [self.samples.told(k) for k in every]
        self.labels = self.samples.labels(every).numpy()
        self.number = {picture.tobytes(): k for k, picture in enumerate(self.pictures)}

    def of(self, picture):
        return self.number[picture.tobytes()]

    def draw(self, text, training=False):
        """The drawing that a caption asks for, or another artist's of the same thing."""
        said = self.grammar.read(text)
        wanted = (said.concept, said.artist or 0, said.ground or "white")
        fits = [k for k, told in enumerate(self.told) if told == wanted]
        if training or not fits:
            seen = self.samples.drawings.split == "train"
            fits = [
                k
                for k, told in enumerate(self.told)
                if told[::2] == wanted[::2] and seen[k // self.samples.grounds]
            ]
        return self.pictures[fits[0]]


class TellingJudge:
    """Knows the drawings; everything else is their first thing, hand and ground."""

    def __init__(self, world):
        self.world = world

    def read(self, pictures):
        numbers = self.world.labels[[self.world.of(picture) for picture in pictures]]
        sizes = [len(v) for v in self.world.samples.attributes.values()]
        return {
            name: np.eye(size)[numbers[:, k]]
            for k, (name, size) in enumerate(zip(self.world.samples.attributes, sizes, strict=True))
        }

    def features(self, pictures):
        return np.stack([np.asarray(p, np.float32)[::16, ::16].ravel() / 255 for p in pictures])


class Exact:
    """Draws and says what is asked."""

    copies = False

    def __init__(self, world):
        self.world = world

    def text_to_image(self, vd, texts, **how):
        return SimpleNamespace(images=[self.world.draw(text, self.copies) for text in texts])

    def image_variation(self, vd, images, **how):
        return SimpleNamespace(images=list(images))

    def focus(self, vd, images, levels, **how):
        """Beyond the middle another thing."""
        other = self.world.pictures[0]
        made = [image if level <= 0.5 else other for image in images for level in levels]
        return SimpleNamespace(images=made)

    def dual_guided(self, vd, images, texts, strength, **how):
        return SimpleNamespace(
            images=[
                image if s < 0.5 else self.world.draw(text)
                for s in strength
                for image, text in zip(images, texts, strict=True)
            ]
        )

    def say(self, told, language):
        rng = np.random.default_rng(0)
        return self.world.grammar.write(*told, rng, language=language)

    def image_to_text(self, vd, images, **how):
        told = [self.world.told[self.world.of(image)] for image in images]
        return SimpleNamespace(texts=[self.say(t, "english") for t in told])

    def caption(self, vd, images, seeds, n, **how):
        """The first of each is about another picture; the others are right."""
        right = self.image_to_text(vd, images).texts
        wrong = [right[k - 1] for k in range(len(right))]
        return [
            (*(Candidate(good, 0.9, seed + k) for k in range(1, n)), Candidate(bad, 0.1, seed))
            for good, bad, seed in zip(right, wrong, seeds, strict=True)
        ]

    def describe(self, vd, images, text, strength, **how):
        assert text == LANGUAGES["french"] and len(strength) == 1
        told = [self.world.told[self.world.of(image)] for image in images]
        return SimpleNamespace(texts=[self.say(t, "french") for t in told])

    def text_variation(self, vd, texts, **how):
        read = [self.world.grammar.read(text) for text in texts]
        return SimpleNamespace(
            texts=[self.say((s.concept, s.artist, s.ground), s.asked) for s in read]
        )


class Copies(Exact):
    """Draws the thing that is asked for by copying a training drawing of it."""

    copies = True


class Model(FakeModel):
    """CLIP vectors that are one for each thing."""

    def __init__(self, world):
        self.world, self.names = world, sorted(world.grammar.names)

    def image_features(self, images):
        return torch.stack([self.vector(self.world.told[self.world.of(i)][0]) for i in images])

    def text_features(self, texts):
        return torch.stack([self.vector(self.world.grammar.read(t).concept) for t in texts])

    def vector(self, concept):
        return torch.eye(len(self.names))[self.names.index(concept)]


def measured(world, drawings, modes, out, settings=SMALL, figures=False):
    suite = Emoji(Model(world), settings, judge=TellingJudge(world), modes=modes, drawings=drawings)
    return measure(suite, out, progress=False, figures=figures)


@pytest.fixture(scope="module")
def exact(world, drawings, tmp_path_factory):
    out = tmp_path_factory.mktemp("exact")
    return measured(world, drawings, Exact(world), out, figures=True), out


def test_who_draws_and_says_what_is_asked_is_right_everywhere(exact):
    found = exact[0]["measures"]
    for section in (found["t2i"]["heldout"], found["i2i"]):
        assert {e.value for e in section["shown"].values()} == {1}
        assert {e.value for e in section["of_real"].values()} == {1}
        assert section["kernel_distance"].value <= 0  # unbiased, so equal sets are below 0
    for name in ("i2t", "french"):
        assert all(found[name][part].value == 1 for part in ("concept", "artist", "everything"))
    assert found["french"]["in_french"].value == 1
    assert found["t2t"]["concept"].value == found["t2t"]["language"].value == 1
    assert found["t2t"]["translated"]["all"].value == 1
    assert found["t2t"]["translated"]["all"].n < N
    assert found["search"]["same_thing"]["recall@1"].value == 1
    assert found["caption"]["concept"].value == 1 > found["caption"]["of_first"]["concept"].value
    assert found["reconstruction"]["image"]["psnr"].value == pytest.approx(100)


def test_the_way_to_style_loses_the_thing_by_pairs(exact):
    found = exact[0]["measures"]
    assert [found["focus"][f"{level:g}"]["artist"].value for level in LEVELS[:3]] == [1, 1, 1]
    assert found["focus"]["hand_lost"].value > 0  # the one other picture is of one hand


def test_a_text_takes_over_at_its_strength(exact):
    found = exact[0]["measures"]["dual"]
    asked = [found[f"{level:g}"]["asked_concept_top5"].value for level in LEVELS]
    assert asked[2:] == [1, 1, 1] and found["0"]["artist"].value == 1
    assert "both_in_the_middle_more_than_by_text_alone" in found


def test_a_copy_is_nearer_to_training_than_real_held_out_drawings(world, drawings, exact, tmp_path):
    settings = Settings(n=N, seed=3, flows=("t2i",), suite="emoji", batch=4, steps=2)
    copied = measured(world, drawings, Copies(world), tmp_path, settings)["measures"]["not_a_copy"]
    honest = exact[0]["measures"]["not_a_copy"]
    assert copied["distance_made"].value == pytest.approx(0, abs=1e-3)
    assert copied["nearer_than_real_made"].value == 1
    assert honest["distance_made"].value == honest["distance_real_heldout"].value > 0.01


def test_sheets_show_made_pictures_beside_real_and_training_ones(exact):
    made, out = exact
    folder = out / made["protocol"]["run"] / "figures"
    sizes = {name: Image.open(folder / f"{name}.png").size for name in ("from-captions", "focus")}
    assert all(width > 500 and height > 90 for width, height in sizes.values())
    assert "figures/dual.png" in (folder.parent / "report.md").read_text()


def test_numbers_do_not_depend_on_how_inputs_are_batched(world, drawings, exact, tmp_path):
    few = Settings(n=N, seed=3, flows=("t2t",), suite="emoji", batch=1, steps=2)
    again = measured(world, drawings, Exact(world), tmp_path, few)["measures"]["t2t"]
    assert report.to_json(again) == report.to_json(exact[0]["measures"]["t2t"])


def test_the_card_has_a_number_for_every_row(exact):
    made = {"measures": report.to_json(exact[0]["measures"]), "protocol": exact[0]["protocol"]}
    for _, what, place in CARD.rows():
        assert part_of(made, place)["n"] >= 1, what
    first = headline(made, VD_EMOJI, CARD)
    assert first.count("**100.0") == 1 and first.count("**1.000**") == 2  # shares of real ones
    told = card(VD_EMOJI, CARD, {"image_data": (5, 10)}, {}, made)
    assert "| concept | 100.0 % | 100.0 % | 100.0 % | 100.0 % | 100.0 % |" in told
    assert all(artist.title in told for artist in load_artists())
