"""Figures show the numbers they were given; readability against a judge of known answers."""

import os

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from analysis.inside import plots
from analysis.inside.readability import Readability, attribute_readability
from analysis.inside.trace import trace
from analysis.inside.twins import count_text
from analysis.inside.walkthrough import (
    focus_decomposition,
    guidance_vectors,
    plan_of,
    schedule_table,
)
from analysis.results.figures import (
    COLORS,
    LINES,
    MARKERS,
    Chart,
    draw_series,
    new_figure,
    save_figure,
    series_style,
)
from data.scenes.captions import canonical_caption
from data.scenes.judge import Reading
from data.scenes.world import Scene, Thing
from lib.config import FLOWS
from lib.noise import SampleNoise
from lib.sampler import Step, ddim

RED, BLUE = Thing("large", "red", "circle"), Thing("small", "blue", "square")
PAIR = Scene("white", "flat", (RED, BLUE), "left of")
ONE = Scene("gray", "striped", (RED,), None)


def labelled(axes):
    return bool(axes.get_xlabel() and axes.get_ylabel())


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


@pytest.fixture
def steps(vd):
    context = vd.text_context(["a red circle", "a green star"])
    x = SampleNoise([1, 2]).normal(vd.latent_shape("image"))
    return list(ddim(vd.guided([(context, 1.0)], "image", 2.0), x, vd.schedule, [1, 300, 600, 900]))


# ---------------------------------------------------------------------- keeping


def small_chart(last=2.0):
    figure, ((axes,),) = new_figure(1, 1, 6, 1)
    draw_series(axes, [0, 1], torch.tensor([1.0, last]), 0, "it")
    return figure


def test_saving_replaces_and_leaves_nothing_behind(tmp_path):
    png, svg = save_figure(small_chart(), "noise-schedule", tmp_path)
    assert (png.parent.name, png.name, svg.name) == (
        "figures",
        "noise-schedule.png",
        "noise-schedule.svg",
    )
    first = png.read_bytes(), svg.read_bytes()
    with Image.open(png) as image:
        assert image.width > 800
    assert b"<svg" in first[1]
    again = save_figure(small_chart(), "noise-schedule", tmp_path)
    assert (again[0].read_bytes(), again[1].read_bytes()) == first
    assert sorted(os.listdir(png.parent)) == ["noise-schedule.png", "noise-schedule.svg"]
    for name in ("../x", "a b", "", "A"):
        with pytest.raises(ValueError, match="a-z, 0-9"):
            save_figure(small_chart(), name, tmp_path)


def test_a_failed_write_keeps_the_old_figure(tmp_path, monkeypatch):
    png, _ = save_figure(small_chart(), "it", tmp_path)
    before = png.read_bytes()

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        save_figure(small_chart(3.0), "it", tmp_path)
    assert png.read_bytes() == before and len(os.listdir(png.parent)) == 2


def test_figures_touch_nothing_global_and_show_themselves(vd):
    before = dict(matplotlib.rcParams)
    figure = plots.noise_schedule(schedule_table(vd, 5))
    assert dict(matplotlib.rcParams) == before
    assert isinstance(figure, Chart) and "<img" in figure._repr_html_()


def test_every_series_differs_in_colour_marker_and_line():
    styles = [series_style(i) for i in range(len(COLORS))]
    assert len(COLORS) == len(MARKERS) == len(LINES) == 7
    for key in ("color", "marker", "linestyle"):
        assert len({str(style[key]) for style in styles}) == 7


# ---------------------------------------------------------------------- the model


def test_four_flows_has_every_count(vd):
    figure = plots.four_flows(vd)
    (axes,) = figure.axes
    shown = [text.get_text() for text in axes.texts]
    for flow in FLOWS:
        plan = plan_of(vd, flow)
        assert f"{flow}  {count_text(plan.total)}" in shown
        for name, count in plan.parameters.items():
            words = name.replace("_", " ").replace("time embed", "time embedding, shared")
            assert f"{words}\n{count_text(count)}" in shown
    assert sum(getattr(text, "arrow_patch", None) is not None for text in axes.texts) == 4


def test_noise_schedule_shows_the_table(vd):
    table = schedule_table(vd, 5)
    left, right = plots.noise_schedule(table).axes
    assert labelled(left) and labelled(right)
    signal, noise = left.get_lines()
    assert np.allclose(signal.get_ydata(), table.signal) and np.allclose(
        noise.get_ydata(), table.noise
    )
    visited = lines(right)["5 visited"]
    assert list(visited.get_xdata()) == table.timesteps
    assert np.allclose(visited.get_ydata(), table.log_snr[table.timesteps])
    assert left.get_xlim() == (1000, 0)


# ---------------------------------------------------------------------- over time


def test_guidance_shows_means_over_the_batch(vd):
    x = SampleNoise([1, 2]).normal(vd.latent_shape("text"))
    context = vd.text_context(["a red circle", "a green star"])
    shown = guidance_vectors(vd, [(context, 1.0)], "text", 3.0, x, [1, 300, 600])
    left, right = plots.guidance_over_time(shown).axes
    assert labelled(left) and labelled(right)
    found = lines(left)
    for label, values in (
        ("conditional", shown.cond),
        ("null", shown.null),
        ("difference", shown.difference),
        ("guided, scale 3", shown.guided),
    ):
        assert np.allclose(found[label].get_ydata(), values.mean(dim=1))
        assert list(found[label].get_xdata()) == [600, 300, 1]
    assert np.allclose(lines(right)["conditional to null"].get_ydata(), shown.angle.mean(dim=1))
    assert len(left.collections) == 4  # bands


def test_latent_norms(steps):
    (axes,) = plots.latent_norms(steps).axes
    assert labelled(axes)
    expected = [step.x0.pow(2).mean(dim=(1, 2, 3)).sqrt().mean().item() for step in steps]
    assert np.allclose(lines(axes)["estimate of $x_0$"].get_ydata(), expected, rtol=1e-5)


def test_film_strip_shows_the_decoded_estimates(vd, steps):
    figure = plots.film_strip(vd, steps, count=3, samples=[1, 0])
    grid = np.array(figure.axes).reshape(2, 3)
    assert [axes.get_title() for axes in grid[0]] == ["t = 900", "t = 300", "t = 1"]
    for column, k in enumerate((0, 2, 3)):
        pixels = vd.decode_image(steps[k].x0[[1, 0]])
        for row in range(2):
            shown = np.asarray(grid[row, column].images[0].get_array())
            assert np.abs(shown / 255 - pixels[row].permute(1, 2, 0).numpy()).max() < 0.003
    with pytest.raises(ValueError, match="at least one"):
        plots.film_strip(vd, [])


# ---------------------------------------------------------------------- maps and spectra


def test_attention_heatmaps_lie_over_the_picture():
    picture = Image.new("RGB", (30, 20), "red")
    maps = {"red": torch.rand(20, 30), "circle": torch.zeros(10, 15)}
    figure = plots.attention_heatmaps(picture, maps)
    first, *others = figure.axes
    assert np.array_equal(first.images[0].get_array(), np.asarray(picture))
    for axes, (word, values) in zip(others, maps.items(), strict=True):
        overlay = axes.images[1]
        assert axes.get_title().startswith(word)
        assert np.array_equal(overlay.get_array(), values.numpy())
        assert overlay.get_extent() == [0, 30, 20, 0]
    figure._repr_html_()
    with pytest.raises(ValueError, match="at least one word"):
        plots.attention_heatmaps(picture, {})


def test_focus_spectrum_shows_gain_and_bands():
    shown = focus_decomposition(torch.randn(2, 30, 24), 0.8)
    figure = plots.focus_spectrum(shown)
    left, right, gain = figure.axes
    assert labelled(left) and labelled(right) and gain.get_ylabel() == "gain at focus 0.8"
    assert np.allclose(left.get_lines()[0].get_ydata(), shown.share.mean(dim=0))
    assert np.allclose(gain.get_lines()[0].get_ydata(), shown.gain)
    heights = [bar.get_height() for bar in right.patches]
    norms = [band.flatten(1).norm(dim=1).mean().item() for band in shown.bands.values()]
    assert np.allclose(heights, norms)


def test_activations_have_a_row_a_block_and_a_column_a_step(vd):
    context = vd.text_context(["a red circle"])
    x = SampleNoise([1]).normal(vd.latent_shape("image"))
    with trace(vd) as recording:
        eps = vd.guided([(context, 1.0)], "image", 2.0)
        list(ddim(eps, x, vd.schedule, [1, 400, 900]))
    figure = plots.activations_over_time(recording, "null")
    data, layers = figure.axes[:2]
    assert (data.get_title(), layers.get_title()) == ("image data", "text context")
    sizes = data.images[0].get_array()
    assert sizes.shape == (len(vd.image_data.data_blocks), 3)
    last = [a for a in recording.activations if (a.block, a.branch) == ("image_data.2", "null")]
    assert [a.t for a in last] == [900, 400, 1]
    assert np.allclose(sizes[2], [np.hypot(a.mean, a.std) for a in last])
    assert len(layers.images[0].get_array()) == len(vd.component("text_context").context_blocks)
    figure._repr_html_()
    with pytest.raises(ValueError, match="branch 'other'"):
        plots.activations_over_time(recording, "other")


# ---------------------------------------------------------------------- readability


class SlowJudge:
    """Reads the background right from its second look at a batch on, the first colour on and off.

    The other attributes are right from the third look on, but the relation never is.
    """

    def __init__(self, scenes):
        self.scenes, self.looks = scenes, 0

    def read(self, images):
        assert len(images) == len(self.scenes)
        assert all(image.size == (16, 16) for image in images)
        self.looks += 1
        readings = []
        for scene in self.scenes:
            right = scene.attributes()
            seen = {name: value if self.looks >= 3 else None for name, value in right.items()}
            seen |= {"relation": None, "background": right["background"]}
            if self.looks == 1:
                seen["background"] = None
            seen["color1"] = right["color1"] if self.looks % 2 == 0 else None
            readings.append(Reading(seen, 1.0))
        return readings


def test_readability_is_what_the_judge_saw(vd):
    scenes = [ONE, PAIR]
    result = attribute_readability(
        vd, SlowJudge(scenes), scenes, steps=4, seed=3, caption=lambda scene: scene.style
    )
    assert result.t == [751, 501, 251, 1] and result.num_timesteps == 1000
    assert list(result.right)[:4] == ["background", "style", "count", "relation"]
    assert result.share("background").tolist() == [0, 1, 1, 1]
    assert result.right["color1"].tolist() == [[False] * 2, [True] * 2, [False] * 2, [True] * 2]
    assert result.right["relation"].shape == (4, 1)  # one scene has none
    assert result.readable_from("background").tolist() == [501, 501]
    assert result.median("color1") == 1 and result.median("style") == 251
    assert result.median("relation") is None and result.median("all") == 1  # of ONE, so of half
    assert result.readable_from("relation").tolist() == [-1]


def test_readability_reads_the_estimates_of_x0(vd):
    """The same pictures as sampling by hand gives, at every second step and at the last."""
    looked = []

    class Looking(SlowJudge):
        def read(self, images):
            looked.append(np.asarray(images[0]))
            return super().read(images)

    attribute_readability(vd, Looking([ONE]), [ONE], steps=4, seed=3, scale=2.0, every=2)
    context = vd.text_context([canonical_caption(ONE)])
    x = SampleNoise([3]).normal(vd.latent_shape("image"))
    eps = vd.guided([(context, 1.0)], "image", 2.0)
    expected = [vd.decode_image(s.x0) for s in ddim(eps, x, vd.schedule, [1, 251, 501, 751])]
    assert len(looked) == 3
    for image, pixels in zip(looked, [expected[i] for i in (0, 2, 3)], strict=True):
        assert np.abs(image / 255 - pixels[0].permute(1, 2, 0).numpy()).max() < 0.003


def test_readability_batches_are_joined(vd):
    alone = SlowJudge([ONE])
    result = attribute_readability(vd, alone, [ONE, ONE, ONE], steps=2, batch_size=1)
    assert alone.looks == 6
    assert result.right["background"].T.tolist() == [[False, True], [True, True], [True, True]]
    for bad in ({"scenes": []}, {"scenes": [ONE], "every": 0}, {"scenes": [ONE], "steps": 0}):
        with pytest.raises(ValueError, match=r"at least one|steps"):
            attribute_readability(vd, alone, **bad)


def test_median_is_when_half_are_readable_for_good():
    right = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]).bool()
    result = Readability([900, 600, 300, 1], {"style": right}, 1000)
    assert result.readable_from("style").tolist() == [300, 600, 1, -1]
    assert result.median("style") == 300


def test_readability_figure():
    right = {
        name: torch.rand(4, 5, generator=torch.Generator().manual_seed(i)) < 0.5
        for i, name in enumerate(("background", "all", "color1", "color2"))
    }
    result = Readability([900, 600, 300, 1], right, 1000)
    left, things = plots.readability_over_time(result).axes
    assert labelled(left) and labelled(things)
    for axes, names in ((left, ("background", "all")), (things, ("color1", "color2"))):
        for line, name in zip(axes.get_lines(), names, strict=True):
            assert np.allclose(line.get_ydata(), result.share(name))
    one, two = things.get_lines()
    assert one.get_color() == two.get_color() and one.get_linestyle() != two.get_linestyle()


def test_steps_of_one_sample_have_no_band():
    steps = [Step(0, 900, *torch.ones(3, 1, 4)), Step(1, 1, *torch.zeros(3, 1, 4))]
    (axes,) = plots.latent_norms(steps).axes
    assert not axes.collections and list(axes.get_lines()[0].get_ydata()) == [1, 0]
