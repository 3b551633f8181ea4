"""Files that are whole or not there, whenever the process that writes them is killed."""

import errno
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest

from lib import files
from lib.files import beside, printable, replacing, system_said, write_atomic, write_numbered


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def ended_process() -> int:
    """The number of a process that has just ended."""
    return int(subprocess.check_output([sys.executable, "-c", "import os; print(os.getpid())"]))


def left_by(folder: Path, process: int, host: str | None = None, name: str = "a" * 16) -> Path:
    """A temporary file as a killed process leaves it."""
    path = folder / f".{name}.{host or files._host()}-{process}-1.tmp"
    path.write_text("half")
    return path


def killed_at(operation: str, call: int, work) -> bool:
    """Do work in a process that is killed before its n-th call of a function of os, if it comes."""

    def child() -> None:
        real, calls = getattr(os, operation), count()

        def deadly(*args, **kwargs):
            if next(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(os, operation, deadly)
        if hasattr(Path, "_accessor"):  # pathlib of Python 3.10 looked these functions up before
            setattr(Path._accessor, operation, deadly)
        work()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def pair(text: str):
    return lambda number: {f"{number:04d}_{text}.json": b"record", f"{number:04d}_{text}.png": b"x"}


@pytest.mark.parametrize(
    ("operation", "calls"), [("fsync", 2), ("link", 3), ("unlink", 4), ("chmod", 2)]
)
def test_a_kill_at_any_moment_leaves_no_half_of_a_pair(tmp_path, operation, calls):
    for call in range(calls + 1):
        folder = tmp_path / str(call)
        write_numbered(folder, pair("first"))
        killed = killed_at(operation, call, lambda f=folder: write_numbered(f, pair("second")))
        assert killed == (call < calls)
        pictures = {path.stem for path in folder.glob("*.png")}
        assert pictures <= {path.stem for path in folder.glob("*.json")}  # before anybody sweeps
        files._sweep_once.cache_clear()
        last = write_numbered(folder, pair("third"))[0].stem
        pictures = {path.stem for path in folder.glob("*.png")}
        assert {"0001_first", last} <= pictures <= {"0001_first", "0002_second", last}
        assert names(folder) == {f"{stem}.{end}" for stem in pictures for end in ("png", "json")}


@pytest.mark.parametrize("operation", ["fsync", "replace", "chmod"])
def test_a_kill_while_files_are_replaced(tmp_path, operation):
    def work(text: str, folder: Path) -> None:
        with replacing() as temporary:
            temporary(folder / "a").write_text(text)
            temporary(folder / "b").write_text(text)

    for call in range(2):
        folder = tmp_path / str(call)
        work("old", folder)
        assert killed_at(operation, call, lambda f=folder: work("new", f))
        held = [(folder / name).read_text() for name in "ab"]
        assert held == ["new" if operation == "replace" and call else "old", "old"]
        assert len(names(folder)) > 2
        files._sweep_once.cache_clear()
        work("newer", folder)
        assert names(folder) == {"a", "b"}


def test_only_what_has_no_process_any_more_is_swept(tmp_path):
    left_by(tmp_path, ended_process())
    alive = left_by(tmp_path, os.getppid())
    mine = left_by(tmp_path, os.getpid(), name="d" * 16)
    earlier = left_by(tmp_path, os.getpid())  # of a process that had the same number
    os.utime(earlier, (1, 1))
    elsewhere = left_by(tmp_path, 1, host="0" * 8)
    old = left_by(tmp_path, 2, host="0" * 8)
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    folder = left_by(tmp_path, ended_process(), name="c" * 16)
    folder.unlink()
    (folder / "below").mkdir(parents=True)
    foreign = tmp_path / ".notes.tmp"
    foreign.touch()
    os.utime(foreign, (1, 1))
    write_atomic(tmp_path / "a", "text")
    there = {tmp_path / name for name in names(tmp_path)}
    assert there == {alive, mine, elsewhere, foreign, tmp_path / "a"}


def test_a_claim_without_process_goes_and_its_number_is_not_used_twice(tmp_path):
    claim = tmp_path / ".0007.claim"
    claim.write_text(f"{files._host()}-{ended_process()}\n0007_a.json\n0007_a.p")
    (tmp_path / "0007_a.json").touch()
    torn = tmp_path / ".0005.claim"
    torn.write_text(f"{files._host()}-{ended_process()}\n")
    (tmp_path / "0003_foreign.json").touch()
    paths = write_numbered(tmp_path, pair("x"))
    assert [path.name for path in paths] == ["0008_x.json", "0008_x.png"]
    assert names(tmp_path) == {"0003_foreign.json", "0008_x.json", "0008_x.png"}


def test_names_as_long_as_the_disk_takes(tmp_path):
    longest = "é" * 127 + "x"  # 255 bytes
    write_atomic(tmp_path / longest, "text")
    assert (tmp_path / longest).read_text() == "text"
    (tmp_path / f"{'9' * 200}_a.png").touch()  # no running number
    assert write_numbered(tmp_path, pair("x"))[0].name == "0001_x.json"


def test_bytes_that_are_no_text_name_files(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9")
    write_atomic(path, "text")
    assert path.read_text() == "text"


def test_an_error_leaves_everything_as_it_was(tmp_path):
    write_atomic(tmp_path / "a", "old")
    with pytest.raises(RuntimeError), replacing() as temporary:
        temporary(tmp_path / "a").write_text("new")
        temporary(tmp_path / "below" / "b").mkdir()
        raise RuntimeError
    assert names(tmp_path) == {"a", "below"}
    assert (tmp_path / "a").read_text() == "old"


def test_a_folder_appears_whole(tmp_path):
    with replacing() as temporary:
        pool = temporary(tmp_path / "pool")
        pool.mkdir()
        (pool / "images").write_text("all")
        assert not (tmp_path / "pool").exists()
    assert names(tmp_path) == {"pool", "pool/images"}


def test_files_are_readable_for_whom_new_files_are(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing() as temporary:
            temporary(tmp_path / "a").touch(mode=0o600)
    finally:
        assert os.umask(before) == 0o027  # nothing changed it
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_interrupts_wait_until_all_files_are_in_place(tmp_path, monkeypatch):
    real = os.replace

    def pressed(*args) -> None:
        real(*args)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(files.os, "replace", pressed)
    with pytest.raises(KeyboardInterrupt), replacing() as temporary:
        temporary(tmp_path / "a").touch()
        temporary(tmp_path / "b").touch()
    assert names(tmp_path) == {"a", "b"}


def test_beside_removes_what_was_not_put(tmp_path):
    with beside(tmp_path / "a") as temporary:
        temporary.write_text("text")
        files.put(temporary, tmp_path / "a")
    with beside(tmp_path / "a") as temporary:
        temporary.write_text("other")
    assert names(tmp_path) == {"a"}
    assert (tmp_path / "a").read_text() == "text"


@pytest.mark.parametrize(
    ("text", "encoding", "expected"),
    [
        ("łódź é", "cp1252", "\\u0142ód\\u017a é"),
        ("caf\udce9", "utf-8", "caf\\udce9"),
        ("日本", "ascii", "\\u65e5\\u672c"),
        (Path("a"), "utf-8", "a"),
    ],
)
def test_printing_cannot_fail(text, encoding, expected):
    assert printable(text, encoding) == expected


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("in words"), "in words"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space is left on the disk: free"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.png"), "No such file (a.png)."),
    ],
)
def test_what_the_system_said_is_a_sentence(error, said):
    assert system_said(error).startswith(said) and "Errno" not in system_said(error)


def test_a_claim_goes_only_under_a_higher_one(tmp_path):
    """Or its number could be taken, and its new owner's files be taken for the old one's."""
    dead = subprocess.check_output([sys.executable, "-c", "import os; print(os.getpid())"])
    claim = tmp_path / ".0005.claim"
    claim.write_text(f"{files._host()}-{int(dead)}")
    write_numbered(tmp_path, pair("low"), wanted=2)
    assert claim.exists() and (tmp_path / "0002_low.png").exists()
    write_numbered(tmp_path, pair("high"))
    assert not claim.exists() and (tmp_path / "0006_high.png").exists()
