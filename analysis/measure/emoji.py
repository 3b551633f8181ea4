"""The suite `emoji`: a model of drawings, on drawings whose (concept, artist) pair it never saw.

    python -m analysis evaluate --model vd-emoji --suite emoji --n 324 --seed 7

| measured | by |
|---|---|
| what pictures show, and whose hand drew them | `data.emoji.judge`: it saw real ones only |
| what texts say, and in which language | `data.emoji.captions.Captions.read` |
| how far sets of pictures are apart (KID) | the judge's frozen features |
| how near pictures are to training drawings | pixels, at half size |

The judge errs on real drawings, too. So every share of pictures stands beside that of the real
held-out drawings (`real`), and as a ratio to it (`of_real`), of the same inputs.
`analysis.measure.emoji_summary` sums up what came out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from analysis.folders.encoders import TOWERS, own_clip
from analysis.measure import emoji_summary as summary
from analysis.measure.emoji_card import CARD
from analysis.measure.emoji_inputs import EmojiSuite
from analysis.measure.emoji_pictures import SHOWN, packed, sheets, strip
from analysis.measure.numbers import Section
from analysis.measure.protocol import Settings
from analysis.measure.rows import Row, Rows, Task, pack
from analysis.metrics.text_metrics import same_wording
from data.emoji.captions import LANGUAGES
from lib.config import FLOWS

LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of focus, from content to style; and strengths of the text in `dual`."""
FRENCH = {"text": "en français", "strength": 0.4}
"""What is mixed into the context of a picture for a French answer, and how strongly."""


class Emoji(EmojiSuite):
    """All flows on held-out drawings, the way from content to style, and nearness to training.

    Args: as `EmojiSuite` takes them.
    """

    parts = (*FLOWS, "reconstruction", "search", "caption")
    main: Mapping[str, str] = {"t2i": "t2i-heldout", "i2i": "i2i", "i2t": "i2t", "t2t": "t2t"}
    card = CARD

    @classmethod
    def needs(cls, settings: Settings, **read: Any) -> tuple[str, ...]:
        """Those of the flows, and both towers or autoencoders where these are measured."""
        if "caption" in settings.flows:  # made by a flow, also where that itself is not asked for
            settings = replace(settings, flows=(*settings.flows, "i2t"))
        flows = settings.flows
        towers = TOWERS if {"search", "i2i", "i2t"} & set(flows) else ()
        parts = [f"{kind}_{part}" for kind in ("image", "text") for part in ("encoder", "decoder")]
        columns = ("text_context",) if {"i2i", "i2t"} & set(flows) else ()
        more = parts if "reconstruction" in flows else ()
        return (*super().needs(settings), *towers, *columns, *more)

    def tasks(self) -> list[Task]:
        """All that the settings ask for; real drawings first, which give the judge's ceilings."""
        s, tasks = self.settings, []
        if {"t2i", "i2i"} & set(s.flows):
            tasks += [Task(f"real-{name}", s.n, partial(self.real, name)) for name in self.samples]
        if "t2i" in s.flows:
            tasks += [Task(f"t2i-{name}", s.n, partial(self.t2i, name)) for name in self.samples]
        if "i2i" in s.flows:
            tasks += [Task(name, s.n, getattr(self, name)) for name in ("i2i", "focus", "dual")]
        if "i2t" in s.flows:
            tasks += [Task("i2t", s.n, self.i2t), Task("french", s.n, self.french)]
        if "t2t" in s.flows:
            tasks.append(Task("t2t", s.n, self.t2t))
        if "reconstruction" in s.flows:
            tasks.append(Task("reconstruction", s.n, self.reconstruction))
        if "search" in s.flows:
            tasks.append(Task("search", min(s.n, s.search_n), self.search))
        if "caption" in s.flows:
            tasks.append(Task("caption", min(s.n, s.caption_n), self.caption))
        return tasks

    def summarise(self, rows: Mapping[str, Rows]) -> Section:
        """All measures, in the order of a report."""
        measures: Section = {}
        if "real-heldout" in rows:
            measures["real"] = {n: summary.shown(rows[f"real-{n}"]) for n in self.samples}
        if "t2i-heldout" in rows:
            measures["t2i"] = {
                name: summary.pictures(rows[f"t2i-{name}"], rows[f"real-{name}"])
                for name in self.samples
            }
            measures["not_a_copy"] = summary.nearness(
                rows["t2i-heldout"], rows["real-heldout"], rows["t2i-seen"]
            )
        if "i2i" in rows:
            measures["i2i"] = summary.pictures(rows["i2i"], rows["real-heldout"])
            for name in ("focus", "dual"):
                measures[name] = getattr(summary, name)(rows[name], LEVELS)
        for name in ("i2t", "french", "t2t", "reconstruction", "search", "caption"):
            if name in rows:
                measures[name] = getattr(summary, name)(rows[name])
        return measures

    def swept(self, flow: str) -> Callable[..., list[Row]]:
        """The flow on held-out pairs."""
        return partial(self.t2i, "heldout") if flow == "t2i" else getattr(self, flow)

    def compared(self, section: str, flow: str, part: Rows, rows: Mapping[str, Rows]) -> Section:
        """Concept, artist, and for pictures the distance from real ones."""
        if flow == "i2t":
            return {k: v for k, v in summary.i2t(part).items() if k in ("concept", "artist")}
        return summary.shown(part) | summary.apart(rows["real-heldout"][: len(part)], part)

    # ------------------------------------------------------------------ pictures

    def looked_at(self, pictures: Sequence[Image.Image], name: str, indices: range) -> list[Row]:
        """Rows of pictures: what is seen, features, nearest training drawing, thumbnail."""
        truth = self.truth(name, indices)
        rows = self.seen(pictures, truth)
        vectors = self.judge.features(pictures)
        near = self.nearest(pictures, truth[:, 2])
        for i, row, picture, vector, found in zip(
            indices, rows, pictures, vectors, near, strict=True
        ):
            row |= {"features": {"judge": {"picture": pack(vector)}}, "nearest": found}
            if i < SHOWN:
                row["png"] = packed(picture)
        return rows

    def real(self, name: str, indices: range) -> list[Row]:
        """What the judge makes of the drawings themselves."""
        return self.looked_at(self.pictures(name, indices), name, indices)

    def t2i(self, name: str, indices: range, **changes: Any) -> list[Row]:
        """Pictures from the drawings' captions."""
        texts = self.captions(name, indices)
        made = self.generate("t2i", texts, f"t2i {name}", indices, **changes)
        rows = self.looked_at(made, name, indices)
        return [row | {"caption": text} for row, text in zip(rows, texts, strict=True)]

    def i2i(self, indices: range, **changes: Any) -> list[Row]:
        """Variations of drawings."""
        given = self.pictures("heldout", indices)
        made = self.generate("i2i", given, "i2i", indices, **changes)
        return self.looked_at(made, "heldout", indices)

    def focus(self, indices: range) -> list[Row]:
        """Variations from content to style."""
        options = self.sampling("focus", indices) | {"scale": self.settings.scale_image}
        given = self.pictures("heldout", indices)
        made = self.modes.focus(self.vd, given, levels=list(LEVELS), **options).images
        truth = self.truth("heldout", indices)
        seen = self.seen(made, np.repeat(truth, len(LEVELS), axis=0))  # by input, then level
        return [
            {"levels": seen[k : k + len(LEVELS)]} | strip(i, made[k : k + len(LEVELS)])
            for k, i in zip(range(0, len(made), len(LEVELS)), indices, strict=True)
        ]

    def dual(self, indices: range) -> list[Row]:
        """A drawing with the name of another thing, from the drawing alone to the text alone.

        Rows have what is seen of the drawing's own thing and hand, and the other thing's rank.
        """
        truth = self.truth("heldout", indices)
        count = len(self.samples["heldout"].attributes["concept"])
        other, texts = truth.copy(), []
        numbers = sorted(self.grammar.names)
        for row, i in zip(other, indices, strict=True):
            rng = self.rng("other", i)
            row[0] = (row[0] + rng.integers(1, count)) % count
            texts.append(self.grammar.write(numbers[row[0]], 0, "white", rng, parts=("concept",)))
        options = self.sampling("dual", indices) | {
            "strength": list(LEVELS),
            "scale_text": self.settings.scale_text,
            "scale_image": self.settings.scale_image,
        }
        given = self.pictures("heldout", indices)
        made = self.modes.dual_guided(self.vd, given, texts, **options).images
        # by strength, then input
        own, asked = (self.seen(made, np.tile(t, (len(LEVELS), 1))) for t in (truth, other))
        step = len(indices)
        return [
            {"levels": own[k::step], "other": [row["rank"] for row in asked[k::step]]}
            | {"text": texts[k]}
            | strip(i, made[k::step])
            for k, i in enumerate(indices)
        ]

    # ------------------------------------------------------------------ texts

    def i2t(self, indices: range, **changes: Any) -> list[Row]:
        """What is said of drawings."""
        given = self.pictures("heldout", indices)
        texts = self.generate("i2t", given, "i2t", indices, **changes)
        return list(map(self.said, texts, self.truth("heldout", indices)))

    def caption(self, indices: range) -> list[Row]:
        """Captions as `analysis.folders.caption` makes them: several, ranked by CLIP."""
        n = self.settings.caption_candidates
        options = self.sampling("caption", indices) | {"scale": self.settings.scale("i2t"), "n": n}
        del options["seed"], options["progress"]  # a seed a picture instead; it never shows a bar
        seeds = [self.first_seed("caption") + i * n for i in indices]
        given = self.pictures("heldout", indices)
        ranked = self.modes.caption(self.vd, given, seeds=seeds, **options)
        return [
            self.said(candidates[0].text, what)
            | {"first": self.said(min(candidates, key=lambda c: c.seed).text, what)}
            for candidates, what in zip(ranked, self.truth("heldout", indices), strict=True)
        ]

    def french(self, indices: range) -> list[Row]:
        """What is said of drawings when French is asked for beside the picture."""
        options = self.sampling("french", indices) | {
            "scale": self.settings.scale("i2t"),
            "strength": [FRENCH["strength"]],
        }
        given = self.pictures("heldout", indices)
        texts = self.modes.describe(self.vd, given, FRENCH["text"], **options).texts
        return list(map(self.said, texts, self.truth("heldout", indices)))

    def t2t(self, indices: range) -> list[Row]:
        """Variations of captions in either language, half of which ask for the other one."""
        rows, captions, asked = [], [], []
        for i in indices:
            rng = self.rng("languages", i)
            own, wanted = (list(LANGUAGES)[k] for k in rng.integers(2, size=2))
            how = {"language": own, "asks": wanted if wanted != own else None}
            captions += self.captions("heldout", range(i, i + 1), **how)
            asked.append({"from": own, "asked": wanted})
        made = self.generate("t2t", captions, "t2t", indices)
        truth = self.truth("heldout", indices)
        for text, given, wanted, what in zip(made, captions, asked, truth, strict=True):
            row = self.said(text, what) | wanted | {"given": given}
            rows.append(row | {"reworded": not same_wording(given, text)})
        return rows

    # ------------------------------------------------------------------ parts

    def reconstruction(self, indices: range) -> list[Row]:
        """Drawings and captions through their autoencoders."""
        given, texts = self.pictures("heldout", indices), self.captions("heldout", indices)
        back = self.vd.decode_text(self.vd.encode_text(texts), temperature=0.0)
        return [
            {"mse": error, "match": " ".join(b.split()) == text}
            for error, text, b in zip(self.errors(given), texts, back, strict=True)
        ]

    def search(self, indices: range) -> list[Row]:
        """Vectors of drawings and of captions, by the model's own CLIP."""
        clip = own_clip(self.vd)
        pictures = clip.images(self.pictures("heldout", indices))
        texts = clip.texts(self.captions("heldout", indices))
        truth = self.truth("heldout", indices)
        return [
            {
                "concept": int(what[0]),
                "features": {"own": {"picture": pack(picture), "text": pack(text)}},
            }
            for what, picture, text in zip(truth, pictures, texts, strict=True)
        ]

    def sheets(self, rows: Mapping[str, Rows]) -> dict[str, tuple[str, Image.Image]]:
        """Of pictures beside real and training drawings, of focus and of dual."""
        few = range(min(SHOWN, self.settings.n))
        return sheets(rows, self.nearest.picture, self.captions("heldout", few), LEVELS)


SUITE = Emoji
