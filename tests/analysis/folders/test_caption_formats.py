"""Captions in the formats that people train on, read back by other means."""

import csv
import hashlib
import io
import json
import os
import tarfile
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from analysis.folders.caption import caption_folder, first_seed
from analysis.folders.caption_formats import Candidate, sample_key, sidecar_names
from tests.analysis.photo_folders import few_photos, run_batches, texts
from tests.conftest import drawing

HOW = {"steps": 2, "n": 3, "progress": False}


@pytest.fixture
def photos(tmp_path):
    return few_photos(tmp_path / "photos")


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def test_sidecars_mirror_the_folder(vd, photos, tmp_path, monkeypatch):
    sizes = run_batches(monkeypatch)
    done = caption_folder(vd, photos, tmp_path / "out", **HOW, batch_size=6)
    written = texts(tmp_path / "out")
    assert list(written) == ["0.txt", "1.txt", "2.txt", "3.txt", "copy.txt", "sub/4.txt"]
    assert written == {
        Path(r.name).with_suffix(".txt").as_posix(): f"{r.text}\n" for r in done.rows
    }
    assert sum(sizes) == 5  # the copy costs nothing
    assert done.rows[0].candidates == done.rows[4].candidates
    assert list(done.broken) == ["bad.png"]
    assert done.broken["bad.png"].startswith("is not a picture")
    seed = first_seed(0, done.rows[1].sha256)
    assert sorted(c.seed for c in done.rows[1].candidates) == [seed, seed + 1, seed + 2]
    record = json.loads((tmp_path / "out" / "captions.json").read_text())
    assert record == done.record
    assert record["model"]["name"] == "tiny"
    assert {"clip_vision", "text_data"} <= set(record["model"]["weights"])
    assert (record["seed"], record["n"], record["steps"], record["pictures"]) == (0, 3, 2, 6)
    assert str(tmp_path) not in json.dumps(record)


def test_pictures_that_differ_only_in_their_ending_get_two_sidecars(vd, photos, tmp_path):
    drawing(9).save(photos / "1.bmp")
    caption_folder(vd, photos, tmp_path / "out", **HOW)
    assert {"1.bmp.txt", "1.png.txt", "2.txt"} <= set(texts(tmp_path / "out"))
    assert "1.txt" not in texts(tmp_path / "out")


def test_every_picture_has_a_sidecar_of_its_own():
    names = ["a.png", "x.png", "x.jpg", "x.png.png", "Y.png", "y.jpg", "e\u0301.png", "\xe9.jpg"]
    files = sidecar_names(names)
    assert files["a.png"] == "a.txt" and files["x.png.png"] == "x.png.png.txt"
    assert [files[name] for name in names[1:3]] == ["x.png.txt", "x.jpg.txt"]
    folded = {unicodedata.normalize("NFC", file).casefold() for file in files.values()}
    assert len(folded) == len(names), "also where X is x, and accents are spelt in two ways"


@pytest.mark.parametrize("form", ["sidecar", "jsonl", "csv", "webdataset"])
def test_any_bytes_may_name_a_file(vd, photos, tmp_path, form):
    name = os.fsdecode(b"\xff \n,.png")
    os.rename(photos / "1.png", photos / name)
    out = tmp_path / "out"
    caption_folder(vd, photos, out, form=form, **HOW)
    done = caption_folder(vd, photos, out, form=form, **HOW)
    assert (done.new, done.rows[-2].name) == (0, "sub/4.jpg")
    assert done.rows[-1].name == name
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO((out / "metadata.csv").read_bytes().decode())))
        assert rows[-1]["file_name"] == "\\udcff \n,.png"


def test_jsonl_and_csv_say_the_same(vd, photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    done = caption_folder(vd, photos, out, form="jsonl", **HOW)
    sizes = run_batches(monkeypatch)
    assert caption_folder(vd, photos, out, form="csv", **HOW).new == 0
    assert sizes == []  # another format costs no generation
    lines = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    rows = list(csv.DictReader(io.StringIO((out / "metadata.csv").read_text())))
    assert [line["file_name"] for line in lines] == [row.name for row in done.rows]
    for line, row, made in zip(lines, rows, done.rows, strict=True):
        assert line["candidates"][0] == {k: line[k] for k in ("text", "score", "seed")}
        assert [Candidate(**one) for one in line["candidates"]] == list(made.candidates)
        assert list(row) == ["file_name", "text", "score", "seed"]
        assert row == {key: str(line[key]) for key in row}


def test_shards_are_those_of_img2dataset(vd, photos, tmp_path):
    out = tmp_path / "out"
    drawing(8).save(photos / "z.bmp")
    done = caption_folder(vd, photos, out, form="webdataset", shard_size=3, **HOW)
    shards = sorted(out.glob("*.tar"))
    assert [path.name for path in shards] == ["00000.tar", "00001.tar", "00002.tar"]
    found = [members(path) for path in shards]
    keys = ["000000", "000001", "000002", "000010", "000011", "000012", "000020"]
    endings = ["png"] * 5 + ["jpg", "png"]
    expected = [f"{k}.{e}" for k, first in zip(keys, endings, strict=True)
                for e in (first, "txt", "json")]  # fmt: skip
    assert [name for shard in found for name in shard] == expected
    every = {name: data for shard in found for name, data in shard.items()}
    for key, ending, row in zip(keys, endings, done.rows, strict=True):
        about = json.loads(every[f"{key}.json"])
        data = every[f"{key}.{ending}"]
        assert every[f"{key}.txt"].decode() == about["caption"] == row.text
        assert (about["key"], about["url"], about["status"]) == (key, row.name, "success")
        assert about["sha256"] == hashlib.sha256((photos / row.name).read_bytes()).hexdigest()
        assert about["candidates"][0]["score"] == about["score"] == row.candidates[0].score
        with Image.open(io.BytesIO(data)) as image, Image.open(photos / row.name) as given:
            assert (about["width"], about["height"]) == given.size
            assert image.convert("RGB").tobytes() == given.convert("RGB").tobytes()
        if not row.name.endswith("bmp"):
            assert data == (photos / row.name).read_bytes()


def test_a_shard_is_written_again_only_if_it_holds_something_else(vd, photos, tmp_path):
    out, how = tmp_path / "out", {"form": "webdataset", "shard_size": 2, **HOW}
    caption_folder(vd, photos, out, **how)
    inodes = [path.stat().st_ino for path in sorted(out.glob("*.tar"))]
    drawing(9).save(photos / "2.png")
    (photos / "sub" / "4.jpg").unlink()
    (photos / "copy.png").unlink()
    caption_folder(vd, photos, out, **how)
    now = [path.stat().st_ino for path in sorted(out.glob("*.tar"))]
    assert len(inodes) == 3
    assert len(now) == 2  # the third was ours and is left from before
    assert now[0] == inodes[0]
    assert members(out / "00001.tar")["000010.png"] == (photos / "2.png").read_bytes()


@pytest.mark.parametrize(("size", "key"), [(1, "000030"), (10, "000030"), (11, "0000300"),
                                           (1000, "00003000")])  # fmt: skip
def test_keys_are_unique_over_shards(size, key):
    assert sample_key(3, 0, size) == key
    names = {sample_key(shard, i, size) for shard in range(3) for i in range(size)}
    assert len(names) == 3 * size
