"""Captioned pictures are found in every format, and nothing is left out without being named."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from analysis.folders.caption_files import STATE, Ledger
from analysis.folders.caption_formats import FORMATS as WRITTEN
from analysis.folders.caption_formats import Candidate, Captioned, make_writer
from data.captioned import FORMATS, choose, open_entry, read_captioned
from data.folders import pictures_below
from tests.conftest import drawing


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    drawing(seed).save(buffer, "PNG")
    return buffer.getvalue()


def put(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def tar(path: Path, files: dict[str, bytes | str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def coco(names: list[str]) -> str:
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    captions = [(i, f"{k} of {name}") for i, name in enumerate(names) for k in ("one", "two")]
    annotations = [{"id": 9, "image_id": i, "caption": text} for i, text in captions]
    return json.dumps({"info": {}, "images": images, "annotations": annotations})


def img2dataset(key: str, text: str, seed: int) -> dict[str, bytes | str]:
    about = json.dumps({"key": key, "caption": text, "status": "success"})
    return {f"{key}.jpg": png(seed), f"{key}.txt": text, f"{key}.json": about}


def failed(key: str) -> dict[str, str]:
    about = {"status": "failed_to_download", "error_message": "HTTP Error 404", "caption": "gone"}
    return {f"{key}.txt": "gone", f"{key}.json": json.dumps(about)}


def captions(found) -> dict[str, tuple[str, ...]]:
    return {entry.name: entry.captions for entry in found.entries}


def reasons(found) -> dict[str, str]:
    return {item.name: item.why for item in found.skipped}


def same_picture(entry, seed: int) -> bool:
    return np.array_equal(np.asarray(open_entry(entry)), np.asarray(drawing(seed).convert("RGB")))


# ------------------------------------------------------------------ formats


def test_sidecars(tmp_path):
    files = {
        "a.png": png(0),
        "a.txt": "\ufeffa red  circle\n\nround and red\r\n",
        "b.png": png(1),
        "b.caption": "blue",
        "sub/c.png": png(2),
        "sub/c.png.txt": "green",
        "alone.png": png(3),
        "empty.png": png(4),
        "empty.txt": " \n",
        "latin.png": png(5),
        "latin.txt": b"caf\xe9",
        ".hidden.png": png(6),
    }
    found = read_captioned(put(tmp_path, files))
    assert found.format == "sidecar"
    assert captions(found) == {
        "a.png": ("a red circle", "round and red"),
        "b.png": ("blue",),
        "sub/c.png": ("green",),
    }
    assert set(reasons(found)) == {"alone.png", "empty.png", "latin.png"}
    assert reasons(found)["empty.png"] == "has no caption"
    assert all(same_picture(entry, seed) for seed, entry in enumerate(found.entries))


def test_metadata_of_hugging_face(tmp_path):
    lines = [
        {"file_name": "a.png", "text": "one"},
        {"file_name": "train/b.png", "caption": "two"},
        {"file_name": "a.png", "text": "again", "other": 1},
        {"file_name": "c.png", "captions": ["three", "", 4, "\ud800"]},
        {"text": "whose?"},
        {"file_name": "d.png"},
    ]
    text = "\n".join(map(json.dumps, lines)) + "\n\nnonsense\n[1]\n"
    files = {"metadata.jsonl": text, "a.png": png(0), "train/b.png": png(1), "c.png": png(2)}
    below = json.dumps({"file_name": "e.png", "text": "below"})
    put(tmp_path, files | {"test/metadata.jsonl": below, "test/e.png": png(3)})
    found = read_captioned(tmp_path)
    assert found.format == "jsonl"
    wanted = {"a.png": ("one", "again"), "train/b.png": ("two",), "c.png": ("three",)}
    assert captions(found) == wanted | {"test/e.png": ("below",)}
    lost = {f"metadata.jsonl, line {i}" for i in (5, 8, 9)}
    assert set(reasons(found)) == {"d.png"} | lost
    assert all(same_picture(entry, seed) for seed, entry in enumerate(found.entries))
    assert captions(read_captioned(tmp_path / "metadata.jsonl")) == wanted


def test_metadata_as_a_table(tmp_path):
    text = 'file_name,text,score\na.png,"red, and\nround",1\nb.png,,2\n'
    found = read_captioned(put(tmp_path, {"metadata.csv": text, "a.png": png(0), "b.png": png(1)}))
    assert (found.format, captions(found)) == ("csv", {"a.png": ("red, and round",)})
    assert reasons(found) == {"b.png": "has no caption"}


@pytest.mark.parametrize("name", ["captions.json", "annotations/captions_val2017.json"])
@pytest.mark.parametrize("below", ["", "val2017/"])
def test_coco_finds_the_folder_of_its_pictures(tmp_path, name, below):
    pictures = {f"{below}{i}.png": png(i) for i in range(2)}
    others = {"other/7.png": png(7), "annotations/instances_val2017.json": '{"images": []}'}
    put(tmp_path, {name: coco(["0.png", "1.png", "gone.png"])} | pictures | others)
    for found in (read_captioned(tmp_path), read_captioned(tmp_path / name)):
        assert found.format == "coco"
        assert captions(found)["1.png"] == ("one of 1.png", "two of 1.png")
        assert same_picture(found.entries[0], 0) and same_picture(found.entries[1], 1)
        chosen = choose(found, 3, 0, progress=False)
        assert len(chosen.entries) == 2
        assert "cannot be read" in reasons(chosen)["gone.png"]


def test_coco_names_what_does_not_fit(tmp_path):
    data = json.loads(coco(["0.png", "1.png"]))
    data["images"] += [{"id": 5}, {"id": 6, "file_name": "6.png"}, "nonsense"]
    data["annotations"] += [{"image_id": 77, "caption": "x"}, {"caption": "y"}, 3]
    found = read_captioned(put(tmp_path, {"c.json": json.dumps(data), "0.png": png(0)}))
    assert set(captions(found)) == {"0.png", "1.png"}
    lost = {"image 2", "6.png", "image 4", "image_id 77", "annotation 5", "annotation 6"}
    assert set(reasons(found)) == lost


def test_shards_of_img2dataset(tmp_path):
    first = img2dataset("000000000", "a cat", 0) | failed("000000001")
    first |= {"000000002.png": png(2), "000000002.json": json.dumps({"caption": "of its json"})}
    first |= {"000000003.jpg": png(3)}
    tar(tmp_path / "00000.tar", first)
    tar(tmp_path / "00001.tar", img2dataset("sub/000010000", "a dog\nin two lines", 4))
    put(tmp_path, {"00000_stats.json": "{}", "00000.parquet": b"PAR1", ".x.tar": b"no"})
    found = read_captioned(tmp_path)
    assert found.format == "webdataset"
    assert captions(found) == {
        "00000.tar/000000000.jpg": ("a cat",),
        "00000.tar/000000002.png": ("of its json",),
        "00001.tar/sub/000010000.jpg": ("a dog", "in two lines"),
    }
    assert reasons(found) == {
        "00000.tar/000000001": "has no picture (failed_to_download, HTTP Error 404)",
        "00000.tar/000000003.jpg": "has no caption",
    }
    assert all(same_picture(e, seed) for e, seed in zip(found.entries, (0, 2, 4), strict=True))
    assert len(read_captioned(tmp_path / "00001.tar").entries) == 1


def test_a_shard_that_was_cut_is_read_up_to_there_and_named(tmp_path):
    samples = img2dataset("000", "a", 0) | img2dataset("001", "b", 1)
    whole = tar(tmp_path / "0.tar", samples).read_bytes()
    with tarfile.open(tmp_path / "0.tar") as archive:
        place = archive.getmember("001.txt")
    # within a picture's bytes, between two members, and within a member's header
    for cut in (place.offset - 700, place.offset, place.offset + 100):
        (tmp_path / "0.tar").write_bytes(whole[:cut])
        found = read_captioned(tmp_path)
        assert captions(found) == {"0.tar/000.jpg": ("a",)}
        assert "0.tar" in reasons(found), cut
    tar(tmp_path / "1.tar", img2dataset("002", "c", 2))
    (tmp_path / "0.tar").write_bytes(b"")
    found = read_captioned(tmp_path)
    assert captions(found) == {"1.tar/002.jpg": ("c",)} and "0.tar" in reasons(found)


@pytest.mark.parametrize("kind", WRITTEN)
def test_what_captioning_writes_is_read(tmp_path, kind):
    folder = put(tmp_path / "photos", {"a.png": png(0), "sub/b.png": png(1)})
    (folder / STATE).mkdir()
    ledger, files = Ledger(folder), pictures_below(folder)
    writer = make_writer(kind, ledger, folder, [file.name for file in files], shard_size=1)
    for file in files:
        digest = hashlib.sha256(file.below(folder).read_bytes()).hexdigest()
        texts = (Candidate(f"this is {file.name}", 0.5, 1),)
        writer.add([Captioned(file.name, file.size, file.mtime_ns, digest, texts)])
    writer.finish()
    back = read_captioned(folder)
    assert back.format == kind and not back.skipped
    assert [e.captions for e in back.entries] == [("this is a.png",), ("this is sub/b.png",)]
    assert same_picture(back.entries[1], 1)


# ------------------------------------------------------------------ choice


def numbered(folder: Path, count: int, broken: tuple[int, ...] = ()) -> Path:
    for i in range(count):
        data = b"no picture" if i in broken else png(i)
        put(folder, {f"{i}.png": data, f"{i}.txt": f"number {i}"})
    return folder


def test_broken_pictures_are_named_and_replaced(tmp_path, caplog):
    found = read_captioned(numbered(tmp_path, 8, broken=(2, 5)))
    assert len(found.entries) == 8, "nothing is opened yet"
    chosen = choose(found, 8, 3, progress=False)
    assert {e.name for e in chosen.entries} == {f"{i}.png" for i in (0, 1, 3, 4, 6, 7)}
    assert set(reasons(chosen)) == {"2.png", "5.png"} and "2.png" in caplog.text
    assert len(choose(found, 5, 3, progress=False).entries) == 5
    assert [p.size for p in chosen.images(range(2, 4))] == [(20, 14)] * 2


def test_a_choice_is_a_matter_of_seed_and_data(tmp_path):
    found = read_captioned(numbered(tmp_path, 8))
    three, five = (choose(found, n, 1, progress=False) for n in (3, 5))
    assert five.entries[:3] == three.entries and len(set(five.entries)) == 5
    assert choose(found, 3, 1, progress=False) == three
    other = [choose(found, 3, seed, progress=False) for seed in range(2, 6)]
    assert any(one.entries != three.entries for one in other)
    assert three.digest != five.digest
    name = three.entries[0].name
    for file, content in ((name, png(99)), (name.replace("png", "txt"), b"else")):
        before = (tmp_path / file).read_bytes()
        put(tmp_path, {file: content})
        changed = choose(read_captioned(tmp_path), 3, 1, progress=False)
        assert changed.digest != three.digest
        put(tmp_path, {file: before})


@pytest.mark.parametrize(
    "files, format, message",
    [
        ({}, None, "holds no pictures"),
        ({"a.png": png(0)}, None, "no picture with a caption .*1: a.png: has no .txt"),
        ({"metadata.jsonl": ""}, None, "read as jsonl, holds no picture with a caption"),
        ({"a.png": png(0)}, "jsonl", "has no metadata.jsonl"),
        ({"a.png": png(0)}, "webdataset", "holds no .tar shards"),
        ({"a.png": png(0)}, "coco", "in: none; give one such file"),
        ({"a.json": coco(["x.png"]), "b.json": coco(["x.png"])}, None, "a.json, b.json; give one"),
        ({"a.json": coco(["x.png"])}, None, r"names \(x.png ...\) lie"),
        ({"a.json": '{"images", "annotations", "caption"'}, None, "no file of COCO captions"),
        ({"a.png": png(0)}, "flickr", f"choose {', '.join(FORMATS)}"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path, files, format, message):
    with pytest.raises(ValueError, match=message) as error:
        read_captioned(put(tmp_path, files), format)
    assert "\n" not in str(error.value)


def test_no_folder_and_no_list(tmp_path):
    with pytest.raises(ValueError, match="There is no"):
        read_captioned(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no list of captions"):
        read_captioned(put(tmp_path, {"a.png": png(0)}) / "a.png")
    with pytest.raises(ValueError, match="None of the pictures"):
        choose(read_captioned(numbered(tmp_path / "b", 2, broken=(0, 1))), 2, 0, progress=False)
