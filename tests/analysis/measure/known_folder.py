"""Models that know a folder of pictures, so that what is measured of them is known, too."""

from types import SimpleNamespace

import numpy as np
import torch

from analysis.measure.protocol import Settings
from analysis.metrics.feature_models import FeatureModel
from tests.conftest import drawing

FLOWS = ("t2i", "i2i", "i2t", "t2t")
COUNT = 6
CAPTIONS = [
    f"a {size} {color} circle" for size in ("big", "small") for color in ("red", "blue", "gray")
]
SMALL = Settings(n=COUNT, seed=3, flows=FLOWS, suite="folder", steps=2, batch=4, t2t_pairs=3)


def colors(pictures) -> torch.Tensor:
    """Means of the four quarters of the channels: another feature function, of pictures only."""
    small = [np.asarray(p.convert("RGB").resize((2, 2)), dtype=np.float32) for p in pictures]
    return torch.tensor(np.stack(small).reshape(len(small), -1) / 255)


COLORS = FeatureModel("colors", colors, None, "none", "to 2 a side")


class Perfect:
    """Knows the data: returns the pictures and captions that belong to what it is given."""

    def __init__(self, data):
        self.entries, self.calls = data.entries, []
        self.images = data.images(range(len(data.entries)))

    def note(self, flow, inputs, **how):
        assert how["n"] == 1 and how["progress"] is False
        self.calls.append((flow, len(inputs), how["seed"], how["scale"]))

    def of_text(self, text):
        return next(i for i, entry in enumerate(self.entries) if text in entry.captions)

    def of_image(self, image):
        pixels = np.asarray(image)
        return next(
            i for i, own in enumerate(self.images) if np.array_equal(np.asarray(own), pixels)
        )

    def text_to_image(self, vd, texts, **how):
        self.note("t2i", texts, **how)
        return SimpleNamespace(images=[self.images[self.of_text(text)] for text in texts])

    def image_variation(self, vd, images, **how):
        self.note("i2i", images, **how)
        return SimpleNamespace(images=list(images))

    def image_to_text(self, vd, images, **how):
        self.note("i2t", images, **how)
        return SimpleNamespace(texts=[self.entries[self.of_image(i)].captions[0] for i in images])

    def text_variation(self, vd, texts, **how):
        self.note("t2t", texts, **how)
        return SimpleNamespace(texts=[text.upper() + "!" for text in texts])


class Interrupted(Perfect):
    """Fails at the k-th call."""

    k = 0

    def note(self, *args, **how):
        if len(self.calls) == self.k:
            raise KeyboardInterrupt
        super().note(*args, **how)


class Dull(Perfect):
    """Has one caption for all pictures."""

    def image_to_text(self, vd, images, **how):
        return SimpleNamespace(texts=["a dog"] * len(images))


def knowing(data):
    """A CLIP that tells the data apart, but takes the last two pictures for each other.

    Neighbours are alike, and vectors differ in length, which must not matter.
    """
    knows = Perfect(data)
    one = torch.eye(COUNT + 1)
    vectors = [(1 + i) ** 2 * (one[i] + 0.6 * one[(i + 1) % COUNT]) for i in range(COUNT)]
    taken = [0, 1, 2, 3, 5, 4]

    def of_text(text):
        same = text.lower().rstrip("!")
        return one[COUNT] if same == "a dog" else vectors[knows.of_text(same)]

    return FeatureModel(
        "knowing",
        lambda pictures: torch.stack([vectors[taken[knows.of_image(p)]] for p in pictures]),
        lambda texts: torch.stack([of_text(text) for text in texts]),
        "none",
        "none",
    )


class Foreign(Perfect):
    """Makes pictures of something else, texts of nothing."""

    def text_to_image(self, vd, texts, **how):
        images = [
            drawing(how["seed"] % 1000 + i, (16, 16)).convert("RGB") for i in range(len(texts))
        ]
        return SimpleNamespace(images=images)

    def image_to_text(self, vd, images, **how):
        return SimpleNamespace(texts=["a dog a dog"] * len(images))
