import json

import numpy as np
import pytest
import torch
from PIL import Image

from data.scenes.draw import render, render_batch
from data.scenes.judge import (
    HEADS,
    IGNORE,
    Judge,
    Reading,
    compare,
    decode,
    encode_targets,
    load_judge,
    measure,
    save_judge,
    to_batch,
)
from data.scenes.world import Scene, Thing, sample_scene

RED, BLUE = Thing("large", "red", "circle"), Thing("small", "blue", "square")
PAIR = Scene("white", "striped", (RED, BLUE), "above")
LONE = Scene("gray", "flat", (RED,))
GOOD = dict.fromkeys(HEADS, 0.999)


def scenes_of(n, seed=0):
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, None) for _ in range(n)]


def sure_logits(targets, margin=20.0):
    return {
        name: margin * torch.nn.functional.one_hot(targets[name].clamp(min=0), len(values)).float()
        for name, values in HEADS.items()
    }


def small_judge(seed=0):
    torch.manual_seed(seed)
    return Judge(width=4, hidden=16)


def test_shapes_of_an_untrained_judge():
    judge = Judge()
    assert 0.5e6 < sum(p.numel() for p in judge.parameters()) < 1e6
    logits = judge(torch.rand(3, 3, 64, 64))
    assert list(logits) == list(HEADS)
    assert all(logits[name].shape == (3, len(values)) for name, values in HEADS.items())
    for reading in judge.read(torch.rand(3, 3, 64, 64)):
        assert set(reading.attributes) == set(HEADS) and 0 < reading.confidence <= 1
    assert judge.training, "reading leaves the mode as it was"


def test_targets_of_a_scene():
    targets = encode_targets([PAIR.swapped(), LONE])
    assert {name: t.tolist() for name, t in targets.items()} == {
        "background": [0, 1],
        "style": [2, 0],
        "count": [1, 0],
        "relation": [1, IGNORE],
        "size1": [1, 1],
        "color1": [0, 0],
        "shape1": [0, 0],
        "size2": [0, IGNORE],
        "color2": [2, IGNORE],
        "shape2": [1, IGNORE],
    }
    assert all(t.dtype == torch.long for t in targets.values())


def test_targets_round_trip():
    scenes = scenes_of(200)
    readings = decode(sure_logits(encode_targets(scenes)))
    assert [reading.scene for reading in readings] == scenes
    assert all(r.attributes == s.attributes() for r, s in zip(readings, scenes, strict=True))
    assert all(reading.confidence > 0.999 for reading in readings)


def test_confidence_is_the_least_sure_head_that_counts():
    logits = sure_logits(encode_targets([PAIR, LONE]))
    logits["color2"] = torch.zeros(2, 8)
    sure = [reading.confidence for reading in decode(logits)]
    assert sure[0] == pytest.approx(1 / 8) and sure[1] > 0.999


def test_loss_counts_each_head_where_it_counts():
    scenes = [PAIR, LONE, LONE]
    targets = encode_targets(scenes)
    flat = {name: torch.zeros(3, len(values)) for name, values in HEADS.items()}
    expected = sum(np.log(len(values)) for values in HEADS.values())
    assert Judge.loss(flat, targets).item() == pytest.approx(expected, rel=1e-5)
    assert Judge.loss(sure_logits(targets), targets).item() < 1e-5
    noisy = {name: value.clone() for name, value in flat.items()}
    for name in ("relation", "size2", "color2", "shape2"):
        noisy[name][1:] = torch.randn_like(noisy[name][1:])
    assert torch.equal(Judge.loss(noisy, targets), Judge.loss(flat, targets))
    lone = encode_targets([LONE])
    assert torch.isfinite(Judge.loss({n: v[:1] for n, v in flat.items()}, lone))


def test_a_judge_learns_a_few_pictures():
    scenes = scenes_of(16, seed=1)
    images = to_batch(render_batch(scenes, np.random.default_rng(0)))
    targets, judge = encode_targets(scenes), small_judge()
    optimizer = torch.optim.Adam(judge.parameters(), 1e-2)
    for _ in range(80):
        loss = judge.loss(judge(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    read = judge.read(images)
    assert sum(r.scene == s for r, s in zip(read, scenes, strict=True)) >= 14


def test_all_forms_of_a_picture_are_one():
    picture = render(PAIR, 0)
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    forms = [picture, [picture], array, array[None], tensor, [tensor], tensor / 255]
    batches = [to_batch(form) for form in forms]
    for batch in batches:
        assert batch.shape == (1, 3, 64, 64) and batch.dtype == torch.float32
        assert torch.allclose(batch, batches[0], atol=1e-6)
    assert to_batch([picture, tensor[None]]).shape[0] == 2
    assert to_batch([]).shape == (0, 3, 64, 64)
    assert small_judge().read([]) == []


def test_other_sizes_are_resized():
    big = render(PAIR, 0).resize((192, 192), Image.NEAREST)
    assert torch.allclose(to_batch(big), to_batch(render(PAIR, 0)), atol=0.35)
    assert to_batch([big, render(PAIR, 0)]).shape == (2, 3, 64, 64)
    flat = torch.full((2, 3, 100, 40), 0.25)
    assert torch.allclose(to_batch(flat), torch.full((2, 3, 64, 64), 0.25))


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ("picture.png", "cannot read a str"),
        ([None], "cannot read a NoneType"),
        (torch.rand(2, 4, 64, 64), r"shape \(2, 4, 64, 64\)"),
        (torch.rand(64, 64), r"shape \(64, 64\)"),
        (np.zeros((3, 64, 64), np.uint8), r"give \(H, W, 3\)"),
        (torch.full((1, 3, 64, 64), 255.0), r"\[0, 1\]"),
        (torch.full((1, 3, 64, 64), float("nan")), "finite"),
    ],
)
def test_pictures_it_cannot_take_are_refused(images, said):
    with pytest.raises(ValueError, match=said):
        to_batch(images)


def test_compare():
    reading = Reading(PAIR.attributes() | {"color2": "green"}, 0.9)
    result = compare(reading, PAIR)
    assert not result["all"] and not result["color2"]
    assert all(right for name, right in result.items() if name not in ("all", "color2"))
    assert compare(Reading(PAIR.attributes(), 1.0), PAIR.swapped())["all"]
    assert set(compare(reading, LONE)) == {
        *("background", "style", "count", "size1", "color1", "shape1", "all")
    }
    assert not compare(reading, LONE)["count"]
    prompt = PAIR.attributes() | {"color2": None}
    assert compare(reading, prompt)["all"], "what a prompt leaves open is not asked"


def test_a_reading_that_is_no_scene():
    twice = PAIR.attributes() | {"size2": "large", "color2": "red", "shape2": "circle"}
    assert Reading(twice, 0.5).scene is None


def test_measure_counts_shares():
    scenes = scenes_of(40)
    shares = measure(small_judge(), scenes)
    assert set(shares) == {*HEADS, "all"} and all(0 <= v <= 1 for v in shares.values())
    assert shares == measure(small_judge(), scenes)
    assert "color2" not in measure(small_judge(), [LONE])


def test_a_saved_judge_is_the_same_judge(tmp_path):
    judge = small_judge().eval()
    save_judge(judge, GOOD, tmp_path / "judge")
    loaded = load_judge(tmp_path / "judge")
    images = torch.rand(4, 3, 64, 64)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    for name, logits in judge(images).items():
        assert torch.equal(logits, loaded(images)[name])
    assert sorted(p.name for p in (tmp_path / "judge").iterdir()) == [
        "config.json",
        "judge.safetensors",
    ]


def test_a_judge_that_is_not_good_enough_judges_nothing(tmp_path):
    save_judge(small_judge(), GOOD | {"shape2": 0.9949}, tmp_path)
    with pytest.raises(ValueError, match=r"shape2 0\.9949.*judges nothing"):
        load_judge(tmp_path)
    assert isinstance(load_judge(tmp_path, min_accuracy=0), Judge)
    with pytest.raises(ValueError, match="no accuracy for relation"):
        save_judge(small_judge(), {k: v for k, v in GOOD.items() if k != "relation"}, tmp_path)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m training classifier"):
        load_judge(tmp_path)
    save_judge(small_judge(), GOOD, tmp_path)
    weights, config = tmp_path / "judge.safetensors", tmp_path / "config.json"
    whole, said = weights.read_bytes(), json.loads(config.read_text())

    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"judge\.safetensors is damaged"):
        load_judge(tmp_path)
    weights.write_bytes(whole)

    headless = json.dumps({k: v for k, v in said.items() if k != "heads"})
    for wrong in ("{", "[]", "[" * 100_000, headless):
        config.write_text(wrong)
        with pytest.raises(ValueError, match=r"config\.json is damaged"):
            load_judge(tmp_path)
    config.write_text(json.dumps(said | {"width": 6}))
    with pytest.raises(ValueError, match=r"judge\.safetensors is damaged"):
        load_judge(tmp_path)
    config.write_text(json.dumps(said | {"heads": {"mood": ["happy"]}}))
    with pytest.raises(ValueError, match="other attributes"):
        load_judge(tmp_path)
