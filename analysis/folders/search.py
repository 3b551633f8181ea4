"""Visual search: the pictures of a folder that are like a text, a picture, or a mix of both.

The picture encoder turns every picture into a unit vector, once; the text encoder was trained to
put a text where its picture is. With query vectors q_i of weights w_i (scaled to sum 1), and
vectors n_j to keep away from, of weights v_j, a picture x scores

    score(x) = sum_i w_i <q_i, x> - sum_j v_j <n_j, x>

which is linear in x: one query vector, whatever the mix, so one matrix product (or one walk through
a graph, `analysis.folders.neighbours`) answers it.

    >>> update_index(vd, "photos", "output/search/index")            # again later: only what is new
    >>> hits = find(vd, "output/search/index", texts="a red circle", k=5)
    >>> save(as_result(hits))                                         # output/search/0001_...png
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from analysis.folders.encoders import Encoder
from analysis.folders.indexing import Update, update_index
from analysis.folders.neighbours import best, candidates, choose, cosines
from analysis.folders.vectors import Collection, read_index
from analysis.results import Result
from analysis.results.sheets import CELL, contact_sheet
from data.folders import shown
from data.pictures import Picture, open_picture
from lib.checks import number, whole_number
from lib.checks import texts as check_texts
from lib.model import VersatileDiffusion

__all__ = ["AWAY", "Hit", "Hits", "Update", "as_result", "find", "read_index", "update_index"]

log = logging.getLogger(__name__)

AWAY = 0.5
"""Weight of what to keep away from, if none is given: what is looked for counts more."""
_SPREAD_OF = 10_000

Wanted = Any
"""One or many of: a text, a picture (path or PIL), or a pair of that and its weight."""


@dataclass(frozen=True)
class Hit:
    """A picture that is like the query.

    Attributes:
        file: its path below the indexed folder.
        score: the higher, the better; comparable within one query.
        cosines: with each text, picture and negative of the query, in that order.
    """

    file: str
    score: float
    cosines: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Hits:
    """The answer to a query, best first.

    Attributes:
        folder: where the pictures are.
        record: the query, the index and how it was searched, in plain JSON types.
        hits: what was found.
    """

    folder: Path
    record: dict[str, Any]
    hits: list[Hit]

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, rank: int) -> Hit:
        return self.hits[rank]

    @property
    def paths(self) -> list[Path]:
        """Of the pictures found."""
        return [self.folder / hit.file for hit in self.hits]


def find(
    vd: VersatileDiffusion,
    index: Collection | str | Path,
    *,
    texts: Wanted = (),
    images: Wanted = (),
    without: Wanted = (),
    k: int = 12,
    balance: bool = False,
    library: str = "auto",
) -> Hits:
    """The pictures of an index that are most like a query.

    Args:
        vd: the model that the index was made with; "clip_text" for texts, "clip_vision" always.
        index: where the index is; or the index itself, which is then searched exactly.
        texts: what they should show, each one a text or (text, weight); weights are above 0.
        images: what they should be like: paths or PIL pictures, or (picture, weight).
        without: what to keep away from: texts, pictures (paths as `Path`), or pairs with weights.
        k: how many to find; fewer if the index holds fewer.
        balance: divide each cosine by its spread over the collection. Cosines of pictures with
            pictures spread wider than those with texts for some encoders, and would decide a mix.
        library: "auto", "exact" or "usearch", as in `analysis.folders.neighbours.choose`.

    Raises:
        ValueError: nothing to look for, bad input, or an index of another model.
    """
    collection = index if isinstance(index, Collection) else read_index(index)
    collection.encoder.check(Encoder.of(vd))
    k = whole_number("k", k, 1, 10**6)
    wanted = _terms(texts, check_text, 1.0) + _terms(images, Picture.of, 1.0)
    if not wanted:
        raise ValueError("There is nothing to look for: give a text or a picture.")
    total = sum(weight for _, weight in wanted)
    terms = [(what, weight / total) for what, weight in wanted]
    terms += [(what, -weight) for what, weight in _terms(without, _text_or_picture, AWAY)]
    queries = _encoded(vd, [what for what, _ in terms])
    weights = torch.tensor([weight for _, weight in terms])
    if balance:
        weights = weights / _spread(collection.vectors, queries)

    searched = choose(library, len(collection))
    rows: Sequence[int] | None = None
    if searched == "usearch":
        if not isinstance(index, Collection):
            rows = candidates(collection, index, weights @ queries, k)
        if rows is None:
            searched = "exact"
            log.warning(
                "there is no graph for this index, or an old one, so it is searched exactly"
            )
    vectors = collection.vectors if rows is None else collection.vectors[torch.tensor(rows)]
    each = cosines(vectors, queries)
    scores = each @ weights
    hits = []
    for i in best(scores, k):
        entry = collection.entries[i if rows is None else rows[i]]
        rounded = tuple(round(float(value), 6) for value in each[i])
        hits.append(Hit(entry.name, round(float(scores[i]), 6), rounded))
    record = {
        "query": [
            {**({"text": what} if isinstance(what, str) else what.describe()), "weight": weight}
            for what, weight in terms
        ],
        "k": k,
        "balance": bool(balance),
        "library": searched,
        "index": {"pictures": len(collection), **asdict(collection.encoder)},
    }
    return Hits(collection.folder, record, hits)


def as_result(hits: Hits, columns: int | None = None) -> Result:
    """The answer as a contact sheet with scores, ready for `analysis.results.outputs.save`.

    Nothing is random in a search; the seed 0 of the record only completes its name.

    Raises:
        ValueError: none of the pictures found can be opened any more.
    """
    images, labels = [], []
    for path, hit in zip(hits.paths, hits.hits, strict=True):
        try:
            image = open_picture(path)
        except ValueError as error:
            log.warning("%s was found, but cannot be shown (%s)", shown(hit.file), error)
            continue
        image.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
        images.append(image)
        labels.append(f"{hit.score:.3f} {shown(hit.file)}")
    if not images:
        raise ValueError(
            f"None of the pictures found is in {shown(hits.folder)} any more: index it again."
        )
    record = {
        "mode": "search",
        **hits.record,
        "hits": [{"rank": i, **asdict(hit)} for i, hit in enumerate(hits.hits, start=1)],
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "samples": [{"prompt": _title(hits.record["query"]), "seed": 0}],
    }
    for hit in record["hits"]:
        hit["file"] = shown(hit["file"])
    return Result("search", record, [contact_sheet(images, columns, labels)])


def check_text(text: Any) -> str:
    """A text to look for.

    Raises:
        ValueError: it is none.
    """
    return check_texts([text])[0]


def _text_or_picture(term: Any) -> str | Picture:
    return check_text(term) if isinstance(term, str) else Picture.of(term)


def _terms(wanted: Wanted, check: Any, weight: float) -> list[tuple[str | Picture, float]]:
    """Texts and pictures of a query, checked, each with its weight."""
    single = isinstance(wanted, (str, Path, Image.Image, Picture))
    if single or (isinstance(wanted, tuple) and len(wanted) == 2 and _is_weight(wanted[1])):
        wanted = [wanted]
    terms = []
    for item in wanted:
        what, counts = item if isinstance(item, tuple) else (item, weight)
        if not number("a weight", counts, 0, 1000) > 0:
            raise ValueError(f"A weight is {counts}: give one above 0, or leave that out.")
        terms.append((check(what), float(counts)))
    return terms


def _is_weight(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _encoded(vd: VersatileDiffusion, whats: Sequence[str | Picture]) -> Tensor:
    """(T, D) unit vectors on the CPU."""
    texts = [what for what in whats if isinstance(what, str)]
    vectors = iter(vd.text_features(texts).cpu() if texts else ())
    return torch.stack(
        [
            next(vectors) if isinstance(what, str) else vd.image_features([what.open()])[0].cpu()
            for what in whats
        ]
    )


def _spread(vectors: Tensor, queries: Tensor) -> Tensor:
    """(T,) standard deviations of the cosines, over at most `_SPREAD_OF` vectors."""
    sample = cosines(vectors[:: max(1, len(vectors) // _SPREAD_OF)], queries)
    return sample.std(dim=0, correction=0).clamp_min(1e-6)


def _title(query: Sequence[dict[str, Any]]) -> str:
    """What the answer's file is called."""
    words = []
    for term in query:
        what = term.get("text") or Path(term.get("file", "picture")).stem
        words.append(what if term["weight"] > 0 else f"not {what}")
    return " ".join(words)
