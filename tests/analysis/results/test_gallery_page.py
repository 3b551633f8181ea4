"""The page of results in a real browser, with real keys.

It is judged from outside: what Chromium shows, what is focused, what the address says, which files
it asked for. Where there is no Chromium, the tests are skipped and say so, but in CI they fail.
"""

import hashlib
import io
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from analysis.modes import MODES
from analysis.results.collection import collect
from analysis.results.gallery import write_gallery
from analysis.results.outputs import save
from analysis.results.result import Result
from tests.analysis.chromium import MISSING, Browser, chromium
from tests.analysis.result_folders import HOSTILE, NAMES, fill

# CI installs a browser (`.ci/run`), so there a missing one is a failure
pytestmark = pytest.mark.skipif(chromium() is None and "CI" not in os.environ, reason=MISSING)

FOCUSED = "document.activeElement.dataset.id"
CARDS = "[...document.querySelectorAll('#list .card')].map(c => c.dataset.id)"
PICKED = "[...document.querySelectorAll('[aria-selected=true]')].map(c => c.dataset.id)"


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def out(tmp_path):
    return fill(tmp_path / "results & more")


@pytest.fixture
def page(browser, out):
    """Opens the page of `out`; nothing goes wrong on it, and it asks for nothing elsewhere."""
    address = write_gallery(out, order=[*MODES])[0].as_uri()

    def show(state: str = "", **how) -> Browser:
        browser.open(address + state, **how)
        return browser

    yield show
    assert browser.errors == []
    assert all(a.startswith(("file://", "data:", "about:")) for a in browser.asked), browser.asked


def opened(browser: Browser, dialog: str) -> bool:
    return browser.js(f"document.getElementById('{dialog}').open")


def table(browser: Browser, part: str) -> dict[str, list[str]]:
    """Rows of a part of the table of settings."""
    rows = f"document.querySelectorAll('[data-part=\"{part}\"] tr')"
    cells = "[...r.querySelectorAll('td')].map(c => c.textContent)"
    return browser.js(f"Object.fromEntries([...{rows}].map(r => [r.dataset.key, {cells}]))")


def test_all_results_are_shown_and_all_pictures_load(page, out):
    browser = page()
    assert sorted(browser.js(CARDS)) == sorted(one.name for one in collect(out).results)
    browser.wait("[...document.querySelectorAll('#list img')].every(i => i.complete)")
    sides = "[...document.querySelectorAll('#list img')].map(i => i.naturalWidth)"
    assert sorted(browser.js(sides)) == [8, 8, 8, 8, 600]
    assert browser.js("document.title") == "Results in results & more"
    assert (
        browser.js("getComputedStyle(document.querySelector('img.small')).imageRendering")
        == "pixelated"
    )
    link = "document.querySelector('#reports td a')"
    assert browser.js(f"[{link}.textContent, {link}.getAttribute('href')]") == [
        "run <1>", "evaluation/run%201/report.md"]  # fmt: skip


def test_hostile_texts_are_shown_as_they_are_and_do_nothing(page):
    browser = page("#view=t2i/0004_script-script-windowstruck-1-script_seed99.png")
    title = browser.js("document.querySelector('#sight .what')?.textContent ?? ''")
    if not title:  # the name is the slug's business: find it by its seed
        browser = page("#q=seed%3D99")
        browser.press("ArrowRight", "Enter")
        title = browser.js("document.querySelector('#sight .what').textContent")
    assert title == HOSTILE
    assert browser.js("document.querySelectorAll('img[onerror], main script').length") == 0
    assert browser.js("window.struck") is None


def test_keys_walk_pick_and_compare(page):
    browser = page("#is.mode=%22t2i%22")
    cards = browser.js(CARDS)
    browser.press("ArrowRight")
    assert browser.js(FOCUSED) == cards[0]
    browser.press(" ", "ArrowRight", "ArrowRight", " ")
    assert browser.js(FOCUSED) == cards[2]
    assert browser.js(PICKED) == [cards[0], cards[2]]
    assert browser.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.press("c")
    assert opened(browser, "look")
    assert table(browser, "Settings that differ") == {
        "steps": ["50", "12"],
        "model.name": ["–", "x"],
        "model.weights.u": ["–", "0a"],
    }
    alike = table(browser, "Settings alike")
    assert alike["seed"] == ["20", "20"]
    assert alike["prompt"] == ["a red ring", "a red ring"]
    other = "[...document.querySelectorAll('td.other')].map(c => c.textContent)"
    assert browser.js(other) == ["12", "x", "0a"]
    browser.press("Escape")
    browser.wait(f"{FOCUSED} === {json.dumps(cards[2])}")
    assert not opened(browser, "look")
    browser.press("x")
    assert browser.js(PICKED) == []
    assert browser.js("document.getElementById('tray').hidden")


def test_arrows_go_by_rows_and_columns(page):
    browser = page("#group=", width=900)
    tops = "[...document.querySelectorAll('.card')].map(c => [c.offsetLeft, c.offsetTop])"
    places = browser.js(tops)
    cards = browser.js(CARDS)
    columns = sum(top == places[0][1] for _, top in places)
    assert 1 < columns < len(cards)
    browser.press("Home", "ArrowRight", "ArrowDown")
    assert browser.js(FOCUSED) == cards[1 + columns]
    browser.press("ArrowUp", "ArrowLeft", "ArrowLeft")
    assert browser.js(FOCUSED) == cards[0]
    browser.press("End")
    assert browser.js(FOCUSED) == cards[-1]
    assert browser.js("document.querySelectorAll('.card[tabindex=\"0\"]').length") == 1


def test_a_closer_look_walks_zooms_and_closes(page):
    browser = page("#is.mode=%22t2i%22")
    cards = browser.js(CARDS)
    browser.press("ArrowRight", "Enter")
    size = "[...document.querySelectorAll('.frame img')].map(i => [i.width, i.naturalWidth])[0]"
    browser.wait("document.querySelector('.frame img').complete")
    width, natural = browser.js(size)
    assert width > natural == 8
    assert width % natural == 0  # every pixel a square of the same size
    browser.press("1")
    assert browser.js(size) == [8, 8]
    browser.press("+", "+")
    assert browser.js(size) == [24, 8]
    assert (
        browser.js("getComputedStyle(document.querySelector('.frame img')).imageRendering")
        == "pixelated"
    )
    browser.press("ArrowRight", " ")
    assert browser.js("location.hash").count("zoom=3") == 1
    assert table(browser, "Settings")["seed"] == ["21"]
    browser.press("Escape")
    browser.wait(f"{FOCUSED} === {json.dumps(cards[1])}")  # a dialog tells later that it closed
    assert browser.js(PICKED) == [cards[1]]


def test_filters_by_words_settings_and_boxes(page):
    browser = page()
    browser.press("/")
    assert browser.js("document.activeElement.id") == "query"
    browser.type('"red ring" steps<20')
    assert browser.js(CARDS) == ["t2i/0003_a-red-ring_seed20.png"]
    assert browser.js("document.getElementById('status').textContent") == "1 of 7 results"
    browser.press("Escape")
    assert browser.js(FOCUSED) == "t2i/0003_a-red-ring_seed20.png"
    browser.click("#clear")
    assert len(browser.js(CARDS)) == 7
    browser.click("[data-key] label:nth-of-type(2) input")  # the second mode: i2t
    assert browser.js(CARDS) == ["i2t/0001_heart_seed1.txt", "i2t/0002_heart_seed2.txt"]
    browser.press("/")
    browser.type("star")
    assert browser.js(CARDS) == ["i2t/0002_heart_seed2.txt"]
    browser.type(" nowhere")
    assert browser.js(CARDS) == []
    assert "No result" in browser.js("document.getElementById('empty').textContent")


def test_groups_and_order(page):
    titles = "[...document.querySelectorAll('.group h2')].map(h => h.firstChild.textContent)"
    browser = page("#group=seed&is.mode=%22t2i%22")
    assert browser.js(titles) == ["seed 20", "seed 21", "seed 99", "seed –"]
    browser = page("#group=title&q=heart")
    assert browser.js(titles) == ["heart"]


def made_from(mode: str, path: Path, seeds: tuple[int, ...], **settings) -> Result:
    """Results of a mode, made from a picture file."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    about = {"input": {"file": path.name, "sha256": digest}}
    samples = [about | {"seed": seed} for seed in seeds]
    images = [Image.new("RGB", (8, 8), (20 * seed, 0, 0)) for seed in seeds]
    return Result(mode, {"mode": mode, **settings, "samples": samples}, images)


def test_inputs_stand_beside_results(browser, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    (photos / "below").mkdir(parents=True)
    pixels = photos / "below" / "pixels é.png"
    Image.new("RGB", (8, 4), "red").save(pixels)
    large = photos / "large.jpg"
    Image.new("RGB", (900, 600), "blue").save(large)
    save(made_from("i2i", pixels, (1,)), out)
    (result,) = save(made_from("i2i", large, (2,)), out)
    save(made_from("i2i", result, (3,)), out)  # a result that was an input in turn
    Image.new("RGB", (8, 4), "green").save(photos / "gone.png")
    save(made_from("i2i", photos / "gone.png", (4,)), out)
    Image.new("RGB", (8, 4), "white").save(photos / "gone.png")  # the name is not what counts
    browser.open(write_gallery(out, [photos])[0].as_uri())
    browser.wait("[...document.querySelectorAll('#list img')].every(i => i.complete)")
    own = "[...c.querySelectorAll('.inputs img')].map(i => [i.alt, i.naturalWidth])"
    assert browser.js(f"[...document.querySelectorAll('.card')].map(c => {own})") == [
        [["Input: pixels é.png", 8]],
        [["Input: large.jpg", 256]],
        [[f"Input: {result.name}", 8]],
        [],
    ]
    colour = (
        "(() => { const c = document.createElement('canvas'); const p = c.getContext('2d');"
        "p.drawImage(document.querySelector('.inputs img'), 0, 0);"
        "return [...p.getImageData(1, 1, 1, 1).data]; })()"
    )
    assert browser.js(colour) == [255, 0, 0, 255]
    browser.press("ArrowRight", "Enter")
    assert browser.js("document.querySelector('.from').textContent") == "made from pixels é.png"
    assert browser.js("document.querySelectorAll('img:not([alt]), img[alt=\"\"]').length") == 0
    assert browser.errors == []


def test_captions_tell_neighbours_apart_and_modes_have_their_order(browser, tmp_path):
    picture = tmp_path / "heart.png"
    Image.new("RGB", (8, 4), "red").save(picture)
    for mode in ("interpolate", "i2i", "dual", "odd", "t2i"):
        save(made_from(mode, picture, (1,)), tmp_path / "out")
    usual = {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}
    save(made_from("i2i", picture, (1, 2), **usual), tmp_path / "out")
    save(made_from("i2i", picture, (2,), **usual | {"e": 2}), tmp_path / "out")
    save(made_from("i2i", picture, (2,), **usual | {"e": 2}), tmp_path / "out")
    browser.open(write_gallery(tmp_path / "out", order=["t2i", "i2i", "dual"])[0].as_uri())
    titles = "[...document.querySelectorAll('.group h2')].map(h => h.firstChild.textContent)"
    assert browser.js(titles) == ["t2i", "i2i", "dual", "interpolate", "odd"]
    group = "document.querySelectorAll('.group')[1]"
    captions = browser.js(f"[...{group}.querySelectorAll('.meta')].map(m => m.textContent)")
    captions = [caption.replace("\u00a0", " ").split(" \u00b7 ") for caption in captions]
    assert captions == [
        ["seed 1"],
        ["seed 1", "e 1"],
        ["seed 2", "e 1"],
        ["seed 2", "e 2"],
        ["seed 2", "e 2", "no. 5"],  # made twice: nothing else tells them apart
    ]
    assert browser.errors == []


def test_the_address_brings_a_view_back(page):
    picks = "&".join(f"pick=i2t/000{k}_heart_seed{k}.txt" for k in (2, 1))
    browser = page(f"#{picks}&view=compare&q=nothing")
    assert opened(browser, "look")
    assert table(browser, "Settings that differ") == {"seed": ["2", "1"]}
    assert browser.js("[...document.querySelectorAll('.saying')].map(c => c.textContent)") == [
        "a black star on white", "a black heart on cream"]  # fmt: skip
    marks = "[...document.querySelectorAll('.saying mark')].map(c => c.textContent)"
    assert browser.js(marks) == ["heart", "cream"]
    browser.click("thead th:nth-child(3) button")  # compare to the other one
    assert browser.js(marks) == ["star", "white"]
    before = browser.js("location.hash")
    page(before)
    assert table(browser, "Settings that differ") == {"seed": ["1", "2"]}


def test_light_dark_help_and_roles(page):
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page().js(paper)
    dark = page(dark=True).js(paper)
    assert light != dark
    browser = page()
    browser.press("t", "t")
    assert browser.js(paper) == dark
    assert browser.js("document.getElementById('theme').textContent") == "Dark"
    browser.press("t", "?")
    assert opened(browser, "help")
    browser.press("Escape")
    assert not opened(browser, "help")
    named = "e.ariaLabel || e.textContent.trim() || e.labels?.length || e.ariaLabelledByElements"
    controls = (
        "[...document.querySelectorAll('button, input, select, [role=option], [role=group]')]"
    )
    nameless = f"{controls}.filter(e => e.checkVisibility() && !({named}))"
    for state in ("", "#view=t2i/" + NAMES[0]):
        assert page(state).js(f"{controls}.length") > 20
        assert browser.js(f"{nameless}.map(e => e.outerHTML)") == []


@pytest.mark.parametrize("state", ["", "#view=compare&pick=t2i/" + "&pick=t2i/".join(NAMES)])
@pytest.mark.parametrize("width", [360, 1920])
def test_nothing_sticks_out_of_the_window(page, state, width):
    browser = page(state, width=width, height=800)
    assert browser.js("document.documentElement.scrollWidth") <= width
    assert opened(browser, "look") == bool(state)
    shot = Image.open(io.BytesIO(browser.screenshot()))
    assert len(shot.convert("RGB").getcolors(1 << 24)) > 20


def test_a_thousand_results(browser, tmp_path):
    (tmp_path / "t2i").mkdir()
    picture = Image.new("RGB", (8, 8))
    picture.save(tmp_path / "one.png")
    for k in range(1000):
        path = tmp_path / "t2i" / f"{k + 1:04d}_p_seed{k}.png"
        os.link(tmp_path / "one.png", path)
        record = {"mode": "t2i", "prompt": f"p {k // 4}", "seed": k, "steps": k % 3}
        path.with_suffix(".json").write_text(json.dumps(record))
    (tmp_path / "one.png").unlink()
    browser.open(write_gallery(tmp_path)[0].as_uri())
    assert browser.js("document.querySelectorAll('*').length") < 3000
    assert len(browser.js(CARDS)) < 200
    browser.press("ArrowRight", "n")
    assert browser.js("document.getElementById('where').textContent") == "page 2 of 9"
    assert browser.js(FOCUSED) == "t2i/0121_p_seed120.png"
    browser.press("/")
    browser.type("seed>990")
    assert len(browser.js(CARDS)) == 9
    assert browser.errors == []


def test_an_empty_folder_has_a_page(browser, tmp_path):
    browser.open(write_gallery(tmp_path)[0].as_uri())
    assert "no results yet" in browser.js("document.getElementById('empty').textContent")
    browser.press("ArrowRight", "Enter", "c", "n")
    assert browser.errors == []
