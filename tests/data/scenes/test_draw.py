"""The pictures, measured by their pixels alone."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.scenes.draw import BACKGROUND_RGB, COLOR_RGB, layout, render, render_batch
from data.scenes.world import BACKGROUNDS, COLORS, SHAPES, STYLES, Scene, Thing, sample_scene


def pixels(scene, seed=0):
    return np.asarray(render(scene, seed)).astype(int)


def foreground(picture, background):
    return np.abs(picture - BACKGROUND_RGB[background]).sum(-1) > 12


def runs(flags):
    """Start and end of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return list(zip(edges[::2], edges[1::2], strict=True))


def main_color(region):
    """The colour whose deep tone most pixels of a region come close to."""
    counts = {
        name: (np.abs(region - deep).sum(-1) < 40).sum() for name, (deep, _) in COLOR_RGB.items()
    }
    return max(counts, key=counts.get), max(counts.values())


def lone(thing, style="flat", background="white"):
    return Scene(background, style, (Thing(*thing),))


def test_format_and_determinism():
    scene = sample_scene(np.random.default_rng(0), n_things=2)
    picture = render(scene, 7)
    assert picture.size == (64, 64) and picture.mode == "RGB"
    assert picture.tobytes() == render(scene, 7).tobytes()
    assert picture.tobytes() == render(scene, np.random.default_rng(7)).tobytes()
    assert picture.tobytes() == render(scene.swapped(), 7).tobytes()
    assert picture.tobytes() != render(scene, 8).tobytes()


def test_batches_are_single_pictures_in_order():
    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng, None) for _ in range(12)]
    batch = render_batch(scenes, np.random.default_rng(3))
    assert batch.shape == (12, 64, 64, 3) and batch.dtype == np.uint8
    rng = np.random.default_rng(3)
    for scene, picture in zip(scenes, batch, strict=True):
        assert (np.asarray(render(scene, rng)) == picture).all()
    assert render_batch([], rng).shape == (0, 64, 64, 3)


def test_things_stay_inside_and_the_background_is_plain():
    rng = np.random.default_rng(2)
    for seed in range(400):
        scene = sample_scene(rng, None)
        picture = pixels(scene, seed)
        border = np.ones((64, 64), bool)
        border[2:-2, 2:-2] = False
        assert (picture[border] == BACKGROUND_RGB[scene.background]).all()


@pytest.mark.parametrize(("relation", "axis"), [("left of", 1), ("above", 0)])
@pytest.mark.parametrize("style", STYLES)
def test_relations_hold_in_the_pixels(style, relation, axis):
    rng = np.random.default_rng(3)
    for seed in range(60):
        scene = sample_scene(rng, None, n_things=2)
        scene = Scene(scene.background, style, scene.things, relation)
        picture = pixels(scene, seed)
        mask = foreground(picture, scene.background)
        spans = runs(mask.any(axis=1 - axis))
        assert len(spans) == 2, "the two things are apart, and nothing else is there"
        assert spans[1][0] - spans[0][1] >= 2
        for (start, end), thing in zip(spans, scene.things, strict=True):
            part = picture[:, start:end] if axis else picture[start:end]
            color, count = main_color(part.reshape(-1, 3))
            assert color == thing.color and count >= 12
        centers = [
            np.argwhere(mask)[(np.argwhere(mask)[:, axis] >= a) & (np.argwhere(mask)[:, axis] < b)]
            for a, b in spans
        ]
        along = centers[1].mean(0)[axis] - centers[0].mean(0)[axis]
        across = abs(centers[1].mean(0)[1 - axis] - centers[0].mean(0)[1 - axis])
        assert along > 15 and across < 8


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("shape", SHAPES)
def test_small_and_large_never_meet(shape, style):
    """Also between a lone small thing, the largest small, and a large one of a pair."""
    other = Thing("small", "red", "cross")
    small, large = [], []
    for seed in range(25):
        mask = foreground(pixels(lone(("small", "blue", shape), style), seed), "white")
        small.append(np.ptp(np.argwhere(mask), axis=0).max())
        pair = Scene("white", style, (other, Thing("large", "blue", shape)), "left of")
        mask = foreground(pixels(pair, seed), "white")
        start, end = runs(mask.any(axis=0))[1]
        large.append(np.ptp(np.argwhere(mask[:, start:end]), axis=0).max())
    assert max(small) + 2 < min(large)


def test_layout_is_where_the_things_are():
    rng = np.random.default_rng(4)
    for seed in range(50):
        scene = sample_scene(rng, None)
        scene = Scene(scene.background, "flat", scene.things, scene.relation)
        mask = foreground(pixels(scene, seed), scene.background)
        for x, y, radius in layout(scene, seed):
            left, right, top, bottom = x - radius, x + radius, y - radius, y + radius
            box = mask[round(top) : round(bottom) + 1, round(left) : round(right) + 1]
            assert 0.3 < box.mean() < 0.97
            mask[int(top) : int(bottom) + 2, int(left) : int(right) + 2] = False
        assert not mask.any()


def test_the_layout_depends_on_the_seed_alone_not_on_style_or_color():
    boxes = set()
    for style, color in itertools.product(STYLES, ("red", "black")):
        mask = foreground(pixels(lone(("large", color, "square"), style), 5), "white")
        boxes.add((*np.argwhere(mask).min(0), *np.argwhere(mask).max(0)))
    assert len(boxes) == 1


def test_other_tones_change_nothing_else():
    scene = Scene("white", "striped", (Thing("large", "red", "square"),))
    tones = ((1, 2, 3), (200, 201, 202))
    own, other = (np.asarray(render(scene, 0, t)) for t in (None, [tones]))
    changed = (own != other).any(2)
    assert np.array_equal(changed, (own != 255).any(2))
    assert {tuple(c) for c in tones} <= {tuple(map(int, c)) for c in other[changed]}


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("size", ["small", "large"])
def test_styles_show_their_tones(background, color, size):
    deep, light = (np.array(rgb) for rgb in COLOR_RGB[color])
    for shape in SHAPES:
        count = {}
        for style in STYLES:
            picture = pixels(lone((size, color, shape), style, background), 1)
            count[style] = [(np.abs(picture - tone).sum(-1) < 45).sum() for tone in (deep, light)]
        assert count["flat"][0] > 1.15 * count["outlined"][0], "outlined is hollow"
        for style in ("striped", "dotted"):
            assert count[style][1] >= count["flat"][1] + 4, "the light tone shows"
            assert count[style][0] >= 12, "the colour itself shows"


def test_colors_are_far_apart():
    tones = [deep for deep, _ in COLOR_RGB.values()] + list(BACKGROUND_RGB.values())
    for a, b in itertools.combinations(np.array(tones), 2):
        assert np.abs(a - b).sum() > 60
    for deep, light in COLOR_RGB.values():
        assert np.mean(light) > np.mean(deep) + 40


def test_shapes_differ():
    for size, style in itertools.product(("small", "large"), STYLES):
        pictures = [pixels(lone((size, "black", shape), style), 0) for shape in SHAPES]
        for a, b in itertools.combinations(pictures, 2):
            assert np.abs(a - b).sum() / (3 * 255) > 25


def test_world_draw_and_captions_do_without_torch():
    modules = "data.scenes.world, data.scenes.draw, data.scenes.captions"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
