"""Figures of a report show the report's numbers, and only those that it has."""

import numpy as np
import pytest
from PIL import Image

from analysis.measure import report
from analysis.measure.report_figures import curves, draw, samplers, shares
from analysis.metrics.statistics import Estimate, mean, number, paired_difference, wilson


def count(value):
    return Estimate(value, None, None, 0, "count")


RUNS = {
    f"{sampler}, {steps}": {
        "network_evaluations": count(steps * cost),
        "all": wilson(steps, 100),
        "frechet_distance": number(1 / steps, 100),
    }
    for sampler, cost in (("ddim", 2), ("heun", 4))
    for steps in (20, 50, 10)
}
for name, run in RUNS.items():
    if name != "ddim, 50":
        run["all_minus_ddim_50"] = paired_difference(1, 5, 100)
SCALES = {
    f"{scale:g}": {
        "all": wilson(int(10 * scale), 100),
        "clip_score": mean([scale - 1, scale + 1] * 50),
    }
    for scale in (1, 2.5, 4)
}
ATTRIBUTES = {"background": wilson(9, 10), "shape2": wilson(0, 0), "color1": wilson(10, 10)}
MEASURES = {
    "t2i": {"test": {"all": wilson(7, 10), "attributes": ATTRIBUTES}},
    "i2t": {"exact_scene": wilson(3, 10), "attributes_where_readable": ATTRIBUTES},
    "search": {"text_to_image": {"recall@1": wilson(5, 10), "recall@5": wilson(8, 10)}},
    "sweep": {"t2i": SCALES},
    "sweep_steps": {"t2i": RUNS},
    "sweep_fidelity": {"i2i": {"0": {"all_kept": wilson(9, 10)}, "1": {"all_kept": wilson(1, 10)}}},
}


def test_bars_are_shares_with_their_intervals():
    figure = shares({"text to image": ATTRIBUTES, "image to text": ATTRIBUTES})
    left, right = figure.axes
    assert [bar.get_width() for bar in left.patches] == [90, 100], "nothing seen is no bar"
    assert [bar.get_y() + bar.get_height() / 2 for bar in left.patches] == pytest.approx([0, 2])
    drawn = sorted(tuple(c.get_segments()[0][:, 0]) for c in left.collections)
    expected = [(100 * e.low, 100 * e.high) for e in (ATTRIBUTES["background"], wilson(10, 10))]
    assert np.allclose(drawn, sorted(expected))
    assert [t.get_text() for t in left.get_yticklabels()] == ["background", "shape2", "color1"]
    assert not any(t.get_text() for t in right.get_yticklabels()), "the same names, said once"
    assert {bar.get_hatch() for bar in left.patches}.isdisjoint(
        b.get_hatch() for b in right.patches
    )


def test_curves_have_the_values_and_bands_of_the_runs():
    figure = curves(SCALES, "guidance scale")
    together, alone = figure.axes
    (line,) = together.get_lines()
    assert line.get_xdata().tolist() == [1, 2.5, 4] and line.get_ydata().tolist() == [10, 25, 40]
    assert together.get_xlabel() == "guidance scale" and alone.get_ylabel() == "clip score"
    (line,) = alone.get_lines()
    assert line.get_ydata().tolist() == [1, 2.5, 4], "no percent"
    band = alone.collections[0].get_paths()[0].vertices[:, 1]
    e = SCALES["4"]["clip_score"]
    assert (band.min(), band.max()) == pytest.approx((SCALES["1"]["clip_score"].low, e.high))


def test_samplers_are_shown_over_steps_and_over_what_they_cost():
    figure = samplers(RUNS)
    steps, cost, distance = figure.axes
    assert cost.get_xlabel() == "network evaluations" and steps.get_xlabel() == "steps"
    for axes, x in ((steps, [10, 20, 50]), (cost, [40, 80, 200]), (distance, [10, 20, 50])):
        ddim, heun = axes.get_lines()
        assert (ddim.get_label(), heun.get_label()) == ("ddim", "heun")
        assert heun.get_xdata() == pytest.approx(x)
        assert ddim.get_color() != heun.get_color() and ddim.get_marker() != heun.get_marker()
    assert steps.get_lines()[0].get_ydata().tolist() == [10, 20, 50]
    assert "points" not in str([axes.get_ylabel() for axes in figure.axes])
    # another suite may have other measures
    without = {name: {"frechet_distance": run["frechet_distance"]} for name, run in RUNS.items()}
    (axes,) = samplers(without).axes
    assert axes.get_ylabel() == "frechet distance"


def test_a_missing_value_is_a_gap():
    runs = {"1": {"a": wilson(1, 2)}, "2": {"a": wilson(0, 0)}, "3": {"a": wilson(2, 2)}}
    (line,) = curves(runs, "x").axes[0].get_lines()
    assert line.get_ydata().tolist() == pytest.approx([50, np.nan, 100], nan_ok=True)


PROTOCOL = {
    "run": "r",
    "settings": {"suite": "scenes", "n": 9, "seed": 1, "sampler": "ddim", "steps": 5}
    | {"scale_text": 3, "scale_image": 2},
    "model": {"name": "m", "dtype": "float32", "device": "cpu"},
    "resolution": {"generated": 64, "clip": 32},
    "finished": "now",
    "seconds": 1,
}


def test_a_report_links_the_figures_it_has(tmp_path):
    folder = tmp_path / "run"
    report.keep({"protocol": PROTOCOL, "measures": MEASURES}, folder)
    text = (folder / "report.md").read_text()
    names = ["overall", "attributes", "sweep-scale-t2i", "sweep-steps-t2i", "sweep-fidelity-i2i"]
    for name in [*names, "search"]:
        assert f"](figures/{name}.png)\n" in text
        with Image.open(folder / "figures" / f"{name}.png") as picture:
            assert min(picture.size) > 150
        assert (folder / "figures" / f"{name}.svg").read_text().startswith("<?xml")
    before = {path.name: path.read_bytes() for path in folder.rglob("*.*g")}
    report.keep({"protocol": PROTOCOL, "measures": MEASURES}, folder)
    assert {path.name: path.read_bytes() for path in folder.rglob("*.*g")} == before
    report.keep({"protocol": PROTOCOL, "measures": {"i2t": {}}}, tmp_path / "little")
    assert not list((tmp_path / "little").rglob("*.png"))
    assert "](figures" not in (tmp_path / "little" / "report.md").read_text()


def test_what_is_left_out_is_no_figure(tmp_path):
    found = draw({"t2i": MEASURES["t2i"]}, tmp_path)
    assert [path.name for path in found.values()] == ["overall.png", "attributes.png"]


def test_a_report_without_figures(tmp_path):
    report.keep({"protocol": PROTOCOL, "measures": MEASURES}, tmp_path, figures=False)
    assert "![" not in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "figures").exists()
