"""The suite `applications` on fakes whose effect is known exactly, and wired to the real ones."""

import json

import numpy as np
import pytest
from PIL import Image

from analysis.cli import main
from analysis.measure import applications, evaluate, report, scene_inputs
from analysis.measure import applications_summary as summary
from analysis.measure.applications import APPLICATIONS, Applications
from analysis.measure.applications_summary import EDITED
from analysis.measure.protocol import Settings
from analysis.measure.scene_inputs import changed, counterpart, hiding, phrase, two_things
from analysis.measure.suite import measure
from analysis.metrics.statistics import Estimate, number
from data.scenes.draw import BACKGROUND_RGB, layout, render
from data.scenes.judge import load_judge
from data.scenes.world import Scene, is_test, split
from tests.analysis.known_models import FakeModel, TellingJudge, tagged
from tests.analysis.measure.known_applications import Backwards, Exact, Idle
from tests.analysis.measure.test_evaluate import small_settings, untrained_judge

MANY = Settings(n=80, seed=3, licence_n=4, batch=30, suite="applications")


@pytest.fixture(autouse=True)
def renders_know_their_scene(monkeypatch):
    for module in (scene_inputs, applications):
        monkeypatch.setattr(module, "render", tagged)


def made(tmp_path, modes, settings=MANY, parts=APPLICATIONS, judge=None):
    suite = Applications(FakeModel(), settings, judge=judge, modes=modes, parts=parts)
    return measure(suite, tmp_path, progress=False)


def measured(tmp_path, modes, settings=MANY, parts=APPLICATIONS):
    return made(tmp_path, modes, settings, parts, TellingJudge())["measures"]


def verdicts(measures):
    return {
        part: {claim.split(" (")[0]: "pass" in verdict for claim, verdict in criteria.items()}
        for part, criteria in measures["criteria"].items()
    }


# ------------------------------------------------------------------ known effects


def test_what_does_as_it_promises_passes_with_just_the_numbers_it_has(tmp_path):
    found = measured(tmp_path, Exact())
    assert all(passed for part in verdicts(found).values() for passed in part.values())
    scenes = split("test", 80, 3)
    two = np.array([len(scene.things) == 2 for scene in scenes])

    assert found["fidelity"]["rank_correlation"].value == pytest.approx(-1)
    assert found["fidelity"]["inputs_in_order"].value == 1
    assert found["fidelity"]["distance"]["at 1"].value == 0

    focus = found["focus"]
    style = [focus["style_kept"][f"at {v:g}"].value for v in (0, 0.25, 0.5, 0.75, 1)]
    assert style == [0, 0, 1, 1, 1]
    assert focus["style_kept"]["slope"].value == pytest.approx(1.2)
    # of content, only the number of things stays: one of 4 attributes, or of 8
    stays = np.where(two, 1 / 8, 1 / 4)
    assert focus["content_kept"]["at 1"].value == pytest.approx(stays.mean())
    assert focus["content_kept"]["slope"].value == pytest.approx(-1.2 * (1 - stays.mean()))
    assert focus["attributes"]["shape"]["slope"].value == pytest.approx(-1.2)
    assert focus["attributes"]["count"]["slope"].value == pytest.approx(0)
    assert focus["attributes"]["relation"]["slope"].n == two.sum()

    slopes = np.where(two, (0.8 + 8 * 1.2) / 9, (0.8 + 4 * 1.2) / 5)
    for part in ("dual", "describe", "interpolate"):
        second, first = found[part]["of_second"], found[part]["of_first"]
        assert second["slope"].value == pytest.approx(slopes.mean())
        assert first["slope"].value == pytest.approx(-slopes.mean())
        assert second["slope"].high - second["slope"].low == pytest.approx(
            2 * 1.959964 * slopes.std(ddof=1) / np.sqrt(80)
        )
        ends = [second["at 0"], first["at 0"], second["at 1"], first["at 1"]]
        assert [end.value for end in ends] == [0, 1, 1, 0]
        by_kind = {k: v["slope_of_second"].value for k, v in found[part]["attributes"].items()}
        assert by_kind == pytest.approx(dict.fromkeys(by_kind, 1.2) | {"background": 0.8})
        assert "count" not in by_kind
        assert second["at 0.5"].value == pytest.approx(np.where(two, 2 / 9, 2 / 5).mean())
    assert found["describe"]["readable"]["at 0.5"].value == 1
    assert found["interpolate"]["difference_of_ends_to_pure"]["B"].value == 0

    hidden, other = (found["blend"][f"{k}_thing_seen"] for k in ("hidden", "other"))
    assert [hidden[k].value for k in ("without_mask", "with_mask", "lost_by_mask")] == [1, 0, 1]
    assert [other[k].value for k in ("without_mask", "with_mask", "lost_by_mask")] == [1, 1, 0]
    for part in ("edit", "latent-edit"):
        names = ("named_changed", "others_kept", "both", "named_left_as_it_was")
        assert [found[part][name].value for name in names] == [1, 1, 1, 0]
        kinds = ("background", "style", "size", "color", "shape")
        counts = [found[part][f"of_{kind}"]["named_changed"].n for kind in kinds]
        assert sum(counts) == 80 and min(counts) > 4
    assert found["edit"]["inversion_error"].value == pytest.approx(0.01)
    captions = found["latent-edit"]["captions"]
    assert [captions[k].value for k in captions] == [1, 1, 1]
    assert found["judge"]["test"]["style"].n == 4


def test_what_has_no_effect_fails(tmp_path):
    found = measured(tmp_path, Idle())
    passed = {
        f"{part}: {claim}"
        for part, claims in verdicts(found).items()
        for claim, holds in claims.items()
        if holds
    }
    # nothing moves, so nothing moves the wrong way; nothing changes, so all else is kept
    assert passed == {
        *("focus: style never falls: worst step", "focus: content never returns: worst step"),
        *(f"{k}: it never leaves: worst step" for k in ("dual", "describe", "interpolate")),
        *(f"{k}: it never returns: worst step" for k in ("dual", "describe", "interpolate")),
        "interpolate: the end is that of A alone",
        "blend: the other thing stays",
        *("edit: the others are kept", "latent-edit: the others are kept"),
    }
    assert found["fidelity"]["rank_correlation"].value == 0
    assert found["fidelity"]["inputs_in_order"].value == 0
    assert found["focus"]["style_kept"]["slope"].value == 0
    assert found["describe"]["of_first"]["at 0"].value == 0, "nonsense is nobody's"
    assert found["describe"]["readable"]["at 0"].value == 0
    assert found["dual"]["of_first"]["at 1"].value == 1
    assert found["blend"]["hidden_thing_gone_where_seen_without_mask"].value == 0
    assert found["edit"]["named_left_as_it_was"].value == 1
    assert found["latent-edit"]["captions"]["others_kept"].value == 0


def test_the_wrong_way_round_fails_with_its_numbers_in_the_report(tmp_path):
    settings = Settings(n=20, seed=3, licence_n=4, suite="applications")
    parts = ("fidelity", "focus", "dual", "describe", "interpolate", "blend", "edit")
    found = measured(tmp_path, Backwards(), settings, parts)
    got = verdicts(found)
    for part in ("fidelity", "focus", "dual", "describe", "interpolate"):
        assert not any(got[part].values()), part
    assert not any(got["blend"].values())
    assert not got["edit"]["the others are kept"]
    assert found["fidelity"]["rank_correlation"].value == pytest.approx(1)
    assert found["focus"]["style_kept"]["slope"].value == pytest.approx(-1.2)
    assert found["focus"]["style_kept"]["worst_step"].value == -1
    assert found["blend"]["other_thing_seen"]["lost_by_mask"].value == 1
    text = report.to_text({"measures": found})
    line = next(x for x in text.splitlines() if x.startswith("focus / style is kept: slope"))
    assert line.split("/")[-1].split() == ["fail", "-1.200", "-1.200", "-", "-1.200", "20"]
    assert "fidelity / distance falls: rank correlation (interval below 0) / fail" in text
    (markdown,) = tmp_path.rglob("report.md")
    assert "(interval at least 80 %) / fail | 0.0 % |" in markdown.read_text()


def test_every_second_edit_is_half(tmp_path):
    class Half(Exact):
        def edit(self, vd, images, source, target, **how):
            mixed = [t if k % 2 else s for k, (s, t) in enumerate(zip(source, target, strict=True))]
            return super().edit(vd, images, source, mixed, **how)

    settings = Settings(n=40, seed=3, licence_n=4, suite="applications")
    found = measured(tmp_path, Half(), settings, ("edit",))
    assert found["edit"]["named_changed"].value == 0.5
    assert found["edit"]["others_kept"].value == 1
    assert not verdicts(found)["edit"]["the named attribute changes"]


# ------------------------------------------------------------------ inputs


def test_counterparts_share_nothing_and_edits_one_attribute_less_than_all():
    for i, scene in enumerate(split("test", 150, 5)):
        rng = np.random.default_rng(i)
        a, b = scene.attributes(), counterpart(scene, rng).attributes()
        same = {name for name in a if a[name] == b[name]}
        assert same == {"count"} | {name for name in a if a[name] is None}
        assert is_test(Scene.from_attributes(b))
        wanted, name = changed(scene, EDITED, rng)
        c = wanted.attributes()
        assert [n for n in a if a[n] != c[n]] == [name] and not wanted.held_out
        assert a[name] in phrase(name, a[name]).split() and c[name] in phrase(name, c[name]).split()
        other = name.replace("1", "3").replace("2", "1").replace("3", "2")
        assert other == name or a[other] != a[name], "a word must not mean either thing"


def test_a_mask_hides_one_thing_and_the_judge_sees_the_other():
    rows, alone = [], []
    for seed in range(100):
        scene, hidden = two_things(np.random.default_rng(seed))
        assert is_test(scene) and not scene.held_out
        picture, ground = (
            np.asarray(render(scene, seed)),
            np.array(BACKGROUND_RGB[scene.background]),
        )
        mask = hiding(scene, layout(scene, seed), hidden).numpy()[..., None]
        for part in (mask, 1 - mask):
            left = (part * picture + (1 - part) * ground).astype(np.uint8)
            alone.append(Image.fromarray(left))
        rows.append({"first": scene.attributes(), "hidden": hidden})
    readings = [dict(reading.attributes) for reading in load_judge().read(alone)]
    for k, row in enumerate(rows):
        row["masked"], row["plain"] = readings[2 * k : 2 * k + 2]
    found, _ = summary.blend(rows)  # "without" the mask is here with the opposite one
    hidden, other = found["hidden_thing_seen"], found["other_thing_seen"]
    assert hidden["with_mask"].value <= 0.02 and hidden["without_mask"].value >= 0.98
    assert other["with_mask"].value >= 0.98 and other["without_mask"].value <= 0.02


# ------------------------------------------------------------------ numbers


def test_slopes_steps_and_ranks_by_other_means():
    rng = np.random.default_rng(0)
    values, y = (0, 0.1, 0.5, 1), rng.normal(size=(30, 4))
    found = summary.followed(values, np.concatenate([y, np.full((3, 4), np.nan)]), -1)
    slopes = [np.polyfit(values, line, 1)[0] for line in y]
    assert found["slope"].value == pytest.approx(np.mean(slopes))
    half = 1.959964 * np.std(slopes, ddof=1) / np.sqrt(30)
    assert found["slope"].high == pytest.approx(np.mean(slopes) + half)
    means = y.mean(axis=0)
    assert found["worst_step"].value == pytest.approx(min(means[:-1] - means[1:]))
    assert found["at 0.1"].value == pytest.approx(means[1]) and found["at 0.1"].n == 30
    rows = [{"distance": line} for line in ([5, 4, 3, 2, 1], [1, 2, 3, 4, 5], [5, 4, 3, 1, 2])]
    section, _ = summary.fidelity(rows)
    assert section["rank_correlation"].value == pytest.approx((-1 + 1 - 0.9) / 3)
    assert section["inputs_in_order"].value == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("relation", "bound", "passes"),
    [
        *(("above", 0.1, True), ("above", 0.2, False), ("below", 0.5, True), ("below", 0.4, False)),
        *(("at least", 0.2, True), ("at least", 0.3, False)),
        *(("at most", 0.4, True), ("at most", 0.3, False)),
        *(("not below", 0.4, True), ("not below", 0.41, False)),
    ],
)
def test_criteria_are_about_whole_intervals(relation, bound, passes):
    estimate = Estimate(0.3, 0.2, 0.4, 20, "mean")
    assert summary.Criterion("c", estimate, relation, bound).passed == passes
    few = Estimate(0.3, 0.2, 0.4, 19, "mean")
    for unsure in (few, number(0.3, 99), Estimate(None, None, None, 0)):
        assert not summary.Criterion("c", unsure, relation, bound).passed


# ------------------------------------------------------------------ runs


def test_batches_and_interruptions_change_nothing(tmp_path):
    class Stops(Exact):
        def edit(self, *args, **how):
            raise KeyboardInterrupt

    settings = {"n": 7, "seed": 3, "licence_n": 4, "suite": "applications"}
    whole = measured(tmp_path / "a", Exact(), Settings(batch=7, **settings))
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path / "b", Stops(), Settings(batch=3, **settings))
    assert not list((tmp_path / "b").rglob("report.*"))

    class OnlyEdits(Exact):
        dual_guided = describe = focus = blend = interpolate = image_variation = None

    assert measured(tmp_path / "b", OnlyEdits(), Settings(batch=3, **settings)) == whole


def test_texts_need_no_judge_pictures_do_and_nonsense_is_refused(tmp_path):
    settings = Settings(n=3, suite="applications")
    texts = made(tmp_path, Exact(), settings, ["describe"])
    assert list(texts["measures"]) == ["criteria", "describe"]
    assert texts["protocol"]["applications"] == ["describe"]
    for changes, message in (
        ({"judge": None}, "have to be judged"),
        ({"parts": ["focus", "magic"]}, "'magic': choose from fidelity, focus"),
        ({"parts": []}, "nothing: choose from"),
        ({"settings": Settings(flows=("t2i",), suite="applications")}, "neither flows nor sweeps"),
        ({"settings": Settings(sweep_scale=(1,), suite="applications")}, "neither flows nor"),
    ):
        given = {"judge": TellingJudge(), "settings": settings} | changes
        with pytest.raises(ValueError, match=message):
            made(tmp_path, Exact(), **given)
    with pytest.raises(ValueError, match="misreads real renders"):
        small = Settings(n=3, licence_n=4, suite="applications")
        made(tmp_path, Exact(), small, judge=TellingJudge(wrong={0}))


def test_the_real_applications_from_the_shell(model_folder, tmp_path, monkeypatch, capsys):
    """Random weights: every application is called as it wants to be, and everything is measured."""
    monkeypatch.setattr(scene_inputs, "render", render)
    monkeypatch.setattr(applications, "render", render)
    monkeypatch.setattr(applications, "write", lambda scene, rng: "a ring on gray")
    monkeypatch.setattr(
        applications, "canonical_caption", lambda scene: f"a {scene.things[0].color} ring"
    )
    monkeypatch.setattr(scene_inputs, "MIN_ACCURACY", 0.0)
    monkeypatch.setattr(evaluate, "Settings", small_settings)
    words = ["evaluate", "--suite", "applications", "--model", str(model_folder), "--n", "2"]
    words += ["--seed", "7", "--steps", "2", "--quiet", "--device", "cpu", "--out", str(tmp_path)]
    words += ["--judge", untrained_judge(tmp_path / "judge"), "--json"]
    assert main(words) == 0
    printed = json.loads(capsys.readouterr().out)
    measures = printed["measures"]
    assert list(measures) == ["criteria", *APPLICATIONS, "judge"]
    assert printed["protocol"]["run"].startswith("applications_tiny_n2_seed7_")
    for part in APPLICATIONS:
        assert measures["criteria"][part]
        for verdict in measures["criteria"][part].values():
            ((name, number),) = verdict.items()
            assert name in ("pass", "fail") and number["n"] == 2
    assert 0 < measures["edit"]["inversion_error"]["value"] < 10
    assert measures["fidelity"]["distance"]["at 1"]["value"] > 0, "what the VAE loses"
    for end in measures["interpolate"]["difference_of_ends_to_pure"].values():
        assert end["value"] < 1 / 255
    (folder,) = (tmp_path / "evaluation").iterdir()
    rows = [json.loads(p.read_text())["rows"] for p in sorted(folder.glob("rows/focus/*.json"))]
    assert [len(row["seen"]) for row in rows[0].values()] == [5, 5]
    assert main([*words[:-3], "--applications", "describe"]) == 0  # which needs no judge
    text = capsys.readouterr().out
    assert "the second comes: slope" in text and "\nfocus" not in text
