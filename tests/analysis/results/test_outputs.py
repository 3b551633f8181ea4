"""Results on disk: complete, numbered once, never overwritten, readable again."""

import base64
import errno
import io
import json
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import pytest
from PIL import Image

from analysis.results import outputs
from analysis.results.outputs import (
    Result,
    finished,
    identity,
    parameters,
    prepare,
    read_record,
    save,
    slug,
)
from lib import files
from lib.files import write_numbered

HOSTILE = "../../x\\..\0 <script>'é日本🎉"


def pictures(count: int = 1, prompt: str = "a red circle", first_seed: int = 20) -> Result:
    samples = [{"prompt": prompt, "seed": first_seed + k} for k in range(count)]
    images = [Image.new("RGB", (4, 4), (10 * k, 0, 0)) for k in range(count)]
    return Result("t2i", {"mode": "t2i", "steps": 50, "samples": samples}, images=images)


def words(text: str = "a star", prompt: str = "a ring") -> Result:
    record = {"mode": "t2t", "samples": [{"prompt": prompt, "seed": 1}]}
    return Result("t2t", record, texts=[text])


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_names_and_records_of_pictures(tmp_path):
    paths = save(pictures(2), tmp_path)
    assert everything(tmp_path) == {
        f"t2i/000{k}_a-red-circle_seed{seed}.{end}"
        for k, seed in ((1, 20), (2, 21))
        for end in ("png", "json")
    }
    record = {"mode": "t2i", "prompt": "a red circle", "seed": 21, "steps": 50}
    record["file"] = paths[1].name
    assert read_record(paths[1]) == read_record(paths[1].with_suffix(".json")) == record
    moved = paths[1].rename(tmp_path / "moved.png")
    assert read_record(moved) == record  # it is in the picture itself
    assert Image.open(moved).getpixel((0, 0)) == (10, 0, 0)


def test_text_is_saved_and_in_its_record(tmp_path):
    (path,) = save(words("über a star\nin lines"), tmp_path)
    assert path.read_text(encoding="utf-8") == "über a star\nin lines\n"
    assert read_record(path)["text"] == "über a star\nin lines"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A large RED circle!", "a-large-red-circle"),
        (HOSTILE, "x-script-e"),
        ("", "untitled"),
        ("🎉🎉", "untitled"),
        ("it's Éclair/ÅB", "its-eclair-ab"),
        ("word " * 30, "word-word-word-word-word-word-word-word"),
        ("x" * 300, "x" * 40),
    ],
)
def test_slug(text, name):
    assert slug(text) == name


def test_hostile_prompt_stays_in_its_folder_and_comes_back(tmp_path):
    (path,) = save(pictures(prompt=HOSTILE), tmp_path)
    assert path == tmp_path / "t2i" / "0001_x-script-e_seed20.png"
    assert read_record(path)["prompt"] == HOSTILE
    assert read_record(path.with_suffix(".json"))["prompt"] == HOSTILE


def test_numbers_go_on_and_nothing_is_overwritten(tmp_path):
    (first,) = save(pictures(), tmp_path)
    before = first.read_bytes()
    (tmp_path / "t2i" / "0007_foreign.png").touch()
    (second,) = save(pictures(), tmp_path)
    assert second.name.startswith("0008_")
    (tmp_path / "t2i" / ".0009.claim").touch()  # somebody is writing this one just now
    (third,) = save(pictures(), tmp_path)
    assert third.name.startswith("0010_")
    assert first.read_bytes() == before


def test_a_number_taken_since_the_folder_was_listed_is_not_used(tmp_path, monkeypatch):
    save(pictures(2), tmp_path)
    monkeypatch.setattr(files, "_numbers", lambda names: iter([]))  # a listing from before that
    (path,) = save(pictures(prompt="another"), tmp_path)
    assert path.name.startswith("0003_")
    assert not list((tmp_path / "t2i").glob(".*"))


def test_works_without_hard_links(tmp_path, monkeypatch):
    def refuse(*args: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(files.os, "link", refuse)
    assert len(save(pictures(2), tmp_path)) == 2
    assert len(everything(tmp_path)) == 4


def _save_many(folder: str, prompt: str) -> None:
    for _ in range(10):
        save(pictures(2, prompt), folder)


def test_processes_writing_at_once_never_collide(tmp_path):
    context = multiprocessing.get_context("fork")
    prompts = ("a ring", "a star", "a ring")
    running = [context.Process(target=_save_many, args=(str(tmp_path), p)) for p in prompts]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0, 0, 0]
    names = everything(tmp_path)
    numbers = [int(re.match(r"t2i/(\d{4})_", name)[1]) for name in names if name.endswith(".png")]
    assert sorted(numbers) == list(range(1, 61))
    assert len(names) == 120
    for name in names:
        assert read_record(tmp_path / name)["file"] == Path(name).with_suffix(".png").name


def full_disk(monkeypatch: pytest.MonkeyPatch, operation: str, good: int) -> None:
    """Make the disk full after so many good calls of a function of os."""
    real, calls = getattr(os, operation), []

    def full(*args: object) -> None:
        calls.append(args)
        if len(calls) > good:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*args)

    monkeypatch.setattr(files.os, operation, full)


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (
            {"prompt": "a ring", "negative_prompt": "blur", "steps": 50, "sampler": "dpmpp_2m"}
            | {"scale": 7.5, "seed": 3, "model": {"name": "vd: four, flows"}, "eta": 0.0},
            "a ring\nNegative prompt: blur\nSteps: 50, Sampler: DPM++ 2M, CFG scale: 7.5, Seed: 3, "
            'Size: 6x4, Model: "vd: four, flows"',
        ),
        (
            {"input": {"file": "x.png"}, "negative_prompt": None, "scale": 2.0, "seed": 1},
            "CFG scale: 2, Seed: 1, Size: 6x4",
        ),
        ({"prompt": "日本\ntwo lines"}, "日本\ntwo lines\nSize: 6x4"),
    ],
)
def test_viewers_of_pictures_read_how_they_were_made(tmp_path, record, text):
    assert parameters(record, (6, 4)) == text
    sample = {"seed": 0} | record
    result = Result("t2i", {"mode": "t2i", "samples": [sample]}, [Image.new("RGB", (6, 4))])
    (path,) = save(result, tmp_path)
    with Image.open(path) as image:
        assert image.text["parameters"] == parameters(sample, (6, 4))


def test_texts_of_any_characters_are_saved(tmp_path):
    odd = "\ud800 half a pair, ok"
    paths = save(pictures(prompt=odd), tmp_path) + save(words(odd), tmp_path)
    assert read_record(paths[0])["prompt"] == odd
    assert read_record(paths[0].with_suffix(".json"))["prompt"] == odd
    assert read_record(paths[1])["text"] == odd
    assert paths[1].read_text(encoding="utf-8") == "\\ud800 half a pair, ok\n"


def _save_for_ever(folder: str) -> None:
    for k in range(10_000):
        save(pictures(2, prompt=f"picture {k}"), folder)


def test_processes_killed_at_any_moment_leave_no_half_results(tmp_path):
    context = multiprocessing.get_context("fork")
    for k in range(8):
        process = context.Process(target=_save_for_ever, args=(str(tmp_path),))
        process.start()
        started = len(everything(tmp_path))
        while len(everything(tmp_path)) < started + 5 + k:
            time.sleep(0.001 * k)
        process.kill()
        process.join()
        stems = {path.stem for path in tmp_path.rglob("*.png")}
        assert stems <= {path.stem for path in tmp_path.rglob("*.json")}
    files._sweep_once.cache_clear()
    save(pictures(), tmp_path)
    names = everything(tmp_path)
    assert {name for name in names if name.endswith(".png")} == {
        f"{name.removesuffix('json')}png" for name in names if name.endswith(".json")
    }
    assert all(re.fullmatch(r"t2i/\d{4}_[a-z0-9-]+_seed\d+\.(png|json)", name) for name in names)


@pytest.mark.parametrize("good", [0, 1])  # it fails for the picture, or for the record
@pytest.mark.parametrize("operation", ["fsync", "link"])
def test_full_disk_leaves_nothing_behind_and_says_so(tmp_path, monkeypatch, operation, good):
    save(pictures(), tmp_path)
    before = everything(tmp_path)
    full_disk(monkeypatch, operation, good)
    full_disk(monkeypatch, "rename", 0)
    with pytest.raises(OSError, match=r"No space left on device.*free some space"):
        save(pictures(), tmp_path)
    assert everything(tmp_path) == before


def test_full_disk_in_the_middle_keeps_what_was_saved(tmp_path, monkeypatch):
    full_disk(monkeypatch, "fsync", good=4)
    with pytest.raises(OSError, match=r"Result 3 of 4 .* The 2 before it are saved"):
        save(pictures(4), tmp_path)
    assert len(everything(tmp_path)) == 4


def test_interrupt_while_saving_waits_until_all_is_saved(tmp_path, monkeypatch):
    real = outputs.write_numbered

    def pressed(*args: object) -> list[Path]:
        os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    monkeypatch.setattr(outputs, "write_numbered", pressed)
    with pytest.raises(KeyboardInterrupt):
        save(pictures(3), tmp_path)
    assert len(everything(tmp_path)) == 6
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interrupt_between_the_two_files_leaves_neither(tmp_path, monkeypatch):
    real = files._place

    def interrupted(temporary: Path, path: Path) -> None:
        if path.suffix == ".png":
            raise KeyboardInterrupt
        real(temporary, path)

    monkeypatch.setattr(files, "_place", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(pictures(), tmp_path)
    assert everything(tmp_path) == set()


def test_folder_that_cannot_be_written_is_found_early(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot be written.*choose another folder"):
        prepare(tmp_path / "file", "t2i")
    prepare(tmp_path / "new", "t2i")
    assert list((tmp_path / "new").rglob("*")) == [tmp_path / "new" / "t2i"]


@pytest.mark.parametrize(
    "name",
    [
        *("gone.png", "plain.png", "broken.png", "broken.json", "list.json", "deep.json"),
        *("pipe.json", "pipe.png", "pipe.safetensors", "endless.json", "endless.safetensors"),
        *("list.safetensors", "long.safetensors"),
    ],
)
def test_bad_records_are_one_sentence(tmp_path, name):
    Image.new("RGB", (2, 2)).save(tmp_path / "plain.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "list.safetensors").write_bytes((2).to_bytes(8, "little") + b"[]")
    (tmp_path / "long.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    if name.startswith("pipe"):
        os.mkfifo(tmp_path / name)
    elif name.startswith("endless"):
        (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="record") as error:
        read_record(tmp_path / name)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    if name.endswith(".json"):  # and nothing else is kept from being made
        (tmp_path / "t2i").mkdir()
        (tmp_path / name).rename(tmp_path / "t2i" / f"0001_{name}")
        assert finished(tmp_path, "t2i") == {}


def test_finished_is_what_is_complete(tmp_path):
    paths = save(pictures(3), tmp_path)
    paths[1].unlink()
    paths[2].with_suffix(".json").write_text("{")
    done = finished(tmp_path, "t2i")
    assert done == {identity(pictures(3).record_of(0)): paths[0]}
    later = pictures(1).record_of(0) | {
        "created": "later",
        "seconds": 3,
        "versions": {"torch": "9"},
    }
    assert identity(later) in done
    assert identity(later | {"steps": 49}) not in done
    assert finished(tmp_path / "nowhere", "t2i") == {}


def test_result_shows_itself(tmp_path):
    result = pictures(6)
    assert repr(result) == "Result(t2i: 6 pictures, seeds 20, 21, 22, 23, ...)"
    html = r'<img alt="(.*)" src="data:image/png;base64,(.*)">'
    alt, data = re.fullmatch(html, result._repr_html_()).groups()
    assert alt == "Result(t2i: 6 pictures, seeds 20, 21, 22, 23, ...: a red circle)"
    with Image.open(io.BytesIO(base64.b64decode(data))) as shown:
        assert shown.convert("RGB").tobytes() == result.sheet().tobytes()
    assert "<script>" not in pictures(prompt='"><script>')._repr_html_()
    assert len(result[4]) == 1
    assert result[4].record_of(0) == result.record_of(4)

    result = words("<b>&", prompt="<script>")
    assert repr(result) == "Result(t2t: 1 text, seed 1)"
    shown = result._repr_html_()
    assert "&lt;b&gt;&amp;" in shown
    assert "<script>" not in shown
    with pytest.raises(ValueError, match="no pictures"):
        result.sheet()


def test_records_are_plain_json(tmp_path):
    (path,) = save(pictures(), tmp_path)
    assert json.loads(path.with_suffix(".json").read_text()) == read_record(path)


def test_a_claim_of_a_killed_process_is_swept_when_there_is_nothing_left_to_write(tmp_path):
    folder = tmp_path / "t2i"
    child = os.fork()
    if child == 0:  # killed when the record stands, and its picture does not
        write_numbered(folder, lambda number: os.kill(os.getpid(), signal.SIGKILL))
    os.waitpid(child, 0)
    assert [path.name for path in folder.iterdir()] == [".0001.claim"]
    prepare(tmp_path, "t2i")
    assert list(folder.iterdir()) == []
