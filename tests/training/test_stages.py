"""Each stage's loss on a tiny model: finite, and it reaches every weight that is trained."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.scenes.captions import parse, read_attributes
from data.scenes.draw import layout
from data.scenes.world import is_training, sample_scene
from lib.checkpoints import weights
from lib.config import FLOWS
from lib.model import VersatileDiffusion
from training import stages
from training.__main__ import main
from training.attributes import VALUES, read_loss, targets
from training.autoencoder import AutoencoderStage
from training.cache import ENCODERS, TARGETS, build, captions_of, targets_of
from training.clip import ClipStage, local_targets, near_copy
from training.data import Pool, pool, render_pairs
from training.export import record
from training.flows import FlowOptions, FlowsStage
from training.judge import JudgeStage
from training.loop import Recipe, generator
from training.optimus import OptimusStage
from training.stages import warm_start
from training.vocabulary import vocabulary

RECIPE = Recipe(steps=4, batch=6, lr=1e-3)


@pytest.fixture(scope="module")
def scenes() -> Pool:
    rng = np.random.default_rng(0)
    world = [sample_scene(rng) for _ in range(8)]
    return Pool(world, render_pairs(world, seed=0))


def check(stage) -> None:
    torch.manual_seed(0)
    loss, metrics = stage.loss(3, generator(0, 3))
    assert torch.isfinite(loss)
    assert all(np.isfinite(value) for value in metrics.values())
    loss.backward()
    # what starts at zero passes no gradient back on the first step: nudge it and look again
    with torch.no_grad():
        for p in stage.modules.parameters():
            p.add_(0.01 * torch.randn_like(p))
    stage.modules.zero_grad()
    stage.loss(3, generator(0, 3))[0].backward()
    idle = [n for n, p in stage.modules.named_parameters() if p.grad is None or not p.grad.any()]
    unused = ("position_embedding", "positions", "wpe", "embeddings", "token_embedding", "wte")
    assert not [name for name in idle if not any(word in name for word in unused)]


@pytest.fixture(scope="module")
def worldly(vd, tmp_path_factory):
    """The tiny model's sizes for pictures of 64 pixels, and tokenizers that know the world."""
    vision = replace(vd.spec.clip.vision, image_size=64, patch_size=16)
    clip = replace(vd.spec.clip, resize=64, vision=vision)
    spec = replace(vd.spec, image_size=64, clip=clip)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.vocabulary.CORPUS", 400)
        return vocabulary(spec, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def encoders(worldly) -> VersatileDiffusion:
    spec, words = worldly
    torch.manual_seed(0)
    modules = {name: weights.build(spec, name) for name in ENCODERS}
    return VersatileDiffusion(spec, modules, words).eval().requires_grad_(False)


def test_autoencoder(worldly, scenes, tmp_path):
    check(AutoencoderStage(worldly[0], scenes, tmp_path, RECIPE))


def test_clip(worldly, scenes, tmp_path):
    check(ClipStage(*worldly, scenes, tmp_path, RECIPE))


def test_optimus(worldly, scenes, tmp_path):
    check(OptimusStage(*worldly, scenes, tmp_path, RECIPE))


def test_judge(tmp_path):
    check(JudgeStage(tmp_path, RECIPE))


def test_flows_reach_every_column_and_drop_contexts(encoders, scenes, tmp_path):
    cache = build(encoders, scenes, len(scenes), tmp_path)
    options = FlowOptions(share=dict.fromkeys(FLOWS, 1.0), dropout=0.5)
    stage = FlowsStage(encoders, cache, cache, tmp_path, RECIPE, options)
    assert stage.samples() == len(FLOWS) * RECIPE.batch
    check(stage)


def test_a_dropped_context_is_the_flow_s_own_null(encoders, scenes, tmp_path):
    cache = build(encoders, scenes, len(scenes), tmp_path)
    stage = FlowsStage(encoders, cache, cache, tmp_path, RECIPE)
    for flow, (data, kind) in FLOWS.items():
        null = encoders.null_context(kind, data, 1).tokens
        assert torch.equal(stage.nulls[flow], null.float())
    assert not stage.nulls["i2i"].any()
    assert stage.nulls["i2t"].any()


def test_the_cache_holds_what_the_encoders_say_and_is_read_back(encoders, scenes, tmp_path):
    cache = build(encoders, scenes, len(scenes), tmp_path)
    wanted = encoders.encode_text(targets_of(scenes, 5))
    assert torch.allclose(torch.from_numpy(cache.text_latents[5].copy()).float(), wanted, atol=0.05)
    wanted = encoders.text_context(captions_of(scenes, 5)).tokens
    assert torch.allclose(torch.from_numpy(cache.text_tokens[5].copy()).float(), wanted, atol=0.05)
    again = build(encoders, scenes, len(scenes), tmp_path)
    assert np.array_equal(cache.image_tokens, again.image_tokens)
    assert len(list(tmp_path.glob("*.npy"))) == len(ENCODERS)
    with pytest.raises(ValueError, match="the pool has 8"):
        build(encoders, scenes, 9, tmp_path)


def test_the_text_column_learns_to_name_things_in_reading_order(scenes):
    for i, scene in enumerate(scenes.scenes):
        targets = targets_of(scenes, i)
        assert len(targets) == TARGETS and all(parse(text) == scene for text in targets)
        places = [
            [text.index(f"{thing.color} {thing.shape}") for thing in scene.canonical().things]
            for text in targets
        ]
        assert all(place == sorted(place) for place in places)


def test_the_pool_is_rendered_once_and_again_if_the_drawing_changes(tmp_path, monkeypatch):
    drawn = render_pairs
    first = pool(tmp_path, 70)
    assert len(first) == 70
    assert all(is_training(scene) for scene in first.scenes)
    calls = []
    monkeypatch.setattr(
        "training.data.render_pairs", lambda s, seed: calls.append(s) or drawn(s, seed)
    )
    assert np.array_equal(pool(tmp_path, 70).images, first.images)
    assert [len(scenes) for scenes in calls] == [64]  # only the samples that are compared

    monkeypatch.setattr("training.data.render_pairs", lambda s, seed: 255 - drawn(s, seed))
    assert np.array_equal(pool(tmp_path, 70).images, 255 - first.images)


def test_near_copies_are_other_training_scenes():
    rng = np.random.default_rng(1)
    for _ in range(300):
        scene = sample_scene(rng)
        other = near_copy(scene, rng)
        assert is_training(other)
        if other == scene:
            continue
        a, b = scene.attributes(), other.attributes()
        assert a["count"] == b["count"]


def test_reading_targets_ignore_what_is_not_said():
    rows = targets(
        [read_attributes("a red circle"), sample_scene(np.random.default_rng(3)).attributes()]
    )
    names = list(VALUES)
    assert rows[0, names.index("background")] == -1
    assert rows[0, names.index("shape1")] == VALUES["shape1"].index("circle")
    perfect = [torch.full((2, len(v)), -50.0) for v in VALUES.values()]
    for i, logits in enumerate(perfect):
        for row in range(2):
            logits[row, rows[row, i].clamp(min=0)] = 50.0
    assert read_loss(perfect, rows) < 1e-6


def test_local_targets_say_which_thing_a_patch_shows():
    rng = np.random.default_rng(4)
    scenes_ = [sample_scene(rng, n_things=2) for _ in range(20)]
    data = Pool(scenes_, render_pairs(scenes_, seed=0))
    places = [layout(s, data.generator(i, 0)) for i, s in enumerate(scenes_)]
    _, colors, _ = local_targets(scenes_, places, data.images[:, 0], 8)
    for scene, place, color in zip(scenes_, places, colors.view(-1, 8, 8), strict=True):
        shown = set(color.flatten().tolist()) - {-1}
        assert shown == {VALUES["color1"].index(t.color) for t in scene.things}
        x, y, _ = place[0]
        first = VALUES["color1"].index(scene.canonical().things[0].color)
        around = color[max(0, int(y // 8) - 1) : int(y // 8) + 2, int(x // 8)]
        assert first in around


def test_a_warm_start_takes_the_finished_weights(vd, model_folder, scenes, tmp_path):
    stage = AutoencoderStage(vd.spec, scenes, tmp_path, RECIPE)
    fresh = stage.modules["image_decoder"].conv_in.weight.clone()
    warm_start(stage, model_folder)
    taken = stage.modules["image_decoder"].conv_in.weight
    assert torch.equal(taken, vd.image_decoder.conv_in.weight)
    assert not torch.equal(taken, fresh)
    assert taken.requires_grad


def test_the_record_lists_the_runs_that_made_the_weights(vd, scenes, tmp_path):
    def done(run: str, warm: bool, seconds: float) -> list[tuple[str, float]]:
        stage = AutoencoderStage(vd.spec, scenes, tmp_path, RECIPE)
        stage.run, stage.warm = run, warm
        record(stage, {"psnr": 1.0}, seconds)
        known = json.loads((tmp_path / "training.json").read_text())
        return [(name, entry["minutes"]) for name, entry in known.items()]

    assert done("a", False, 60) == [("autoencoder", 1)]
    assert done("b", True, 120) == [("autoencoder, run 1", 1), ("autoencoder", 2)]
    # prolonged, or measured again: its minutes are counted once
    assert done("b", True, 180) == [("autoencoder, run 1", 1), ("autoencoder", 3)]
    assert done("c", True, 60)[1:] == [("autoencoder, run 2", 3), ("autoencoder", 1)]
    # from nothing: what was trained before is no part of these weights
    assert done("d", False, 60) == [("autoencoder", 1)]
    entry = json.loads((tmp_path / "training.json").read_text())["autoencoder"]
    assert entry["data"] == {"scenes": len(scenes), "seed": 0}


def test_flows_know_what_they_were_trained_on(encoders, scenes, tmp_path):
    cache = build(encoders, scenes, len(scenes), tmp_path)
    stages = [
        FlowsStage(encoders, cache, cache, tmp_path, RECIPE, FlowOptions(dropout=d))
        for d in (0.1, 0.2)
    ]
    first, second = (stage.identity() for stage in stages)
    assert first["data"] == second["data"] and first["options"] != second["options"]
    assert set(first["data"]) == {"scenes", "seed", *ENCODERS}
    json.dumps(first)


def test_a_stage_of_two_runs_goes_on_from_its_own_weights(tmp_path, monkeypatch):
    measured = {"psnr": 1.0, "latent_std": 1.0}
    monkeypatch.setattr(AutoencoderStage, "measure", lambda stage: measured)
    runs = (Recipe(steps=1, batch=1, lr=1e-3), Recipe(steps=2, batch=1, lr=1e-9, warmup=0))
    monkeypatch.setitem(stages.RECIPES, "autoencoder", runs)
    monkeypatch.setattr("training.vocabulary.CORPUS", 50)
    out = tmp_path / "model"
    arguments = ["autoencoder", "--runs", str(tmp_path), "--out", str(out), "--scenes", "64"]
    assert main(arguments) == 0

    known = json.loads((out / "training.json").read_text())
    assert {name: entry["recipe"]["steps"] for name, entry in known.items()} == {
        "autoencoder, run 1": 1,
        "autoencoder": 2,
    }
    assert [entry["samples"] for entry in known.values()] == [1, 1]
    first, second = (
        torch.load(folder / "autoencoder" / "checkpoint.pt", weights_only=True)
        for folder in (tmp_path, tmp_path / "run-2")
    )
    name = "image_decoder.conv_in.weight"
    assert (first["step"], second["step"]) == (1, 2)
    # a rate of nothing: what the second run holds is what the first one exported, in half precision
    averaged = first["ema"][list(first["modules"]).index(name)]
    assert torch.allclose(second["modules"][name], averaged.half().float(), atol=1e-6)

    assert main(arguments) == 0  # finished: nothing is trained again
    assert json.loads((out / "training.json").read_text()) == known
