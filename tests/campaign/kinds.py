"""Kinds of inputs: what each is made of, and what it is given to."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from safetensors.torch import load_file, save_file

from analysis.modes import MODES, image_to_text, text_to_image, text_variation
from analysis.results.outputs import read_record, save
from data.pictures import open_mask, open_picture, read_pictures
from data.prompts import prompts_in
from lib.checkpoints import load
from tests.campaign import sets
from tests.campaign.strategies import (
    CHANGES,
    EDITS,
    ODD_TEXT,
    WORDS,
    as_json,
    edited,
    exchanged,
)
from tests.campaign.worker import command
from tests.campaign.world import PROMPT, World, linked_model, pictures

QUICK = {"steps": 1, "seed": 1, "progress": False}


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        inputs: what is drawn.
        run: tries one of them in an empty folder; what it raises is judged by `worker.attempt`.
        share: of the campaign's inputs, as a weight.
    """

    inputs: Callable[[World], SearchStrategy]
    run: Callable[[World, Path, Any], None]
    share: int


# ---------------------------------------------------------------------- pictures and texts


def _pictures(world: World) -> SearchStrategy:
    good = st.sampled_from(pictures())
    content = st.builds(edited, good, EDITS) | good | st.binary(max_size=200)
    endings = st.sampled_from([".png", ".jpg", ".webp", ".tif", ".gif", ".ico", ".j2k"])
    return st.tuples(content, endings)


def _open(world: World, place: Path, value: tuple[bytes, str]) -> None:
    path = place / f"x{value[1]}"
    path.write_bytes(value[0])
    (place / "good.png").write_bytes((world.photos / "0.png").read_bytes())
    good, skipped = read_pictures([place])
    names = [picture.name for picture in good]
    assert "good.png" in names and len(good) + len(skipped) == 2, "one picture stops the others"
    image = open_picture(path)
    assert image.mode == "RGB" and min(image.size) > 0
    weights = open_mask(path)
    assert 0 <= float(weights.min()) <= float(weights.max()) <= 1
    assert tuple(weights.shape) == image.size[::-1]


def _prompts(world: World) -> SearchStrategy:
    words = st.lists(st.sampled_from(PROMPT.split()), min_size=1, max_size=40).map(" ".join)
    return st.tuples(st.booleans(), words | ODD_TEXT | st.text(max_size=200))


def _say(world: World, place: Path, value: tuple[bool, str]) -> None:
    paints, prompt = value
    mode = text_to_image if paints else text_variation
    for path in save(mode(world.vd, prompt, **QUICK), place):
        assert read_record(path)["prompt"] == prompt


def _prompt_files(world: World) -> SearchStrategy:
    good = [PROMPT, f"prompt\n{PROMPT}\n", json.dumps({"prompt": PROMPT}), json.dumps([PROMPT])]
    content = st.builds(edited, st.sampled_from([text.encode() for text in good]), EDITS)
    other = st.builds(as_json, st.builds(exchanged, st.just([{"prompt": PROMPT}]), CHANGES))
    return st.tuples(
        st.sampled_from([".txt", ".jsonl", ".csv", ".tsv", ".json", ""]), content | other
    )


def _read_prompts(world: World, place: Path, value: tuple[str, bytes]) -> None:
    path = place / f"prompts{value[0]}"
    path.write_bytes(value[1])
    assert all(prompt.strip() for prompt in prompts_in(path))


# ---------------------------------------------------------------------- commands


_USUAL = st.sampled_from(["1", "2", "0.5", "0", "0.25"])
"""Words that many options take."""


def _options(world: World) -> SearchStrategy:
    def of(name: str) -> SearchStrategy:
        mode = MODES[name]
        flags = [
            flag
            for key, option in mode.options.items()
            for flag in option.flags or (f"--{key.replace('_', '-')}",)
        ]
        chosen = st.lists(
            st.tuples(st.sampled_from(flags), _USUAL | _choices(mode) | WORDS),
            min_size=1,
            max_size=3,
        )
        return st.tuples(st.just(name), chosen)

    return st.sampled_from(sorted(MODES)).flatmap(of)


def _choices(mode: Any) -> SearchStrategy:
    words = [w for option in mode.options.values() for w in getattr(option.kind, "words", ())]
    return st.sampled_from(sorted({*words, "16", "32"}))


def _command(world: World, place: Path, value: tuple[str, list[tuple[str, str]]]) -> None:
    name, chosen = value
    argv: list[object] = [name]
    for item in MODES[name].inputs.values():
        given = world.photos / "0.png" if item.kind == "image" else PROMPT
        argv += [item.flag, given] if item.flag else [given]
    if name == "interpolate":
        argv.append(PROMPT[::-1])
    argv += ["--model", world.model, "--out", place, "--quiet", "--steps", 1]
    for flag, word in chosen:
        argv.append(f"{flag}={word}")
    command(*argv)


def _elsewhere(world: World) -> SearchStrategy:
    words = WORDS | st.sampled_from(["own", "folder", "scenes", "t2i", "i2t,t2t", "jsonl", "exact"])
    evaluate = ("--n", "--seed", "--steps", "--flows", "--batch", "--scale", "--sweep-steps")
    evaluate += ("--suite", "--format", "--t2t-pairs", "--sweep-fidelity", "--features")
    caption = ("--n", "--seed", "--steps", "--format", "--shard-size", "--batch", "--temperature")
    query = ("--text", "--image", "--not", "--k", "--library")
    table = {"evaluate": evaluate, "caption": caption, "query": query, "gallery": ("--out",)}
    table["index"] = ("--batch", "--precision", "--library")

    def of(name: str) -> SearchStrategy:
        pairs = st.tuples(st.sampled_from(table[name]), words)
        return st.tuples(st.just(name), st.lists(pairs, min_size=1, max_size=3))

    return st.sampled_from(sorted(table)).flatmap(of)


def _command_elsewhere(world: World, place: Path, value: tuple[str, list]) -> None:
    name, chosen = value
    model = ("--model", world.model, "--quiet")
    first: dict[str, tuple[object, ...]] = {
        "evaluate": (
            *("evaluate", "--suite", "folder", "--data", world.photos, "--features", "own"),
            *("--n", 2, "--steps", 1, "--flows", "t2i", "--t2t-pairs", 1, "--out", place, *model),
        ),
        "caption": ("caption", world.photos, "--n", 1, "--steps", 1, "--out", place, *model),
        "index": ("search", "index", world.photos, "--index", place, *model),
        "query": ("search", "query", "--text", "x", "--index", world.index, "--out", place, *model),
        "gallery": ("gallery", "--out", place, "--quiet"),
    }
    outside = name == "gallery" and any(word for _, word in chosen)  # writes where it is told to
    chosen = [] if outside else chosen
    command(*first[name], *(f"{flag}={word}" for flag, word in chosen))


# ---------------------------------------------------------------------- models


def _configurations(world: World) -> SearchStrategy:
    text = (world.model / "config.json").read_bytes()
    good = st.just(json.loads(text))
    return st.builds(as_json, st.builds(exchanged, good, CHANGES)) | st.builds(
        edited, st.just(text), EDITS
    )


def _configured(world: World, place: Path, value: bytes) -> None:
    model = linked_model(world, place, "config.json")
    (model / "config.json").write_bytes(value)
    _use(world, model)


def _use(world: World, model: Path) -> None:
    vd = load(model, device="cpu", dtype=torch.float32)
    text_to_image(vd, PROMPT, **QUICK)
    image_to_text(vd, [world.photos / "0.png"], **QUICK)


_TENSOR_CHANGES = ("float16", "bfloat16", "int64", "float8", "bool", "complex", "nan", "inf")
_TENSOR_CHANGES += ("rename", "drop", "transpose", "grow", "prefix", "leftover", "empty", "scalar")


def _checkpoints(world: World) -> SearchStrategy:
    names = sorted(path.name for path in world.model.glob("*.safetensors"))
    changes = st.lists(
        st.tuples(st.sampled_from(_TENSOR_CHANGES), st.integers(0, 500)), min_size=1, max_size=2
    )
    form = st.sampled_from(["safetensors", "zip", "legacy", "wrapped"])
    return st.tuples(st.sampled_from(names), changes | EDITS, form)


def _changed(tensors: dict[str, Any], changes: list[tuple[str, int]]) -> dict[str, Any]:
    for change, which in changes:
        if not tensors:
            break
        name = sorted(tensors)[which % len(tensors)]
        value = tensors[name]
        kinds = {"int64": torch.int64, "float8": torch.float8_e4m3fn, "bool": torch.bool}
        kinds |= {"complex": torch.complex64, "float16": torch.float16, "bfloat16": torch.bfloat16}
        if change in kinds:
            tensors[name] = value.float().to(kinds[change])
        elif change in ("nan", "inf"):
            tensors[name] = torch.full_like(value.float(), float(change))
        elif change == "rename":
            tensors[f"{name}x"] = tensors.pop(name)
        elif change == "drop":
            del tensors[name]
        elif change == "transpose":
            tensors[name] = value.T.contiguous() if value.ndim == 2 else value.flatten()
        elif change == "grow":
            tensors[name] = torch.cat([value.reshape(-1)] * 2)
        elif change == "prefix":
            tensors = {f"module.{key}": tensor for key, tensor in tensors.items()}
        elif change == "leftover":
            tensors["loss.x"] = torch.zeros(1)
        else:
            tensors[name] = torch.zeros((0,) if change == "empty" else ())
    return tensors


def _weights(world: World, place: Path, value: tuple[str, list, str]) -> None:
    name, changes, form = value
    model = linked_model(world, place, name)
    path = model / name
    tensors = load_file(world.model / name)
    by_tensor = len(changes[0]) == 2
    if by_tensor:
        tensors = _changed(tensors, changes)
    if form == "safetensors":
        save_file(tensors, path)
    else:
        held = {"state_dict": tensors, "step": 3} if form == "wrapped" else tensors
        torch.save(held, path, _use_new_zipfile_serialization=form != "legacy")
    if not by_tensor:
        path.write_bytes(edited(path.read_bytes(), changes))
    vd = load(model, device="cpu", dtype=torch.float32)
    vd.component(name.removesuffix(".safetensors"))
    if form != "safetensors":  # the same as a file of the released kind, which it is too small for
        other = path.replace(place / "x.pth")
        load(other, device="cpu", dtype=torch.float32).component("time_embed")


def _tensors(world: World) -> SearchStrategy:
    clip, latent = world.vd.spec.clip, (1, *world.vd.latent_shape("image"))
    odd = st.sampled_from([(3, 16), (1, 4, 4, 4), latent[1:], (2, *latent[1:])])
    odd |= st.lists(st.sampled_from([0, 1, 2, 4, 8, 16, 32]), max_size=4).map(tuple)
    few = ["float64", "int64", "bool", "complex64", "O"]
    kinds = st.sampled_from([*["float32", "float16"] * len(few), *few])
    fill = st.sampled_from([*[0.0, 1.0, -0.3] * 2, float("nan"), 1e38])
    form = st.sampled_from([".npy", ".npz", ".pt", ".pth", ".safetensors"])

    def of(use: str) -> SearchStrategy:
        good = (1, clip.text.positions, clip.projection) if use == "context" else latent
        shapes = st.just(good) | st.just(good) | st.just(good) | odd
        return st.tuples(st.just(use), shapes, kinds, fill, form, st.none() | st.none() | EDITS)

    return st.sampled_from(["context", "latents", "start"]).flatmap(of)


def _tensor_file(world: World, place: Path, value: tuple) -> None:
    use, shape, kind, fill, form, edits = value
    array = np.full(shape, fill).astype(kind)
    path = place / f"x{form}"
    buffer = io.BytesIO()
    if form == ".npy":
        np.save(buffer, array)
    elif form == ".npz":
        np.savez(buffer, **{use: array})
    else:
        tensor = torch.zeros(shape) if kind == "O" else torch.from_numpy(array)
        if form == ".safetensors":
            save_file({use: tensor}, path)
            buffer.write(path.read_bytes())
        else:
            torch.save(tensor if len(shape) % 2 else {use: tensor}, buffer)
    path.write_bytes(buffer.getvalue() if edits is None else edited(buffer.getvalue(), edits))
    given = None if use == "context" else PROMPT
    more = {"fidelity": 0.5} if use == "start" else {}
    images = text_to_image(world.vd, given, **{use: path}, **more, **QUICK).images
    assert len(images) == 1


KINDS = {
    "pictures": Kind(_pictures, _open, 30),
    "prompts": Kind(_prompts, _say, 8),
    "files of prompts": Kind(_prompt_files, _read_prompts, 8),
    "numbers and options": Kind(_options, _command, 6),
    "options of the other commands": Kind(_elsewhere, _command_elsewhere, 4),
    "configurations": Kind(_configurations, _configured, 10),
    "checkpoints": Kind(_checkpoints, _weights, 8),
    "contexts and latents": Kind(_tensors, _tensor_file, 8),
    "caption sets": Kind(sets.inputs, sets.read, 12),
    "index files": Kind(sets.index_files, sets.search, 3),
    "records and results": Kind(sets.result_files, sets.use_results, 3),
    "journals of captions": Kind(sets.journals, sets.caption_again, 2),
}
"""Name -> kind."""
