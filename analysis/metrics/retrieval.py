"""How well pictures are found: recall on scenes, where it is known what belongs together.

A caption should find the render of its scene, and a render should find another render of the same
scene, among n renders of n *different* scenes that training has never seen.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Sequence

import numpy as np
import torch
from PIL import Image

from analysis.metrics.accumulators import Features
from analysis.metrics.metrics import RecallAtK
from analysis.metrics.statistics import Estimate
from data.scenes.captions import write
from data.scenes.draw import render
from data.scenes.world import Scene, split
from lib.checks import whole_number
from lib.model import VersatileDiffusion

KS = (1, 5)


def recall(
    queries: Features,
    gallery: Features,
    labels: Sequence[Hashable] | None = None,
    ks: Sequence[int] = KS,
) -> dict[str, Estimate]:
    """Share of queries that find theirs among the first k: {"recall@1": ..., "recall@5": ...}.

    Args:
        queries: (n, D).
        gallery: (n, D); row i belongs to query i.
        labels: n of them, where several rows may belong together.
        ks: ranks.

    Raises:
        ValueError: shapes that do not fit, or nothing to measure.
    """
    shares = RecallAtK(ks).update(queries, gallery, labels).compute()
    return {f"recall@{k}": share for k, share in shares.items()}


def retrieval(
    texts: Features,
    pictures: Features,
    again: Features,
    labels: Sequence[Hashable] | None = None,
    ks: Sequence[int] = KS,
) -> dict[str, dict[str, Estimate]]:
    """Recall from texts and from pictures, of features: row i of all three is of one scene.

    Args:
        texts: of captions.
        pictures: of renders, which are searched.
        again: of other renders of the same scenes.
        labels, ks: as in `recall`.
    """
    return {
        "text_to_image": recall(texts, pictures, labels, ks),
        "image_to_image": recall(again, pictures, labels, ks),
    }


def recall_on_scenes(
    vd: VersatileDiffusion, n: int = 500, seed: int = 7, batch_size: int = 64
) -> dict[str, dict[str, Estimate]]:
    """Measure a model's encoders: `retrieval` among n distinct test scenes.

    Args:
        vd: a model with "clip_text" and "clip_vision".
        n: scenes; also the size of what is searched.
        seed: chooses scenes, captions and renders.
        batch_size: encoded at a time.
    """
    whole_number("batch_size", batch_size)
    scenes = distinct_scenes(n, seed)
    texts = [write(scene, _rng(seed, "caption", i)) for i, scene in enumerate(scenes)]
    features = []
    for purpose in ("render", "another render"):
        parts = []
        for i in range(0, n, batch_size):
            part = enumerate(scenes[i : i + batch_size], start=i)
            images: list[Image.Image] = [render(s, _rng(seed, purpose, j)) for j, s in part]
            parts.append(vd.image_features(images).cpu())
        features.append(torch.cat(parts))
    words = [vd.text_features(texts[i : i + batch_size]).cpu() for i in range(0, n, batch_size)]
    return retrieval(torch.cat(words), *features)


def distinct_scenes(n: int, seed: int) -> list[Scene]:
    """The first n different scenes of the test split.

    Raises:
        ValueError: n below 1, or more than there are.
    """
    drawn = whole_number("n", n)
    while True:
        scenes = list(dict.fromkeys(split("test", drawn, seed)))
        if len(scenes) >= n:
            return scenes[:n]
        if drawn > 100 * n:
            raise ValueError(f"There are fewer than {n} test scenes: choose a smaller n.")
        drawn *= 2


def _rng(seed: int, purpose: str, i: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), i])
