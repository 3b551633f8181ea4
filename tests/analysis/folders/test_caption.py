"""Automatic captions on the tiny model: candidates, formats, interruptions, others' files."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from analysis.folders import reading
from analysis.folders.caption import caption, caption_folder, first_seed
from analysis.folders.caption_files import Ledger, Lines
from analysis.folders.encoders import own_clip
from analysis.modes import image_to_text
from data.decode import UnreadableFileError
from tests.analysis.photo_folders import few_photos, run_batches, texts
from tests.conftest import drawing

HOW = {"steps": 2, "n": 3, "progress": False}


@pytest.fixture
def photos(tmp_path):
    return few_photos(tmp_path / "photos")


def files(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}


# ---------------------------------------------------------------------- candidates


def test_candidates_are_those_of_image_to_text_ranked_by_clip(vd):
    images, seeds = [drawing(0), drawing(1, (9, 30))], [100, 7]
    made = caption(vd, images, seeds, n=3, steps=2)
    for image, seed, candidates in zip(images, seeds, made, strict=True):
        alone = image_to_text(vd, image, n=3, seed=seed, steps=2, progress=False).texts
        expected = {seed + k: " ".join(text.split()) for k, text in enumerate(alone)}
        assert {c.seed: c.text for c in candidates} == expected
        features = vd.image_features([image])
        for c in candidates:
            text = next(t for t in beginnings(c.text) if len(vd.tokenizers.clip(t).input_ids) <= 32)
            score = float(features[0] @ vd.text_features([text])[0])
            assert c.score == pytest.approx(score, abs=1e-4)
        order = [(bool(c.text), c.score) for c in candidates]
        assert order == sorted(order, reverse=True)


def beginnings(text: str) -> Iterator[str]:
    """A text, and shorter and shorter ones."""
    words = text.split()
    while words:
        yield " ".join(words)
        words = words[: len(words) * 3 // 4]
    yield ""


def test_empty_captions_come_last_and_long_ones_are_compared_cut(vd, monkeypatch):
    long = "large red circle " * 40
    given = iter(["", long, "a  star\n", "", "", ""])
    monkeypatch.setattr(
        vd.__class__, "decode_text", lambda *a, **k: [next(given) for _ in range(3)]
    )
    ((first, second, third), empty) = caption(vd, [drawing(0), drawing(1)], [0, 9], n=3, steps=1,
                                              batch_size=3)  # fmt: skip
    assert {first.text, second.text} == {long.strip(), "a star"}
    assert (third.text, third.seed) == ("", 0)
    assert [c.text for c in empty] == ["", "", ""]


def test_vectors_of_the_models_own_clip(vd):
    clip = own_clip(vd)
    images = [drawing(0), drawing(1)]
    assert torch.equal(clip.images(images), vd.image_features(images))
    long = " ".join(["red"] * 90)
    short = next(t for t in beginnings(long) if len(vd.tokenizers.clip(t).input_ids) <= 32)
    vectors = clip.texts(["a star", long, ""])
    assert torch.allclose(vectors, vd.text_features(["a star", short, ""]), atol=1e-5)
    assert clip.describe()["weights"].count("-") == 1 and clip.name == "tiny's own CLIP"


def test_seeds_depend_on_seed_and_content_alone():
    digest = hashlib.sha256(b"3 abc").hexdigest()
    assert first_seed(3, "abc") == int(digest, 16) % 2**32
    assert first_seed(4, "abc") != first_seed(3, "abc") != first_seed(3, "abd")


# ---------------------------------------------------------------------- going on


@pytest.mark.parametrize("form", ["sidecar", "jsonl", "csv", "webdataset"])
def test_interrupted_it_goes_on_to_the_same_result(vd, photos, tmp_path, monkeypatch, form):
    how = {"form": form, "batch_size": 6, "shard_size": 2, **HOW}
    caption_folder(vd, photos, tmp_path / "at once", **how)
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        run_batches(patch, stop_at=1)
        with pytest.raises(KeyboardInterrupt):
            caption_folder(vd, photos, out, **how)
    assert not (out / "captions.json").exists()
    if form == "sidecar":
        assert len(texts(out)) == 2
    if form == "jsonl":
        assert len((out / "metadata.jsonl").read_text().splitlines()) == 2
    if form == "webdataset":
        assert [p.name for p in out.glob("*.tar")] == ["00000.tar"]
    with (out / ".caption" / "journal.jsonl").open("a") as file:
        file.write('{"asked": "torn')
    sizes = run_batches(monkeypatch)
    assert caption_folder(vd, photos, out, **how).new == 4
    assert sum(sizes) == 3  # the copy again costs nothing
    results = [files(folder) for folder in (out, tmp_path / "at once")]
    for result in results:
        del result["captions.json"]
    assert results[0] == results[1]
    assert texts(out) == texts(tmp_path / "at once")
    assert not list(out.rglob("*.tmp"))


def test_an_interrupted_update_keeps_the_rows_of_before(vd, photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    caption_folder(vd, photos, out, form="jsonl", **HOW)
    drawing(30).save(photos / "00.png")
    with monkeypatch.context() as patch:
        run_batches(patch, stop_at=0)
        with pytest.raises(KeyboardInterrupt):
            caption_folder(vd, photos, out, form="jsonl", **HOW)
    assert len((out / "metadata.jsonl").read_text().splitlines()) == 6


def test_only_what_changed_is_captioned(vd, photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = caption_folder(vd, photos, out, form="jsonl", **HOW)
    sizes = run_batches(monkeypatch)
    assert caption_folder(vd, photos, out, form="jsonl", **HOW).rows == first.rows
    os.utime(photos / "1.png", ns=(1, 1))
    os.rename(photos / "2.png", photos / "moved.png")
    drawing(30).save(photos / "3.png")
    done = caption_folder(vd, photos, out, form="jsonl", **HOW)
    assert sizes == [1]
    assert [row.name for row in done.rows] == [
        "0.png", "1.png", "3.png", "copy.png", "moved.png", "sub/4.jpg",
    ]  # fmt: skip
    assert done.rows[4].candidates == first.rows[2].candidates
    assert replace(done.rows[1], mtime_ns=0) == replace(first.rows[1], mtime_ns=0)


def test_other_settings_replace_our_own_captions(vd, photos, tmp_path):
    out = tmp_path / "out"
    first = caption_folder(vd, photos, out, **HOW)
    done = caption_folder(vd, photos, out, **HOW, seed=1)
    assert done.new == 6
    assert texts(out) == {Path(r.name).with_suffix(".txt").as_posix(): f"{r.text}\n"
                          for r in done.rows}  # fmt: skip
    for options in ({"negative_prompt": "a ring"}, {"temperature": 0}, {"null": "black"}):
        assert caption_folder(vd, photos, out, **HOW, **options).new == 6, options
    again = caption_folder(vd, photos, out, **HOW)  # what was made before is still known
    assert (again.new, again.rows) == (0, first.rows)


# ---------------------------------------------------------------------- other people's files


def test_sidecars_of_others_are_left_alone_and_cost_nothing(vd, photos, monkeypatch):
    (photos / "1.txt").write_text("by hand")
    sizes = run_batches(monkeypatch)
    done = caption_folder(vd, photos, photos, **HOW)
    assert (done.kept, done.new, sum(sizes)) == (["1.png"], 5, 4)
    (photos / "2.txt").write_text("improved by hand")
    done = caption_folder(vd, photos, photos, **HOW, seed=1)
    assert done.kept == ["1.png", "2.png"]
    assert [(photos / name).read_text() for name in ("1.txt", "2.txt")] == [
        "by hand",
        "improved by hand",
    ]
    assert done.record["kept"] == ["1.png", "2.png"]
    done = caption_folder(vd, photos, photos, **HOW, again=True)
    assert (done.kept, done.new) == ([], 6)
    assert (photos / "1.txt").read_text() == f"{done.rows[1].text}\n"


@pytest.mark.parametrize(
    ("form", "name"),
    [("jsonl", "metadata.jsonl"), ("csv", "metadata.csv"), ("webdataset", "00007.tar"),
     ("sidecar", "captions.json")],
)  # fmt: skip
def test_files_of_others_are_found_before_the_work(vd, photos, tmp_path, monkeypatch, form, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("somebody's")
    sizes = run_batches(monkeypatch)
    with pytest.raises(ValueError, match=r"was not made by this command.*--again"):
        caption_folder(vd, photos, tmp_path / "out", form=form, **HOW)
    assert sizes == []
    assert (tmp_path / "out" / name).read_text() == "somebody's"


def test_a_ledger_knows_its_own_after_a_kill_at_any_moment(tmp_path, monkeypatch):
    (tmp_path / ".caption").mkdir()
    ledger = Ledger(tmp_path)
    assert ledger.place("a.txt", b"one")
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            ledger.place("a.txt", b"two")
    assert (tmp_path / "a.txt").read_bytes() == b"one"
    ledger = Ledger(tmp_path)
    assert not ledger.foreign("a.txt")
    assert ledger.place("a.txt", b"three")
    (tmp_path / "a.txt").write_bytes(b"edited")
    assert not ledger.place("a.txt", b"four")
    ledger.remove("a.txt")
    assert (tmp_path / "a.txt").read_bytes() == b"edited"
    assert Ledger(tmp_path, again=True).place("a.txt", b"four")


def test_lines_survive_a_torn_end_and_damage(tmp_path, caplog):
    path = tmp_path / "lines"
    noted = []
    Lines(path, noted.append).append([{"a": 1}, {"a": 2}])
    with path.open("ab") as file:
        file.write(b'no json\n{"a": 3')
    Lines(path, noted.append).append([{"a": 4}])
    noted.clear()
    Lines(path, noted.append)
    assert [row["a"] for row in noted] == [1, 2, 4]
    assert "damaged" in caplog.text


def test_captions_of_another_folder_are_not_mixed_in(vd, photos, tmp_path):
    out = tmp_path / "out"
    caption_folder(vd, photos / "sub", out, **HOW)
    with pytest.raises(ValueError, match=r"holds captions of .*sub: choose another"):
        caption_folder(vd, photos, out, **HOW)


# ---------------------------------------------------------------------- what goes wrong


def test_what_cannot_be_read_for_a_moment_is_tried_again(vd, photos, tmp_path, monkeypatch):
    out, real = tmp_path / "out", reading.read

    def away(path):
        if path.name == "1.png":
            raise UnreadableFileError(f"There is no file {path}: give the path of a picture.")
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(reading, "read", away)
        done = caption_folder(vd, photos, out, **HOW)
    assert (done.new, sorted(done.broken)) == (5, ["1.png", "bad.png"])
    assert done.broken["1.png"] == "There is no file 1.png: give the path of a picture"
    journal = (out / ".caption" / "journal.jsonl").read_text()
    assert "bad.png" in journal and '"1.png"' not in journal
    done = caption_folder(vd, photos, out, **HOW)
    assert (done.new, list(done.broken)) == (1, ["bad.png"])
    assert "1.txt" in texts(out)


def test_a_pipe_named_as_a_picture_stops_nothing(vd, photos, tmp_path):
    os.mkfifo(photos / "pipe.png")
    done = caption_folder(vd, photos, tmp_path / "out", **HOW)
    assert done.new == 6 and "no regular file" in done.broken["pipe.png"]


def test_one_caption_that_cannot_be_written_does_not_stop_the_others(
    vd, photos, tmp_path, monkeypatch
):
    out, real, number = tmp_path / "out", Ledger.place, errno.EACCES

    def refused(self, name, content, of=""):
        if name == "1.txt":
            raise OSError(number, os.strerror(number))
        return real(self, name, content, of)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "place", refused)
        done = caption_folder(vd, photos, out, **HOW)
        assert done.broken["1.png"] == "its caption could not be written (Permission denied)"
        assert len(texts(out)) == 5
        number = errno.ENOSPC
        with pytest.raises(OSError, match=r"out could not be written \(No space left"):
            caption_folder(vd, photos, out, **HOW)
    done = caption_folder(vd, photos, out, **HOW)
    assert (done.new, list(done.broken), len(texts(out))) == (0, ["bad.png"], 6)


def test_a_name_that_is_too_long_for_a_sidecar_stops_nothing(vd, photos, tmp_path):
    for ending in ("png", "jpg"):
        drawing(11).save(photos / f"{'n' * 251}.{ending}")
    done = caption_folder(vd, photos, tmp_path / "out", **HOW)
    assert len(texts(tmp_path / "out")) == 6
    assert {why for name, why in done.broken.items() if name.startswith("n")} == {
        "its caption could not be written (File name too long)"
    }


def test_journals_of_other_versions_are_passed_over(vd, photos, tmp_path, caplog):
    out = tmp_path / "out"
    first = caption_folder(vd, photos, out, **HOW)
    path = out / ".caption" / "journal.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row, change in zip(
        rows,
        ({"candidates": []}, {"candidates": [{"text": "a"}]}, {"size": None, "more": 1}),
        strict=False,
    ):
        row |= change
    lines = [json.dumps(row) for row in rows]
    lines += ["[" * 100_000 + "]" * 100_000, "7", "null", '{"asked": 3}', "{}"]
    path.write_text("\n".join(lines) + "\n")
    with (out / ".caption" / "made.jsonl").open("a") as file:
        file.write('{"sha256": "no name"}\n[]\n')
    again = caption_folder(vd, photos, out, **HOW)
    assert again.rows == first.rows and again.new == 3
    assert caplog.text.count("of another version") == 9


@pytest.mark.parametrize("name", ["journal.jsonl", "made.jsonl"])
def test_a_journal_that_is_no_file_is_one_sentence(vd, photos, tmp_path, name):
    """Who writes into a pipe waits for a reader; who writes into a device keeps nothing."""
    for out, put in (("a", os.mkfifo), ("b", lambda path: path.symlink_to("/dev/null"))):
        (tmp_path / out / ".caption").mkdir(parents=True)
        put(tmp_path / out / ".caption" / name)
        with pytest.raises(ValueError, match=f"{name} is no regular file: delete it"):
            caption_folder(vd, photos, tmp_path / out, **HOW)


def test_damaged_state_is_one_sentence(vd, photos, tmp_path):
    (tmp_path / "out" / ".caption").mkdir(parents=True)
    for content in ("{", "[]", '{"folder": 3}', "[" * 100_000):
        (tmp_path / "out" / ".caption" / "folder.json").write_text(content)
        with pytest.raises(ValueError, match=r"folder.json is damaged .*: delete it"):
            caption_folder(vd, photos, tmp_path / "out", **HOW)
