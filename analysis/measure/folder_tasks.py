"""The suite `folder`, first half: let the model generate from captioned pictures, keep features.

Each task turns indices into rows (`analysis.measure.rows`), as in `analysis.measure.scene_tasks`; everything random
about input i is owned by (seed, purpose, i).

| task | given | made |
|---|---|---|
| `real` | | nothing: features of the pictures and of their prompts, once for all other tasks |
| `t2i` | the prompt: one of the picture's captions, drawn | a picture |
| `i2i` | the picture | a variation |
| `i2t` | the picture | a text |
| `t2t` | the prompt | a text |

The first `t2t_pairs` inputs get a second sample, which says how much samples differ. Runs of a
sweep (`analysis.measure.scene_sweeps`) make one sample of the first `sweep_n` inputs, with the same noise
at every setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from PIL import Image, ImageOps

from analysis.measure.rows import Row, Task, pack
from analysis.measure.scene_sweeps import Point, points
from analysis.measure.scene_tasks import Bench
from analysis.metrics.feature_models import FeatureModel, shortened
from analysis.metrics.text_metrics import same_wording
from data.captioned import Chosen
from lib.config import FLOWS

RESIZE = (
    "real pictures: their middle square, bicubic (PIL, antialiased) to the side of generated ones, "
    "before any feature; the model is given them whole"
)


@dataclass(frozen=True)
class FolderBench(Bench):
    """`Bench` whose inputs come from a captioned folder; without a judge.

    Attributes:
        chosen: the pictures, `settings.n` of them.
        models: feature functions, with different names.
    """

    chosen: Chosen | None = None
    models: tuple[FeatureModel, ...] = ()

    def tasks(self) -> list[Task]:
        """All that the settings ask for, the real pictures first."""
        s = self.settings
        tasks = [Task("real", s.n, self.real)]
        tasks += [Task(flow, s.n, getattr(self, flow)) for flow in FLOWS if flow in s.flows]
        for point in self.points():
            if point.task not in FLOWS:
                measure = partial(getattr(self, point.flow), **point.changes)
                tasks.append(Task(point.task, min(s.n, s.sweep_n), measure))
        return tasks

    def points(self) -> list[Point]:
        """All runs of sweeps; `task` is a flow's own where that is measured so anyhow."""
        found = points(self.settings)
        return [replace(point, task=point.task.removesuffix("-test")) for point in found]

    # ------------------------------------------------------------------ inputs

    def given(self, indices: range) -> list[Image.Image]:
        """The pictures as they are."""
        return self.chosen.images(indices)

    def prompt(self, i: int) -> tuple[str, bool]:
        """One of the captions of picture i, and whether CLIP's limit cost it its end."""
        captions = self.chosen.entries[i].captions
        text = captions[int(self.rng("prompt", i).integers(len(captions)))]
        words = getattr(self.vd, "tokenizers", None)
        if words is None:
            return text, False
        short, _ = shortened(text, lambda t: words.clip_ids([t]))
        return short, short != text

    def prompts(self, indices: range) -> list[str]:
        """One caption a picture."""
        return [self.prompt(i)[0] for i in indices]

    # ------------------------------------------------------------------ tasks

    def real(self, indices: range) -> list[Row]:
        """What generated pictures and texts are compared with."""
        rows: list[Row] = []
        for i in indices:
            prompt, cut = self.prompt(i)
            entry = self.chosen.entries[i]
            row = {"name": entry.name, "prompt": prompt, "cut": cut}
            rows.append(row | {"captions": list(entry.captions)})
        side = self.vd.spec.image_size
        self.add_features(rows, "picture", [middle(p, side) for p in self.given(indices)])
        self.add_features(rows, "text", [row["prompt"] for row in rows])
        return rows

    def t2i(self, indices: range, **changes: Any) -> list[Row]:
        """Pictures from prompts."""
        return self._pictures("t2i", indices, changes)

    def i2i(self, indices: range, **changes: Any) -> list[Row]:
        """Variations of pictures."""
        return self._pictures("i2i", indices, changes)

    def _pictures(self, flow: str, indices: range, changes: dict[str, Any]) -> list[Row]:
        text = flow == "t2i"
        mode = self.modes.text_to_image if text else self.modes.image_variation
        inputs = self.prompts(indices) if text else self.given(indices)
        rows: list[Row] = [{} for _ in indices]
        sampling = self.sampling(flow, f"folder {flow}", indices, **changes)
        self.add_features(rows, "generated", mode(self.vd, inputs, **sampling).images)
        pairs = range(0) if changes else self.paired(indices)
        if pairs:
            sampling = self.sampling(flow, f"folder {flow} second", pairs)
            again = mode(self.vd, inputs[: len(pairs)], **sampling).images
            self.add_features(rows[: len(pairs)], "again", again)
        return rows

    def i2t(self, indices: range, **changes: Any) -> list[Row]:
        """Texts of pictures."""
        return self._texts("i2t", indices, changes)

    def t2t(self, indices: range, **changes: Any) -> list[Row]:
        """Variations of prompts."""
        rows = self._texts("t2t", indices, changes)
        for row, prompt in zip(rows, self.prompts(indices), strict=True):
            row["reworded"] = not same_wording(prompt, row["text"])
        return rows

    def _texts(self, flow: str, indices: range, changes: dict[str, Any]) -> list[Row]:
        text = flow == "t2t"
        mode = self.modes.text_variation if text else self.modes.image_to_text
        inputs = self.prompts(indices) if text else self.given(indices)
        sampling = self.sampling(flow, f"folder {flow}", indices, **changes)
        rows: list[Row] = [{"text": t} for t in mode(self.vd, inputs, **sampling).texts]
        pairs = range(0) if changes else self.paired(indices)
        if pairs:
            sampling = self.sampling(flow, f"folder {flow} second", pairs)
            again = mode(self.vd, inputs[: len(pairs)], **sampling).texts
            for row, second in zip(rows, again, strict=False):
                row["differs"] = not same_wording(row["text"], second)
        self.add_features(rows, "text", [row["text"] for row in rows])
        return rows

    def paired(self, indices: range) -> range:
        """Those of the inputs that get a second sample."""
        last = min(indices.stop, self.settings.t2t_pairs)
        return range(indices.start, max(indices.start, last))

    def add_features(self, rows: list[Row], name: str, things: Sequence) -> None:
        """Put the vectors of every feature function into the rows: features, function, name."""
        for model in self.models if rows else ():
            function = model.texts if isinstance(things[0], str) else model.images
            if function is not None:
                for row, vector in zip(rows, function(things), strict=True):
                    row.setdefault("features", {}).setdefault(model.name, {})[name] = pack(vector)


def middle(image: Image.Image, side: int) -> Image.Image:
    """The largest square in the middle of a picture, at a side."""
    if image.size == (side, side):
        return image
    return ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
