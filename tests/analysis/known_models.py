"""Stand-ins for evaluation: models whose quality is known, and a judge that cannot err.

No weights are needed. Pictures carry their scene along, and the judge looks it up.
"""

import zlib
from types import SimpleNamespace

import numpy as np
import torch

from analysis.folders.caption_formats import Candidate
from analysis.measure.protocol import Settings
from analysis.measure.scenes import Scenes
from analysis.measure.suite import measure
from data.scenes.captions import canonical_caption, parse, write
from data.scenes.draw import render
from data.scenes.judge import Reading
from data.scenes.world import COLORS, Scene, Thing
from lib.images import to_tensor
from lib.schedule import NoiseSchedule
from lib.specs import VD_MINI

SMALL = Settings(n=12, seed=3, licence_n=8, batch=5, t2t_pairs=7, caption_n=6)
RED, BLUE = Thing("large", "red", "circle"), Thing("small", "blue", "square")
PAIR = Scene("white", "flat", (RED, BLUE), "left of")


def tagged(scene, seed):
    image = render(scene, seed)
    image.info["scene"] = scene
    return image


class TellingJudge:
    """Reads the scene that a picture carries; of some pictures a wrong background."""

    def __init__(self, wrong=()):
        self.wrong, self.count = set(wrong), 0

    def read(self, images):
        readings = []
        for image in images:
            attributes = image.info["scene"].attributes()
            if self.count in self.wrong:
                attributes["background"] = (
                    "white" if attributes["background"] != "white" else "gray"
                )
            self.count += 1
            readings.append(Reading(attributes, 1.0))
        return readings


def vector_of(scene):
    """One of its own, of length 1."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr(scene.key()).encode()))
    return torch.nn.functional.normalize(torch.randn(16, generator=generator), dim=0)


class FakeModel:
    """As much of a `VersatileDiffusion` as evaluation touches; perfect autoencoders and CLIP."""

    spec, dtype, device = VD_MINI, torch.float32, torch.device("cpu")
    loaded = available = ("clip_text", "clip_vision")
    schedule = NoiseSchedule()

    def require(self, *names):
        pass

    def component(self, name):
        return torch.nn.BatchNorm1d(len(name))  # some weights, always the same

    def image_features(self, images):
        return torch.stack([vector_of(image.info["scene"]) for image in images])

    def text_features(self, texts):
        return torch.stack([vector_of(parse(text)) for text in texts])

    def encode_image(self, images):
        return to_tensor(images)

    def decode_image(self, latents):
        return latents

    def encode_text(self, texts):
        return list(texts)

    def decode_text(self, latents, temperature):
        assert temperature == 0
        return list(latents)


class Oracle:
    """Does exactly what is asked; counts and logs the calls."""

    def __init__(self):
        self.calls, self.settings = [], set()

    def note(self, flow, inputs, n, seed, scale, **others):
        assert n == 1 and others["progress"] is False
        assert set(others) - {"fidelity"} == {"steps", "sampler", "batch_size", "progress"}
        self.settings.add((flow, others["sampler"], others["steps"], others.get("fidelity")))
        self.calls.append((flow, len(inputs), seed, scale))
        return [np.random.default_rng([seed + i, 1]) for i in range(len(inputs))]

    def text_to_image(self, vd, texts, **how):
        rngs = self.note("t2i", texts, **how)
        scenes = [self.imagined(parse(text)) for text in texts]
        return SimpleNamespace(images=[tagged(s, r) for s, r in zip(scenes, rngs, strict=True)])

    def image_variation(self, vd, images, **how):
        rngs = self.note("i2i", images, **how)
        scenes = [self.imagined(image.info["scene"]) for image in images]
        return SimpleNamespace(images=[tagged(s, r) for s, r in zip(scenes, rngs, strict=True)])

    def image_to_text(self, vd, images, **how):
        rngs = self.note("i2t", images, **how)
        scenes = [self.imagined(image.info["scene"]) for image in images]
        return SimpleNamespace(texts=[write(s, r) for s, r in zip(scenes, rngs, strict=True)])

    def text_variation(self, vd, texts, **how):
        rngs = self.note("t2t", texts, **how)
        scenes = [self.imagined(parse(text)) for text in texts]
        return SimpleNamespace(texts=[write(s, r) for s, r in zip(scenes, rngs, strict=True)])

    def caption(self, vd, images, seeds, n, **how):
        """Candidates in falling order of a score that knows nothing: the last seed wins."""
        made = []
        for k in reversed(range(n)):
            texts = self.image_to_text(
                vd, images, **how, n=1, seed=seeds[0] + k, progress=False
            ).texts
            pairs = zip(texts, seeds, strict=True)
            made.append([Candidate(text, 0.1 * k, seed + k) for text, seed in pairs])
        return [tuple(candidates) for candidates in zip(*made, strict=True)]

    def imagined(self, scene):
        return scene


class SwapsColors(Oracle):
    def imagined(self, scene):
        def other(thing):
            shifted = COLORS[(COLORS.index(thing.color) + 1) % len(COLORS)]
            return Thing(thing.size, shifted, thing.shape)

        things = tuple(map(other, scene.things))
        return Scene(scene.background, scene.style, things, scene.relation)


class Dull(Oracle):
    """Copies pictures and texts, and has one caption for all pictures."""

    def image_variation(self, vd, images, **how):
        return SimpleNamespace(images=list(images))

    def image_to_text(self, vd, images, **how):
        return SimpleNamespace(texts=[canonical_caption(PAIR)] * len(images))

    def text_variation(self, vd, texts, **how):
        return SimpleNamespace(texts=[text.upper() + "." for text in texts])


def measures(tmp_path, modes, settings=SMALL, vd=None, judge=None, **options):
    suite = Scenes(
        vd or FakeModel(), settings, judge=judge or TellingJudge(), modes=modes, **options
    )
    return measure(suite, tmp_path, progress=False, figures=False)["measures"]
