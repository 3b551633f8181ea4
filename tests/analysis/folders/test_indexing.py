"""The index on disk: what an update reads, keeps, refuses, and survives."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from analysis.folders import indexing, reading, vectors
from analysis.folders.encoders import Encoder
from analysis.folders.indexing import update_index
from analysis.folders.search import find
from analysis.folders.vectors import read_index
from data.decode import UnreadableFileError
from data.folders import one_writer
from tests.analysis.photo_folders import matrix, photo_folder
from tests.conftest import drawing


@pytest.fixture
def photos(tmp_path):
    return photo_folder(tmp_path / "photos")


@pytest.fixture
def index(vd, photos, tmp_path):
    update_index(vd, photos, tmp_path / "index", precision="float32", progress=False)
    return tmp_path / "index"


def update(vd, photos, index, **options):
    return update_index(vd, photos, index, progress=False, **options)


def assert_is_fresh(vd, photos, index, tmp_path) -> None:
    """An index is as one that is made from nothing."""
    again = tmp_path / "from nothing"
    update(vd, photos, again, precision=read_index(index).precision)
    a, b = read_index(index), read_index(again)
    assert a.entries == b.entries
    assert a.broken == b.broken
    assert torch.allclose(a.vectors.float(), b.vectors.float(), atol=1e-3)


def test_an_index_holds_unit_vectors_of_all_pictures(vd, photos, tmp_path):
    made = update(vd, photos, tmp_path / "index", batch_size=3)
    collection = read_index(tmp_path / "index")
    assert (len(made.new), made.encoded, made.changed, made.removed) == (8, 8, [], [])
    assert list(made.broken) == ["bad.jpg"]
    assert made.broken["bad.jpg"].startswith("is not a picture")
    assert str(tmp_path) not in (tmp_path / "index" / "index.json").read_text()
    assert [e.name for e in collection.entries] == made.new
    assert made.new[-1] == "sub/7.png"
    assert collection.folder == photos.resolve()
    assert collection.precision == "float16"
    assert np.allclose(collection.vectors.float().numpy(), matrix(vd, photos), atol=1e-3)
    assert (tmp_path / "index" / "index.json").stat().st_mode & 0o777 == next(
        (tmp_path / "index").glob("vectors-*")
    ).stat().st_mode & 0o777


def test_an_update_reads_only_what_changed(vd, photos, index, tmp_path, monkeypatch):
    os.rename(photos / "0.png", photos / "sub" / "moved.png")
    (photos / "1.png").unlink()
    drawing(20, (30, 30)).save(photos / "2.png")
    drawing(21).save(photos / "new.png")
    (photos / "copy.png").write_bytes((photos / "3.png").read_bytes())
    os.utime(photos / "4.png", ns=(1, 1))
    seen, real = [], reading.read
    monkeypatch.setattr(reading, "read", lambda p: seen.append(p.name) or real(p))
    made = update(vd, photos, index)
    assert made.new == ["copy.png", "new.png", "sub/moved.png"]
    assert (made.changed, made.removed) == (["2.png"], ["0.png", "1.png"])
    assert made.unchanged == ["3.png", "4.png", "sub/5.png", "sub/6.png", "sub/7.png"]
    assert list(made.broken) == ["bad.jpg"]
    assert made.encoded == 2
    assert sorted(seen) == ["2.png", "4.png", "copy.png", "moved.png", "new.png"]
    assert len(list(index.glob("*.safetensors"))) == 1
    assert_is_fresh(vd, photos, index, tmp_path)
    (photos / "bad.jpg").write_bytes((photos / "3.png").read_bytes())
    assert update(vd, photos, index).new == ["bad.jpg"]
    (photos / "bad.jpg").write_bytes(b"broken again")
    made = update(vd, photos, index)
    assert (made.removed, list(made.broken)) == ([], ["bad.jpg"])


def test_a_change_that_size_and_time_do_not_show_is_found_by_verify(vd, photos, index, tmp_path):
    path = photos / "0.png"
    stat = path.stat()
    data = drawing(30).tobytes()
    Image.frombytes("RGB", (20, 14), data).save(path)
    path.write_bytes(path.read_bytes().ljust(stat.st_size, b"\0")[: stat.st_size])
    os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    assert update(vd, photos, index).changed == []
    made = update(vd, photos, index, verify=True)
    assert (made.changed, len(made.unchanged)) == (["0.png"], 7)
    assert_is_fresh(vd, photos, index, tmp_path)


def test_an_interrupted_update_goes_on(vd, photos, tmp_path, monkeypatch):
    index, real, calls = tmp_path / "index", indexing._encode, []

    def encode(*args):
        calls.append(args)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(indexing, "_encode", encode)
        with pytest.raises(KeyboardInterrupt):
            update(vd, photos, index, batch_size=2)
    assert not (index / "index.json").exists()
    assert len(list(index.glob("part-*"))) == 1
    (index / "part-damaged.safetensors").write_bytes(b"damaged")
    made = update(vd, photos, index)
    assert (len(made.new), made.encoded) == (8, 4)  # two batches of two had been encoded
    assert sorted(p.name[:7] for p in index.iterdir()) == [".lock", "index.j", "vectors"]
    assert_is_fresh(vd, photos, index, tmp_path)


def test_parts_are_saved_on_the_way(vd, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(indexing, "_PART", 2)
    parts, real = [], indexing.write_part
    monkeypatch.setattr(indexing, "write_part", lambda *a: parts.append(len(a[2])) or real(*a))
    update(vd, photos, tmp_path / "index", batch_size=1)
    assert parts == [2, 2, 2, 2]


def test_what_cannot_be_read_for_a_moment_is_tried_again(vd, photos, tmp_path, monkeypatch):
    os.mkfifo(photos / "pipe.png")
    real = reading.read

    def away(path):
        if path.name == "1.png":
            raise UnreadableFileError(f"'{path}' cannot be read (Stale file handle).")
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(reading, "read", away)
        made = update(vd, photos, tmp_path / "index")
    assert (
        made.encoded == 7 and made.broken["1.png"] == "'1.png' cannot be read (Stale file handle)"
    )
    assert "no regular file" in made.broken["pipe.png"]
    assert [row.name for row in read_index(tmp_path / "index").broken] == ["bad.jpg"]
    made = update(vd, photos, tmp_path / "index")
    assert (made.new, made.encoded, sorted(made.broken)) == (["1.png"], 1, ["bad.jpg", "pipe.png"])


def test_readers_see_the_old_index_or_the_new_one(vd, photos, index, monkeypatch):
    drawing(21).save(photos / "new.png")
    real, names = vectors.open_tensors, []

    def meanwhile(path):
        names.append(path.name)
        if len(names) == 1:
            with monkeypatch.context() as patch:
                patch.setattr(vectors, "open_tensors", real)
                update(vd, photos, index)
        return real(path)

    monkeypatch.setattr(vectors, "open_tensors", meanwhile)
    collection = read_index(index)
    assert len(collection) == 9 and len(set(names)) == 2
    assert np.allclose(collection.vectors.norm(dim=1), 1, atol=1e-3)


def mutations(manifest):
    """Manifests that are not as they should be."""
    for key in manifest:
        if key != "precision":
            yield {k: v for k, v in manifest.items() if k != key}
            yield manifest | {key: 7}
            yield manifest | {key: [None]}
    row = manifest["pictures"][0]
    for place, value in ((0, "../secret.png"), (0, "/secret.png"), (0, 1), (1, "1"), (3, "xyz")):
        changed = [*row[:place], value, *row[place + 1 :]]
        yield manifest | {"pictures": [changed, *manifest["pictures"][1:]]}
    yield manifest | {"pictures": [*manifest["pictures"], row]}
    yield manifest | {"vectors": "../vectors-0000000000000000.safetensors"}
    yield manifest | {"vectors": "weights.pth"}
    yield manifest | {"encoder": {**manifest["encoder"], "width": "16"}}
    yield manifest | {"encoder": {**manifest["encoder"], "more": 1}}
    yield [manifest]
    yield None


def test_a_mutated_index_is_one_sentence(vd, photos, index):
    path = index / "index.json"
    whole = path.read_bytes()
    texts = [json.dumps(m).encode() for m in mutations(json.loads(whole))]
    for content in (*texts, b"", b"{", b"\xff\xfe", b"[" * 100_000, whole[:-30]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"(?s)^The index in .* is damaged .*index again.$"):
            read_index(index)
    path.write_bytes(whole)
    (file,) = index.glob("vectors-*")
    data = file.read_bytes()
    for content in (b"", data[:50], b"\xff" * 8 + data[8:]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged"):
            update(vd, photos, index)


def test_damaged_parts_are_read_again(vd, photos, tmp_path, monkeypatch, caplog):
    index, monkey = tmp_path / "index", monkeypatch
    with monkey.context() as patch:
        patch.setattr(indexing, "_PART", 2)
        patch.setattr(
            indexing, "write_index", lambda *a: (_ for _ in ()).throw(OSError(28, "full"))
        )
        with pytest.raises(OSError, match=r"index could not be written \(full\): mend that"):
            update(vd, photos, index, batch_size=1)
    first, second, *_ = sorted(index.glob("part-*"))
    first.write_bytes(first.read_bytes()[:60])
    with safe_open(second, framework="pt") as file:
        about, tensor = file.metadata(), file.get_tensor("vectors")
    save_file({"vectors": tensor[:1]}, second, metadata=about)
    assert update(vd, photos, index).encoded == 4
    assert caplog.text.count("its pictures are read again") == 2


def test_a_full_disk_leaves_the_old_index(vd, photos, index, monkeypatch):
    before = read_index(index).entries
    drawing(21).save(photos / "new.png")

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("analysis.folders.vectors.write_atomic", full)
        with pytest.raises(OSError, match="No space"):
            update(vd, photos, index)
    assert read_index(index).entries == before
    update(vd, photos, index)
    assert len(list(index.glob("vectors-*"))) == 1
    assert [e.name for e in read_index(index).entries][5] == "new.png"


def test_folder_and_index_can_move_together(vd, photos, index, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for old in (photos, index):
        os.rename(old, tmp_path / "elsewhere" / old.name)
    moved = tmp_path / "elsewhere"
    assert read_index(moved / "index").folder == moved / "photos"
    assert len(update(vd, moved / "photos", moved / "index").unchanged) == 8


def test_only_broken_files_make_an_empty_index(vd, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    assert list(update(vd, tmp_path / "photos", tmp_path / "index").broken) == ["a.png"]
    assert len(find(vd, tmp_path / "index", texts="star")) == 0


def test_what_does_not_belong_together_is_refused(vd, photos, index, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    drawing(1).save(other / "1.png")
    with pytest.raises(ValueError, match=r"is the index of .*photos"):
        update(vd, other, index)
    with pytest.raises(ValueError, match="holds float32, not float16"):
        update(vd, photos, index, precision="float16")
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        update(vd, tmp_path / "none", index)
    with pytest.raises(ValueError, match="There is no folder"):
        update(vd, tmp_path / "nowhere", index)
    with one_writer(index), pytest.raises(ValueError, match="Another process is writing"):
        update(vd, photos, index)
    with monkeypatch.context() as patch:
        patch.setattr("analysis.folders.encoders.fingerprint", lambda module: "trained on")
        for attempt in (lambda: update(vd, photos, index), lambda: find(vd, index, texts="star")):
            with pytest.raises(ValueError, match=r"made with tiny \([\w-]+\); the vectors"):
                attempt()
    heads = replace(vd.spec.clip.vision, heads=vd.spec.clip.vision.heads * 2)
    with monkeypatch.context() as patch:  # the same weights say something else
        patch.setattr(vd, "spec", replace(vd.spec, clip=replace(vd.spec.clip, vision=heads)))
        with pytest.raises(ValueError, match="do not compare with it"):
            update(vd, photos, index)
    manifest = json.loads((index / "index.json").read_text())
    manifest["encoder"]["width"] = 8
    with pytest.raises(ValueError, match="vectors of 8 numbers"):
        Encoder(**manifest["encoder"]).check(Encoder.of(vd))
    (index / "index.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"damaged .*delete it and index again"):
        read_index(index)
    with pytest.raises(ValueError, match="There is no index"):
        read_index(other)
