"""Where the official files come from: the Hugging Face hub, once, then its local cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.checks import read_json
from lib.files import write_atomic

log = logging.getLogger(__name__)

PRETRAINED = Path(__file__).resolve().parents[2] / "pretrained"
"""Where weights are looked for by name, and where files downloaded by hand go."""

MAIN_FILES = (
    "vd-four-flow-v1-0-fp16.pth",
    "vd-four-flow-v1-0.pth",
    "vd-four-flow-v1-0-fp16-deprecated.pth",
    "vd-four-flow-v1-0-deprecated.pth",
)
"""The released diffuser, the preferred file first."""

RECORD = "downloads.json"
"""Beside the files: of which repository, commit and checksum each one is."""

_OLD, _NEW = "shi-labs/versatile-diffusion", "shi-labs/versatile-diffusion-model"
_CLIP = "openai/clip-vit-large-patch14"

REVISIONS = {
    _OLD: "2926f8e11ea526b562cd592b099fcf9c2985d0b7",
    _CLIP: "32bd64288804d66eefd0ccbe215aa642df71cc41",
    "bert-base-cased": "cd5ef92a9fb2f889e972770a36d4ed042daf221e",
    "gpt2": "607a30d783dfa663caf39e06633721c8d4cfcd7e",
}
"""Repository -> the commit that is taken, where it is known: what programs that use these weights
name. Of others the newest is, which `download` writes down, to take it again."""

# name below PRETRAINED -> where to get it, the preferred place first
SOURCES: dict[str, tuple[tuple[str, str], ...]] = {
    **{
        name: ((_OLD, f"pretrained_pth/{name}"),)
        if "deprecated" in name
        else ((_NEW, f"pretrained_pth/{name}"), (_OLD, f"pretrained_pth/{name}"))
        for name in MAIN_FILES
    },
    "kl-f8.pth": ((_OLD, "pretrained_pth/kl-f8.pth"), (_NEW, "pretrained_pth/kl-f8.pth")),
    "optimus-vae.pth": (
        (_OLD, "pretrained_pth/optimus-vae.pth"),
        (_NEW, "pretrained_pth/optimus-vae.pth"),
    ),
    "clip-vit-large-patch14/model.safetensors": ((_CLIP, "model.safetensors"),),
}
_TOKENIZERS = {
    f"tokenizers/{name}/{file}": ((repo, file),)
    for name, repo, files in (
        ("clip", _CLIP, ("vocab.json", "merges.txt")),
        ("bert", "bert-base-cased", ("vocab.txt",)),
        ("gpt2", "gpt2", ("vocab.json", "merges.txt")),
    )
    for file in files
}


def fetch(name: str, download: bool = True) -> Path | None:
    """Path of an official file: in `pretrained/`, else in the hub's cache, else downloaded.

    Args:
        name: a key of `SOURCES`.
        download: whether to download it; without, a file that is not here is None.

    Raises:
        ValueError: not an official file.
        OSError: not here, and it could not be downloaded; says how to get it by hand.
    """
    if name not in SOURCES:
        raise ValueError(f"{name!r} is no official file: choose from {', '.join(SOURCES)}.")
    if (PRETRAINED / name).is_file():
        return PRETRAINED / name
    # only who downloads pays for the import
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HTTPError, LocalEntryNotFoundError

    places = list(_places(name))
    for repo, path, revision in places:
        try:
            options = {"revision": revision, "local_files_only": True}
            return Path(hf_hub_download(repo, path, **options))
        except LocalEntryNotFoundError:
            continue
    reason: Exception | None = None
    for repo, path, revision in places if download else ():
        try:
            log.info("looking for %s in %s", path, repo)
            return Path(hf_hub_download(repo, path, revision=revision))
        except LocalEntryNotFoundError as error:  # no connection: another repo will not help
            reason = error
            break
        except (OSError, EntryNotFoundError, HTTPError) as error:
            reason = error
    if not download:
        return None
    raise OSError(_by_hand(name)) from reason


def _places(name: str) -> Iterator[tuple[str, str, str | None]]:
    """Repository, path and commit: as they are known, then whatever is newest there."""
    sources = {**SOURCES, **_TOKENIZERS}[name]
    known = {entry["repo"]: entry["revision"] for entry in _record().values()} | REVISIONS
    for newest in (False, True):
        for repo, path in sources:
            if newest or repo in known:
                yield repo, path, None if newest else known[repo]


def _by_hand(name: str) -> str:
    repo, path = {**SOURCES, **_TOKENIZERS}[name][0]
    return (
        f"{name} is neither in {PRETRAINED} nor in the local Hugging Face cache, and could not be "
        f"downloaded: go online once, or get {path} from https://huggingface.co/{repo} and put it "
        f"at {PRETRAINED / name}."
    )


# ---------------------------------------------------------------------- into pretrained/


@dataclass(frozen=True)
class Remote:
    """A file on the hub: where, of which commit, how large; its SHA-256 where the hub says it."""

    repo: str
    path: str
    revision: str
    size: int
    sha256: str | None


def download(name: str, progress: bool = True) -> list[Path]:
    """Put official files into `pretrained/`, and write down in `RECORD` what they are.

    What was downloaded in part goes on from there; what is here already is not asked for.

    Args:
        name: "vd-four-flow-v1-0" for all that the released model needs, in half precision and with
            the tokenizers; or one of `SOURCES`.
        progress: show bars.

    Returns:
        The files that were not here before.

    Raises:
        ValueError: another name.
        OSError: no connection, no space, or not the bytes that the hub promises.
    """
    whole = (MAIN_FILES[0], *list(SOURCES)[len(MAIN_FILES) :], *_TOKENIZERS)
    names = whole if name == "vd-four-flow-v1-0" else (name,)
    if not {*names} <= {*SOURCES, *_TOKENIZERS}:
        raise ValueError(
            f"{name!r} cannot be downloaded: choose vd-four-flow-v1-0 (all that it needs), or one "
            f"of {', '.join(SOURCES)}."
        )
    absent = [name for name in names if not (PRETRAINED / name).is_file()]
    remotes = {name: _ask(name) for name in absent}
    check_space(PRETRAINED, sum(remote.size for remote in remotes.values()))
    return [_get(name, remote, progress) for name, remote in remotes.items()]


def check_space(path: Path, size: int) -> None:
    """OSError unless there is room for `size` bytes where a path is going to be."""
    path = path.absolute()
    folder = next(place for place in (path, *path.parents) if place.is_dir())
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OSError(
            f"{path} needs {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free there: make room, "
            "or choose another disk."
        )


def _ask(name: str) -> Remote:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    reason: Exception | None = None
    for repo, path, revision in _places(name):
        try:
            commit = HfApi().model_info(repo, revision=revision).sha
            files = HfApi().get_paths_info(repo, [path], revision=commit)
        except (OSError, HTTPError) as error:  # no connection, or no such commit
            reason = error
            continue
        for file in files:
            lfs = getattr(file, "lfs", None)
            return Remote(repo, path, commit, file.size, lfs.sha256 if lfs else None)
    raise OSError(_by_hand(name)) from reason


def _get(name: str, remote: Remote, progress: bool) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HTTPError
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    (enable_progress_bars if progress else disable_progress_bars)()
    # in a folder of its own, from which the hub's client goes on with what it has in part
    aside = PRETRAINED / ".download" / remote.repo.replace("/", "--")
    try:
        options = {"revision": remote.revision, "local_dir": aside}
        arrived = Path(hf_hub_download(remote.repo, remote.path, **options))
    except (OSError, HTTPError) as error:
        raise OSError(
            f"{name} came in part ({error}): the same command goes on where it stopped."
        ) from error
    digest = checksum(arrived)
    if remote.sha256 not in (None, digest):
        arrived.unlink()
        raise OSError(
            f"{name} arrived with other bytes than the hub promises (SHA-256 {digest}): it was "
            "removed; download it again."
        )
    (PRETRAINED / name).parent.mkdir(parents=True, exist_ok=True)
    os.replace(arrived, PRETRAINED / name)
    entry = {"repo": remote.repo, "path": remote.path, "revision": remote.revision}
    record = _record() | {name: {**entry, "bytes": remote.size, "sha256": digest}}
    write_atomic(PRETRAINED / RECORD, json.dumps(record, indent=2) + "\n")
    return PRETRAINED / name


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _record() -> dict[str, Any]:
    path = PRETRAINED / RECORD
    return read_json(path, "remove it") if path.is_file() else {}
