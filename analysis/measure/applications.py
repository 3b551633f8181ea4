"""The suite `applications`: what each application does to scenes, measured.

    python -m analysis evaluate --suite applications --model vd-mini --n 200 --seed 7

| application | input i | what is slid or compared | what should be so |
|---|---|---|---|
| fidelity | a render | variations at `FIDELITIES` | more of it is less distance to the input |
| focus | a render | variations at `LEVELS` | towards style, style is kept and content freed |
| dual | a render of A, a caption of B | pictures at `STRENGTHS` | attributes move from A to B |
| describe | the same | texts at `STRENGTHS` | so do they |
| interpolate | captions of A and B | pictures at `FRAMES` positions | and here |
| blend | two renders of two things | with one thing masked in both, and without | it is gone |
| edit, latent-edit | a render, an attribute to change | the picture after it | no other changes |

B is a scene that differs from A in every attribute but the number of things, so that each attribute
of a result comes from A, from B, or from nowhere. Along a strip the noise is the same.

Nothing is decided here; `analysis.measure.applications_summary` counts, and has each claim as a
criterion on a 95 % interval: the report's first section has every number with its criterion and
"pass" or "fail". A model that cannot show an effect fails; so may a method, which is what the
numbers are for.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from analysis.measure import applications_summary as summary
from analysis.measure.applications_summary import FIDELITIES, FRAMES, LEVELS, STRENGTHS
from analysis.measure.numbers import Section
from analysis.measure.protocol import PARTS as FLOW_PARTS
from analysis.measure.protocol import Settings, chosen
from analysis.measure.rows import Row, Rows, Task
from analysis.measure.scene_inputs import (
    SceneSuite,
    changed,
    counterpart,
    differences,
    hiding,
    licence,
    phrase,
    told,
    two_things,
)
from data.scenes.captions import canonical_caption, write
from data.scenes.draw import layout, render
from data.scenes.world import Scene
from lib.components import components_for

NEEDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "fidelity": (("i2i",), ("image_encoder",)),
    "focus": (("i2i",), ()),
    "dual": (("t2i", "i2i"), ()),
    "describe": (("t2t", "i2t"), ()),
    "interpolate": (("t2i",), ()),
    "blend": (("i2i",), ()),
    "edit": (("t2i",), ("image_encoder",)),
    "latent-edit": (("i2t", "t2i", "i2i"), ("text_encoder",)),
}
"""Application -> flows and further components."""
APPLICATIONS = tuple(NEEDS)


class Applications(SceneSuite):
    """The applications on scenes.

    Args:
        args: model and settings, as `Suite` takes them; of the settings n, seed, steps, scales,
            sampler (not of `edit`) and batch.
        parts: which of `APPLICATIONS`.
        more: as `Suite` takes it.
    """

    about = SceneSuite.about | {
        "prompts": "dual, describe: complete captions by data.scenes.captions.write; "
        "edit, interpolate: canonical"
    }

    def __init__(self, *args: Any, parts: Sequence[str] = APPLICATIONS, **more: Any) -> None:
        super().__init__(*args, **more)
        self.parts = chosen("applications", parts, APPLICATIONS)
        self.about = self.about | {"applications": list(self.parts)}

    @classmethod
    def accepted(cls, settings: Settings) -> Settings:
        """ValueError for settings that are for flows."""
        sweeps = settings.sweep_scale or settings.sweep_steps or settings.sweep_fidelity
        if settings.flows != FLOW_PARTS or sweeps:
            raise ValueError(
                "The suite applications has neither flows nor sweeps: leave them out, and choose "
                "what to measure by --applications."
            )
        return settings

    @classmethod
    def read(cls, args: argparse.Namespace, settings: Settings) -> dict[str, Any]:
        """Which applications, and the judge unless only texts are made."""
        parts = APPLICATIONS if args.applications is None else args.applications
        parts = chosen("applications", parts, APPLICATIONS)
        judge = {} if parts == ("describe",) else super().read(args, settings)
        return {"parts": parts} | judge

    @classmethod
    def needs(cls, settings: Settings, parts: Sequence[str] = (), **read: Any) -> tuple[str, ...]:
        """Those of the flows that the applications are made of, and their own."""
        flows = [flow for part in parts for flow in NEEDS[part][0]]
        return (*components_for(flows), *(name for part in parts for name in NEEDS[part][1]))

    def tasks(self) -> list[Task]:
        """The judge's examination, unless only texts are made, and then the parts."""
        examination = [] if self.parts == ("describe",) else [self.examination("test")]
        n = self.settings.n
        return examination + [Task(part, n, getattr(self, _method(part))) for part in self.parts]

    def summarise(self, rows: Mapping[str, Rows]) -> Section:
        """The criteria first, {application: {what should be so: {verdict: number}}}, then all."""
        criteria: Section = {}
        measures: Section = {"criteria": criteria}
        for part in self.parts:
            measures[part], asked = getattr(summary, _method(part))(rows[part])
            criteria[part] = {claim: verdict for c in asked for claim, verdict in c.section()}
        if "judge-test" in rows:
            measures["judge"] = {"test": licence("test", rows["judge-test"])}
        return measures

    # ------------------------------------------------------------------ inputs

    def scales(self) -> dict[str, float]:
        """Guidance of both kinds of contexts."""
        return {"scale_text": self.settings.scale_text, "scale_image": self.settings.scale_image}

    def pairs(self, indices: range) -> list[tuple[Scene, Scene]]:
        """Scenes A, and for each a B that shares nothing with it."""
        return [
            (scene, counterpart(scene, self.rng("counterparts", i)))
            for scene, i in zip(self.scenes("test", indices), indices, strict=True)
        ]

    def edits(self, indices: range) -> list[tuple[Scene, Scene, str]]:
        """Scenes, what they shall become, and the name of the attribute that tells them apart."""
        return [
            (scene, *changed(scene, summary.EDITED, self.rng("edits", i)))
            for scene, i in zip(self.scenes("test", indices), indices, strict=True)
        ]

    # ------------------------------------------------------------------ sliders

    def fidelity(self, indices: range) -> list[Row]:
        """How far variations are from their input, as fidelity grows."""
        given, rows = self.renders("test", indices), [{"distance": []} for _ in indices]
        for fidelity in FIDELITIES:
            made = self.generate("i2i", given, "fidelity", indices, fidelity=fidelity)
            for row, picture, image in zip(rows, given, made, strict=True):
                row["distance"].append(differences(picture, image)["pixels"])
        return rows

    def focus(self, indices: range) -> list[Row]:
        """What variations show, from content to style."""
        options = self.sampling("focus", indices) | {"scale": self.settings.scale_image}
        made = self.modes.focus(
            self.vd, self.renders("test", indices), levels=list(LEVELS), **options
        )
        seen = self.seen(made.images)  # by input, then level
        return [
            {"first": scene.attributes(), "seen": seen[k * len(LEVELS) : (k + 1) * len(LEVELS)]}
            for k, scene in enumerate(self.scenes("test", indices))
        ]

    def dual(self, indices: range) -> list[Row]:
        """What pictures show that are made from a picture of A and a text about B."""
        return self.mixed("dual_guided", indices)

    def describe(self, indices: range) -> list[Row]:
        """What texts say that are made from a picture of A and a text about B."""
        return self.mixed("describe", indices)

    def mixed(self, mode: str, indices: range) -> list[Row]:
        """Picture of A and text about B, from the picture alone to the text alone."""
        pairs = self.pairs(indices)
        texts = [
            write(b, self.rng("second captions", i))
            for (_, b), i in zip(pairs, indices, strict=True)
        ]
        options = self.sampling(mode, indices) | self.scales() | {"strength": list(STRENGTHS)}
        made = getattr(self.modes, mode)(self.vd, self.renders("test", indices), texts, **options)
        seen = [told(text) for text in made.texts] if made.texts else self.seen(made.images)
        # by strength, then input
        return [between(*pair, seen[k :: len(pairs)]) for k, pair in enumerate(pairs)]

    def interpolate(self, indices: range) -> list[Row]:
        """What pictures show on the way from a caption of A to one of B."""
        pairs = self.pairs(indices)
        ends = [[canonical_caption(pair[k]) for pair in pairs] for k in (0, 1)]
        alone = [self.generate("t2i", texts, "interpolate", indices) for texts in ends]
        rows = []
        for k, (pair, i) in enumerate(zip(pairs, indices, strict=True)):
            options = self.sampling("interpolate", range(i, i + 1))
            options |= {"frames": FRAMES, "scale": self.settings.scale_text}
            film = self.modes.interpolate(self.vd, ends[0][k], ends[1][k], **options).images
            apart = [
                differences(alone[0][k], film[0])["pixels"],
                differences(alone[1][k], film[-1])["pixels"],
            ]
            rows.append(between(*pair, self.seen(film)) | {"ends": apart})
        return rows

    # ------------------------------------------------------------------ masks and edits

    def blend(self, indices: range) -> list[Row]:
        """Two renders of a scene of two things, blended with one thing masked in both, or none."""
        rows = []
        for i in indices:
            scene, hidden = two_things(self.rng("blend scenes", i))
            images, masks = [], []
            for which in ("first", "second"):
                purpose = f"blend renders {which}"
                images.append(render(scene, self.rng(purpose, i)))
                masks.append(hiding(scene, layout(scene, self.rng(purpose, i)), hidden))
            options = self.sampling("blend", range(i, i + 1))
            options["scale_image"] = self.settings.scale_image
            plain = self.modes.blend(self.vd, images, **options).images
            masked = self.modes.blend(self.vd, images, masks=masks, **options).images
            seen = dict(zip(("plain", "masked"), self.seen([*plain, *masked]), strict=True))
            rows.append({"first": scene.attributes(), "hidden": hidden} | seen)
        return rows

    def edit(self, indices: range) -> list[Row]:
        """Renders edited by inversion: the text of their scene, and that with one thing changed."""
        edits = self.edits(indices)
        source, target = ([canonical_caption(edit[k]) for edit in edits] for k in (0, 1))
        options = self.sampling("edit", indices)  # at its own guidance
        del options["n"], options["sampler"]  # it inverts DDIM, and so has one result
        made = self.modes.edit(self.vd, self.renders("test", indices), source, target, **options)
        return [
            after(*edit, seen) | {"inversion_error": sample["found"]["inversion_error"]}
            for edit, seen, sample in zip(
                edits, self.seen(made.images), made.record["samples"], strict=True
            )
        ]

    def latent_edit(self, indices: range) -> list[Row]:
        """Renders edited by words to remove and to add."""
        rows = []
        for edit, image, i in zip(
            self.edits(indices), self.renders("test", indices), indices, strict=True
        ):
            before, wanted, name = edit
            remove, add = (phrase(name, scene.attributes()[name]) for scene in (before, wanted))
            options = self.sampling("latent edit", range(i, i + 1)) | self.scales()
            made = self.modes.latent_edit(self.vd, image, remove, add, **options)
            noted = made.record["samples"][0]["found"]
            captions = {key: told(noted[key]) for key in ("caption", "edited_caption")}
            (seen,) = self.seen(made.images)
            rows.append(after(*edit, seen) | {"said": captions})
        return rows

    def seen(self, images: Sequence[Image.Image]) -> list[Row]:
        """The attributes that the judge reads off each picture."""
        return [dict(reading.attributes) for reading in self.judge.read(images)]


def _method(part: str) -> str:
    return part.replace("-", "_")


# ---------------------------------------------------------------------- rows


def between(first: Scene, second: Scene, seen: Sequence[Row | None]) -> Row:
    """A row of what was seen at each value of a strip from one scene to another."""
    return {"first": first.attributes(), "second": second.attributes(), "seen": list(seen)}


def after(first: Scene, wanted: Scene, name: str, seen: Row) -> Row:
    """A row of what was seen after an edit of the attribute `name`."""
    return {"first": first.attributes(), "wanted": wanted.attributes(), "named": name, "seen": seen}


SUITE = Applications
