"""Scenes as training samples: told truly, drawn once, never of the world that is held out."""

import numpy as np
import pytest
import torch

from data.scenes.captions import parse, read_attributes
from data.scenes.draw import APART, BACKGROUND_RGB, COLOR_RGB, SHOWN, layout, unnamed
from data.scenes.samples import (
    STRANGE,
    SceneSamples,
    local_targets,
    near_copy,
    pool,
    render_generator,
    render_pairs,
    validation,
)
from data.scenes.world import ATTRIBUTE_VALUES as VALUES
from data.scenes.world import is_training, is_validation, sample_scene


@pytest.fixture(scope="module")
def scenes() -> SceneSamples:
    rng = np.random.default_rng(0)
    world = [sample_scene(rng) for _ in range(8)]
    return SceneSamples(world, render_pairs(world, seed=0))


def test_targets_name_things_in_reading_order(scenes):
    for text, scene in zip(
        scenes.targets(range(8), np.random.default_rng(1)), scenes.scenes, strict=True
    ):
        assert parse(text) == scene
        places = [text.index(f"{thing.color} {thing.shape}") for thing in scene.canonical().things]
        assert places == sorted(places)


def test_labels_are_what_captions_say(scenes):
    rng = np.random.default_rng(2)
    assert torch.equal(scenes.read(scenes.targets(range(8), rng)), scenes.labels(range(8)))
    row = scenes.read(["a red circle"])[0]
    names = list(VALUES)
    assert row[names.index("background")] == -1
    assert row[names.index("shape1")] == VALUES["shape1"].index("circle")
    assert read_attributes("a red circle")["shape1"] == "circle"


def test_pictures_are_the_renders(scenes):
    shown = scenes.pictures([3], np.random.default_rng(0))
    assert any(
        torch.equal((shown[0] * 255).round().byte().permute(1, 2, 0), torch.from_numpy(image))
        for image in scenes.images[3]
    )


def test_a_batch_to_be_told_apart_is_half_near_copies(scenes):
    batch = scenes.contrast(6, np.random.default_rng(0), patch=8)
    more = round(STRANGE * 6)
    assert (
        batch.pictures.shape == (6 + more, 3, 64, 64) and len(batch.texts) == len(batch.said) == 6
    )
    known = {tuple(row.tolist()) for row in scenes.labels(range(8))}
    originals = [tuple(row.tolist()) for row in batch.seen[:3]]
    assert set(originals) <= known
    for a, b in zip(batch.seen[:3], batch.seen[3:6], strict=True):
        assert (a != b).any()
        assert a[list(VALUES).index("count")] == b[list(VALUES).index("count")]
    assert all(rows.shape == (6 + more, 64) for rows in batch.patches)


def test_behind_a_batch_come_things_in_colors_without_a_name(scenes):
    batch = scenes.contrast(8, np.random.default_rng(1), patch=8)
    seen = batch.seen[8:]
    names, shown = list(VALUES), dict(zip(scenes.local, batch.patches, strict=True))
    assert (seen[:, [names.index("color1"), names.index("color2")]] == -1).all()
    assert (seen[:, [names.index("shape1"), names.index("background")]] >= 0).all()
    assert (shown["color"][8:] == -1).all() and (shown["shape"][8:] >= 0).any()


def test_colors_without_a_name_are_far_from_those_with_one():
    rng = np.random.default_rng(0)
    for background, ground in BACKGROUND_RGB.items():
        deep, light = unnamed(background, rng)
        assert min(np.linalg.norm(np.subtract(deep, d)) for d, _ in COLOR_RGB.values()) > APART
        assert np.abs(np.subtract(deep, ground)).max() > 2 * APART
        tones = [unnamed(background, rng)[1] for _ in range(100)]
        assert min(np.abs(np.subtract(tone, ground)).max() for tone in tones) > SHOWN
        assert all(d <= tone <= 255 for d, tone in zip(deep, light, strict=True))


def test_the_pool_is_rendered_once_and_again_if_the_drawing_changes(tmp_path, monkeypatch):
    drawn = render_pairs
    first = pool(tmp_path, 70)
    assert len(first) == 70
    assert all(is_training(scene) for scene in first.scenes)
    calls = []
    name = "data.scenes.samples.render_pairs"
    monkeypatch.setattr(name, lambda s, seed: calls.append(s) or drawn(s, seed))
    assert np.array_equal(pool(tmp_path, 70).images, first.images)
    assert [len(scenes) for scenes in calls] == [64]  # only the samples that are compared

    target = tmp_path / "pool-70-0"
    whole = (target / "images.npy").read_bytes()
    for file, damaged in (
        *(("pool.json", content) for content in (b"[" * 100_000, b"", b"[]")),
        *(("images.npy", content) for content in (b"", whole[:-1], whole[:50], b"x" * 500)),
    ):
        (target / file).write_bytes(damaged)
        assert np.array_equal(pool(tmp_path, 70).images, first.images)
        assert (target / "images.npy").read_bytes() == whole

    monkeypatch.setattr(name, lambda s, seed: 255 - drawn(s, seed))
    assert np.array_equal(pool(tmp_path, 70).images, 255 - first.images)


def test_validation_scenes_are_never_trained_on():
    held = validation(20)
    assert len(held) == 20
    assert all(is_validation(scene) and not is_training(scene) for scene in held.scenes)


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


def test_local_targets_say_which_thing_a_patch_shows():
    rng = np.random.default_rng(4)
    world = [sample_scene(rng, n_things=2) for _ in range(20)]
    images = render_pairs(world, seed=0)
    places = [layout(s, render_generator(0, i, 0)) for i, s in enumerate(world)]
    _, colors, _ = local_targets(world, places, images[:, 0], 8)
    for scene, place, color in zip(world, places, colors.view(-1, 8, 8), strict=True):
        shown = set(color.flatten().tolist()) - {-1}
        assert shown == {VALUES["color1"].index(t.color) for t in scene.things}
        x, y, _ = place[0]
        first = VALUES["color1"].index(scene.canonical().things[0].color)
        around = color[max(0, int(y // 8) - 1) : int(y // 8) + 2, int(x // 8)]
        assert first in around
