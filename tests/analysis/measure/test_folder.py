"""The suite `folder`: known models get known numbers, and a small real one goes all the way."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from analysis import cli as shell
from analysis.measure.folder import Folder, middle
from analysis.measure.numbers import against
from analysis.measure.protocol import Settings
from analysis.measure.suite import measure
from analysis.metrics.distances import cmmd, frechet_distance, kernel_distance
from analysis.metrics.statistics import Estimate
from analysis.modes import text_to_image
from data.captioned import choose, read_captioned
from tests.analysis.measure.known_folder import (
    CAPTIONS,
    COLORS,
    COUNT,
    FLOWS,
    SMALL,
    Dull,
    Foreign,
    Interrupted,
    Perfect,
    knowing,
)
from tests.conftest import drawing


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "photos"
    path.mkdir()
    for i, caption in enumerate(CAPTIONS):
        drawing(i, (16, 16)).save(path / f"{i}.png")
        (path / f"{i}.txt").write_text(f"{caption}\nsomething else that is {i}\n")
    (path / "bad.png").write_bytes(b"no picture")
    (path / "bad.txt").write_text("a bad one")
    return path


@pytest.fixture
def data(folder):
    return choose(read_captioned(folder), COUNT, 3, progress=False)


def measured(vd, data, tmp_path, modes, settings=SMALL, models=None, figures=False):
    models = (None, COLORS) if models is None else models
    suite = Folder(vd, settings, models=models, modes=modes, data=data, name="photos")
    return measure(suite, tmp_path / "out", progress=False, figures=figures)


def test_a_perfect_model_gets_perfect_numbers(vd, data, tmp_path):
    found = measured(vd, data, tmp_path, Perfect(data))["measures"]
    own = "tiny's own CLIP"
    for flow in ("t2i", "i2i"):
        assert set(found[flow]["features"]) == {own, "colors"}
        for label, section in found[flow]["features"].items():
            assert section["frechet_distance"].value == pytest.approx(0, abs=1e-6)
            assert section["diversity"].value == pytest.approx(0, abs=1e-6)
            assert section["diversity"].n == 3 and section["frechet_distance"].n == COUNT
            assert ("cmmd" in section) == (label == own)
    clip = found["t2i"]["features"][own]
    assert clip["clip_score"].value == pytest.approx(clip["clip_score_of_real"].value)
    assert clip["clip_score"].n == COUNT
    assert "clip_score" not in found["t2i"]["features"]["colors"]
    assert found["i2i"]["features"]["colors"]["likeness_to_input"].value == pytest.approx(1)
    text = found["i2t"]["text"]
    assert [text[k].value for k in ("bleu4", "rouge_l")] == pytest.approx([1, 1])
    assert text["cider_d"].value > 1 and text["repetition"].value == 0
    assert text["length"].value == 4 and text["distinct"].value == 1
    assert text["worded_differently"] == Estimate(
        0.0, 0.0, text["worded_differently"].high, 3, "share"
    )
    assert set(found["i2t"]["features"]) == {own}, "colors know no texts"
    t2t = found["t2t"]["text"]
    assert t2t["reworded"].value == 0 and t2t["bleu4_to_input"].value == pytest.approx(1)
    assert found["t2i"]["prompts_cut"].value == 0


def recalls(section):
    """{direction: values of recall@1, 5}."""
    found = section["features"]["knowing"]
    found = found.get("retrieval", found)
    names = [f"recall@{k}" for k in (1, 5)]  # among six, the first ten are all
    assert all(list(part) == names and part["recall@1"].n == COUNT for part in found.values())
    return {way: [part[name].value for name in names] for way, part in found.items()}


def test_pictures_and_captions_find_each_other(vd, data, folder, tmp_path):
    models = (knowing(data), COLORS)
    made = measured(vd, data, tmp_path, Perfect(data), models=models)["measures"]
    assert list(made) == [*FLOWS, "retrieval"]
    assert set(made["retrieval"]["features"]) == {"knowing"}, "colors know no texts"
    known = {"text_to_image": [4 / 6, 1], "image_to_text": [4 / 6, 1]}
    for section in (made["retrieval"], made["t2i"], made["i2t"], made["t2t"]):
        assert recalls(section) == known
    dull = measured(vd, data, tmp_path / "dull", Dull(data), models=models)["measures"]
    assert recalls(dull["i2t"]) == {way: [0, 0] for way in known}, "ties are no luck"
    assert recalls(dull["retrieval"]) == known
    alone = measured(vd, data, tmp_path / "alone", Perfect(data), models=(COLORS,))["measures"]
    assert "retrieval" not in alone and "retrieval" not in alone["t2i"]["features"]["colors"]
    for entry in data.entries[4:]:
        (folder / entry.name).with_suffix(".txt").write_text("one caption of two pictures")
    twice = choose(read_captioned(folder), COUNT, 3, progress=False)
    made = measured(vd, twice, tmp_path / "twice", Perfect(twice), models=(knowing(twice),))
    assert recalls(made["measures"]["retrieval"]) == {way: [1, 1] for way in known}


def test_numbers_are_those_of_the_plain_formulas(vd, data, tmp_path):
    settings = Settings(**{**vars(SMALL), "flows": ("t2i", "i2t"), "t2t_pairs": 6, "batch": 6})
    found = measured(vd, data, tmp_path, Foreign(data), settings)["measures"]
    suite = Folder(vd, settings, data=data)
    inputs = range(COUNT)
    prompts = suite.inputs("t2i", inputs)
    made, again = (
        Foreign(data).text_to_image(vd, prompts, seed=suite.first_seed(p)).images
        for p in ("folder t2i", "folder t2i second")
    )
    real = data.images(inputs)
    for label, function in (("tiny's own CLIP", vd.image_features), ("colors", COLORS.images)):
        section = found["t2i"]["features"][label]
        measures = {"frechet_distance": frechet_distance, "kernel_distance": kernel_distance}
        measures |= {"cmmd": cmmd} if label != "colors" else {}
        a, b = function(real), function(made)
        for name, distance in measures.items():
            wanted = distance(a, b).value
            assert section[name].value == pytest.approx(wanted, rel=1e-6)
            assert wanted != 0
        apart = 1 - torch.cosine_similarity(b, function(again)).mean().item()
        assert section["diversity"].value == pytest.approx(apart, abs=1e-5)
    section = found["t2i"]["features"]["tiny's own CLIP"]
    text = vd.text_features(prompts)
    cosines = (text * vd.image_features(made)).sum(1), (text * vd.image_features(real)).sum(1)
    scores = [section[name].value for name in ("clip_score", "clip_score_of_real")]
    assert scores == pytest.approx([c.mean().item() for c in cosines], abs=1e-5)
    words = found["i2t"]["text"]
    assert words["bleu4"].value == 0 and words["repetition"].value == 1
    assert words["distinct-1"].value == pytest.approx(2 / 24)
    said = (vd.text_features(["a dog a dog"]) * vd.image_features(real)).sum(1).mean().item()
    score = found["i2t"]["features"]["tiny's own CLIP"]["clip_score"]
    assert score.value == pytest.approx(said, abs=1e-5)


def test_an_interrupted_evaluation_goes_on_in_any_batch(vd, data, tmp_path):
    whole = measured(vd, data, tmp_path / "whole", Perfect(data))
    first = Interrupted(data)
    first.k = 5
    with pytest.raises(KeyboardInterrupt):
        measured(vd, data, tmp_path / "parts", first)
    assert not list(tmp_path.rglob("parts/**/report.json"))
    second = Perfect(data)
    smaller = Settings(**{**vars(SMALL), "batch": 2})
    again = measured(vd, data, tmp_path / "parts", second, smaller)
    assert second.calls, "there was something left to do"
    for flow in FLOWS:
        parts = [list(_values(made["measures"][flow])) for made in (whole, again)]
        assert parts[0] == pytest.approx(parts[1], abs=1e-6, nan_ok=True)
    third = Perfect(data)
    assert measured(vd, data, tmp_path / "parts", third)["measures"] == again["measures"]
    assert not third.calls


def _values(section):
    for value in section.values():
        if isinstance(value, Estimate):
            yield from (float("nan") if v is None else v for v in (value.value, value.low, value.n))
        else:
            yield from _values(value)


def test_sweeps_change_one_thing_and_keep_the_noise(vd, data, tmp_path):
    sweeps = {"sweep_scale": (1.0, 4.0), "sweep_steps": (1, 2), "sweep_sampler": ("ddim",)}
    settings = Settings(
        **{**vars(SMALL), **sweeps, "sweep_fidelity": (0.5,), "sweep_n": 4, "batch": 6}
    )
    modes = Perfect(data)
    found = measured(vd, data, tmp_path, modes, settings)["measures"]
    assert set(found["sweep"]) == {"t2i", "i2t"} and set(found["sweep"]["t2i"]) == {"1", "4"}
    runs = found["sweep_steps"]["t2i"]
    assert [name.replace(",", "").split() for name in runs] == [["ddim", "1"], ["ddim", "2"]]
    assert list(found["sweep_fidelity"]["i2i"]) == ["0.5"]
    one = found["sweep"]["t2i"]["4"]
    assert {"frechet_distance (colors)", "clip_score (tiny's own CLIP)"} <= set(one)
    assert all(estimate.n == 4 for estimate in one.values())
    assert found["sweep"]["i2t"]["1"]["bleu4"].value == pytest.approx(1)
    t2i = [call for call in modes.calls if call[0] == "t2i" and call[1] != 3]
    assert len({seed for _, _, seed, _ in t2i}) == 1, "the same noise at every setting"
    assert sorted(scale for _, n, _, scale in t2i if n == 4) == [1, 2, 4], "2 steps are the usual"


def test_sweeps_of_a_folder_are_drawn(vd, data, tmp_path):
    sweeps = {"sweep_scale": (1.0, 4.0), "sweep_steps": (1, 2), "sweep_sampler": ("ddim",)}
    settings = Settings(**{**vars(SMALL), **sweeps, "flows": ("t2i",)})
    made = measured(vd, data, tmp_path, Perfect(data), settings, (COLORS,), figures=True)
    (run,) = {len(run) for run in made["measures"]["sweep_steps"]["t2i"].values()}
    assert run == 3, "distances, and what a run costs"
    folder = tmp_path / "out" / made["protocol"]["run"]
    drawn = sorted(path.name for path in folder.rglob("*.png"))
    assert drawn == ["sweep-scale-t2i.png", "sweep-steps-t2i.png"]
    assert (folder / "report.md").read_text().count("![") == 2


def test_a_report_says_what_was_measured_on(vd, data, folder, tmp_path):
    made = measured(vd, data, tmp_path, Perfect(data), Settings(**{**vars(SMALL), "n": 50}))
    protocol = made["protocol"]
    assert protocol["settings"]["n"] == COUNT, "as many as there are"
    assert protocol["data"] == {"name": "photos", "format": "sidecar", "digest": data.digest}
    assert [one["name"] for one in protocol["features"]] == ["tiny's own CLIP", "colors"]
    assert protocol["features"][1]["weights"] == "none" and "middle square" in protocol["resize"]
    assert protocol["left_out"]["count"] == len(data.skipped)
    assert protocol["resolution"] == {
        "generated": vd.spec.image_size,
        "clip": vd.spec.clip.vision.image_size,
    }
    assert protocol["run"].startswith("folder_tiny_t2i-i2i-i2t-t2t_n6_seed3_")
    stored = json.loads((tmp_path / "out" / protocol["run"] / "report.json").read_text())
    assert stored["protocol"] == protocol
    (folder / "0.txt").write_text("another caption")
    other = choose(read_captioned(folder), COUNT, 3, progress=False)
    changed = measured(vd, other, tmp_path, Perfect(other))
    assert changed["protocol"]["run"] != protocol["run"], "other data are another run"


def test_captions_that_are_too_long_for_clip_lose_their_end(vd, folder, tmp_path):
    for i in range(COUNT):
        (folder / f"{i}.txt").write_text(" ".join([CAPTIONS[i]] * 20))
    data = choose(read_captioned(folder), COUNT, 3, progress=False)
    settings = Settings(**{**vars(SMALL), "flows": ("t2i",), "steps": 1})
    seen = []

    def noted(vd, texts, **how):
        seen.extend(texts)
        return text_to_image(vd, texts, **how)

    found = measured(vd, data, tmp_path, SimpleNamespace(text_to_image=noted), settings)
    assert found["measures"]["t2i"]["prompts_cut"].value == 1
    wholes = [entry.captions[0] for entry in data.entries]
    assert all(any(w.startswith(text) and w != text for w in wholes) for text in seen)
    assert min(len(text.split()) for text in seen) >= 4


def test_what_four_words_are_counted_by_is_left_out_where_nobody_has_four():
    short = against(["a dog", "a dog"], [["a dog"], ["a cat", "one cat"]])
    assert short["bleu4"].startswith("not defined where no reference has 4 words")
    assert short["rouge_l"].value == pytest.approx(0.75)
    section = against(["a dog", "a dog"], [["a dog"], ["a cat on a mat"]])
    assert section["bleu4"].value == 0


def test_the_middle_of_a_picture():
    stripes = drawing(0, (30, 10)).convert("RGB")
    cut = np.asarray(stripes)[:, 10:20]
    assert np.array_equal(np.asarray(middle(stripes, 10)), cut)
    assert middle(stripes, 5).size == (5, 5)


# ------------------------------------------------------------------ from the shell


def test_from_the_shell(model_folder, folder, tmp_path, capsys):
    command = ["evaluate", "--suite", "folder", "--model", str(model_folder), "--data", str(folder)]
    command += ["--features", "own", "--n", "3", "--steps", "2", "--sweep-scale", "1,3"]
    command += ["--sweep-fidelity", "0.5", "--device", "cpu", "--out", str(tmp_path), "--quiet"]
    assert shell.main(command) == 0
    text = capsys.readouterr().out
    assert "t2i: guidance scales" in text and "report.json" in text
    (run,) = (tmp_path / "evaluation").iterdir()
    made = json.loads((run / "report.json").read_text())
    assert list(made["measures"])[:4] == list(FLOWS)
    own = made["measures"]["t2i"]["features"]["tiny's own CLIP"]
    assert own["frechet_distance"]["value"] > 0 and -1 < own["clip_score"]["value"] < 1
    assert set(made["measures"]["sweep"]["t2i"]["3"]) == {
        "frechet_distance",
        "kernel_distance",
        "cmmd",
        "clip_score",
    }
    assert made["measures"]["sweep_fidelity"]["i2i"]["0.5"]["likeness_to_input"]["n"] == 3
    assert "figures/sweep-scale-t2i.png" in (run / "report.md").read_text()
    assert (run / "figures" / "sweep-scale-t2i.png").is_file()


@pytest.mark.parametrize("option", [[], ["--outside"]])
def test_lists_lead_out_of_the_folder_only_if_that_is_allowed(option, tmp_path):
    for name in ("in.png", "out.png"):
        (tmp_path / "set").mkdir(exist_ok=True)
        drawing(1, (16, 16)).save(tmp_path / "set" / name)
    (tmp_path / "set" / "out.png").rename(tmp_path / "out.png")
    rows = [{"file_name": name, "text": "a"} for name in ("in.png", "../out.png")]
    (tmp_path / "set" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [
        "evaluate",
        "--suite",
        "folder",
        "--data",
        str(tmp_path / "set"),
        "--quiet",
        "--features",
        "own",
        *option,
    ]
    args = shell.build_parser("evaluate").parse_args([*words, "--device", "cpu"])
    data = Folder.read(args, Settings(suite="folder", n=2))["data"]
    assert len(data.entries) == (2 if option else 1)
    assert [item.name for item in data.skipped] == ([] if option else ["../out.png"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "needs --data"),
        (["--data", "/nowhere"], "There is no /nowhere"),
        (["--data", "FOLDER", "--features", "magic"], "choose own"),
        (["--data", "FOLDER", "--flows", "t2i,reconstruction"], "does not measure reconstruction"),
    ],
)
def test_bad_arguments_are_refused_before_the_model_is_loaded(
    arguments, message, folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("lib.checkpoints.load", lambda *_, **__: pytest.fail("loaded"))
    given = [str(folder) if word == "FOLDER" else word for word in arguments]
    assert shell.main(["evaluate", "--suite", "folder", "--out", str(tmp_path / "o"), *given]) == 2
    assert message in capsys.readouterr().err


def test_the_same_network_twice_is_refused(vd, data, tmp_path):
    with pytest.raises(ValueError, match="give each only once"):
        measured(vd, data, tmp_path, Perfect(data), models=(COLORS, COLORS))
    with pytest.raises(ValueError, match="does not measure reconstruction"):
        measured(vd, data, tmp_path, Perfect(data), Settings(flows=("reconstruction",)))
    assert not (tmp_path / "out").exists()
