"""What captions of `vd-mini` say of pictures that are not quite as its world draws them.

    python -m benchmarks.robustness --model vd-mini --n 200

Image-to-text of renders of a split, each changed in one way; in how many the text tells exactly the
scene. Captions say nothing of these changes, but for size: at 0.7 a large thing is as large as a
small one, so there no model can be right.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image, ImageFilter

from analysis.measure.scene_inputs import said
from analysis.modes import image_to_text
from data.scenes.draw import BACKGROUND_RGB, render
from data.scenes.world import Scene, split
from lib.checkpoints import load

Change = Callable[[Image.Image, tuple[int, int, int]], Image.Image]


def turned(degrees: float) -> Change:
    """About the middle, on the same ground."""
    how = Image.Resampling.BICUBIC
    return lambda picture, ground: picture.rotate(degrees, how, fillcolor=ground)


def scaled(factor: float) -> Change:
    """About the middle, on the same ground."""

    def change(picture: Image.Image, ground: tuple[int, int, int]) -> Image.Image:
        middle = picture.width / 2
        matrix = (1 / factor, 0, middle - middle / factor, 0, 1 / factor, middle - middle / factor)
        how = Image.Resampling.BICUBIC
        kind = Image.Transform.AFFINE
        return picture.transform(picture.size, kind, matrix, how, fillcolor=ground)

    return change


def compressed(quality: int) -> Change:
    """By JPEG and back."""

    def change(picture: Image.Image, ground: tuple[int, int, int]) -> Image.Image:
        file = BytesIO()
        picture.save(file, "jpeg", quality=quality)
        return Image.open(file).convert("RGB")

    return change


CHANGES: dict[str, Change] = {
    "as drawn": lambda picture, ground: picture,
    "turned by 10 degrees": turned(10),
    "turned by 25 degrees": turned(25),
    "0.85 times as large": scaled(0.85),
    "0.7 times as large": scaled(0.7),
    "blurred by 1 pixel": lambda picture, ground: picture.filter(ImageFilter.GaussianBlur(1)),
    "blurred by 2 pixels": lambda picture, ground: picture.filter(ImageFilter.GaussianBlur(2)),
    "JPEG of quality 30": compressed(30),
    "JPEG of quality 10": compressed(10),
    "a tenth darker": lambda picture, ground: picture.point(lambda value: round(0.9 * value)),
}


def exact(vd: object, scenes: list[Scene], change: Change, steps: int) -> float:
    """Share of scenes that the text tells exactly."""
    pictures = [
        change(render(scene, k), BACKGROUND_RGB[scene.background]) for k, scene in enumerate(scenes)
    ]
    options = {"steps": steps, "sampler": "dpmpp_2m", "seed": 7, "progress": False}
    texts = image_to_text(vd, pictures, **options).texts
    return float(np.mean([said(s, t)["exact"] for s, t in zip(scenes, texts, strict=True)]))


def main() -> None:
    """Print a line a change."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="vd-mini")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--steps", type=int, default=12)
    args = parser.parse_args()
    vd = load(args.model)
    splits = {name: split(name, args.n, seed=7) for name in ("test", "heldout")}
    print(f"{args.n} scenes of {' and of '.join(splits)}, {args.steps} steps of dpmpp_2m")
    for name, change in CHANGES.items():
        shares = (f"{exact(vd, scenes, change, args.steps):6.1%}" for scenes in splits.values())
        print(f"{name:<22} {' '.join(shares)}", flush=True)


if __name__ == "__main__":
    main()
