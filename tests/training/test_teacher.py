"""Views that a teacher saw, and a student of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data.samples import Batch
from lib.files import write_atomic
from tests.training.tiny_stages import RECIPE, check, drawing_samples, scene_samples, worldly
from training import teacher as module
from training.attributes import mixed_loss, read_loss
from training.augment import blurred, mixed, recolored, turned
from training.clip import ClipStage
from training.stage import generator
from training.teacher import Goals, Views, views_of


@pytest.fixture
def samples():
    return drawing_samples(None)


class Seeing:
    """A teacher that sees colours."""

    calls = 0

    def see(self, pictures):
        type(self).calls += 1
        mean = pictures.mean((2, 3)).half()
        middle = mean[..., None, None].expand(-1, -1, 8, 8).contiguous()
        deep = pictures[:, :1, ::16, ::16].half().contiguous()
        return {"whole": mean, "middle": middle, "deep": deep}


@pytest.fixture
def views(samples, tmp_path, monkeypatch) -> Views:
    monkeypatch.setattr(module, "Teacher", Seeing)
    return views_of(samples, tmp_path, count=100)


def test_the_teacher_saw_what_is_kept_and_is_asked_once(views, samples, tmp_path):
    assert len(views) == 100 and views.pictures.dtype == torch.uint8
    seen = (views.pictures.float() / 255).mean((2, 3))
    assert torch.allclose(views.whole.float(), seen, atol=1e-3)
    calls = Seeing.calls
    again = views_of(samples, tmp_path, count=100)
    assert Seeing.calls == calls and torch.equal(again.pictures, views.pictures)
    (path,) = tmp_path.glob("views-*")
    write_atomic(path, path.read_bytes()[:-1])  # damaged: made again
    again = views_of(samples, tmp_path, count=100)
    assert Seeing.calls > calls and torch.equal(again.pictures, views.pictures)
    known = views.labels[:, 0, 0] >= 0
    assert 0.5 < known.float().mean() < 1  # of those whose colours were exchanged nothing is
    assert ((views.share < 1).float().mean() - module.MIXED).abs() < 0.2
    concepts = {int(label) for label in samples.labels(range(len(samples)))[:, 0]}
    assert set(views.labels[known][..., 0].flatten().tolist()) <= concepts


def test_goals_are_centred_and_of_one_scale(views):
    goals = Goals(views, 4, views.pictures.shape[-1], kept=2)
    whole, (middle, deep) = goals(views, torch.arange(100), grid=8)
    assert whole.shape == (100, 2) and middle.shape == (100, 64, 3) and deep.shape == (100, 64, 1)
    assert torch.allclose(whole.mean(0), torch.zeros(2), atol=0.05)
    assert torch.allclose(middle.std((0, 1)), torch.ones(3), atol=0.1)
    # pixels: centred, the least seen component the smallest; patches in the order of tokens
    pixels = goals.pixels(views.pictures)
    assert pixels.flatten(0, 1).mean(0).abs().max() < 0.05
    deviations = pixels.flatten(0, 1).std(0)
    assert (deviations.diff() <= 0).float().mean() > 0.9
    assert pixels.flatten(0, 1).var(0).mean() == pytest.approx(float(goals.pixel_variance), rel=0.1)
    patch = views.pictures[:, :, 4:8, 8:12].float().flatten(1) / 255
    row = views.pictures.shape[-1] // 4 + 2
    wanted = (patch - goals.pixel_mean) @ goals.pixel_axes
    assert torch.allclose(pixels[:, row], wanted, atol=1e-4)
    half = views.pictures.shape[-1] // 2  # a student that sees smaller pictures has fewer patches
    assert Goals(views, 4, half).pixels(views.pictures[:3]).shape[1] == (half // 4) ** 2
    # each patch has the number of the cell that it lies in
    cell = deep[:, :, 0].unflatten(1, (8, 8))
    assert torch.equal(cell[:, ::2, ::2], cell[:, 1::2, 1::2])


def test_what_a_teacher_sees_reaches_the_vision_tower(vd, samples, views, tmp_path):
    spec, words = worldly(vd, samples, tmp_path)
    known = [len(values) for values in samples.attributes.values()]
    recipe = replace(RECIPE, steps=8, decay="trapezoid", cooldown=0.5)
    taught = ClipStage(spec, words, samples, samples, tmp_path, recipe, views, known)
    plain = ClipStage(spec, words, samples, samples, tmp_path, recipe)
    check(taught)
    assert taught.identity() != plain.identity()
    assert {"taught", "taught_patches", "pixels", "places", "from_views"} <= set(
        taught.loss(0, generator(0, 0))[1]
    )
    assert taught.loss(5, generator(0, 5))[0].isfinite()  # all patches


def test_tokens_that_tell_where_they_are_lose_nothing(vd, samples, views, tmp_path):
    stage = ClipStage(*worldly(vd, samples, tmp_path), samples, samples, tmp_path, RECIPE, views)
    n = stage._image(samples.pictures(range(2), np.random.default_rng(0)))[0].shape[1] - 1
    places = torch.stack([torch.randperm(n)[: n // 2] for _ in range(2)])
    tokens = torch.zeros(2, n // 2, stage.spec.clip.projection)
    stage.modules["places"].answer.bias.data.zero_()
    assert stage._misplaced(tokens, places).item() == pytest.approx(1.0, abs=1e-5)
    told = 30.0 * torch.nn.functional.one_hot(places, n)
    stage.modules["places"].forward = lambda tokens: (told,)
    assert stage._misplaced(tokens, places).item() < 1e-6


def test_without_leaving_out_the_tokens_are_the_towers_own(vd, samples, views, tmp_path):
    stage = ClipStage(*worldly(vd, samples, tmp_path), samples, samples, tmp_path, RECIPE, views)
    pictures = samples.pictures(range(3), np.random.default_rng(0))
    whole = stage._image(pictures)[0]
    n = whole.shape[1] - 1
    assert torch.allclose(stage._seen_in_part(pictures, torch.arange(n).repeat(3, 1)), whole)
    part = stage._seen_in_part(pictures, torch.arange(0, n, 2).repeat(3, 1))
    assert part.shape[1] == 1 + (n + 1) // 2


def test_pictures_without_captions_are_spoilt_and_read_still(vd, samples, views, tmp_path):
    stage = ClipStage(*worldly(vd, samples, tmp_path), samples, samples, tmp_path, RECIPE)
    pictures = samples.pictures(range(4), np.random.default_rng(0))
    pictures = torch.cat([pictures, pictures])
    shown = [torch.ones(8, 16, dtype=torch.int64)]
    batch = Batch(None, pictures.clone(), ["a"] * 4, torch.ones(8, 3), torch.ones(4, 3), shown)
    stage._spoil(batch, np.random.default_rng(0))
    changed = (batch.pictures != pictures).flatten(1).any(1)
    assert changed.tolist() == [False] * 4 + [True, False] * 2
    assert torch.equal(shown[0][:, 0] == -1, changed)


def test_of_a_spoilt_picture_all_is_read_but_sizes(vd, tmp_path):
    scenes = scene_samples(tmp_path)
    stage = ClipStage(*worldly(vd, scenes, tmp_path), scenes, scenes, tmp_path, RECIPE)
    batch = scenes.contrast(8, np.random.default_rng(0), patch=8)
    seen = batch.seen.clone()
    stage._spoil(batch, np.random.default_rng(0))
    lost = (batch.seen != seen).nonzero().tolist()
    sizes = [k for k, name in enumerate(scenes.attributes) if name in ("size1", "size2")]
    spoilt = range(len(batch.texts), len(seen), 2)
    assert lost == [[i, k] for i in spoilt for k in sizes if seen[i, k] >= 0] and lost


def test_losses_of_two_pictures_in_one_are_shared():
    torch.manual_seed(0)
    logits = [torch.randn(4, 3), torch.randn(4, 5)]
    one, two = torch.randint(0, 3, (2, 4, 2))
    whole = torch.ones(4)
    both = mixed_loss(logits, torch.stack([one, two], 1), 0.5 * whole)
    first = mixed_loss(logits, torch.stack([one, two], 1), whole)
    second = mixed_loss(logits, torch.stack([one, two], 1), 0 * whole)
    assert torch.allclose(both, (first + second) / 2)
    smooth = sum(-a.log_softmax(1).mean() for a in logits) / 2
    assert torch.allclose(first, 0.9 * read_loss(logits, one) + 0.1 * smooth)
    nothing = torch.full((4, 2, 2), -1)
    assert mixed_loss(logits, nothing, whole) == 0


def test_pictures_are_changed_as_told():
    rng = np.random.default_rng(0)
    pictures = torch.rand(64, 3, 8, 8)
    assert torch.allclose(turned(pictures, rng, 0, (1, 1)), pictures, atol=1e-5)
    other, changed = recolored(pictures, rng, 0.5)
    assert 0 < changed.sum() < 64 and torch.equal(other[~changed], pictures[~changed])
    assert torch.equal(other.sort(1).values, pictures.sort(1).values)
    soft = blurred(pictures, rng, 0.5)
    touched = (soft != pictures).flatten(1).any(1)
    assert 0 < touched.sum() < 64
    assert (soft.std((2, 3)) < pictures.std((2, 3)))[touched].all()
    assert torch.allclose(
        blurred(pictures.mean((2, 3), True).expand_as(pictures), rng, 1.0).std((2, 3)).max(),
        torch.zeros(()),
        atol=1e-6,
    )
    black, white = torch.zeros(64, 3, 8, 8), torch.ones(64, 3, 8, 8)
    mean, share = mixed(white, black, rng, 0.5)
    assert torch.allclose(mean.mean((1, 2, 3)), share)
    assert 0.2 < (share < 1).float().mean() < 0.8
