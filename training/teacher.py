"""What a network that others trained on photographs sees in pictures, to teach a small CLIP.

The network is EfficientNet-Lite0 (`data.frozen`).

A teacher is patient and consistent (Beyer et al. 2022): it looks at exactly what the student is
going to look at, however strongly that was changed, and at so many changed pictures that the
student learns what the teacher does, not what the pictures are. They are made once and kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.frozen import Frozen
from data.samples import Samples
from lib.checkpoints.tensor_files import kept_tensors, save_tensors
from lib.files import replacing
from training.augment import mixed, recolored, shaded, turned

SIDE = 128
VIEWS = 36_000
MIDDLE = 10  # the last block whose map has a sixteenth of the side: local, and of parts of things
RECOLORED, MIXED = 0.2, 0.35

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Views:
    """V changed pictures, what the teacher sees in them, and what is known of them.

    Attributes:
        pictures: (V, 3, H, W) uint8.
        whole: (V, 1280) float16, the mean of its last layer.
        middle, deep: (V, 112, 8, 8) and (V, 320, 4, 4) float16, maps of inner layers.
        labels: (V, 2, attributes) int16: of the picture and of the other that is mixed in; -1
            where nothing is known, as of all pictures whose colours were exchanged.
        share: (V,) float32, of the first of the two.
    """

    pictures: Tensor
    whole: Tensor
    middle: Tensor
    deep: Tensor
    labels: Tensor
    share: Tensor

    def __len__(self) -> int:
        return len(self.pictures)


class Teacher:
    """The frozen network; ValueError if its packages are not installed."""

    def __init__(self) -> None:
        self.network = Frozen(0, SIDE, {"middle": MIDDLE, "deep": -1})

    def see(self, pictures: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) in [0, 1] -> `whole`, `middle` and `deep` of `Views`."""
        maps = self.network(pictures)
        seen = {"whole": maps["last"].float().mean((2, 3))}
        seen |= {name: maps[name] for name in ("middle", "deep")}
        return {name: value.half().contiguous() for name, value in seen.items()}


def views_of(samples: Samples, runs: Path, count: int = VIEWS, seed: int = 97) -> Views:
    """Changed pictures of samples and what the teacher sees, made once and kept under `runs`."""
    about = [samples.identity(), len(samples), count, seed, SIDE, MIDDLE, RECOLORED, MIXED]
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
    path = Path(runs) / f"views-{name}.safetensors"
    kept = kept_tensors(path)
    if kept is None:
        teacher, rng = Teacher(), np.random.default_rng(seed)
        parts = []
        for start in range(0, count, 96):
            parts.append(_made(samples, teacher, rng, min(96, count - start)))
            if len(parts) % 25 == 0:
                log.info("%d of %d views", start + 96, count)
        views = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        with replacing() as temporary:
            save_tensors(views, temporary(path))
        kept = kept_tensors(path)
    return Views(**kept)


def _made(
    samples: Samples, teacher: Teacher, rng: np.random.Generator, count: int
) -> dict[str, Tensor]:
    """One batch of `Views`."""
    pairs = rng.integers(len(samples), size=(2, count))
    first, second = (
        turned(samples.pictures(rows, rng), rng, degrees=15, scale=(0.7, 1.15)) for rows in pairs
    )
    pictures, share = mixed(first, second, rng, MIXED)
    pictures, changed = recolored(shaded(pictures, rng), rng, RECOLORED)
    labels = torch.stack([samples.labels(rows) for rows in pairs], 1).to(torch.int16)
    labels[changed] = -1
    stored = (pictures * 255).round().to(torch.uint8)
    seen = teacher.see(stored.float() / 255)
    return {"pictures": stored, "labels": labels, "share": share, **seen}


class Goals(nn.Module):
    """What the student is to say of views: the teacher's numbers, centred and on one scale.

    Beside these, what the picture itself shows: patches of pixels.

    Args:
        views: their means and deviations count.
        patch, side: pixels a side of the student's patches, and of what it sees.
        kept: principal components of `whole`, each divided by the root of its deviation: few of
            them hold most of the variance and little of what tells things apart, the last are
            noise.
        shown: the same of pixels: the last are hardly seen.
    """

    def __init__(
        self, views: Views, patch: int, side: int, kept: int = 256, shown: int = 64
    ) -> None:
        super().__init__()
        self.patch, self.side = patch, side
        some = torch.arange(0, len(views), max(1, len(views) // 8000))
        mean, axes = _principal(views.whole[some].float(), kept)
        self.register_buffer("mean", mean)
        self.register_buffer("axes", axes)
        few = some[:: max(1, len(some) // 1000)]
        pixels = self._patches(views.pictures[few])
        mean, axes = _principal(pixels.flatten(0, 1), shown)
        self.register_buffer("pixel_mean", mean)
        self.register_buffer("pixel_axes", axes)
        deviations = self.pixels(views.pictures[few]).flatten(0, 1).std(0)
        self.register_buffer("pixel_variance", deviations.square().mean())
        for name in ("middle", "deep"):
            maps = getattr(views, name)[few].float()
            self.register_buffer(f"{name}_mean", maps.mean((0, 2, 3))[:, None, None])
            self.register_buffer(f"{name}_std", maps.std((0, 2, 3))[:, None, None] + 1e-3)
        self.widths = [views.middle.shape[1], views.deep.shape[1]]

    def forward(self, views: Views, rows: Tensor, grid: int) -> tuple[Tensor, list[Tensor]]:
        """Goals of some views.

        Returns:
            (B, kept) of whole pictures, and of `middle` and `deep` (B, grid * grid, width): of each
            patch.
        """
        whole = (views.whole[rows].float() - self.mean) @ self.axes
        maps = []
        for name in ("middle", "deep"):
            values = getattr(views, name)[rows].float()
            values = (values - getattr(self, f"{name}_mean")) / getattr(self, f"{name}_std")
            maps.append(F.adaptive_avg_pool2d(values, grid).flatten(2).transpose(1, 2))
        return whole, maps

    def pixels(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, patches, shown): principal components of each patch."""
        return (self._patches(pictures) - self.pixel_mean) @ self.pixel_axes

    def _patches(self, pictures: Tensor) -> Tensor:
        pixels = pictures.float() / 255
        if pixels.shape[-2:] != (self.side, self.side):
            pixels = F.interpolate(pixels, (self.side, self.side), mode="bilinear", antialias=True)
        return F.unfold(pixels, self.patch, stride=self.patch).transpose(1, 2)


def _principal(rows: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Mean of (N, width) rows, and (width, kept) axes, each over the root of its deviation."""
    mean = rows.mean(0)
    _, lengths, axes = torch.linalg.svd(rows - mean, full_matrices=False)
    kept = min(kept, len(lengths))
    deviations = lengths[:kept] / len(rows) ** 0.5
    return mean, axes[:kept].T / deviations**0.5
