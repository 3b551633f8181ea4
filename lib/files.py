"""Writing side by side: files that are whole or not there, numbers that nobody else gets.

Everything is written under a hidden temporary name beside its final one and then moved there, so
nobody ever reads half a file. A temporary name holds a hash of the final name, which keeps it short
enough for every disk, and the process that writes it: what killed processes have left is removed
by the next one that writes in that folder.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

_NUMBERED = re.compile(r"(\d{4,9})_|\.(\d{4,9})\.claim$")
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.([0-9a-f]{8}-\d+)-\d+\.tmp")
_OLD = 24 * 3600
"""Seconds after which a temporary file counts as left behind if its process cannot be asked after,
as those of another machine, or of this one before it was started again."""
_STARTED = time.time()
_ASKING = threading.Lock()


# ---------------------------------------------------------------------- files that replace others


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all, over another if there is one; its folder is made."""
    with replacing() as temporary:
        data = content if isinstance(content, bytes) else content.encode()
        temporary(path).write_bytes(data)


@contextmanager
def replacing() -> Iterator[Callable[[Path], Path]]:
    """Files, or whole new folders, that take their final places together at the end of a block.

    >>> with replacing() as temporary:
    ...     save_file(tensors, temporary(folder / "weights.safetensors"))
    ...     temporary(folder / "config.json").write_text(config)

    The block gets a function from final to temporary paths; folders above are made. If the block
    raises, all is as it was before. Ctrl-C waits while the files take their places.
    """
    staged: dict[Path, Path] = {}
    with ExitStack() as stack:

        def temporary(path: Path) -> Path:
            staged[path] = stack.enter_context(beside(path))
            return staged[path]

        yield temporary
        for written in staged.values():
            _to_disk(written)
        with held_interrupts():
            for path, written in staged.items():
                os.replace(written, path)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """One process at a time, the others wait: what is read there is what is changed.

    Args:
        path: of what is changed, a folder or a file; a lock lies beside it.
    """
    from filelock import FileLock  # only who trains pays for the import

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, for `put`; what is there at the end of the block goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_once(os.path.abspath(path.parent), os.getpid())
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    temporary = path.with_name(f".{digest}.{_owner()}-{threading.get_native_id()}.tmp")
    try:
        yield temporary
    finally:
        _remove(temporary)


def put(temporary: Path, path: Path) -> None:
    """Give what was written `beside` a path its final name, over another file if there is one."""
    _to_disk(temporary)
    os.replace(temporary, path)


def _to_disk(written: Path) -> None:
    """Have a file on the disk, readable for whom new files are (some writers hide theirs)."""
    if not written.is_dir():
        with _ASKING:
            umask = os.umask(0o077)  # the only way to ask for it
            os.umask(umask)
        written.chmod(0o666 & ~umask)
        with written.open("r+b") as file:
            os.fsync(file.fileno())


# ---------------------------------------------------------------------- new files under a number


def write_numbered(
    folder: Path, contents: Callable[[int], dict[str, bytes]], wanted: int | None = None
) -> list[Path]:
    """Write files of a new running number: all or none, and none over another.

    The number is one that no file in the folder has, whose name begins with it: `0007_...`. It is
    claimed by a file of its own, which nobody else can create; the claim names the files that
    belong together, so that of a process that was killed between two, the next removes the first.

    Args:
        folder: made if missing.
        contents: from the number to names and contents, in the order in which they appear.
        wanted: the number to take if nobody has it; else, or if None, the next free one.

    Returns:
        The paths, in that order.

    Raises:
        OSError: as usual; nothing is left behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = os.listdir(folder)
    number = wanted or 0
    claim = _claimed(folder, number) if wanted else None
    if claim is None:
        number = 1 + max(_numbers(names), default=0)
        while not (claim := _claimed(folder, number)):
            number += 1
    try:
        # Claims go only under a higher one, so that nobody takes a number whose claim is on its way
        for name in names:
            with suppress(OSError):  # somebody else was faster
                if name.endswith(".claim") and any(n < number for n in _numbers([name])):
                    _sweep_claim(folder / name)
        paths = {folder / name: content for name, content in contents(number).items()}
        with ExitStack() as stack:
            temporary = {path: stack.enter_context(beside(path)) for path in paths}
            for path, content in paths.items():
                temporary[path].write_bytes(content)
                _to_disk(temporary[path])
            with claim.open("a", encoding="utf-8") as file:
                file.writelines(f"\n{path.name}" for path in paths)
            _place_all(temporary)
    finally:
        claim.unlink(missing_ok=True)
    return list(paths)


def next_number(folder: Path, owner: str) -> int:
    """The first of the running numbers that belong to `owner`: noted once, the same ever after.

    For who writes many files from several processes: the first one notes the next free number
    in a file of the folder, `.<owner>.plan`, which is the caller's to remove in the end.
    """
    plan = folder / f".{owner}.plan"
    with beside(plan) as temporary:
        temporary.write_text(str(1 + max(_numbers(os.listdir(folder)), default=0)))
        with suppress(FileExistsError):
            _place(temporary, plan)
    return int(plan.read_text())


def is_being_written(path: Path) -> bool:
    """Whether a process holds the claim of this file's number: its other files are on their way."""
    number = _NUMBERED.match(path.name)
    return bool(number) and path.with_name(f".{number[1]}.claim").exists()


def _claimed(folder: Path, number: int) -> Path | None:
    """The claim of a number, unless somebody has, or has had, that number."""
    claim = folder / f".{number:04d}.claim"
    try:
        with beside(claim) as temporary:  # a claim never stands without its owner
            temporary.write_text(_owner())
            _place(temporary, claim)
    except FileExistsError:
        return None
    # Somebody may have claimed, written and released this number since the folder was listed.
    # Files stand before their claim goes, so from here on what is seen is how it stays.
    if not any(folder.glob(f"{number:04d}_*")):
        return claim
    claim.unlink()
    return None


def _numbers(names: list[str]) -> Iterator[int]:
    """Running numbers of finished files and of claims."""
    for name in names:
        if match := _NUMBERED.match(name):
            yield int(match[1] or match[2])


def _place_all(temporary: dict[Path, Path]) -> None:
    placed: list[Path] = []
    try:
        for path, written in temporary.items():
            _place(written, path)
            placed.append(path)
    except BaseException:  # also Ctrl-C: a record without its picture is no result
        for path in placed:
            path.unlink(missing_ok=True)
        raise


def _place(temporary: Path, path: Path) -> None:
    """Give a file its final name, unless something has it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links; the claimed number keeps others away
        if path.exists():
            raise FileExistsError(path) from None
        os.rename(temporary, path)


# ---------------------------------------------------------------------- leftovers


@cache
def _sweep_once(folder: str, process: int) -> None:
    """Before a process writes its first file in a folder; later ones would find nothing new."""
    with suppress(OSError):  # a folder that cannot be listed
        for path in map(Path(folder).joinpath, os.listdir(folder)):
            with suppress(OSError):  # somebody else was faster
                match = _TEMPORARY.fullmatch(path.name)
                if match and _is_gone(match[1], path.lstat().st_mtime):
                    _remove(path)


def _sweep_claim(claim: Path) -> None:
    owner, *names = claim.read_text("utf-8", "replace").split("\n")
    if _is_gone(owner, claim.stat().st_mtime):
        paths = [claim.parent / Path(name).name for name in names]
        there = [path for path in paths if path.is_file()]
        for path in [claim] if len(there) == len(paths) else [*there, claim]:
            path.unlink(missing_ok=True)


def _owner() -> str:
    return f"{_host()}-{os.getpid()}"


@cache
def _host() -> str:
    """Where process numbers mean the same: this machine, since it was started, this container."""
    names = [socket.gethostname()]
    with suppress(OSError):  # systems that have no such files
        names.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        names.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("".join(names).encode()).hexdigest()[:8]


def _is_gone(owner: str, written: float) -> bool:
    """Whether the process that wrote a file at that time has ended."""
    host, _, process = owner.partition("-")
    if host != _host() or os.name != "posix" or not process.isdigit():
        return time.time() - written > _OLD
    if int(process) == os.getpid():  # an earlier one that had our number, in a container
        return written < _STARTED - 1
    try:
        os.kill(int(process), 0)  # asks, and sends nothing
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's
        return False
    return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# ---------------------------------------------------------------------- interrupts, consoles


@contextmanager
def held_interrupts() -> Iterator[None]:
    """Ctrl-C waits until the end of the block: what was made is worth the moment it takes to save.

    In threads other than the main one, which Ctrl-C does not reach, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
        if pressed:
            signal.raise_signal(signal.SIGINT)


DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What the disk says that concerns every file, not only one."""


NAMES = (errno.ENAMETOOLONG, errno.ELOOP)
"""What it says of a path that nobody can have meant."""


def system_said(error: OSError) -> str:
    """What went wrong outside of this program, as one sentence without the system's number."""
    if error.errno is None:
        return str(error)
    name = str(error.filename or "")
    name = name if len(name) <= 300 else f"{name[:200]}...{name[-50:]}"
    where = f" ({name})" if name else ""
    if error.errno in DISK[:2]:
        return (
            f"No space is left on the disk{where}: free some, and give the same command again; "
            "what was written before is whole."
        )
    return f"{error.strerror}{where}."


def printable(text: object, encoding: str | None = None) -> str:
    """A text that printing cannot fail on: what the console's encoding lacks becomes an escape.

    Args:
        text: with any characters, also the halves of pairs that stand for bytes in file names.
        encoding: default: that of standard output.
    """
    encoding = encoding or getattr(sys.stdout, "encoding", None) or "utf-8"
    return str(text).encode(encoding, "backslashreplace").decode(encoding)
