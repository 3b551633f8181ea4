"""The judge: a small classifier that reads a scene off a picture.

It learns from renders alone, never from what a diffusion model made, and no training stage of the
diffusion model sees it: so it can say what share of generated pictures show what was asked for.
An examiner must know the subject: a judge that is wrong on more than 0.5 % of any attribute of
held-out renders judges nothing, and `load_judge` refuses it.

One head per attribute of the canonical scene; the heads of relation and of the second thing count
only where there are two things.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from data.scenes.draw import SIZE, render_batch
from data.scenes.world import ATTRIBUTE_VALUES, Scene
from lib.checkpoints.tensor_files import save_tensors
from lib.checks import read_json
from lib.files import replacing

HEADS = ATTRIBUTE_VALUES
ONLY_OF_TWO = ("relation", "size2", "color2", "shape2")
IGNORE = -1  # target of a head that does not count

MIN_ACCURACY = 0.995
JUDGE_FOLDER = Path(__file__).resolve().parents[2] / "pretrained" / "judge"
_WEIGHTS, _CONFIG = "judge.safetensors", "config.json"


@dataclass(frozen=True)
class Reading:
    """What the judge sees in one picture.

    Attributes:
        attributes: as `Scene.attributes` gives them.
        confidence: the smallest probability among the answers that make up `attributes`.
    """

    attributes: dict[str, str | int | None]
    confidence: float

    @property
    def scene(self) -> Scene | None:
        """The scene, or None where the answers make none (two identical things)."""
        try:
            return Scene.from_attributes(self.attributes)
        except ValueError:
            return None


class Reader(Protocol):
    """What reads scenes off pictures: the `Judge`, or what stands in for it."""

    def read(self, images: Sequence[Image.Image]) -> list[Reading]:
        """One reading a picture."""


def _block(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
    )


class Judge(nn.Module):
    """Strided CNN, 64 -> 4 pixels a side, then one hidden layer and a linear map per attribute.

    The 4x4 cells are kept apart up to the hidden layer: which thing is the first one is a matter
    of where it is. About one million parameters.
    """

    def __init__(self, width: int = 32, hidden: int = 256) -> None:
        super().__init__()
        self.config = {"width": width, "hidden": hidden}
        self.features = nn.Sequential(
            _block(3, width, 5, 2),  # 32x32
            _block(width, 2 * width, 3, 2),  # 16x16
            _block(2 * width, 2 * width, 3, 1),
            _block(2 * width, 4 * width, 3, 2),  # 8x8
            _block(4 * width, 4 * width, 3, 1),
            _block(4 * width, 4 * width, 3, 2),  # 4x4
        )
        self.hidden = nn.Sequential(nn.Linear(4 * width * 16, hidden), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(hidden, len(v)) for name, v in HEADS.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits of every head.

        Args:
            images: (B, 3, 64, 64) in [0, 1].

        Returns:
            attribute name -> (B, number of values), for each of `HEADS`.
        """
        h = self.hidden(self.features(2 * images - 1).flatten(1))
        return {name: head(h) for name, head in self.heads.items()}

    @staticmethod
    def loss(logits: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """Sum over heads of the cross-entropy, each averaged over the pictures where it counts."""
        total = torch.zeros((), device=logits["count"].device)
        for name in HEADS:
            counted = (targets[name] != IGNORE).sum().clamp(min=1)
            summed = F.cross_entropy(
                logits[name].float(), targets[name], ignore_index=IGNORE, reduction="sum"
            )
            total = total + summed / counted
        return total

    @torch.no_grad()
    def read(self, images: object, batch_size: int = 256) -> list[Reading]:
        """Read scenes off pictures of any size; see `to_batch` for what is accepted."""
        batch, was_training = to_batch(images), self.training
        self.eval()
        device = next(self.parameters()).device
        readings = []
        for part in batch.split(batch_size):
            readings += decode(self(part.to(device)))
        self.train(was_training)
        return readings


def encode_targets(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Class numbers of the canonical scenes: attribute -> (B,) long, `IGNORE` where none counts."""
    rows = [scene.attributes() for scene in scenes]
    return {
        name: torch.tensor(
            [IGNORE if row[name] is None else values.index(row[name]) for row in rows],
            dtype=torch.long,
        )
        for name, values in HEADS.items()
    }


def decode(logits: Mapping[str, Tensor]) -> list[Reading]:
    """The most probable value of each head that counts; the inverse of `encode_targets`."""
    best = {name: logits[name].float().softmax(dim=1).max(dim=1) for name in HEADS}
    chosen = {name: b.indices.tolist() for name, b in best.items()}
    probability = {name: b.values.tolist() for name, b in best.items()}
    readings = []
    for i, count in enumerate(chosen["count"]):
        counted = [name for name in HEADS if HEADS["count"][count] == 2 or name not in ONLY_OF_TWO]
        attributes = dict.fromkeys(HEADS) | {n: HEADS[n][chosen[n][i]] for n in counted}
        readings.append(Reading(attributes, min(probability[name][i] for name in counted)))
    return readings


def _to_tensor(picture: object) -> Tensor:
    """One picture or a batch of them as float (B, 3, H, W) in [0, 1]."""
    if isinstance(picture, Image.Image):
        picture = np.asarray(picture.convert("RGB"))
    if isinstance(picture, np.ndarray):
        if picture.ndim not in (3, 4) or picture.shape[-1] != 3:
            raise ValueError(f"array of shape {picture.shape}; give (H, W, 3) or (B, H, W, 3).")
        picture = torch.from_numpy(np.array(picture)).movedim(-1, -3)
    if not isinstance(picture, Tensor):
        raise ValueError(
            f"cannot read a {type(picture).__name__}; give PIL pictures, a tensor (B, 3, H, W) "
            "or an array (B, H, W, 3)."
        )
    if picture.ndim not in (3, 4) or picture.shape[-3] != 3:
        raise ValueError(f"tensor of shape {tuple(picture.shape)}; give (3, H, W) or (B, 3, H, W).")
    picture = picture.detach().reshape(-1, *picture.shape[-3:])
    if picture.dtype == torch.uint8:
        return picture.float() / 255
    picture = picture.float()
    if picture.numel() and not (picture.min() >= -1e-3 and picture.max() <= 1 + 1e-3):
        raise ValueError("float pictures must lie in [0, 1] and be finite; scale or clamp them.")
    return picture.clamp(0, 1)


def to_batch(images: object) -> Tensor:
    """Pictures as the judge takes them: float (B, 3, 64, 64) in [0, 1].

    Args:
        images: a PIL picture, a tensor (B, 3, H, W) or (3, H, W), an array (B, H, W, 3) or
            (H, W, 3), uint8 or float in [0, 1], or a sequence of these; other sizes are resized
            (bilinear, antialiased).

    Raises:
        ValueError: for another type or shape, or floats outside [0, 1].
    """
    parts = images if isinstance(images, list | tuple) else [images]
    batch = [torch.empty(0, 3, SIZE, SIZE)]
    for part in map(_to_tensor, parts):
        if part.shape[-2:] != (SIZE, SIZE):
            part = F.interpolate(part, (SIZE, SIZE), mode="bilinear", antialias=True)
        batch.append(part.to(batch[0].device))
    return torch.cat(batch)


def compare(reading: Reading, wanted: Scene | Mapping[str, str | int | None]) -> dict[str, bool]:
    """Which of the wanted attributes a picture shows.

    Args:
        reading: what the judge read.
        wanted: a scene, or the attributes of a prompt (what it leaves open, None, is not asked).

    Returns:
        attribute -> right or not, for the wanted ones, and "all".
    """
    if isinstance(wanted, Scene):
        wanted = wanted.attributes()
    right = {n: reading.attributes[n] == v for n, v in wanted.items() if v is not None}
    return right | {"all": all(right.values())}


def measure(judge: Judge, scenes: Sequence[Scene], seed: int = 0) -> dict[str, float]:
    """Share of renders read right: per attribute (where it counts), and "all" at once."""
    rng = np.random.default_rng(seed)
    right: dict[str, list[bool]] = {name: [] for name in (*HEADS, "all")}
    for start in range(0, len(scenes), 256):
        part = scenes[start : start + 256]
        for reading, scene in zip(judge.read(render_batch(part, rng)), part, strict=True):
            for name, value in compare(reading, scene).items():
                right[name].append(value)
    return {name: float(np.mean(values)) for name, values in right.items() if values}


def save_judge(
    judge: Judge, accuracy: Mapping[str, float], folder: str | os.PathLike = JUDGE_FOLDER
) -> None:
    """Write `judge.safetensors` and `config.json`, each whole or not at all.

    Args:
        judge: the trained judge.
        accuracy: what `measure` found on renders of scenes kept from its training.
        folder: made if missing.

    Raises:
        ValueError: if the accuracy of a head is missing.
    """
    missing = [name for name in HEADS if name not in accuracy]
    if missing:
        raise ValueError(f"no accuracy for {', '.join(missing)}; measure the judge on more scenes.")
    folder = Path(folder)
    config = {**judge.config, "heads": {k: list(v) for k, v in HEADS.items()}}
    config["accuracy"] = dict(accuracy)
    with replacing() as temporary:
        save_tensors(judge.state_dict(), temporary(folder / _WEIGHTS))
        temporary(folder / _CONFIG).write_text(json.dumps(config, indent=1) + "\n")


def load_judge(
    folder: str | os.PathLike = JUDGE_FOLDER, min_accuracy: float = MIN_ACCURACY
) -> Judge:
    """Load a judge, in evaluation mode and without gradients.

    Args:
        folder: where `save_judge` wrote it.
        min_accuracy: refuse a judge with less on any attribute; 0 accepts every judge.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file cannot be read, belongs to other attributes, or the judge is not
            good enough.
    """
    folder = Path(folder)
    for name in (_WEIGHTS, _CONFIG):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"no {name} in {folder}; train a judge with `python -m training classifier`."
            )
    try:
        config = read_json(folder / _CONFIG)
        heads, accuracy = config["heads"], config["accuracy"]
        judge = Judge(config["width"], config["hidden"])
        poor = {name: accuracy.get(name, 0.0) for name in HEADS}
        poor = {name: value for name, value in poor.items() if value < min_accuracy}
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{folder / _CONFIG} is damaged ({error!r}); train the judge anew."
        ) from error
    if heads != {k: list(v) for k, v in HEADS.items()}:
        raise ValueError(f"{folder} judges other attributes than this world's; train it anew.")
    if poor:
        found = ", ".join(f"{name} {value:.4f}" for name, value in poor.items())
        raise ValueError(
            f"the judge in {folder} is right too seldom ({found}; {min_accuracy} is needed): it "
            "judges nothing. Train it longer, or pass min_accuracy=0 to use it all the same."
        )
    try:
        judge.load_state_dict(load_file(folder / _WEIGHTS))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{folder / _WEIGHTS} is damaged ({error}); train the judge anew."
        ) from error
    return judge.eval().requires_grad_(False)
