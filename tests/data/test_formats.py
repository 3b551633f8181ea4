"""Lists as people have them: their column names, their paths, their damage."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from data.captioned import choose, read_captioned
from data.captioned_samples import iterate
from data.folders import CAPTION_BYTES, shown
from tests.data.test_captioned import captions, coco, img2dataset, png, put, reasons, tar

FORMS = {
    "flickr8k": (
        {"captions.txt": "image,caption\n0.png,A red square .\n0.png,Red .\n1.png,Green .\n"},
        "Images/",
        {"0.png": ("A red square .", "Red ."), "1.png": ("Green .",)},
    ),
    "flickr30k": (
        {"results.csv": "image_name| comment_number| comment\n0.png| 0| A dog\n1.png| 0| A cat\n"},
        "flickr30k_images/",
        {"0.png": ("A dog",), "1.png": ("A cat",)},
    ),
    "open_clip": (
        {"train.csv": "filepath\ttitle\n0.png\ta, b\n1.png\tc\n"},
        "",
        {"0.png": ("a, b",), "1.png": ("c",)},
    ),
    "numbered": (
        {"all.tsv": "\ufeffImage Path\tcaption_1\tcaption_2\tcaption 3\r\n0.png\ta\tb\t\r\n"},
        "",
        {"0.png": ("a", "b")},
    ),
    "two tables": (
        {"a.csv": "image,prompt\n0.png,a\n", "b.csv": "image,prompt\n1.png,b\n0.png,c\n"},
        "",
        {"0.png": ("a", "c"), "1.png": ("b",)},
    ),
    "jsonl": (
        {"any.jsonl": '{"image": "0.png", "caption": "a"}\n{"image": "1", "caption": "b"}\n'},
        "",
        {"0.png": ("a",), "1": ("b",)},
    ),
    "kohya": (
        {"meta_cap.json": json.dumps({"0": {"caption": "a"}, "1.png": {"tags": "b, c"}})},
        "",
        {"0": ("a",), "1.png": ("b, c",)},
    ),
    "windows": (
        {"metadata.jsonl": json.dumps({"file_name": "img\\sub\\0.png", "text": "a"})},
        "img/sub/",
        {"img/sub/0.png": ("a",)},
    ),
    "utf-16": ({"0.txt": "a café".encode("utf-16")}, "", {"0.png": ("a café",)}),
    "json beside": ({"0.json": '{"caption": "a"}', "1.txt": "b", "1.json": "{"}, "", None),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_people_have_is_read(tmp_path, form):
    lists, below, wanted = FORMS[form]
    put(tmp_path, lists | {f"{below}{i}.png": png(i) for i in range(2)})
    folder = read_captioned(tmp_path)
    assert captions(folder) == (wanted or {"0.png": ("a",), "1.png": ("b",)})
    chosen = choose(folder, 2, 0, progress=False)
    assert len(chosen.entries) == len(folder.entries), chosen.skipped
    for name in lists if folder.format != "sidecar" and len(lists) == 1 else ():
        assert captions(read_captioned(tmp_path / name)) == captions(folder)


@pytest.mark.parametrize("listed, held", [("\u00e9", "e\u0301"), ("e\u0301", "\u00e9")])
def test_names_compare_composed_and_decomposed(tmp_path, listed, held):
    """A list made on one system, pictures copied from another."""
    row = json.dumps({"file_name": f"{listed}t{listed}/{listed}.png", "text": "a"})
    put(tmp_path, {"metadata.jsonl": row, f"{held}t{held}/{held}.png": png(0)})
    assert len(choose(read_captioned(tmp_path), 1, 0, progress=False).entries) == 1


def test_a_name_with_a_backslash_is_one_where_it_is_there(tmp_path):
    rows = "".join(json.dumps({"file_name": n, "text": n}) + "\n" for n in ("a\\b.png", "a/b.png"))
    put(tmp_path, {"metadata.jsonl": rows, "a\\b.png": png(0), "a/b.png": png(1)})
    folder = read_captioned(tmp_path)
    assert captions(folder) == {"a\\b.png": ("a\\b.png",), "a/b.png": ("a/b.png",)}
    assert folder.entries[0].read() != folder.entries[1].read()


def test_ids_of_coco_are_compared_as_texts(tmp_path):
    data = json.loads(coco(["0.png", "1.png"]))
    for row in data["annotations"]:
        row["image_id"] = str(row["image_id"])
    put(tmp_path, {"c.json": json.dumps(data), "0.png": png(0), "1.png": png(1)})
    assert captions(read_captioned(tmp_path))["1.png"] == ("one of 1.png", "two of 1.png")


def test_shards_in_subfolders_with_a_broken_json(tmp_path):
    for part in "ab":
        files = img2dataset("0", f"of {part}", 0) | {"0.json": '{"width": NaN, "exif": "'}
        tar(tmp_path / part / "00000.tar", files)
    wanted = {f"{part}/00000.tar/0.jpg": (f"of {part}",) for part in "ab"}
    assert captions(read_captioned(tmp_path)) == wanted


# ------------------------------------------------------------------ outside, and without end


@pytest.mark.parametrize("name", ["../secret.png", "sub/../../secret.png", "..\\secret.png", None])
@pytest.mark.parametrize("file", ["metadata.jsonl", "c.json", "meta_cap.json"])
def test_names_do_not_leave_the_folder_unless_allowed(tmp_path, name, file):
    name = name or str(tmp_path / "secret.png")
    lists = {
        "metadata.jsonl": "".join(
            json.dumps({"file_name": n, "text": "a"}) + "\n" for n in (name, "in.png")
        ),
        "c.json": coco([name, "in.png"]),
        "meta_cap.json": json.dumps({name: {"caption": "a"}, "in.png": {"caption": "b"}}),
    }
    folder = put(tmp_path / "set", {file: lists[file], "in.png": png(1), "sub/x.txt": ""})
    put(tmp_path, {"secret.png": png(0)})
    inside = read_captioned(folder)
    assert list(captions(inside)) == ["in.png"]
    assert "outside" in reasons(inside)[name]
    allowed = choose(read_captioned(folder, outside=True), 2, 0, progress=False)
    assert len(allowed.entries) == 2


def test_pipes_and_devices_in_lists_are_named(tmp_path):
    rows = [{"file_name": name, "text": "a"} for name in ("/dev/zero", "p.png", "d.png", "0.png")]
    put(tmp_path, {"metadata.jsonl": "\n".join(map(json.dumps, rows)), "0.png": png(0)})
    os.mkfifo(tmp_path / "p.png")
    (tmp_path / "d.png").symlink_to("/dev/zero")
    chosen = choose(read_captioned(tmp_path, outside=True), 4, 0, progress=False)
    assert [entry.name for entry in chosen.entries] == ["0.png"]
    lost = reasons(chosen)
    assert set(lost) == {"/dev/zero", "p.png", "d.png"}
    assert all(why == "cannot be read (it is no regular file)." for why in lost.values())


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "x.tar"])
def test_lists_that_never_end(tmp_path, name):
    (tmp_path / name).symlink_to("/dev/zero")
    put(tmp_path, {"a.png": png(0)})
    with pytest.raises(ValueError, match="no regular file"):
        read_captioned(tmp_path)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("name", ["1.txt", "1.png", "1.json"])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_member_that_claims_more_than_there_is(tmp_path, name, kind):
    good = io.BytesIO()
    for key, data in (("0.png", png(0)), ("0.txt", b"good")):
        good.write(header(key, len(data)) + data + b"\0" * (-len(data) % 512))
    (tmp_path / "0.tar").write_bytes(good.getvalue() + header(name, 2**60, kind) + b"\0" * 1024)
    folder = read_captioned(tmp_path)
    assert captions(folder) == {"0.tar/0.png": ("good",)} and "0.tar" in reasons(folder)


def test_a_caption_as_large_as_a_film(tmp_path):
    with (tmp_path / "0.txt").open("wb") as file:
        file.truncate(CAPTION_BYTES + 1)
    put(tmp_path, {"0.png": png(0), "1.png": png(1), "1.txt": "good"})
    folder = read_captioned(tmp_path)
    assert captions(folder) == {"1.png": ("good",)}
    assert "at most 16,777,216 are read" in reasons(folder)["0.png"]


@pytest.mark.parametrize("name", ["metadata.jsonl", "c.json", "meta_cap.json", "0.json"])
def test_json_deeper_than_anybody_means(tmp_path, name):
    deep = '{"images": 1, "annotations": 2, "caption": ' + "[" * 200_000
    put(tmp_path, {name: deep, "0.png": png(0)})
    with pytest.raises(ValueError, match=r"nested too deeply|holds no picture with a caption"):
        read_captioned(tmp_path)


# ------------------------------------------------------------------ sentences


def test_names_are_one_line_whatever_they_hold():
    assert shown("a\n\x1b[2J\x85b\udcff é.png") == "a\\x0a\\x1b[2J\\x85b\\udcff é.png"


@pytest.mark.parametrize(
    "files, message",
    [
        ({"t.csv": "url,words\nx,y\n", "a.png": b""}, r"there are t.csv with url, words; a.png"),
        ({"metadata.csv": "url,words\nx,y\n"}, r"has the columns url, words: give the picture as "),
        ({"metadata.jsonl": '{"url": 1}\n'}, r"has the columns url: .*file_name, .*text, caption"),
        ({"train.parquet": b"PAR1"}, r"holds no pictures \(there are train.parquet\)"),
        ({"x.json": '{"a": 1}'}, r"holds no pictures"),
    ],
)
def test_the_sentence_names_what_is_there_and_what_would_do(tmp_path, files, message):
    with pytest.raises(ValueError, match=message) as error:
        read_captioned(put(tmp_path, files))
    assert "\n" not in str(error.value)


def test_a_file_of_another_kind(tmp_path):
    put(tmp_path, {"x.json": '{"a": {"b": 1}}', "t.csv": "url,words\n1,2\n"})
    with pytest.raises(ValueError, match=r"neither COCO captions .* nor kohya's metadata"):
        read_captioned(tmp_path / "x.json")
    with pytest.raises(ValueError, match=r"t.csv has the columns|columns url, words"):
        read_captioned(tmp_path / "t.csv")


def test_every_sample_of_every_form_is_iterated(tmp_path: Path):
    """One iterator over what people have."""
    for form, (lists, below, _) in FORMS.items():
        folder = read_captioned(
            put(tmp_path / form, lists | {f"{below}{i}.png": png(i) for i in range(2)})
        )
        samples = list(iterate(folder))
        assert [(s.key, s.captions) for s in samples] == list(captions(folder).items())
        assert all(sample.image.mode == "RGB" for sample in samples)
