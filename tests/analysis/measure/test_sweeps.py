"""Sweeps of steps and fidelity, search and captions, on models whose quality is known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.measure import report, scene_inputs, scene_summary, scenes, sweeps
from analysis.measure.protocol import Settings
from analysis.measure.sweeps import evaluations
from analysis.modes import text_to_image
from data.scenes.captions import canonical_caption
from lib.schedule import NoiseSchedule
from lib.specs import VD_MINI
from tests.analysis.known_models import (
    PAIR,
    FakeModel,
    Oracle,
    SwapsColors,
    TellingJudge,
    measures,
    tagged,
)

STEPS = {"flows": ("t2i",), "sampler": "ddim", "steps": 50, "sweep_steps": (20, 50)}


@pytest.fixture(autouse=True)
def renders_know_their_scene(monkeypatch):
    monkeypatch.setattr(scene_inputs, "render", tagged)


def small(**changes):
    return Settings(**{"n": 8, "seed": 3, "licence_n": 4, "batch": 5, **changes})


# ------------------------------------------------------------------ steps


class Hasty(Oracle):
    """Right with 50 steps; with fewer, wrong on every other input of a batch."""

    def text_to_image(self, vd, texts, **how):
        images = super().text_to_image(vd, texts, **how).images
        if how["steps"] < 50:
            wrong = SwapsColors()
            for i in range(0, len(images), 2):
                images[i] = tagged(wrong.imagined(images[i].info["scene"]), 0)
        return SimpleNamespace(images=images)


def test_steps_are_compared_input_by_input(tmp_path):
    modes = Hasty()
    found = measures(tmp_path, modes, small(**STEPS, sweep_sampler=("ddim", "heun")))
    runs = found["sweep_steps"]["t2i"]
    assert list(runs) == ["ddim, 20", "ddim, 50", "heun, 20", "heun, 50"]
    assert [run["all"].value for run in runs.values()] == [3 / 8, 1, 3 / 8, 1]
    assert [run["network_evaluations"].value for run in runs.values()] == [40, 100, 80, 200]
    assert "all_minus_ddim_50" not in runs["ddim, 50"], "it is what others are compared with"
    lost = runs["heun, 20"]["all_minus_ddim_50"]
    assert (lost.value, lost.n, lost.kind) == (-5 / 8, 8, "points")
    assert -1 <= lost.low < lost.value < lost.high < 0
    same = runs["heun, 50"]["all_minus_ddim_50"]
    assert same.value == 0 and same.low == -same.high and same.high > 0.1, "8 inputs prove little"
    text = report.to_text({"measures": found})
    assert "t2i: steps of each sampler" in text and "-62.5 points (" in text
    seeds = {}
    for flow, count, seed, _ in modes.calls:
        seeds.setdefault((flow, count), set()).add(seed)
    assert len(seeds["t2i", 5]) == 2, "test, heldout; sweeps have the seeds of test"
    # the evaluation's own run is one of those compared, and is not made twice
    assert sorted(modes.settings) == sorted(
        {("t2i", sampler, steps, None) for sampler in ("ddim", "heun") for steps in (20, 50)}
    )
    assert len(modes.calls) == 2 * (2 + 3)


def test_without_ddim_there_is_nothing_to_compare_with(tmp_path):
    found = measures(tmp_path, Oracle(), small(**STEPS, sweep_sampler=("heun",), sweep_n=3))
    runs = found["sweep_steps"]["t2i"]
    assert not any(name.startswith("all_minus") for run in runs.values() for name in run)
    assert runs["heun, 20"]["all"].n == 3


def test_scales_that_are_measured_anyhow_are_not_measured_again(tmp_path):
    modes = Oracle()
    usual = VD_MINI.scale_image
    settings = small(flows=("i2t",), sweep_scale=(usual, 1, usual), sweep_n=3)
    found = measures(tmp_path, modes, settings)
    assert list(found["sweep"]["i2t"]) == [f"{usual:g}", "1"]
    assert found["sweep"]["i2t"][f"{usual:g}"]["exact_scene"].n == 3
    assert [scale for *_, scale in modes.calls] == [usual] * 4 + [1]


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "heun"])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_evaluations_are_those_of_the_network(vd, monkeypatch, sampler, scale):
    looks, eps = [], type(vd)._eps  # a look at a sample: both halves are two, also in one batch

    def noted(vd, x, t, mix, *kept):
        looks.extend(range(len(mix[0][0])))
        return eps(vd, x, t, mix, *kept)

    monkeypatch.setattr(type(vd), "_eps", noted)
    how = {"steps": 3, "scale": scale, "sampler": sampler, "seed": 0, "progress": False}
    text_to_image(vd, "a red circle", **how)
    assert evaluations(NoiseSchedule(), sampler, 3, scale) == len(looks)


# ------------------------------------------------------------------ fidelity


class Fades(Oracle):
    """Goes from a swapped scene to the input, as fidelity grows."""

    def image_variation(self, vd, images, fidelity=0.0, **how):
        self.settings.add(fidelity)
        made = []
        for image in images:
            scene = image.info["scene"]
            other = tagged(SwapsColors().imagined(scene), 0)
            mixed = Image.blend(other, image, fidelity)
            mixed.info["scene"] = scene if fidelity > 0.5 else other.info["scene"]
            made.append(mixed)
        return SimpleNamespace(images=made)


def test_fidelity_trades_freedom_for_the_input(tmp_path):
    modes = Fades()
    settings = small(flows=("i2i",), sweep_fidelity=(0, 0.5, 0.75, 1))
    runs = measures(tmp_path, modes, settings)["sweep_fidelity"]["i2i"]
    assert list(runs) == ["0", "0.5", "0.75", "1"] and modes.settings == {0.0, 0.5, 0.75, 1.0}
    assert [run["all_kept"].value for run in runs.values()] == [0, 0, 1, 1]
    far = [run["pixels_to_input"].value for run in runs.values()]
    assert far == sorted(far, reverse=True) and far[-1] == 0
    assert far[1] == pytest.approx(far[0] / 2, abs=0.004) and far[0] > 0.05
    clip = [run["clip_distance_to_input"].value for run in runs.values()]
    assert clip[0] == clip[1] > 0.1 and clip[2:] == pytest.approx([0, 0], abs=1e-6)
    assert runs["0.5"]["pixels_to_input"].low < far[1] < runs["0.5"]["pixels_to_input"].high


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"flows": ("i2t",), "sweep_steps": (5,)}, "sweep of steps is made of t2i.*add it"),
        ({"flows": ("t2i",), "sweep_fidelity": (0.5,)}, "fidelity is made of i2i.*add it"),
        ({"sweep_steps": (0,)}, "steps"),
        ({"sweep_steps": (5,), "sweep_sampler": ("magic",)}, "magic"),
        ({"sweep_fidelity": (1.5,)}, "fidelity"),
        ({"caption_n": 0}, "caption_n is 0"),
        ({"caption_candidates": 0}, "caption_candidates is 0"),
        ({"search_n": True - 1}, "search_n is 0"),
    ],
)
def test_bad_sweeps_are_refused_before_any_compute(tmp_path, changes, message):
    modes = Oracle()
    with pytest.raises(ValueError, match=message):
        measures(tmp_path, modes, small(**changes))
    assert not modes.calls and not list(tmp_path.iterdir())


# ------------------------------------------------------------------ search and captions


class Confused(FakeModel):
    """Its CLIP takes the pictures of one scene for those of the next that it is shown."""

    def text_features(self, texts):
        return super().text_features(texts).roll(1, dims=0)


def test_search_counts_what_is_found(tmp_path):
    settings = small(flows=("search",), n=30, search_n=20, batch=20)
    found = measures(tmp_path / "good", Oracle(), settings)["search"]
    assert list(found) == ["text_to_image", "image_to_image"]
    assert list(found["text_to_image"]) == ["recall@1", "recall@5", "recall@10"]
    assert {(e.value, e.n) for part in found.values() for e in part.values()} == {(1, 20)}
    found = measures(tmp_path / "confused", Oracle(), settings, vd=Confused())["search"]
    by_text = [e.value for e in found["text_to_image"].values()]
    assert by_text[0] == 0 and by_text == sorted(by_text) and by_text[-1] < 1
    assert found["image_to_image"]["recall@1"].value == 1


def test_search_needs_vectors_of_texts(tmp_path):
    with pytest.raises(ValueError, match="feature function that makes both, or flows without"):
        measures(tmp_path, Oracle(), small(flows=("search",)), models=())


class Improves(Oracle):
    """The first candidate is nonsense, the best one right; of every third picture none is."""

    def caption(self, vd, images, seeds, n, **how):
        assert n == 3 and how["steps"] == 9 and np.all(np.diff(seeds) == n)
        ranked = super().caption(vd, images, seeds, n, **how)
        first = min(seeds)

        def changed(i, candidates):
            nonsense, other = "red red banana", canonical_caption(PAIR)
            *others, worst = candidates
            assert worst.seed == seeds[i] == first + i * n
            if seeds[i] % 3 == 0:
                others = [one.__class__(other, one.score, one.seed) for one in others]
            return (*others, worst.__class__(nonsense, worst.score, worst.seed))

        return [changed(i, candidates) for i, candidates in enumerate(ranked)]


def test_captions_are_compared_with_the_first_candidate(tmp_path):
    how = {"flows": ("caption",), "steps": 9, "caption_n": 6, "caption_candidates": 3}
    found = measures(tmp_path, Improves(), small(**how))["caption"]
    right = found["exact_scene"].value
    assert right in (0, 1), "seeds three apart: all divisible by three, or none"
    assert found["of_first"]["exact_scene"].value == found["of_first"]["parsed"].value == 0
    assert found["parsed"].value == 1 and found["parsed"].n == 6
    assert found["any_exact_scene"].value == right
    assert found["best_minus_first"].value == right


def test_what_choosing_wins_and_what_it_could_win():
    def row(best, first, others):
        said = {"parsed": True}
        return {
            "best": said | {"exact": best},
            "first": said | {"exact": first},
            "exact": [best, first, *others],
        }

    rows = [row(True, False, []), row(True, True, []), row(False, True, []), row(True, False, [])]
    rows += [row(False, False, [True]), row(False, False, [False])]
    found = scene_summary.captioning(rows)
    assert found["exact_scene"].value == 3 / 6 and found["of_first"]["exact_scene"].value == 2 / 6
    assert found["best_minus_first"].value == pytest.approx(1 / 6)
    assert found["any_exact_scene"].value == 5 / 6


def test_the_real_functions_take_what_sweeps_give_them(vd, monkeypatch, tmp_path):
    """Random weights, `analysis.modes` and `analysis.folders.caption`: nothing is right."""
    for module in (scene_inputs, scenes):
        monkeypatch.setattr(module, "write", lambda scene, rng: "a large red circle on gray")
    settings = small(
        flows=("t2i", "i2i", "caption"), n=2, steps=2, sweep_steps=(1,), sweep_fidelity=(0.5, 1)
    )

    class Guesses(TellingJudge):
        """Knows renders; of what a random model makes, nothing."""

        def read(self, images):
            for image in images:
                image.info.setdefault("scene", PAIR)
            return super().read(images)

    found = measures(tmp_path, None, settings, vd=vd, judge=Guesses())
    runs = found["sweep_steps"]["t2i"]
    assert list(runs) == ["ddim, 1", "dpmpp_2m, 1", "heun, 1"]
    assert found["sweep_fidelity"]["i2i"]["1"]["pixels_to_input"].n == 2
    assert torch.isfinite(torch.tensor(runs["heun, 1"]["frechet_distance"].value))
    assert found["caption"]["of_first"]["exact_scene"].n == 2
    main = scenes.Scenes.main
    assert sweeps.points(settings.resolved(vd), main)[0].task == "sweep-t2i-ddim-1"
