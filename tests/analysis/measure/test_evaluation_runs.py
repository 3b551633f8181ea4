"""Evaluations that are interrupted, repeated and written down; what single rows hold."""

import json
import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.measure import report, scene_inputs
from analysis.measure.protocol import Settings, identity, run_name
from analysis.measure.rows import Task, consecutive, pack, unpack
from analysis.measure.rows import run as run_task
from analysis.measure.scene_inputs import differences, layout, pixels, said
from analysis.measure.scenes import Scenes
from analysis.measure.suite import Suite, measure
from analysis.metrics.statistics import Estimate, share
from data.scenes.captions import canonical_caption
from data.scenes.draw import layout as true_layout
from data.scenes.draw import render
from data.scenes.world import Scene, Thing
from lib.specs import VD_MINI
from tests.analysis.known_models import (
    PAIR,
    RED,
    SMALL,
    FakeModel,
    Oracle,
    TellingJudge,
    measures,
    tagged,
)


@pytest.fixture(autouse=True)
def renders_know_their_scene(monkeypatch):
    monkeypatch.setattr(scene_inputs, "render", tagged)


# ------------------------------------------------------------------ resuming


class Interrupted(Oracle):
    """Fails at the k-th call, as if the machine were switched off."""

    def __init__(self, k):
        super().__init__()
        self.k = k

    def note(self, *args, **how):
        if len(self.calls) == self.k:
            raise KeyboardInterrupt
        return super().note(*args, **how)


@pytest.mark.parametrize("k", [0, 1, 4, 7])
def test_an_interrupted_evaluation_goes_on(tmp_path, k):
    whole = measures(tmp_path / "whole", Oracle())
    first, second = Interrupted(k), Oracle()
    with pytest.raises(KeyboardInterrupt):
        measures(tmp_path / "parts", first)
    assert not list((tmp_path / "parts").rglob("report.json"))
    assert measures(tmp_path / "parts", second) == whole
    uninterrupted = Oracle()
    measures(tmp_path / "again", uninterrupted)
    repeated = Counter(first.calls + second.calls) - Counter(uninterrupted.calls)
    assert repeated.total() <= 1, "at most the chunk that was interrupted, never a finished one"
    (folder,) = (tmp_path / "parts").iterdir()
    before = {path.name: path.read_bytes() for path in folder.glob("report.*")}
    third = Oracle()
    assert measures(tmp_path / "parts", third) == whole
    assert not third.calls, "a finished evaluation is read, not repeated"
    assert {path.name: path.read_bytes() for path in folder.glob("report.*")} == before


def test_batches_change_nothing(tmp_path):
    first = measures(tmp_path / "5", Oracle())
    other = Settings(n=12, seed=3, licence_n=8, batch=12, t2t_pairs=7, caption_n=6)
    assert measures(tmp_path / "12", Oracle(), other) == first


@pytest.mark.parametrize("damage", ['{"rows": {"3": ', "[" * 100_000, None])
def test_rows_are_measured_once_and_damaged_chunks_again(damage, tmp_path):
    asked = []

    def measure(indices):
        asked.extend(indices)
        return [{"square": i * i, "third": i / 3} for i in indices]

    found = run_task(Task("t", 7, measure), tmp_path, batch=3, progress=False)
    assert [row["square"] for row in found.rows] == [i * i for i in range(7)]
    assert asked == list(range(7)) and found.seconds >= 0 and found.when
    chunk = tmp_path / "t" / "000003-000005.json"
    chunk.unlink()
    chunk.write_text(damage) if damage else chunk.symlink_to("/dev/zero")
    (tmp_path / "t" / ".000000-000002.json.1.tmp").write_text("left by a crash")
    again = run_task(Task("t", 9, measure), tmp_path, batch=2, progress=False)
    assert asked[7:] == [3, 4, 5, 7, 8], "more inputs go on from fewer"
    assert again.rows[:7] == found.rows and len(again.rows) == 9
    assert [r["third"] for r in again.rows] == [i / 3 for i in range(9)]


def test_consecutive_ranges():
    assert list(consecutive([0, 1, 2, 5, 6, 9], 2)) == [
        range(2),
        range(2, 3),
        range(5, 7),
        range(9, 10),
    ]
    assert list(consecutive([], 2)) == []


def test_features_survive_json():
    vector = torch.tensor([0.1, -1e-30, 3e30])
    assert unpack(json.loads(json.dumps(pack(vector)))).tolist() == vector.tolist()


# ------------------------------------------------------------------ runs and reports


def named(**changes):
    vd = FakeModel()
    settings = Settings(**changes).resolved(vd)
    return run_name(identity(settings, vd, TellingJudge()))


def test_another_setting_is_another_run(monkeypatch):
    name = named()
    assert name.startswith("scenes_vd-mini_n500_seed7_")
    same = [named(batch=3), named(steps=VD_MINI.steps), named(scale_text=VD_MINI.scale_text)]
    assert set(same) == {name}, "spelled out defaults and the batch make no other run"
    others = [
        named(seed=8),
        named(n=501),
        named(steps=20),
        named(scale_image=1.5),
        named(flows=("t2i",)),
        named(sweep_scale=(1,)),
    ]
    assert len({name, *others}) == 7
    assert named(flows=("t2t", "t2i")) == named(flows=("t2i", "t2t"))
    monkeypatch.setattr("analysis.measure.protocol.source_hash", lambda: "changed")
    assert named() != name


def test_the_protocol_says_how_large_pictures_are():
    vd = FakeModel()
    tower = replace(VD_MINI.clip.vision, image_size=48)
    vd.spec = replace(VD_MINI, image_size=128, clip=replace(VD_MINI.clip, vision=tower))
    known = identity(Settings().resolved(vd), vd, TellingJudge())
    assert known["resolution"] == {"generated": 128, "clip": 48}


def test_a_folder_of_another_evaluation_is_left_alone(tmp_path):
    settings = Settings(n=2, flows=("t2t",))
    measures(tmp_path, Oracle(), settings)
    (folder,) = tmp_path.iterdir()
    (folder / "protocol.json").write_text('{"settings": "others"}')
    before = (folder / "report.json").read_bytes()
    with pytest.raises(ValueError, match="another evaluation"):
        measures(tmp_path, Oracle(), settings)
    assert (folder / "report.json").read_bytes() == before


def test_report_on_disk_and_as_tables(tmp_path):
    suite = Scenes(FakeModel(), SMALL, judge=TellingJudge(), modes=Oracle())
    made = measure(suite, tmp_path, progress=False)
    folder = tmp_path / made["protocol"]["run"]

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    stored = json.loads((folder / "report.json").read_text(), parse_constant=refuse)
    assert stored == json.loads(report.dumps(made))
    assert (
        Estimate(**stored["measures"]["t2i"]["test"]["all"])
        == made["measures"]["t2i"]["test"]["all"]
    )
    protocol = stored["protocol"]
    assert protocol["settings"]["steps"] == VD_MINI.steps and protocol["settings"]["seed"] == 3
    assert protocol["judge"] == "TellingJudge" and protocol["versions"]["torch"]
    assert protocol["finished"] and protocol["seconds"] >= 0
    assert protocol["resolution"] == {"generated": 64, "clip": 64}
    text, markdown = report.to_text(made), (folder / "report.md").read_text()
    for title in ("t2i", "i2i", "i2t", "t2t", "reconstruction", "search", "caption", "judge"):
        assert f"\n{title}\n" in f"\n{text}" and f"## {title}\n" in markdown
    row = next(line for line in text.splitlines() if line.startswith("test / all"))
    assert row.split() == ["test", "/", "all", "100.0", "%", "75.8", "-", "100.0", "%", "12"]
    assert "| test / all | 100.0 % | 75.8 - 100.0 % | 12 |" in markdown
    assert "pictures of 64x64 pixels, read by the model's CLIP at 64x64;" in markdown


def test_numbers_that_are_not_defined_are_left_out_with_the_reason(tmp_path):
    def made(n):
        settings = Settings(n=n, seed=3, licence_n=2, flows=("t2i", "i2t", "search"))
        suite = Scenes(FakeModel(), settings, judge=TellingJudge(), modes=Oracle())
        return measure(suite, tmp_path / str(n), progress=False, figures=False)

    alone = made(1)
    reasons = {path.split(" / ")[-1]: why for path, why in alone["left_out"].items()}
    assert {"frechet distance", "cmmd", "cider d to references", "recall@1"} <= set(reasons)
    assert reasons["cider d to references"] == "not defined on 1 input: measure 2 or more"
    assert "search" not in alone["measures"], "nothing of it is left"
    numbers = [path for path, _ in report.leaves(alone["measures"])]
    assert not [path for path in numbers if any(name in path for name in reasons)]
    assert "bleu4 to references" in {path.split(" / ")[-1] for path in numbers}
    assert "left out\n" in report.to_text(alone)
    (markdown,) = (tmp_path / "1").rglob("report.md")
    assert "| search / text to image / recall@1 | the first 1 of 1 are all" in markdown.read_text()
    few = made(3)
    assert set(few["measures"]["search"]["text_to_image"]) == {"recall@1"}
    assert len(few["left_out"]) == 4, "the first 5 and 10 of 3"


class Colors(Suite):
    """A suite of one file: whether pictures are of the colour asked for."""

    parts = ("t2i",)
    about = {"prompts": "names of colours"}  # noqa: RUF012

    def tasks(self):
        return [Task("t2i", self.settings.n, self.t2i)]

    def t2i(self, indices, **changes):
        names = [("red", "green")[i % 2] for i in indices]
        pictures = self.generate("t2i", names, "colours", indices, **changes)
        return [{"right": {"all": p == name}} for p, name in zip(pictures, names, strict=True)]

    def summarise(self, rows):
        return {"t2i": self.compared("t2i", "t2i", rows["t2i"], rows)}

    def compared(self, section, flow, part, rows):
        return {"all": share(row["right"]["all"] for row in part)}


def test_a_new_suite_has_runs_sweeps_and_reports(tmp_path):
    class Paints:
        def text_to_image(self, vd, texts, steps, **how):
            return SimpleNamespace(images=[t if steps > 20 else "red" for t in texts])

    settings = Settings(n=10, flows=("t2i",), sweep_steps=(20, 50), sweep_sampler=("ddim",))
    made = measure(Colors(FakeModel(), settings, modes=Paints()), tmp_path, progress=False)
    assert made["measures"]["t2i"]["all"].value == 1
    runs = made["measures"]["sweep_steps"]["t2i"]
    assert runs["ddim, 20"]["all"].value == 0.5
    assert runs["ddim, 20"]["all_minus_ddim_50"].value == -0.5
    assert made["protocol"]["prompts"] == "names of colours"
    assert "](figures/sweep-steps-t2i.png)" in next(tmp_path.rglob("report.md")).read_text()
    with pytest.raises(ValueError, match=r"does not measure i2t: its flows are t2i\."):
        Colors(FakeModel(), Settings(flows=("t2i", "i2t")))


@pytest.mark.parametrize(
    "estimate, value, interval",
    [
        (Estimate(0.5, 0.25, 0.75, 9, "share"), "50.0 %", "25.0 - 75.0 %"),
        (Estimate(31.416, 31.0, 32.0, 9, "mean", "dB"), "31.42 dB", "31.00 - 32.00 dB"),
        (Estimate(0.87, 0.8, 0.94, 9, "ratio"), "0.8700", "0.8000 - 0.9400"),
        (Estimate(12.3456, None, None, 9), "12.346", ""),
        (Estimate(None, None, None, 0, "share"), "-", ""),
    ],
)
def test_numbers_in_tables(estimate, value, interval):
    assert report.value_text(estimate) == value
    assert report.interval_text(estimate) == interval


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"n": 0}, "n is 0: give a whole number from 1"),
        ({"batch": -1}, "batch is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"flows": ("t2v",)}, r"'t2v': choose from t2i, .*, caption\."),
        ({"flows": ()}, "nothing: choose from"),
        ({"suite": "coco"}, "no suite 'coco'"),
        ({"flows": ("t2t",), "sweep_scale": (1.0,)}, "add one of them"),
        ({"steps": 0}, "steps"),
        ({"steps": 1000}, "steps"),
        ({"scale_text": -1.0}, "scale"),
        ({"sampler": "magic"}, "magic"),
    ],
)
def test_bad_settings_are_refused_before_any_compute(tmp_path, changes, message):
    modes = Oracle()
    with pytest.raises(ValueError, match=message):
        measures(tmp_path, modes, Settings(**changes))
    assert not modes.calls and not list(tmp_path.iterdir())


# ------------------------------------------------------------------ what is measured on pixels


def test_layout_is_where_the_renderer_put_things():
    for seed in range(5):
        scene = Scene("cream", "flat", (Thing("large", "blue", "circle"),))
        ((x, y, radius),) = true_layout(scene, seed)
        center, spread = layout(pixels(render(scene, seed)))
        assert center[::-1] + 0.5 == pytest.approx([x, y], abs=0.5)
        assert spread == pytest.approx(0.95 * radius / math.sqrt(2), rel=0.06)
    assert layout(np.ones((64, 64, 3))) is None


def test_differences_of_pictures():
    white, black = (Image.new("RGB", (64, 64), color) for color in ("white", "black"))
    assert differences(white, black) == {"pixels": 1.0, "position": None, "size": None}
    a = render(Scene("white", "flat", (RED,)), 0)
    moved = Image.new("RGB", (64, 64), "white")
    moved.paste(a, (3, -4))
    found = differences(a, moved)
    assert found["position"] == pytest.approx(5, abs=0.05) and found["pixels"] > 0.01
    assert found["size"] == pytest.approx(0, abs=0.05)
    assert differences(a.resize((128, 128), Image.Resampling.NEAREST), a)["pixels"] == 0


def test_what_a_caption_says():
    caption = canonical_caption(PAIR)
    assert said(PAIR, caption)["exact"]
    other = said(PAIR, caption.replace("red", "green"))
    assert other["parsed"] and not other["exact"] and not other["right"]["color1"]
    open_ = said(PAIR, "a large red circle left of a small blue square")
    assert not open_["parsed"] and open_["right"]["color2"] and not open_["right"]["style"]
    assert "does not say" in open_["error"]
    nonsense = said(PAIR, "red red banana")
    assert nonsense["right"] is None and nonsense["error"]
    assert said(PAIR, "")["error"]
    json.dumps([other, nonsense])
