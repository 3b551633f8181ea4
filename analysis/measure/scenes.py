"""The suite `scenes`: a model on drawn scenes, whose meaning is known exactly.

| measured | by |
|---|---|
| what pictures show | `data.scenes.judge`, after it has read real renders without fault |
| what captions say | `data.scenes.captions.parse` |
| how far pictures are from real ones | the model's own CLIP: it also conditions the model |

Every flow is measured on unseen scenes, and on scenes with a pair of colour and shape that training
never saw (`heldout`). `analysis.measure.scene_summary` sums up what came out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from PIL import Image

from analysis.folders.encoders import TOWERS
from analysis.measure import scene_summary as summary
from analysis.measure.numbers import Section
from analysis.measure.protocol import Settings
from analysis.measure.rows import Row, Rows, Task
from analysis.measure.scene_card import CARD
from analysis.measure.scene_inputs import (
    DISTINCT,
    SPLITS,
    SceneSuite,
    differences,
    licence,
    said,
    seen,
)
from analysis.metrics.feature_models import FeatureModel
from analysis.metrics.text_metrics import same_wording
from data.scenes.captions import write
from lib.config import FLOWS

REFERENCES = 5  # captions of the same scene that a generated one is compared with word by word
_AUTOENCODERS = ("image_encoder", "image_decoder", "text_encoder", "text_decoder")


class Scenes(SceneSuite):
    """All flows on scenes, reconstruction, search and captions.

    Args:
        args: model and settings, as `Suite` takes them.
        models: one feature function, or none; by default the model's own CLIP.
        more: as `Suite` takes it.
    """

    main: Mapping[str, str] = {flow: f"{flow}-test" for flow in FLOWS}
    card = CARD

    def __init__(
        self, *args: Any, models: Sequence[FeatureModel | None] = (None,), **more: Any
    ) -> None:
        super().__init__(*args, models=models, **more)
        if "search" in self.settings.flows and not any(model.texts for model in self.models):
            raise ValueError(
                "Search compares vectors of texts and pictures: give a feature function that makes "
                "both, or flows without search."
            )

    @classmethod
    def needs(cls, settings: Settings, **read: Any) -> tuple[str, ...]:
        """Those of the flows, both towers of CLIP, and autoencoders to reconstruct."""
        flows = settings.flows
        if "caption" in flows:  # made by a flow, also where that flow itself is not asked for
            settings = replace(settings, flows=(*flows, "i2t"))
        more = _AUTOENCODERS if "reconstruction" in flows else ()
        return (*super().needs(settings), *TOWERS, *more)

    def tasks(self) -> list[Task]:
        """All that the settings ask for, the judge's examination first."""
        s = self.settings
        tasks = [self.examination(name) for name in SPLITS if self.judged(s)]
        for flow in (flow for flow in FLOWS if flow in s.flows):
            measure = getattr(self, flow)
            tasks += [Task(f"{flow}-{name}", s.n, partial(measure, name)) for name in SPLITS]
        if "search" in s.flows:
            tasks.append(Task("search", min(s.n, s.search_n), self.search))
        if "caption" in s.flows:
            tasks.append(Task("caption", min(s.n, s.caption_n), self.caption))
        if "reconstruction" in s.flows:
            tasks.append(Task("reconstruction-image", s.n, self.image_reconstruction))
            tasks.append(Task("reconstruction-text", s.n, self.text_reconstruction))
        return tasks

    def summarise(self, rows: Mapping[str, Rows]) -> Section:
        """All measures, in the order of a report."""
        flows, measures = self.settings.flows, {}
        for flow in (flow for flow in FLOWS if flow in flows):
            test, heldout = (getattr(summary, flow)(rows[f"{flow}-{name}"]) for name in SPLITS)
            heldout["heldout_objects"] = summary.heldout_objects(rows[f"{flow}-heldout"])
            measures[flow] = ({"test": test} if flow == "t2i" else test) | {"heldout": heldout}
        if "t2i" in flows:
            features = summary.t2i_features(rows["t2i-test"])
            measures["t2i"] |= {"features": features} if features else {}
        if "reconstruction" in flows:
            parts = rows["reconstruction-image"], rows["reconstruction-text"]
            measures["reconstruction"] = summary.reconstruction(*parts)
        if self.judged(self.settings):
            measures["judge"] = {name: licence(name, rows[f"judge-{name}"]) for name in SPLITS}
        if "search" in flows:
            measures["search"] = summary.search(rows["search"])
        if "caption" in flows:
            measures["caption"] = summary.captioning(rows["caption"])
        return measures

    def swept(self, flow: str) -> Callable[..., list[Row]]:
        """The flow on the test split."""
        return partial(getattr(self, flow), "test")

    def compared(self, section: str, flow: str, part: Rows, rows: Mapping[str, Rows]) -> Section:
        """What is right, and how far from real pictures, or from the input."""
        return summary.fidelity(part) if section == "sweep_fidelity" else summary.sweep(flow, part)

    # ------------------------------------------------------------------ the four flows

    def t2i(self, name: str, indices: range, **changes: Any) -> list[Row]:
        """Pictures from complete captions."""
        captions = self.captions(name, indices)
        images = self.generate("t2i", captions, f"{name} t2i", indices, **changes)
        rows = [
            {"caption": caption} | row
            for caption, row in zip(captions, self.seen(name, indices, images), strict=True)
        ]
        self.add_features(rows, "generated", images)
        self.add_features(rows, "real", self.renders(name, indices, "real"))
        self.add_features(rows, "again", self.renders(name, indices, "again"))
        self.add_features(rows, "text", captions)
        return rows

    def i2i(self, name: str, indices: range, **changes: Any) -> list[Row]:
        """Two variations of a picture, beside two real re-renders of its scene.

        A run of a sweep has the first variation alone.
        """
        given, real = self.renders(name, indices), []
        made = [self.generate("i2i", given, _purpose(name, "i2i first"), indices, **changes)]
        if not changes:
            made.append(self.generate("i2i", given, _purpose(name, "i2i second"), indices))
            real = [self.renders(name, indices, which) for which in ("real", "again")]
        readings = [self.seen(name, indices, images) for images in made]
        pictures = {"generated": made} | ({"real": real} if real else {})
        rows = []
        for i, scene in enumerate(self.scenes(name, indices)):
            row = {
                "scene": scene.attributes(),
                "samples": [reading[i] for reading in readings],
                "to_input": {k: differences(p[0][i], given[i]) for k, p in pictures.items()},
            }
            if real:
                row["between"] = {k: differences(a[i], b[i]) for k, (a, b) in pictures.items()}
            rows.append(row)
        self.add_features(rows, "given", given)
        self.add_features(rows, "generated", made[0])
        if real:
            self.add_features(rows, "again", made[1])
            self.add_features(rows, "real", real[0])
        return rows

    def i2t(self, name: str, indices: range, **changes: Any) -> list[Row]:
        """Captions of renders."""
        given = self.renders(name, indices)
        texts = self.generate("i2t", given, _purpose(name, "i2t"), indices, **changes)
        rows = []
        for i, scene, text in zip(indices, self.scenes(name, indices), texts, strict=True):
            rng = self.rng(_purpose(name, "references"), i)
            references = [write(scene, rng) for _ in range(REFERENCES)]
            rows.append(said(scene, text) | {"references": references})
        self.add_features(rows, "given", given)
        self.add_features(rows, "text", texts)
        return rows

    def t2t(self, name: str, indices: range) -> list[Row]:
        """Variations of captions; the first inputs get two samples."""
        captions, pairs = self.captions(name, indices), self.paired(indices)
        first = self.generate("t2t", captions, _purpose(name, "t2t first"), indices)
        second = []
        if pairs:
            purpose = _purpose(name, "t2t second")
            second = self.generate("t2t", captions[: len(pairs)], purpose, pairs)
        rows = []
        for i, scene in enumerate(self.scenes(name, indices)):
            row = {"caption": captions[i], "reworded": not same_wording(captions[i], first[i])}
            row |= said(scene, first[i])
            if i < len(second):
                differs = not same_wording(first[i], second[i])
                row["second"] = said(scene, second[i]) | {"differs": differs}
            rows.append(row)
        return rows

    def seen(self, name: str, indices: range, images: Sequence[Image.Image]) -> list[Row]:
        """What the judge reads off pictures of a split's scenes."""
        pairs = zip(self.scenes(name, indices), self.judge.read(images), strict=True)
        return [seen(scene, reading) for scene, reading in pairs]

    # ------------------------------------------------------------------ what flows are made of

    def image_reconstruction(self, indices: range) -> list[Row]:
        """Renders through the image VAE: mean squared error of pixels in [0, 1]."""
        return [{"mse": error} for error in self.errors(self.renders("test", indices))]

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
        rows: list[Row] = [{"scene": s.attributes()} for s in self.scenes(DISTINCT, indices)]
        self.add_features(rows, "text", self.captions(DISTINCT, indices))
        self.add_features(rows, "picture", self.renders(DISTINCT, indices, "searched"))
        self.add_features(rows, "again", self.renders(DISTINCT, indices, "asked with"))
        return rows

    def caption(self, indices: range) -> list[Row]:
        """Captions of renders as `analysis.folders.caption` makes them: several, ranked by CLIP."""
        scenes, n = self.scenes("test", indices), self.settings.caption_candidates
        options = self.sampling("caption", indices) | {"scale": self.settings.scale("i2t"), "n": n}
        del options["seed"], options["progress"]  # a seed a picture instead; it never shows a bar
        first = self.first_seed("caption")
        seeds = [first + i * n for i in indices]
        ranked = self.modes.caption(self.vd, self.renders("test", indices), seeds=seeds, **options)
        return [
            {
                "best": said(scene, candidates[0].text),
                # what would have been the caption, had there been no others
                "first": said(scene, min(candidates, key=lambda c: c.seed).text),
                "exact": [said(scene, c.text)["exact"] for c in candidates],
            }
            for scene, candidates in zip(scenes, ranked, strict=True)
        ]


def _purpose(name: str, purpose: str) -> str:
    """Who owns the noise: for the test split, names as they were before there were others."""
    return purpose if name == "test" else f"{name} {purpose}"


SUITE = Scenes
