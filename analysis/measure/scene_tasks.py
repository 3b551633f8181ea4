"""The suite `scenes`, first half: let the model generate, and write down what came out.

A scene has an exact meaning, so what a picture or a caption says can be read and compared. Each
task below turns indices into rows (`analysis.measure.rows`). Everything random about input i (its caption,
its render, the noise of its sample) is owned by (seed, purpose, i): rows are the same in any batch.
Generation goes through the public functions of `analysis.modes.generate`: what is measured is what users
run.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from analysis.measure.protocol import Settings
from analysis.measure.rows import Row, Task, pack
from analysis.measure.scene_rows import at_size, differences, said, seen
from analysis.metrics.retrieval import distinct_scenes
from analysis.metrics.text_metrics import same_wording
from data.scenes.captions import write
from data.scenes.draw import render
from data.scenes.judge import Reading
from data.scenes.world import Scene, split
from lib.images import to_tensor
from lib.model import VersatileDiffusion

REFERENCES = 5  # captions of the same scene that a generated one is compared with word by word
DISTINCT = "distinct"
_LEAST_ERROR = 1e-10  # 100 dB


class Reader(Protocol):
    """Reads pictures: `data.scenes.judge.Judge`, or what stands in for it."""

    def read(self, images: Sequence[Image.Image]) -> list[Reading]:
        """One reading a picture."""


@dataclass(frozen=True)
class FeatureFunctions:
    """One vector a picture and a text, in the same space.

    Attributes:
        name: for the report; distances of different functions do not compare.
        images: pictures -> (B, D).
        texts: texts -> (B, D), or None if the function knows pictures only.
    """

    name: str
    images: Callable[[Sequence[Image.Image]], Tensor]
    texts: Callable[[Sequence[str]], Tensor] | None = None


@dataclass(frozen=True)
class Bench:
    """What the tasks work with.

    Attributes:
        vd: the model.
        judge: reads pictures; None if no flow makes any.
        modes: where text_to_image, image_variation, image_to_text, text_variation and caption come
            from.
        settings: resolved ones.
        features: or None to leave out what needs them.
    """

    vd: VersatileDiffusion
    judge: Reader | None
    modes: Any
    settings: Settings
    features: FeatureFunctions | None = None
    _splits: dict[tuple[str, int], list[Scene]] = field(default_factory=dict, repr=False)

    def tasks(self) -> list[Task]:
        """All that the settings ask for, the judge's examination first."""
        s, tasks, splits = self.settings, [], ("test", "heldout")
        if {"t2i", "i2i"} & set(s.flows):
            tasks += [Task(f"judge-{k}", s.licence_n, partial(self.judged, k)) for k in splits]
        if "t2i" in s.flows:
            tasks += [Task(f"t2i-{k}", s.n, partial(self.t2i, k)) for k in splits]
        if "i2i" in s.flows:
            tasks.append(Task("i2i-test", s.n, self.i2i))
        if "i2t" in s.flows:
            tasks.append(Task("i2t-test", s.n, self.i2t))
        if "t2t" in s.flows:
            tasks.append(Task("t2t-test", s.n, self.t2t))
        if "search" in s.flows:
            tasks.append(Task("search", min(s.n, s.search_n), self.search))
        if "caption" in s.flows:
            tasks.append(Task("caption", min(s.n, s.caption_n), self.caption))
        if "reconstruction" in s.flows:
            tasks.append(Task("reconstruction-image", s.n, self.image_reconstruction))
            tasks.append(Task("reconstruction-text", s.n, self.text_reconstruction))
        return tasks

    # ------------------------------------------------------------------ inputs

    def rng(self, purpose: str, i: int) -> np.random.Generator:
        """The generator that owns what is random about input i for one purpose."""
        return np.random.default_rng([self.settings.seed, zlib.crc32(purpose.encode()), i])

    def first_seed(self, purpose: str) -> int:
        """Seed of sample 0; that of sample i is i more. Far apart for different purposes."""
        return int(self.rng(purpose, 0).integers(2**62))

    def scenes(self, name: str, indices: range) -> list[Scene]:
        """Scenes of a split, or the `DISTINCT` ones of the test split.

        A shorter list is the beginning of a longer one.
        """
        n = self.settings.n
        key = name, n if indices.stop <= n else max(n, self.settings.licence_n)
        if key not in self._splits:
            make = distinct_scenes if name == DISTINCT else partial(split, name)
            self._splits[key] = make(key[1], self.settings.seed)
        return self._splits[key][indices.start : indices.stop]

    def captions(self, name: str, indices: range) -> list[str]:
        """A complete caption of each scene."""
        scenes = self.scenes(name, indices)
        return [
            write(s, self.rng(f"{name} captions", i)) for s, i in zip(scenes, indices, strict=True)
        ]

    def renders(self, name: str, indices: range, which: str) -> list[Image.Image]:
        """A picture of each scene; another `which` is another draw of the nuisance."""
        scenes = self.scenes(name, indices)
        return [
            render(s, self.rng(f"{name} renders {which}", i))
            for s, i in zip(scenes, indices, strict=True)
        ]

    def sampling(self, flow: str, purpose: str, indices: range, **changes: Any) -> dict[str, Any]:
        """Keyword arguments of a mode: input i gets the seed that belongs to it.

        Args:
            flow: chooses the guidance scale.
            purpose: owns the seeds.
            indices: of the inputs.
            changes: of a run of a sweep.
        """
        return {
            "n": 1,
            "seed": self.first_seed(purpose) + indices.start,
            "steps": self.settings.steps,
            "scale": self.settings.scale(flow),
            "sampler": self.settings.sampler,
            "batch_size": self.settings.batch,
            "progress": False,
            **changes,
        }

    # ------------------------------------------------------------------ tasks

    def judged(self, name: str, indices: range) -> list[Row]:
        """The judge's examination: real renders."""
        scenes = self.scenes(name, indices)
        readings = self.judge.read(self.renders(name, indices, "examination"))
        return [seen(scene, r) for scene, r in zip(scenes, readings, strict=True)]

    def t2i(self, name: str, indices: range, **changes: Any) -> list[Row]:
        """Pictures from complete captions."""
        scenes, captions = self.scenes(name, indices), self.captions(name, indices)
        sampling = self.sampling("t2i", f"{name} t2i", indices, **changes)
        images = self.modes.text_to_image(self.vd, captions, **sampling).images
        readings = self.judge.read(images)
        rows = [
            {"caption": caption} | seen(scene, reading)
            for scene, caption, reading in zip(scenes, captions, readings, strict=True)
        ]
        self.add_features(rows, "generated", images)
        self.add_features(rows, "real", self.renders(name, indices, "real"))
        self.add_features(rows, "again", self.renders(name, indices, "again"))
        self.add_features(rows, "text", captions)
        return rows

    def i2i(self, indices: range) -> list[Row]:
        """Two variations of a picture, beside two real re-renders of its scene."""
        scenes = self.scenes("test", indices)
        given = self.renders("test", indices, "given")
        real = [self.renders("test", indices, which) for which in ("real", "again")]
        made = [
            self.modes.image_variation(self.vd, given, **self.sampling("i2i", purpose, indices))
            for purpose in ("i2i first", "i2i second")
        ]
        made = [result.images for result in made]
        readings = [self.judge.read(images) for images in made]
        rows = []
        for i, scene in enumerate(scenes):
            pairs = {"generated": (made[0][i], made[1][i]), "real": (real[0][i], real[1][i])}
            row = {
                "scene": scene.attributes(),
                "samples": [seen(scene, reading[i]) for reading in readings],
                "between": {name: differences(*pair) for name, pair in pairs.items()},
                "to_input": {name: differences(p[0], given[i]) for name, p in pairs.items()},
            }
            rows.append(row)
        self.add_features(rows, "given", given)
        self.add_features(rows, "generated", made[0])
        self.add_features(rows, "again", made[1])
        self.add_features(rows, "real", real[0])
        return rows

    def i2i_once(self, indices: range, **changes: Any) -> list[Row]:
        """The first variation of a picture, as in `i2i`, and how far it is from the picture."""
        scenes, given = self.scenes("test", indices), self.renders("test", indices, "given")
        sampling = self.sampling("i2i", "i2i first", indices, **changes)
        made = self.modes.image_variation(self.vd, given, **sampling).images
        rows = [
            {
                "scene": scene.attributes(),
                "samples": [seen(scene, reading)],
                "to_input": {"generated": differences(image, original)},
            }
            for scene, reading, image, original in zip(
                scenes, self.judge.read(made), made, given, strict=True
            )
        ]
        self.add_features(rows, "given", given)
        self.add_features(rows, "generated", made)
        return rows

    def i2t(self, indices: range, **changes: Any) -> list[Row]:
        """Captions of renders."""
        scenes, given = self.scenes("test", indices), self.renders("test", indices, "given")
        sampling = self.sampling("i2t", "i2t", indices, **changes)
        texts = self.modes.image_to_text(self.vd, given, **sampling).texts
        rows = []
        for i, scene, text in zip(indices, scenes, texts, strict=True):
            rng = self.rng("references", i)
            references = [write(scene, rng) for _ in range(REFERENCES)]
            rows.append(said(scene, text) | {"references": references})
        self.add_features(rows, "given", given)
        self.add_features(rows, "text", texts)
        return rows

    def t2t(self, indices: range) -> list[Row]:
        """Variations of captions; the first inputs get two samples."""
        scenes, captions = self.scenes("test", indices), self.captions("test", indices)
        both = range(indices.start, max(indices.start, min(indices.stop, self.settings.t2t_pairs)))

        def vary(purpose: str, part: range) -> list[str]:
            if not part:
                return []
            texts = captions[: len(part)]
            return self.modes.text_variation(
                self.vd, texts, **self.sampling("t2t", purpose, part)
            ).texts

        first, second = vary("t2t first", indices), vary("t2t second", both)
        rows = []
        for i, (scene, caption) in enumerate(zip(scenes, captions, strict=True)):
            row = {"caption": caption, "reworded": not same_wording(caption, first[i])}
            row |= said(scene, first[i])
            if i < len(second):
                row["second"] = said(scene, second[i]) | {
                    "differs": not same_wording(first[i], second[i])
                }
            rows.append(row)
        return rows

    def image_reconstruction(self, indices: range) -> list[Row]:
        """Renders through the image VAE: mean squared error of pixels in [0, 1]."""
        side = self.vd.spec.image_size
        given = [at_size(image, side) for image in self.renders("test", indices, "given")]
        out = self.vd.decode_image(self.vd.encode_image(given)).cpu()
        errors = (out - to_tensor(given)).double().square().flatten(1).mean(dim=1)
        return [{"mse": max(float(error), _LEAST_ERROR)} for error in errors]

    def text_reconstruction(self, indices: range) -> list[Row]:
        """Captions through the text VAE, always the most likely word."""
        scenes, captions = self.scenes("test", indices), self.captions("test", indices)
        texts = self.vd.decode_text(self.vd.encode_text(captions), temperature=0.0)
        return [
            {"caption": caption, "match": " ".join(text.split()) == caption} | said(scene, text)
            for scene, caption, text in zip(scenes, captions, texts, strict=True)
        ]

    def search(self, indices: range) -> list[Row]:
        """What search compares: two renders of each of n different scenes, and a caption."""
        scenes = self.scenes(DISTINCT, indices)
        rows: list[Row] = [{"scene": scene.attributes()} for scene in scenes]
        self.add_features(rows, "text", self.captions(DISTINCT, indices))
        self.add_features(rows, "picture", self.renders(DISTINCT, indices, "searched"))
        self.add_features(rows, "again", self.renders(DISTINCT, indices, "asked with"))
        return rows

    def caption(self, indices: range) -> list[Row]:
        """Captions of renders as `analysis.folders.caption` makes them: several, ranked by CLIP."""
        scenes, given = self.scenes("test", indices), self.renders("test", indices, "given")
        how = self.sampling("i2t", "caption", indices)
        n, first = self.settings.caption_candidates, self.first_seed("caption")
        how |= {"n": n, "seeds": [first + i * n for i in indices]}
        del how["seed"], how["progress"]  # one a picture instead; it never shows a bar
        ranked = self.modes.caption(self.vd, given, **how)
        return [
            {
                "best": said(scene, candidates[0].text),
                # the one that would have been the caption, had there been no others
                "first": said(scene, min(candidates, key=lambda one: one.seed).text),
                "exact": [said(scene, one.text)["exact"] for one in candidates],
            }
            for scene, candidates in zip(scenes, ranked, strict=True)
        ]

    def add_features(self, rows: list[Row], name: str, things: Sequence) -> None:
        """Put a feature vector of each picture or text into its row."""
        if self.features is None or not rows:
            return
        function = self.features.texts if isinstance(things[0], str) else self.features.images
        if function is not None:
            for row, vector in zip(rows, function(things), strict=True):
                row.setdefault("features", {})[name] = pack(vector)
