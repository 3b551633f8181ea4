"""The suite `folder`: a model on any captioned pictures, such as COCO's.

    python -m analysis evaluate --suite folder --data COCO --model vd-four-flow-v1-0 --n 5000

| flow | given | measured of what is made |
|---|---|---|
| t2i | the prompt: a caption, drawn | distances from the folder's pictures, CLIP score, diversity |
| i2i | the picture | likeness to it, distances, diversity |
| i2t | the picture | BLEU-4, ROUGE-L, CIDEr-D to the captions, CLIP score, variety, length |
| t2t | the prompt | likeness to it, how often it is said in other words, CLIP score |
| t2i, i2t, t2t | | recall@1, 5, 10 from texts to pictures and back, and that of the data's own |

Data: `data.captioned`. Networks that compare: `analysis.metrics.feature_models`; several may be
named (`--features inception,open_clip:...`), and each has its own numbers.

Frechet distances fall with the number of pictures, whatever the model: compare at equal n. Scores
have their `..._of_real` beside them: the real picture with its own caption. Recall falls with the
number of pictures, too: the n of a share is how many are searched. Each picture takes part with one
caption, the prompt, so image to text is harder than where any of a picture's five captions counts,
as in numbers published on COCO.

The first `t2t_pairs` inputs get a second sample, which says how much samples differ.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from analysis.folders.encoders import TOWERS
from analysis.measure import processes
from analysis.measure.numbers import (
    Section,
    against,
    distances,
    features,
    labels,
    recalls,
    samples_differ,
    share_of,
)
from analysis.measure.protocol import ACTS_ON, Settings
from analysis.measure.rows import Row, Rows, Task
from analysis.measure.suite import Suite
from analysis.metrics.distances import paired_cosine
from analysis.metrics.feature_models import DEFAULT, load_features, shortened
from analysis.metrics.text_metrics import bleu, caption_statistics, same_wording
from data.captioned import Chosen, choose, read_captioned
from data.folders import shown
from lib.config import FLOWS
from lib.devices import choose_device

log = logging.getLogger(__name__)

RESIZE = (
    "real pictures: their middle square, bicubic (PIL, antialiased) to the side of generated ones, "
    "before any feature; the model is given them whole"
)
_LISTED = 20
_COMPARED = {
    "t2i": ("frechet_distance", "kernel_distance", "cmmd", "clip_score"),
    "i2i": ("frechet_distance", "kernel_distance", "cmmd", "likeness_to_input"),
    "i2t": ("bleu4", "rouge_l", "cider_d", "clip_score"),
}
"""What sweeps show."""


class Folder(Suite):
    """The four flows on captioned pictures, without a judge.

    Args:
        args: model and settings, as `Suite` takes them; `n` becomes the number of pictures.
        data: pictures and captions; all of them are used.
        name: of the data, for the report.
        more: as `Suite` takes it.
    """

    parts = FLOWS
    acts_on = ACTS_ON | {"scale_text": ("t2i", "t2t")}  # nothing is mixed here

    def __init__(self, *args: Any, data: Chosen, name: str = "", **more: Any) -> None:
        super().__init__(*args, **more)
        self.data = data
        if len(data.entries) < self.settings.n and processes.rank() == 0:
            log.warning("%d pictures are there, not %d", len(data.entries), self.settings.n)
        self.settings = replace(self.settings, n=len(data.entries))
        left_out = [{"name": item.name, "why": item.why} for item in data.skipped]
        self.about = {
            "data": {"name": name, "format": data.format, "digest": data.digest},
            "splits": "one: pictures drawn from the data without repetition",
            "prompts": "one of each picture's captions, drawn; cut where too long for the model's "
            "CLIP",
            "resize": RESIZE,
            "left_out": {"count": len(left_out), "first": left_out[:_LISTED]},
        }

    @classmethod
    def read(cls, args: argparse.Namespace, settings: Settings) -> dict[str, Any]:
        """Pictures, each opened once, and networks; that of the model itself is None."""
        if not args.data:
            raise ValueError(
                "The suite 'folder' needs --data: give a folder of captioned pictures."
            )
        folder = read_captioned(args.data, args.format, bool(args.outside))
        device = choose_device(args.device)
        specs = args.features or (DEFAULT,)
        models = [None if spec == "own" else load_features(spec, device) for spec in specs]
        progress = not args.quiet and processes.rank() == 0
        data = choose(folder, settings.n, settings.seed, progress)
        return {"data": data, "models": models, "name": shown(Path(args.data).resolve().name)}

    @classmethod
    def needs(cls, settings: Settings, models: Any = (), **read: Any) -> tuple[str, ...]:
        """Those of the flows, and both towers of CLIP if they compare, too."""
        return (*super().needs(settings), *(TOWERS if None in models else ()))

    def tasks(self) -> list[Task]:
        """The real pictures first, then all flows that the settings ask for."""
        s = self.settings
        tasks = [Task("real", s.n, self.real)]
        return tasks + [Task(flow, s.n, self.swept(flow)) for flow in s.flows]

    def swept(self, flow: str) -> Callable[..., list[Row]]:
        """The flow itself."""
        return partial(self.made, flow)

    def summarise(self, rows: Mapping[str, Rows]) -> Section:
        """All flows, then how often the data's own pictures and captions find each other."""
        real = rows["real"]
        measures = {flow: summary(flow, real, rows[flow]) for flow in self.settings.flows}

        def own(label: str) -> Section:
            prompts = features(real, "text", label)
            pictures = features(real, "picture", label)
            return {} if prompts is None else retrieval(prompts, pictures, real)

        found = _by_label(real, own)
        return measures | ({"retrieval": found} if found else {})

    def compared(self, section: str, flow: str, part: Rows, rows: Mapping[str, Rows]) -> Section:
        """The few numbers of a flow that are compared over settings, in one level."""
        whole = summary(flow, rows["real"][: len(part)], part)
        wanted = _COMPARED[flow]
        by_label = whole.get("features", {})
        flat = {k: v for k, v in whole.get("text", {}).items() if k in wanted}
        for label, numbers in by_label.items():
            end = "" if len(by_label) == 1 else f" ({label})"
            flat |= {f"{k}{end}": v for k, v in numbers.items() if k in wanted}
        return flat

    # ------------------------------------------------------------------ inputs

    def prompt(self, i: int) -> tuple[str, bool]:
        """One of the captions of picture i, and whether CLIP's limit cost it its end."""
        captions = self.data.entries[i].captions
        text = captions[int(self.rng("prompt", i).integers(len(captions)))]
        words = getattr(self.vd, "tokenizers", None)
        if words is None:
            return text, False
        short, _ = shortened(text, lambda t: words.clip_ids([t]))
        return short, short != text

    def inputs(self, flow: str, indices: range) -> list[Any]:
        """What a flow is given: the pictures as they are, or one caption a picture."""
        if FLOWS[flow][1] == "image":
            return self.data.images(indices)
        return [self.prompt(i)[0] for i in indices]

    # ------------------------------------------------------------------ tasks

    def real(self, indices: range) -> list[Row]:
        """What generated pictures and texts are compared with."""
        rows: list[Row] = []
        for i in indices:
            prompt, cut = self.prompt(i)
            entry = self.data.entries[i]
            row = {"name": entry.name, "prompt": prompt, "cut": cut}
            rows.append(row | {"captions": list(entry.captions)})
        side = self.vd.spec.image_size
        self.add_features(rows, "picture", [middle(p, side) for p in self.data.images(indices)])
        self.add_features(rows, "text", [row["prompt"] for row in rows])
        return rows

    def made(self, flow: str, indices: range, **changes: Any) -> list[Row]:
        """A sample of each input, and another one of the first unless it is a sweep's run."""
        inputs, pairs = self.inputs(flow, indices), range(0) if changes else self.paired(indices)
        first, again = self.generate(flow, inputs, f"folder {flow}", indices, **changes), []
        if pairs:
            again = self.generate(flow, inputs[: len(pairs)], f"folder {flow} second", pairs)
        rows: list[Row] = [{} for _ in indices]
        if FLOWS[flow][0] == "image":
            self.add_features(rows, "generated", first)
            self.add_features(rows[: len(again)], "again", again)
            return rows
        for row, text, given in zip(rows, first, inputs, strict=True):
            row["text"] = text
            if flow == "t2t":
                row["reworded"] = not same_wording(given, text)
        for row, second in zip(rows, again, strict=False):
            row["differs"] = not same_wording(row["text"], second)
        self.add_features(rows, "text", first)
        return rows


def summary(flow: str, real: Rows, rows: Rows) -> Section:
    """All measures of a flow.

    Args:
        flow: of `lib.config.FLOWS`.
        real: rows of the task `real`, of the same inputs.
        rows: of the flow's task.
    """
    cut = {"prompts_cut": share_of(real, lambda row: row["cut"])}
    prompts = [row["prompt"] for row in real]
    compared = _by_label(rows, lambda label: _compared(flow, real, rows, label))
    if FLOWS[flow][0] == "image":
        return compared | (cut if flow == "t2i" else {})
    texts = [row["text"] for row in rows]
    pairs = [row for row in rows if "differs" in row]
    wording: Section = caption_statistics(texts)
    if pairs:
        wording["worded_differently"] = share_of(pairs, lambda row: row["differs"])
    if flow == "i2t":
        own = {f"{name}_of_captions": e for name, e in caption_statistics(prompts).items()}
        references = [row["captions"] for row in real]
        return {"text": against(texts, references) | wording | own} | compared
    reworded = share_of(rows, lambda row: row["reworded"])
    to_input = bleu(texts, [[prompt] for prompt in prompts])
    text = {"reworded": reworded, "bleu4_to_input": to_input} | wording
    return {"text": text} | cut | compared


def _compared(flow: str, real: Rows, rows: Rows, label: str) -> Section:
    """What one feature function says of a flow; nothing of texts where it knows pictures only."""
    pictures, prompts = features(real, "picture", label), features(real, "text", label)
    section: Section = {}
    if FLOWS[flow][0] == "image":
        made = features(rows, "generated", label)
        if flow == "i2i":
            section["likeness_to_input"] = paired_cosine(made, pictures)
        section |= distances(pictures, made, clip=prompts is not None)
        pairs = [row for row in rows if "again" in row["features"][label]]
        if pairs:
            again = features(pairs, "again", label)
            section["diversity"] = samples_differ(features(pairs, "generated", label), again)
        if flow == "i2i" or prompts is None:
            return section
        return section | _scores(prompts, made, prompts, pictures, real)
    if prompts is None:
        return {}
    made = features(rows, "text", label)
    if flow == "t2t":
        section["likeness_to_input"] = paired_cosine(made, prompts)
    return section | _scores(made, pictures, prompts, pictures, real)


def _scores(
    texts: np.ndarray, images: np.ndarray, prompts: np.ndarray, pictures: np.ndarray, real: Rows
) -> Section:
    """CLIP scores of what was made and of what is real, and how often texts and pictures meet."""
    return {
        "clip_score": paired_cosine(texts, images),
        "clip_score_of_real": paired_cosine(prompts, pictures),
        "retrieval": retrieval(texts, images, real),
    }


def retrieval(texts: np.ndarray, pictures: np.ndarray, real: Rows) -> Section:
    """Recall from texts to pictures and back; a constant text finds nothing.

    Inputs with the same prompt may stand for each other: nobody could tell them apart.
    """
    prompts = [row["prompt"] for row in real]
    return {
        "text_to_image": recalls(texts, pictures, prompts),
        "image_to_text": recalls(pictures, texts, prompts),
    }


def _by_label(rows: Rows, of: Callable[[str], Section]) -> Section:
    """What `of` a feature function's name is, for each name; without empty ones."""
    sections = {label: section for label in labels(rows) if (section := of(label))}
    return {"features": sections} if sections else {}


def middle(image: Image.Image, side: int) -> Image.Image:
    """The largest square in the middle of a picture, at a side."""
    if image.size == (side, side):
        return image
    return ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)


SUITE = Folder
