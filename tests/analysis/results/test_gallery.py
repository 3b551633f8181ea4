"""The page of results: what it holds, whatever lies in the folder."""

import argparse
import errno
import io
import json
import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from analysis import __main__ as cli
from analysis.results.collection import collect, flat
from analysis.results.gallery import embedded, packed, run, url, write_gallery
from analysis.results.outputs import save
from tests.analysis.result_folders import HOSTILE, NAMES, ODD, fill, pictures


@pytest.fixture
def out(tmp_path):
    return fill(tmp_path / "results & more")


def data_of(page: Path) -> dict:
    """What a browser would read: the content of the data block up to the first end tag."""
    block = re.search(r'<script id="data".*?>(.*?)</script', page.read_text("utf-8"), re.DOTALL)
    return json.loads(block[1])


def test_records_are_flat():
    record = {
        "mode": "blend",
        "scale": 3.0,
        "eta": 0.25,
        "on": True,
        "interval": None,
        "model": {"name": "x", "weights": {}},
        "blended": [{"file": "a", "weight": 1.0}, {"file": "b"}],
        "flows": ["t2i", 2.0],
        "empty": [],
        "seed": 2**60,
        "bad": float("nan"),
    }
    assert flat(record) == {
        "mode": "blend",
        "scale": 3,
        "eta": 0.25,
        "on": True,
        "interval": None,
        "model.name": "x",
        "model.weights": "none",
        "blended.1.file": "a",
        "blended.1.weight": 1,
        "blended.2.file": "b",
        "flows": "t2i, 2",
        "empty": "none",
        "seed": str(2**60),  # beyond what JavaScript counts exactly
        "bad": "nan",
    }
    assert type(flat(record)["scale"]) is int


@pytest.mark.parametrize("text", [HOSTILE, "\ud800", "<!--<script>", "{{data}}"])
def test_embedded_data_cannot_leave_its_block(text):
    block = embedded({text: [text]})
    assert not set("<>&\n\u2028\u2029") & set(block)
    assert block.isascii()
    assert json.loads(block) == {text: [text]}


@pytest.mark.parametrize("name", [ODD, "a b/c:d\\e.png", "日本/🎉.png", "\udcff\udc80.png"])
def test_urls_lead_to_the_file_whatever_its_name(name):
    quoted = url(name)
    assert re.fullmatch(r"(?:[\w.~/-]|%[0-9A-F]{2})+", quoted, re.ASCII)
    assert unquote_to_bytes(quoted) == os.fsencode(name)


def test_everything_is_there_once(out):
    page, found = write_gallery(out)
    assert page == out / "index.html"
    names = sorted(one.name for one in found.results)
    expected = [path for path in out.glob("*/*") if path.suffix in (".png", ".txt")]
    assert names == sorted(path.relative_to(out).as_posix() for path in expected)
    assert len(names) == 7
    assert found.problems == []
    data = data_of(page)
    assert [one["id"] for one in data["results"]] == [one.name for one in found.results]
    for one, held in zip(found.results, data["results"], strict=True):
        pairs = zip(held["record"][::2], held["record"][1::2], strict=True)
        assert {data["keys"][k]: data["values"][v] for k, v in pairs} == one.settings
    by_name = {one.name: one for one in found.results}
    assert by_name[f"t2i/{NAMES[0]}"].settings["seed"] == 20
    assert by_name[f"t2i/{ODD}"].size == (600, 300)
    assert by_name["i2t/0001_heart_seed1.txt"].text == "a black heart on cream"
    assert [one.title for one in found.results].count(HOSTILE) == 1
    (report,) = data["reports"]
    assert report["run"] == "run <1>"
    assert (report["name"], report["json"]) == (
        "evaluation/run%201/report.md",
        "evaluation/run%201/report.json",
    )


def test_values_are_written_once_and_told_apart(tmp_path):
    for k, steps in enumerate((1, "1", True, 1.0)):
        save(pictures("a ring", (k,), steps=steps, model={"name": "long " * 99}), tmp_path)
    data = packed(collect(tmp_path))
    steps = data["keys"].index("steps")
    held = [dict(zip(r["record"][::2], r["record"][1::2], strict=True)) for r in data["results"]]
    first, text, true, whole = (one[steps] for one in held)
    assert first == whole
    assert len({first, text, true}) == 3
    assert json.dumps(data).count("long long") < 99 * 2


def test_damage_is_named_and_everything_else_is_shown(out):
    (out / "t2i" / NAMES[0]).with_suffix(".json").write_text("{", encoding="utf-8")
    (out / "t2i" / NAMES[1]).with_suffix(".json").unlink()
    (out / "i2t" / "0001_heart_seed1.json").write_text("[" * 100_000, encoding="utf-8")
    (out / "i2t" / "0002_heart_seed2.json").write_text("[]", encoding="utf-8")
    (out / "t2i" / "0009_broken_seed1.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (out / "t2i" / "0010_gone_seed1.json").write_text("{}", encoding="utf-8")
    (out / "t2i" / "other.json").write_text("not ours", encoding="utf-8")
    odd = {"mode": ["x"], "prompt": {"a": 1}, "input": "heart", "seed": None}
    (out / "t2i" / "0003_a-red-ring_seed20.json").write_text(json.dumps(odd), encoding="utf-8")
    (out / "evaluation" / "run 1" / "report.json").write_text("{}")
    page, found = write_gallery(out)
    told = "\n".join(found.problems)
    for name in (NAMES[0][:-4], "0001_heart", "0002_heart", "0009_broken", "0010_gone", "report"):
        assert name in told
    assert "other.json" not in told
    assert len(found.problems) == 6
    by_name = {one["id"]: one for one in data_of(page)["results"]}
    shown = {one.name: one for one in found.results}
    for name in NAMES:  # the record inside of the picture
        assert shown[f"t2i/{name}"].settings["prompt"] == "a red ring"
        assert "inside" in by_name[f"t2i/{name}"]["note"]
    text = shown["i2t/0001_heart_seed1.txt"]
    assert (text.text, text.settings["seed"]) == ("a black heart on cream\n", 1)
    assert shown["t2i/0003_a-red-ring_seed20.png"].settings["mode"] == "t2i"
    assert "t2i/0009_broken_seed1.png" not in shown
    assert not found.reports


def test_results_in_deeper_folders_say_where(tmp_path):
    save(pictures("a ring"), tmp_path / "picture")
    save(pictures("a ring"), tmp_path / ".hidden")
    found = collect(tmp_path)
    assert [one.settings["folder"] for one in found.results] == ["picture", "picture"]
    assert found.results[0].name.startswith("picture/t2i/0001_")


def test_other_files_are_listed_if_they_have_a_record(tmp_path):
    (tmp_path / "t2i").mkdir()
    for name in ("0001_a_seed1.safetensors", "0002_b_seed1.mp4", "0003_c_seed1.safetensors"):
        (tmp_path / "t2i" / name).touch()
    (tmp_path / "t2i" / "0001_a_seed1.json").write_text('{"mode": "t2i", "prompt": "a"}')
    found = collect(tmp_path)
    assert [(one.kind, one.title) for one in found.results] == [
        ("file", "a"),
        ("film", "0002_b_seed1"),
    ]
    assert not found.problems


def test_the_page_appears_whole_or_not_at_all(out, monkeypatch):
    before = write_gallery(out)[0].read_bytes()
    save(pictures("new"), out)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match=r"index.html could not be written \(No space.*free"):
            write_gallery(out)
    assert (out / "index.html").read_bytes() == before
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    assert write_gallery(out)[0].read_bytes() != before


def test_the_command(out, tmp_path, capsys):
    (out / "t2i" / NAMES[0]).with_suffix(".json").write_text("{", encoding="utf-8")
    assert cli.main(["gallery", "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert told.out == f"{out / 'index.html'}  7 results, 1 evaluation\n"
    assert told.err.startswith("warning: The record of")
    assert cli.main(["gallery", "--out", str(out), "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert cli.main(["gallery", "--out", str(tmp_path / "nowhere")]) == 2
    assert "There is no folder" in capsys.readouterr().err


def test_a_console_that_lacks_letters_does_not_stop_the_command(tmp_path, monkeypatch):
    out = fill(tmp_path / "łódź 日本")
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr("sys.stdout", console)
    run(argparse.Namespace(out=out, inputs=[], modes=(), quiet=True))
    console.flush()
    told = console.buffer.getvalue().decode("cp1252")
    assert "\\u0142ód\\u017a \\u65e5\\u672c" in told and told.endswith("7 results, 1 evaluation\n")


def test_a_picture_with_large_or_broken_texts_is_shown(tmp_path):
    (path,) = save(pictures("a ring", (1,)), tmp_path)
    texts = PngInfo()
    texts.add_text("workflow", "{}" * 2_000_000, zip=True)
    Image.new("RGB", (6, 4)).save(path.with_name("0002_large_seed2.png"), pnginfo=texts)
    shown = collect(tmp_path)
    assert [one.size for one in shown.results] == [(8, 8), (6, 4)]
    assert not shown.problems


def test_what_is_being_written_is_no_problem(tmp_path):
    save(pictures("a ring"), tmp_path)
    (tmp_path / "t2i" / "0009_new_seed1.json").write_text("{}")
    claim = tmp_path / "t2i" / ".0009.claim"
    claim.touch()
    assert not collect(tmp_path).problems
    claim.unlink()
    assert "0009_new_seed1.json is a record whose" in collect(tmp_path).problems[0]


def test_the_page_names_no_other_place(out):
    text = write_gallery(out)[0].read_text("utf-8")
    assert not re.search(r"https?:|//\w+\.\w|@import|\bfetch\(|XMLHttpRequest", text)
    assert text.isascii() or "\u2028" not in text
