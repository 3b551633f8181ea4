"""The suite `scenes` on models whose quality is known: an oracle, one that swaps colours, ..."""

import argparse
import json

import numpy as np
import pytest
import torch

from analysis.cli import main
from analysis.measure import evaluate, report, scene_inputs, scenes, suite
from analysis.measure.evaluate import add_arguments
from analysis.measure.protocol import PARTS, Settings
from analysis.measure.scene_inputs import distinct_scenes, licence, pixels
from analysis.measure.scenes import Scenes
from analysis.measure.suite import measure
from analysis.metrics.feature_models import FeatureModel
from data.scenes.judge import HEADS, Judge, save_judge
from data.scenes.world import split
from lib.config import COMPONENTS
from lib.specs import VD_MINI
from tests.analysis.known_models import (
    SMALL,
    Dull,
    FakeModel,
    Oracle,
    SwapsColors,
    TellingJudge,
    measures,
    tagged,
)


@pytest.fixture(autouse=True)
def renders_know_their_scene(monkeypatch):
    monkeypatch.setattr(scene_inputs, "render", tagged)


# ------------------------------------------------------------------ known models


def test_an_oracle_is_right_everywhere(tmp_path):
    found = measures(tmp_path, Oracle())
    shares = {
        path: e.value
        for path, e in report.leaves(found)
        if e.kind == "share" and e.n and "repetition" not in path
    }
    may_be_less = {path for path in shares if "reworded" in path or "worded differently" in path}
    assert {path for path, value in shares.items() if value != 1} <= may_be_less
    assert found["t2i"]["test"]["all"].n == found["t2i"]["heldout"]["all"].n == 12
    by_count = found["t2i"]["test"]
    assert by_count["one_object"].n + by_count["two_objects"].n == 12
    assert by_count["attributes"]["shape2"].n == by_count["two_objects"].n
    assert found["t2i"]["heldout"]["heldout_objects"]["color_and_shape"].n >= 12
    assert found["t2t"]["reworded"].value > 0.5
    assert found["t2t"]["two_samples_of_one_input"]["worded_differently"].n == 7
    assert found["judge"]["test"]["style"].n == 8
    assert found["reconstruction"]["image"]["psnr"].value == pytest.approx(100)
    assert found["i2i"]["diversity"]["pixels_ratio"].value == pytest.approx(1, abs=0.4)
    assert found["i2i"]["diversity_where_kept"] == found["i2i"]["diversity"]
    low, high = (getattr(found["i2i"]["diversity"]["position_ratio"], k) for k in ("low", "high"))
    assert low < 1 < high
    assert found["i2t"]["text"]["rouge_l_to_references"].value > 0.5


def test_swapped_colors_cost_color_and_nothing_else(tmp_path):
    found = measures(tmp_path, SwapsColors())
    for section in (found["t2i"]["test"], found["t2i"]["heldout"], found["i2i"]["semantics_kept"]):
        assert section["all"].value == 0
        for name, share in section["attributes"].items():
            assert share.value == (0 if name.startswith("color") else 1), name
    assert found["i2i"]["semantics_kept"]["both_samples"].value == 0
    assert found["i2i"]["diversity_where_kept"]["pixels_ratio"].n == 0
    objects = found["t2i"]["heldout"]["heldout_objects"]
    assert [objects[k].value for k in ("color_and_shape", "color", "shape", "size")] == [0, 0, 1, 1]
    assert found["i2t"]["exact_scene"].value == 0 and found["i2t"]["parsed"].value == 1
    assert found["i2t"]["attributes_where_readable"]["color1"].value == 0
    assert found["i2t"]["attributes_where_readable"]["shape1"].value == 1
    assert found["t2t"]["same_scene"].value == 0
    assert found["t2t"]["same_scene_and_reworded"].value == 0
    assert found["t2t"]["reworded"].value == 1


class NeverSawThem(SwapsColors):
    """Knows all scenes but those with a pair of colour and shape that training never has."""

    def imagined(self, scene):
        return super().imagined(scene) if scene.held_out else scene


def test_every_flow_is_measured_on_pairs_that_were_never_seen(tmp_path):
    found = measures(tmp_path, NeverSawThem())
    shares = {
        "t2i": (found["t2i"]["test"]["all"], found["t2i"]["heldout"]["all"]),
        "i2i": [part["semantics_kept"]["all"] for part in (found["i2i"], found["i2i"]["heldout"])],
        "i2t": [part["exact_scene"] for part in (found["i2t"], found["i2t"]["heldout"])],
        "t2t": [part["same_scene"] for part in (found["t2t"], found["t2t"]["heldout"])],
    }
    for flow, (test, heldout) in shares.items():
        assert (test.value, heldout.value, test.n, heldout.n) == (1, 0, 12, 12), flow
        objects = found[flow]["heldout"]["heldout_objects"]
        assert [objects[k].value for k in ("color_and_shape", "color", "shape")] == [0, 0, 1]
        assert objects["size"].n >= 12


def test_copies_and_a_constant_caption_are_found_out(tmp_path):
    found = measures(tmp_path, Dull())
    assert found["i2i"]["semantics_kept"]["all"].value == 1
    assert found["i2i"]["diversity"]["pixels_ratio"].value == 0
    assert found["i2i"]["difference_to_input"]["pixels_ratio"].value == 0
    assert found["i2t"]["parsed"].value == 1 and found["i2t"]["exact_scene"].value == 0
    wanted = [scene.attributes()["style"] == "flat" for scene in split("test", 12, 3)]
    style = found["i2t"]["attributes_where_readable"]["style"]
    assert (style.value, style.n) == (np.mean(wanted), 12)
    assert found["i2t"]["text"]["distinct"].value == pytest.approx(1 / 12)
    assert found["t2t"]["same_scene"].value == 1
    assert found["t2t"]["reworded"].value == 0, "case and punctuation are no other wording"
    assert found["t2t"]["two_samples_of_one_input"]["worded_differently"].value == 0
    assert found["t2t"]["text"]["bleu4_to_input"].value == pytest.approx(1)


def test_features_are_compared_with_those_of_renders(tmp_path):
    def images(pictures):
        return torch.stack([torch.from_numpy(pixels(p).mean(axis=(0, 1))) for p in pictures])

    def texts(given):
        return torch.tensor([[len(t), t.count("a"), 1.0] for t in given])

    features = FeatureModel("mean colour", images, texts)
    found = measures(tmp_path, SwapsColors(), models=[features])
    distances = found["t2i"]["features"]
    assert distances["frechet_distance"].value > 5 * distances["frechet_distance_of_renders"].value
    assert 0 < distances["clip_score"].value < 1
    assert found["i2i"]["features"]["clip_score_to_input"].value > 0.9
    assert found["i2t"]["features"]["clip_score"].n == 12


def test_reconstruction_is_measured_in_decibels(tmp_path):
    class Lossy(FakeModel):
        def decode_image(self, latents):
            return (latents - 0.01).abs()  # every pixel is off by 1 %: 40 dB

        def decode_text(self, latents, temperature):
            return [latents[0].split(" ", 1)[1], *latents[1:]]

    found = measures(tmp_path, Oracle(), vd=Lossy())["reconstruction"]
    assert found["image"]["psnr"].value == pytest.approx(40, abs=0.5)
    assert found["image"]["psnr_of_mean_error"].value == pytest.approx(40, abs=0.5)
    assert found["text"]["exact_match"].value == pytest.approx(1 - 3 / 12)  # three batches


def test_sweep_of_scales(tmp_path):
    modes = Oracle()
    settings = Settings(n=6, seed=1, flows=("i2t", "t2i"), licence_n=4, sweep_scale=(1, 2.5))
    found = measures(tmp_path, modes, settings)
    assert {flow: list(runs) for flow, runs in found["sweep"].items()} == {
        "t2i": ["1", "2.5"],
        "i2t": ["1", "2.5"],
    }
    seeds = {}
    for flow, _, seed, scale in modes.calls:
        seeds.setdefault((flow, scale), set()).add(seed)
    assert seeds["i2t", 1.0] < seeds["i2t", VD_MINI.scale_image], "and those of heldout"
    assert seeds["t2i", 1.0] == seeds["t2i", 2.5] < seeds["t2i", VD_MINI.scale_text]
    assert "t2i: guidance scales" in report.to_text({"measures": found})


# ------------------------------------------------------------------ the judge


def test_a_judge_that_misreads_renders_judges_nothing(tmp_path):
    modes = Oracle()
    with pytest.raises(ValueError, match=r"misreads real renders: background 87.50% \(heldout\)"):
        measures(tmp_path, modes, judge=TellingJudge(wrong={9}))
    assert not modes.calls, "it is examined first"
    assert not list(tmp_path.rglob("report.*"))


def test_texts_need_no_judge(tmp_path):
    settings = Settings(n=3, flows=("i2t", "t2t"))
    found = measures(tmp_path, Oracle(), settings, judge=TellingJudge(wrong=range(9)))
    assert list(found) == ["i2t", "t2t"]


def test_licence_needs_every_attribute():
    right = dict.fromkeys(HEADS, True)
    rows = [{"right": right}] * 995 + [{"right": right | {"size2": False}}] * 5
    assert licence("test", rows)["size2"].value == 0.995
    rows[0] = rows[-1]
    with pytest.raises(ValueError, match=r"size2 99.40% \(test\)"):
        licence("test", rows)


def test_distinct_scenes_are_the_beginning_of_a_longer_list():
    scenes = distinct_scenes(40, seed=3)
    assert len(set(scenes)) == 40 and not set(scenes) & set(split("heldout", 40, seed=3))
    assert scenes == distinct_scenes(45, seed=3)[:40]
    with pytest.raises(ValueError, match="n is 0"):
        distinct_scenes(0, seed=3)


# ------------------------------------------------------------------ command line


def arguments(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def command(monkeypatch, tmp_path):
    loaded = {}

    def load(name, **options):
        loaded.update(options, name=name)
        return FakeModel()

    class ModuleJudge(TellingJudge, Judge):
        def __init__(self):
            Judge.__init__(self, width=4, hidden=8)
            TellingJudge.__init__(self)

    monkeypatch.setattr("lib.checkpoints.load", load)
    monkeypatch.setattr(scene_inputs, "load_judge", lambda folder: ModuleJudge())
    monkeypatch.setattr(suite, "MODES", Oracle())
    monkeypatch.setattr(evaluate, "Settings", small_settings)
    return lambda *words: (evaluate.run(arguments(*words, "--out", str(tmp_path))), loaded)


def untrained_judge(folder, accuracy=0.999):
    torch.manual_seed(0)
    save_judge(Judge(width=4, hidden=16), dict.fromkeys(HEADS, accuracy), folder)
    return str(folder)


def test_the_real_path_from_the_shell(model_folder, tmp_path, monkeypatch, capsys):
    """Random weights through `analysis.modes`: nothing is right, everything is measured."""
    for module in (scene_inputs, scenes):
        monkeypatch.setattr(module, "write", lambda scene, rng: "a large red circle on gray")
    words = ["evaluate", "--model", str(model_folder), "--n", "3", "--steps", "2", "--quiet"]
    words += ["--device", "cpu", "--out", str(tmp_path), "--json"]
    no_judge = [*words, "--flows", "i2t,t2t,reconstruction"]
    with monkeypatch.context() as patch:
        patch.setattr(scene_inputs, "load_judge", lambda folder: pytest.fail("it was read"))
        assert main(no_judge) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed["measures"]) == {"i2t", "t2t", "reconstruction"}
    assert printed["protocol"]["model"]["name"] == "tiny"
    assert printed["measures"]["t2t"]["same_scene"]["n"] == 3
    assert printed["measures"]["i2t"]["features"]["clip_score"]["n"] == 3
    assert 0 < printed["measures"]["reconstruction"]["image"]["psnr"]["value"] < 40
    assert main(no_judge) == 0
    assert json.loads(capsys.readouterr().out) == printed, "read from disk"

    monkeypatch.setattr(scene_inputs, "MIN_ACCURACY", 0.0)
    monkeypatch.setattr(evaluate, "Settings", small_settings)
    with_judge = [*words, "--flows", "t2i,i2i", "--judge", untrained_judge(tmp_path / "judge")]
    assert main(with_judge) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["measures"]["t2i"]["test"]["all"]["n"] == 3
    assert printed["measures"]["t2i"]["features"]["frechet_distance"]["value"] > 0
    assert printed["measures"]["i2i"]["diversity"]["pixels_ratio"]["value"] > 0


def test_shell_refuses_poor_judges_and_missing_ones(model_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "Settings", small_settings)
    words = ["evaluate", "--model", str(model_folder), "--n", "1", "--quiet"]
    words += ["--out", str(tmp_path), "--flows", "t2i", "--judge"]
    for folder, message in (
        (untrained_judge(tmp_path / "blind"), "misreads real renders"),
        (untrained_judge(tmp_path / "poor", accuracy=0.9), "right too seldom"),
        (str(tmp_path / "none"), "python -m training classifier"),
    ):
        assert main([*words, folder]) in (1, 2)
        printed = capsys.readouterr()
        assert message in printed.err and printed.err.count("\n") == 1 and not printed.out


def test_pictures_need_a_judge(tmp_path):
    with pytest.raises(ValueError, match="give a judge"):
        measure(Scenes(FakeModel(), SMALL, modes=Oracle()), tmp_path)


def small_settings(**changes):
    return Settings(**{"licence_n": 4, **changes})


def test_command_line_prints_one_json_document(command, capsys):
    code, loaded = command("--n", "4", "--seed", "7", "--json", "--steps", "5")
    printed = json.loads(capsys.readouterr().out)
    assert code == 0 and loaded["name"] == "vd-mini"
    assert set(loaded["components"]) == set(COMPONENTS)
    assert printed["protocol"]["settings"]["n"] == 4
    assert printed["protocol"]["settings"]["steps"] == 5
    assert set(printed["measures"]) == {*PARTS, "judge"}


def test_command_line_prints_a_table_of_some_flows(command, capsys):
    code, loaded = command("--n", "4", "--flows", "i2t,t2t", "--sweep-scale", "1,2", "--quiet")
    printed = capsys.readouterr().out
    assert code == 0 and "i2t: guidance scales" in printed and "report.md" in printed
    assert not {"image_data", "image_encoder", "image_decoder"} & set(loaded["components"])


@pytest.mark.parametrize(
    "words, message",
    [
        (["--data", "/nowhere"], "The suite scenes takes no --data (of folder): leave it out"),
        (
            ["--data", "/nowhere", "--features", "nonsense", "--applications", "nonsense"],
            "no --data (of folder), --features (of folder), --applications (of applications): "
            "leave them out, or choose another --suite.",
        ),
        (["--suite", "applications", "--format", "coco"], "applications takes no --format (of"),
        (["--suite", "applications", "--features", ""], "applications takes no --features (of"),
        (["--suite", "folder", "--data", "/x", "--applications", "edit"], "no --applications (of"),
    ],
)
def test_options_of_other_suites_are_refused(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "import_module", lambda name: pytest.fail(f"{name} imported"))
    assert main(["evaluate", "--out", str(tmp_path / "out"), *words]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--n", 10**8], "n is 100000000: give a whole number from 1 to 1000000."),
        (["--search-n", 10**6], "search_n is 1000000: give a whole number from 1 to 10000."),
        (["--batch", 10**9], "batch is 1000000000: give a whole number from 1 to 4096."),
        (["--seed", 2**64], f"seed is {2**64}: give a whole number from 0 to {2**63 - 1}."),
        (["--caption-candidates", 10**6], "caption_candidates is 1000000: give a whole number"),
    ],
)
def test_numbers_have_an_upper_end(words, message, tmp_path, capsys):
    assert main(["evaluate", "--out", str(tmp_path / "out"), *map(str, words)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--flows t2i --search-n 9", "takes --search-n (of search): leave that out."),
        ("--flows i2t --caption-n 9", "takes --caption-n (of caption): leave that out."),
        ("--flows i2t,t2t --caption-candidates 9", "takes --caption-candidates (of caption)"),
        ("--flows i2t --scale-text 9", "takes --scale-text (of t2i and i2i and t2t)"),
        ("--flows t2t --scale-image 9", "takes --scale-image (of i2i and i2t and caption)"),
        ("--flows search --steps 9", "takes --steps (of t2i and i2i and i2t and t2t and caption)"),
        ("--flows search --sampler heun", "takes --sampler (of"),
        ("--sweep-sampler heun", "takes --sweep-sampler (of --sweep-steps): leave"),
        ("--sweep-scale 1 --sweep-sampler heun", "takes --sweep-sampler (of --sweep-steps): leave"),
        ("--sweep-n 9", "takes --sweep-n (of --sweep-scale, --sweep-steps and --sweep-fidelity)"),
        ("--suite applications --search-n 9", "takes --search-n (of search): leave that out."),
        ("--suite folder --data /x --caption-n 9", "takes --caption-n (of caption): leave"),
        ("--suite folder --data /x --flows i2i --scale-text 9", "takes --scale-text (of t2i and"),
        ("--suite applications --applications describe --judge /x", "leave out --judge"),
        ("--flows i2t,caption --judge /x", "leave out --judge"),
        ("--suite emoji --flows i2t --judge /x", "leave out --judge"),
    ],
)
def test_settings_that_nothing_looks_at_are_refused(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lib.checkpoints.load", lambda *args, **more: pytest.fail("loaded"))
    assert main(["evaluate", "--out", str(tmp_path / "out"), *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        "--search-n 9 --caption-n 9 --caption-candidates 9 --scale-text 9 --scale-image 9",
        "--suite applications --scale-text 9 --scale-image 9 --steps 9 --sampler heun",
        "--sweep-steps 9 --sweep-sampler heun --sweep-n 9",
        "--sweep-fidelity 1 --sweep-n 9",
        "--flows caption --caption-n 9 --steps 9 --scale-image 9 --search-n 500",
        "--suite emoji --flows i2i --scale-text 9",
    ],
)
def test_settings_that_act_are_taken(words, tmp_path, monkeypatch, capsys):
    def load(*args, **more):
        raise ValueError("it went on")

    monkeypatch.setattr("lib.checkpoints.load", load)
    for name in ("scene_inputs.SceneSuite", "emoji_inputs.EmojiSuite"):
        monkeypatch.setattr(f"analysis.measure.{name}.read", lambda *args: {})
    assert main(["evaluate", "--out", str(tmp_path / "out"), *words.split()]) == 2
    assert capsys.readouterr().err == "error: it went on\n"


def test_command_line_refuses_nonsense(capsys):
    with pytest.raises(SystemExit):
        arguments("--sweep-scale", "1,two")
    assert "no list of numbers" in capsys.readouterr().err
