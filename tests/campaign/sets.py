"""Kinds of inputs that are whole folders: captioned sets, and what our own commands keep."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from analysis.folders.caption import caption_folder
from analysis.folders.search import find, update_index
from analysis.results.outputs import read as read_tensors
from data.captioned import choose, read_captioned
from data.captioned_samples import iterate
from tests.campaign.strategies import CHANGES, EDITS, as_json, edited, exchanged
from tests.campaign.worker import command
from tests.campaign.world import FORMATS, PROMPT, World, copied

_BYTES = st.tuples(st.just("bytes"), EDITS)
_VALUES = st.tuples(st.just("values"), CHANGES)


_OTHER = st.tuples(st.just("other"), st.sampled_from(["pipe", "endless", "deep", "folder", "gone"]))


def _damaged(path: Path, change: tuple[str, Any]) -> None:
    """Change a file's bytes, or what it says if it is JSON, or put something else in its place."""
    kind, changes = change
    data = path.read_bytes()
    if kind == "other":
        path.unlink()
        put = {"pipe": os.mkfifo, "endless": lambda path: path.symlink_to("/dev/zero")}
        put |= {"deep": lambda path: path.write_text("[" * 10**5), "folder": os.mkdir}
        put.get(changes, str)(path)
        return
    if kind == "values" and path.suffix in (".json", ".jsonl"):
        try:
            first, *rest = [json.loads(data)]
        except ValueError:
            first, *rest = [json.loads(line) for line in data.splitlines()]
        lines = [exchanged(first, changes), *rest]
        data = b"\n".join(map(as_json, lines)) + b"\n"
    else:
        edits = changes if kind == "bytes" else [("flip", 0.5, 1, b"x")]
        data = edited(data, edits)
    path.write_bytes(data)


# ---------------------------------------------------------------------- captioned sets


def inputs(world: World) -> SearchStrategy:
    """A format, which of its files is changed, and how."""
    change = _BYTES | _VALUES
    return st.tuples(st.sampled_from(FORMATS), st.integers(0, 5), change, st.booleans())


def read(world: World, place: Path, value: tuple[str, int, Any, bool]) -> None:
    """Find, choose, iterate; nothing outside of the folder is opened."""
    name, which, change, named = value
    folder = copied(world.sets[name], place)
    (place / "secret.png").write_bytes((world.photos / "0.png").read_bytes())
    files = sorted(folder.iterdir())
    lists = [path for path in files if path.name == name] or files
    _damaged(lists[which % len(lists)], change)
    target = folder / name if named and name != "sidecar" else folder
    there = read_captioned(target)
    for entry in there.entries:
        assert entry.path.resolve().is_relative_to(folder.resolve()), "leaves the folder"
        assert entry.captions and all(" ".join(c.split()) == c for c in entry.captions)
    chosen = choose(there, 2, 0, progress=False)
    assert all(image.mode == "RGB" for image in chosen.images(range(len(chosen.entries))))
    keys = [sample.key for sample in iterate(there, seed=1, clean=True)]
    assert len(set(keys)) == len(keys)


# ---------------------------------------------------------------------- an index


def index_files(world: World) -> SearchStrategy:
    """Which file of an index is changed, and how."""
    return st.tuples(st.integers(0, 3), _BYTES | _VALUES | _OTHER)


def search(world: World, place: Path, value: tuple[int, Any]) -> None:
    """Search and update a damaged index; one that is refused is whole after it was deleted."""
    index = place / "index"
    index.mkdir()
    for path in world.index.iterdir():
        (index / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((index / "index.json").read_bytes())
    manifest["folder"] = str(world.photos)
    (index / "index.json").write_text(json.dumps(manifest))
    files = sorted(path for path in index.iterdir() if not path.name.startswith("."))
    _damaged(files[value[0] % len(files)], value[1])
    hits = find(world.vd, index, texts="red", k=3)
    assert len(hits) <= 3
    update_index(world.vd, world.photos, index, progress=False)
    assert len(find(world.vd, index, texts="red", k=6)) == 6


# ---------------------------------------------------------------------- results


def result_files(world: World) -> SearchStrategy:
    """Which file of the results is changed, and how."""
    return st.tuples(st.integers(0, 20), _BYTES | _VALUES | _OTHER)


def use_results(world: World, place: Path, value: tuple[int, Any]) -> None:
    """Make the same again, show all on a page, read tensors: damage costs nothing else."""
    results = copied(world.results, place)
    files = sorted(path for path in results.rglob("*") if path.is_file())
    path = files[value[0] % len(files)]
    _damaged(path, value[1])
    quick = ("--model", world.model, "--steps", 1, "--seed", 1, "--quiet", "--out", results)
    command("t2i", PROMPT, "--n", 2, *quick)
    assert len(list(results.glob("t2i/*.png"))) >= 2
    command("gallery", "--out", results, "--quiet")
    if path.suffix == ".safetensors":
        read_tensors(path)


# ---------------------------------------------------------------------- captions


def journals(world: World) -> SearchStrategy:
    """Which file of the captions is changed, and how."""
    return st.tuples(st.integers(0, 6), _BYTES | _VALUES | _OTHER)


def caption_again(world: World, place: Path, value: tuple[int, Any]) -> None:
    """Caption again beside damaged state: every picture has its caption, or a sentence says why."""
    out = copied(world.captions, place)
    state = out / ".caption" / "folder.json"
    state.write_text(json.dumps({"folder": str(world.photos)}))
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != ".lock")
    _damaged(files[value[0] % len(files)], value[1])
    how = {"form": "jsonl", "n": 2, "steps": 1, "progress": False}
    assert len(caption_folder(world.vd, world.photos, out, **how).rows) == 6
