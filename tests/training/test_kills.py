"""kill -9 at any moment of any stage, and stages side by side: the same command goes on."""

import json
import os
import pickle
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data.emoji import judge as judges
from data.scenes.judge import HEADS
from data.scenes.samples import pool
from lib.config import ModelSpec
from tests.data.emoji.frozen import Colors
from tests.training import children
from tests.training.tiny_stages import drawing_samples, folder_samples, worldly
from training import classifier, datasets, judge, loop, recipes, stages, vocabulary
from training.__main__ import main
from training.export import current_spec
from training.stage import Recipe

RECIPE = Recipe(steps=3, batch=2, lr=1e-3, save_every=0.0, decay="trapezoid", cooldown=0.5)
TINY = {
    "autoencoder": (RECIPE, replace(RECIPE, lr=1e-4)),
    "clip": (RECIPE,),
    "optimus": (RECIPE,),
    "flows": (RECIPE,),
}


class Killer:
    """Ends this process, as a power cut would, at one of the moments that matter.

    Those are: each optimizer step, each half-written checkpoint, each file that takes its place.
    """

    def __init__(self, at: int) -> None:
        self.moments, self.at = 0, at
        self.gradients, self.save, self.move = loop._gradients, torch.save, os.replace
        loop._gradients, torch.save, os.replace = self.step, self.half, self.replace

    def moment(self) -> bool:
        self.moments += 1
        return self.moments == self.at

    def end(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def step(self, *arguments):
        if self.moment():
            self.end()
        return self.gradients(*arguments)

    def half(self, state, path):
        self.save(state, path)
        if self.moment():
            os.truncate(path, path.stat().st_size // 2)
            self.end()

    def replace(self, source, destination):
        if self.moment():
            self.end()
        self.move(source, destination)


def command(stage: str, folder: Path, kill_at: int = 0) -> None:
    """`python -m training STAGE` on nine pictures with the tiny model's sizes."""
    spec = ModelSpec.from_dict(json.loads((folder.parent / "spec.json").read_text()))
    datasets.VD_EMOJI = replace(spec, name="own")
    vocabulary.CORPUS = 50
    recipes.PRESETS["small"] = recipes.Preset(TINY)
    stages.plot_losses = lambda log, out: None  # a plot takes longer than all the rest
    killer = Killer(kill_at)
    places = ["--runs", str(folder / "runs"), "--out", str(folder / "model"), "--threads", "1"]
    status = main([stage, "--data", str(folder.parent / "pictures"), *places])
    (folder / "moments").write_text(str(killer.moments))
    raise SystemExit(status)


@pytest.fixture(scope="module")
def place(vd, tmp_path_factory):
    """A folder of pictures, and sizes of a model of them."""
    folder = tmp_path_factory.mktemp("kills")
    samples = folder_samples(folder / "pictures")
    spec, _ = worldly(vd, samples, folder / "sizes")
    (folder / "spec.json").write_text(json.dumps(spec.to_dict()))
    return folder


@pytest.fixture(scope="module")
def whole(place):
    """What comes of `training all` if nothing happens."""
    (place / "whole").mkdir()
    assert children.run(command, "all", place / "whole") == [0]
    return place / "whole"


def story(folder: Path) -> dict:
    """training.json without times and names of runs."""
    known = json.loads((folder / "model" / "training.json").read_text())
    return {
        n: {k: v for k, v in e.items() if k not in ("minutes", "run")} for n, e in known.items()
    }


def test_kills_at_random_moments_change_nothing(whole, place):
    folder = place / "killed"
    folder.mkdir()
    rng = np.random.default_rng(11)
    kills = 0
    while (status := children.run(command, "all", folder, int(rng.integers(10, 45)))) != [0]:
        assert status == [-signal.SIGKILL] and kills < 30
        kills += 1
    assert kills >= 4
    files = sorted(path.name for path in (whole / "model").glob("*.safetensors"))
    assert len(files) == 11
    for name in files:
        a, b = (load_file(f / "model" / name) for f in (whole, folder))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a), name
    assert story(whole) == story(folder)
    for name in ("config.json", *(p.relative_to(whole / "model") for p in tokenizers(whole))):
        assert (whole / "model" / name).read_bytes() == (folder / "model" / name).read_bytes()
    left = [path for path in folder.rglob(".*") if not path.name.endswith(".lock")]
    assert left == []


def read_pictures(data: str, folder: Path, kill_at: int = 0) -> None:
    """`python -m training classifier`, of few pictures, with tiny recipes."""
    judges.Frozen = Colors
    judge.split = lambda *arguments, **more: []  # 6,000 scenes otherwise
    judge.measure = lambda *arguments: dict.fromkeys((*HEADS, "all"), 0.5)
    classifier.ClassifierStage.__init__.__defaults__ = (20,)
    samples = pickle.loads((folder.parent / "samples").read_bytes())
    datasets._emoji = lambda stage: (samples, samples)
    recipes.PRESETS |= dict.fromkeys(("small", "scenes"), recipes.Preset({"classifier": (RECIPE,)}))
    stages.plot_losses = lambda log, out: None
    killer = Killer(kill_at)
    places = ["--runs", str(folder / "runs"), "--judge", str(folder / "model"), "--threads", "1"]
    status = main(["classifier", "--data", data, *places])
    (folder / "moments").write_text(str(killer.moments))
    raise SystemExit(status)


@pytest.mark.parametrize("data", ["scenes", "emoji"])
def test_a_classifier_that_is_killed_goes_on(data, tmp_path):
    """Its weights are those of one that was not; and once it is finished, it stays so."""
    (tmp_path / "samples").write_bytes(pickle.dumps(drawing_samples(None)))
    folders = whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in folders:
        folder.mkdir()
    assert children.run(read_pictures, data, whole) == [0]
    kills = 0
    while (status := children.run(read_pictures, data, killed, 4 + kills)) != [0]:
        assert status == [-signal.SIGKILL] and kills < 20
        kills += 1
    assert kills >= 3
    a, b = (load_file(folder / "model" / "judge.safetensors") for folder in folders)
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert story(whole) == story(killed)
    made = {path: path.read_bytes() for path in (killed / "model").iterdir()}
    assert {path.name for path in made} == {"config.json", "judge.safetensors", "training.json"}
    assert children.run(read_pictures, data, killed) == [0]
    assert made == {path: path.read_bytes() for path in (killed / "model").iterdir()}
    assert (killed / "moments").read_text() == "0"
    assert [path for path in killed.rglob(".*") if not path.name.endswith(".lock")] == []


def tokenizers(folder: Path) -> list[Path]:
    return [path for path in (folder / "model" / "tokenizers").rglob("*") if path.is_file()]


def test_finished_stages_are_not_trained_again(whole):
    """Nothing is written again but, by each stage, the list of pictures that were left out."""
    before = {p: p.read_bytes() for p in (whole / "model").glob("*") if p.is_file()}
    assert children.run(command, "all", whole) == [0]
    assert before == {p: p.read_bytes() for p in (whole / "model").glob("*") if p.is_file()}
    assert int((whole / "moments").read_text()) == len(TINY)


def test_two_stages_at_once_share_a_folder(place):
    """Both find no tokenizers, both make them; each has its latent scale in the configuration."""
    folder = place / "both"
    folder.mkdir()
    both = [children.start(command, stage, folder) for stage in ("autoencoder", "optimus")]
    assert children.finish(*both) == [0, 0]
    spec = current_spec(folder / "model", None)
    assert spec.image_vae.scale != 1 and spec.text_vae.scale != 1
    assert {"autoencoder", "optimus"} <= set(story(folder))


def render(folder: Path) -> None:
    assert len(pool(folder, 70)) == 70


def test_two_stages_at_once_render_one_pool(tmp_path):
    assert children.finish(*[children.start(render, tmp_path) for _ in range(2)]) == [0, 0]
    assert [path.name for path in tmp_path.glob("pool*")] == ["pool-70-0"]
