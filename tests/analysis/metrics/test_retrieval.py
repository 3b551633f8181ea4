"""Recall on features whose neighbours are known, and on scenes that are told apart by name."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from analysis.metrics import retrieval
from data.scenes.captions import parse


def test_recall_of_known_features():
    pictures, eye = np.eye(6), np.eye(6)
    texts = eye.copy()
    texts[0] = eye[1]  # the first text is that of the second picture
    measured = retrieval.retrieval(texts, pictures, eye[[1, 0, 2, 3, 4, 5]], ks=(1, 5))
    assert measured["text_to_image"]["recall@1"].value == pytest.approx(5 / 6)
    assert measured["image_to_image"]["recall@1"].value == pytest.approx(4 / 6)
    labels = ["same", "same", 2, 3, 4, 5]
    measured = retrieval.retrieval(texts, pictures, eye[[1, 0, 2, 3, 4, 5]], labels, ks=(1,))
    assert measured["image_to_image"]["recall@1"].value == 1


def test_recall_on_scenes_asks_what_belongs_together(monkeypatch):
    n = 40
    scenes = retrieval.distinct_scenes(n, seed=3)
    assert len(set(scenes)) == n
    assert scenes == retrieval.distinct_scenes(n + 5, seed=3)[:n]
    number = {scene: i for i, scene in enumerate(scenes)}
    drawn: dict[bytes, int] = {}
    real = retrieval.render

    def render(scene, rng):
        image = real(scene, rng)
        drawn[image.tobytes()] = number[scene]
        return image

    monkeypatch.setattr(retrieval, "render", render)
    knows = SimpleNamespace(
        text_features=lambda texts: torch.eye(n)[[number[parse(text)] for text in texts]],
        image_features=lambda images: torch.eye(n)[[drawn[i.tobytes()] for i in images]],
    )
    measured = retrieval.recall_on_scenes(knows, n, seed=3, batch_size=16)
    assert len(drawn) == 2 * n
    values = [e.value for kind in measured.values() for e in kind.values()]
    assert values == [1, 1, 1, 1]
    knows.text_features = lambda texts: torch.ones(len(texts), n)
    measured = retrieval.recall_on_scenes(knows, n, seed=3, batch_size=16)
    assert measured["text_to_image"]["recall@5"].value == 0  # ties count against it
    with pytest.raises(ValueError, match="n is 0"):
        retrieval.recall_on_scenes(knows, 0)
