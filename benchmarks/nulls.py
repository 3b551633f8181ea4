"""What image variations are guided away from: zeros, black or grey, and what that changes.

    python -m benchmarks.nulls --model vd-mini --n 100

Variations of renders of the test split, the same noise for all. For each null: how far the pictures
are from those of the model's own null (mean absolute difference, of 255), and in how many the judge
reads every attribute of the input. The released code guides away from zeros, diffusers' pipelines
from a picture of small numbers (nearly black), brain-decoding scripts from a grey picture.
"""

from __future__ import annotations

import argparse

import numpy as np

from analysis.modes import image_variation
from data.scenes.draw import render
from data.scenes.judge import JUDGE_FOLDER, compare, load_judge
from data.scenes.world import split
from lib.checkpoints import load

NULLS = (None, "zeros", "black", "grey")


def main() -> None:
    """Print a line a null."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="vd-mini")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    vd, judge = load(args.model), load_judge(JUDGE_FOLDER)
    scenes = split("test", args.n, seed=7)
    renders = [render(scene, k) for k, scene in enumerate(scenes)]
    options = {"steps": args.steps, "sampler": "dpmpp_2m", "seed": 7, "progress": False}
    plain = None
    print(f"{args.n} variations, {args.steps} steps of dpmpp_2m, guidance {vd.spec.scale_image:g}")
    for null in NULLS:
        made = image_variation(vd, renders, null=null, **options).images
        pixels = np.stack([np.asarray(image, np.float32) for image in made])
        plain = pixels if plain is None else plain
        readings = judge.read(made)
        kept = np.mean([compare(r, s)["all"] for r, s in zip(readings, scenes, strict=True)])
        print(
            f"{null or 'own':>6}  difference {np.abs(pixels - plain).mean():5.2f} of 255, "
            f"every attribute kept {kept:.1%}"
        )


if __name__ == "__main__":
    main()
