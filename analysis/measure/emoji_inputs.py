"""Suites on drawings: their inputs, and rows of what is seen on pictures and said by texts."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from analysis.measure.emoji_pictures import Nearest
from analysis.measure.protocol import Settings
from analysis.measure.rows import Row
from analysis.measure.suite import Suite
from data.emoji import Drawings, load
from data.emoji.captions import GROUNDS
from data.emoji.judge import JUDGE_FOLDER, load_judge
from data.emoji.samples import EmojiSamples, concrete
from lib.devices import choose_device
from lib.images import to_pil


class EmojiSuite(Suite):
    """A suite whose inputs are drawings, and whose pictures the judge of drawings reads.

    Args:
        args: model and settings, as `Suite` takes them; `n` becomes at most the number of held-out
            drawings.
        drawings: those of the concrete things; the prepared set's by default.
        more: as `Suite` takes it.
    """

    about: Mapping[str, Any] = {
        "splits": "heldout (concept and artist known, the pair never seen), seen (pairs that "
        "training saw)",
        "prompts": "complete captions by data.emoji.captions, in English; those that texts are "
        "varied from in either language",
        "pictures": "64x64, on a ground drawn for each input",
    }

    def __init__(self, *args: Any, drawings: Drawings | None = None, **more: Any) -> None:
        super().__init__(*args, **more)
        known = concrete(load()) if drawings is None else drawings
        among = set(known.concept.tolist())
        train, pair = (known.where(known.split == split) for split in ("train", "pair"))
        self.nearest = Nearest(train)
        self.samples = {
            name: EmojiSamples(part, grounds=len(GROUNDS), jitter=False, concepts=among)
            for name, part in (("heldout", pair), ("seen", train))
        }
        self.grammar = self.samples["heldout"].grammar
        n = min(self.settings.n, *(len(s.drawings) for s in self.samples.values()))
        self.settings = replace(self.settings, n=n)

    @classmethod
    def read(cls, args: argparse.Namespace, settings: Settings) -> dict[str, Any]:
        """The judge, if pictures are going to be made."""
        if not {"t2i", "i2i"} & set(settings.flows):
            return {}
        return {"judge": load_judge(args.judge or JUDGE_FOLDER, choose_device(args.device))}

    def chosen(self, name: str, indices: range) -> list[int]:
        """Samples of a split: every drawing at most once, each on a ground of its own."""
        samples = self.samples[name]
        order = self.rng(f"order {name}", 0).permutation(len(samples.drawings))
        grounds = [int(self.rng(f"ground {name}", i).integers(len(GROUNDS))) for i in indices]
        return [
            int(order[i]) * samples.grounds + ground
            for i, ground in zip(indices, grounds, strict=True)
        ]

    def pictures(self, name: str, indices: range) -> list[Image.Image]:
        """The drawings themselves."""
        drawn = self.samples[name].pictures(self.chosen(name, indices), self.rng(name, 0))
        return to_pil(drawn)

    def captions(self, name: str, indices: range, **how: Any) -> list[str]:
        """A caption of each drawing that says everything."""
        told = map(self.samples[name].told, self.chosen(name, indices))
        return [
            self.grammar.write(*what, self.rng(f"caption {name}", i), **how)
            for i, what in zip(indices, told, strict=True)
        ]

    def truth(self, name: str, indices: range) -> np.ndarray:
        """(B, 3) numbers of concept, artist and ground."""
        return self.samples[name].labels(self.chosen(name, indices)).numpy()

    # ------------------------------------------------------------------ rows

    def seen(self, pictures: Sequence[Image.Image], truth: np.ndarray) -> list[Row]:
        """What the judge reads off pictures, beside what should be there.

        Returns:
            Rows: "rank" of the concept (0: it comes first), "artist" and "ground" right.
        """
        read = self.judge.read(pictures)
        concept = read["concept"]
        wanted = np.take_along_axis(concept, truth[:, :1], axis=1)
        rank = (concept > wanted).sum(axis=1)
        right = [
            read[name].argmax(axis=1) == truth[:, k] for k, name in ((1, "artist"), (2, "ground"))
        ]
        return [
            {"rank": int(r), "artist": bool(a), "ground": bool(g)}
            for r, a, g in zip(rank, *right, strict=True)
        ]

    def said(self, text: str, truth: np.ndarray) -> Row:
        """What a text says of a drawing: which parts are right, and its language."""
        parts = self.samples["heldout"].read([text])[0].numpy() == truth
        read = self.grammar.read(text)
        row = dict(zip(("concept", "artist", "ground"), map(bool, parts), strict=True))
        return {"text": text, "named": read.concept is not None, "language": read.language} | row
