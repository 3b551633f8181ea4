"""Training on tiny settings, as kills see it: `python -m training STAGE` on nine pictures."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from data.captioned_samples import CaptionedSamples
from lib.config import ModelSpec
from tests.campaign.world import World
from tests.training.tiny_stages import folder_samples, worldly
from training import datasets, recipes, vocabulary
from training.__main__ import main
from training.stage import Recipe

STAGES = ("all", "autoencoder", "clip", "optimus")
"""All in one go, the flows last; and each that needs no other by itself."""
RECIPE = Recipe(steps=3, batch=2, lr=1e-3, save_every=0.0, decay="trapezoid", cooldown=0.5)
_UNSTABLE = ("minutes", "run")


def prepare(world: World) -> Path:
    """Pictures with captions, and the sizes of a model of them, made once."""
    folder = world.folder / "training"
    if not (folder / "spec.json").is_file():
        folder.mkdir()
        samples: CaptionedSamples = folder_samples(folder / "pictures")
        spec, _ = worldly(world.vd, samples, folder / "sizes")
        (folder / "spec.json").write_text(json.dumps(spec.to_dict()))
    return folder


def run(world: World, place: Path, stage: str) -> int:
    """Train; returns the command's exit status. Only ever called in a process of its own."""
    folder = prepare(world)
    spec = ModelSpec.from_dict(json.loads((folder / "spec.json").read_text()))
    datasets.VD_EMOJI = replace(spec, name="own")
    vocabulary.CORPUS = 50
    tiny = dict.fromkeys(("autoencoder", "clip", "optimus", "flows"), (RECIPE,))
    recipes.PRESETS["small"] = recipes.Preset(tiny)
    places = ["--runs", str(place / "runs"), "--out", str(place / "model"), "--threads", "1"]
    return main([stage, "--data", str(folder / "pictures"), *places])


def made(place: Path) -> dict[str, str]:
    """Weights, sizes, tokenizers, and what the model folder says of how they were made."""
    model = place / "model"
    files = [*model.glob("*.safetensors"), *(model / "tokenizers").rglob("*.*")]
    contents = {path: path.read_bytes() for path in files if path.is_file()}
    digests = {
        path.relative_to(model).as_posix(): hashlib.sha256(data).hexdigest()[:16]
        for path, data in sorted(contents.items())
    }
    story = model / "training.json"
    for name, entry in json.loads(story.read_text()).items() if story.is_file() else ():
        kept = {key: value for key, value in entry.items() if key not in _UNSTABLE}
        digests[f"story of {name}"] = json.dumps(kept, sort_keys=True)
    return digests
