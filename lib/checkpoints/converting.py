"""A model in another layout, written tensor by tensor: memory for one of them is enough.

| layout | what is written |
|---|---|
| own | a folder, one file a component, so that loading reads only what a flow needs |
| official | one file with the keys of the newer release, .safetensors or .pth |
| diffusers | a folder that diffusers' modules and transformers' CLIP load |

A diffusers folder holds what diffusers has no place for, too, where `load` finds it: the text VAE
as `optimus-vae.safetensors`, all three tokenizers in `tokenizers/`.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lib.checkpoints import diffusers_folder, keymaps
from lib.checkpoints.hub import check_space
from lib.checkpoints.parts import OWN, Part, check_fit, read_weight
from lib.checkpoints.sources import AbsentError, Source, locate
from lib.checkpoints.tensor_files import ending, open_tensors, save_pickle, write_tensors
from lib.checks import read_json
from lib.components import named_tensors, structure
from lib.config import COMPONENTS, ModelSpec
from lib.files import beside, replacing

log = logging.getLogger(__name__)

LAYOUTS = (OWN, "diffusers", "official")
TEXT_TO_IMAGE = "text_to_image_unet"
"""The image column with the text context layers in it, for who uses diffusers' UNet by itself."""

_CPU = torch.device("cpu")
_MAPPED = 2**29
"""Bytes to read of an open file before it is opened anew."""
# file of a diffusers folder -> whose keys it has -> the components in it
_DIFFUSERS_FILES = {
    "image_unet/diffusion_pytorch_model": ("image_unet", (*COMPONENTS[:2], "image_context")),
    "text_unet/diffusion_pytorch_model": ("text_unet", ("time_embed", "text_data", "text_context")),
    "vae/diffusion_pytorch_model": ("vae", ("image_encoder", "image_decoder")),
    "text_encoder/model": ("clip", ("clip_text",)),
    "image_encoder/model": ("clip", ("clip_vision",)),
    "optimus-vae": ("optimus-vae", ("text_encoder", "text_decoder")),
}

Keys = dict[str, tuple[str, str]]
"""Key in a file that is written -> component and parameter."""


def convert(
    source: str | Path,
    destination: str | Path,
    layout: str = OWN,
    *,
    dtype: torch.dtype | None = None,
    text_to_image: bool = False,
    spec: ModelSpec | None = None,
    progress: bool = True,
) -> tuple[str, ...]:
    """Write a model in another layout; all of it or nothing, and over nothing that is there.

    Args:
        source: what `load` takes: a name, a checkpoint file, or a folder.
        destination: the new folder, or for `official` the new .safetensors or .pth file.
        layout: one of `LAYOUTS`.
        dtype: of the weights; None: as they are in the source.
        text_to_image: for diffusers, also the folder `TEXT_TO_IMAGE`.
        spec: sizes, for files of another model than the released one.
        progress: show a bar.

    Returns:
        The components that were written; those that the source lacks are left out.

    Raises:
        ValueError: no such model, weights that do not fit or are not finite, or a destination that
            is there already or has a wrong ending.
        OSError: no space, or no permission; nothing is left behind.
    """
    destination = Path(destination)
    _check_destination(destination, layout)
    model = locate(source, spec)
    spec = model.spec
    extra = diffusers_folder.configurations(spec) if layout == "diffusers" else {}
    components = _available(model)
    shapes = {
        (component, name): tuple(tensor.shape)
        for component in components
        for name, tensor in structure(spec)[component].state_dict().items()
    }
    files = _plan(layout, spec, components, text_to_image)
    if not files:
        raise ValueError(f"{source} holds no part that layout {layout} has.")
    parts = {name: model.part(name, download=False) for name in components}
    kinds = {key: _kind(parts, *key, dtype) for keys in files.values() for key in keys.values()}
    size = {
        path: sum(math.prod(shapes[own]) * kinds[own].itemsize for own in keys.values())
        for path, keys in files.items()
    }
    pickled = layout == "official" and ending(destination) != ".safetensors"
    check_space(destination, sum(size.values()) * (1 + pickled))
    parts.clear()
    with (
        replacing() as temporary,
        tqdm(total=sum(size.values()), unit="B", unit_scale=True, disable=not progress) as bar,
    ):
        root = temporary(destination)
        for path, keys in files.items():
            target = root / path if path else root
            target.parent.mkdir(parents=True, exist_ok=True)
            wanted = {key: _shape(layout, key, shapes[own]) for key, own in keys.items()}
            with beside(destination.with_name("mapped")) as mapped:
                _write(mapped if pickled else target, model, keys, wanted, kinds, bar.update)
                if pickled:
                    tensors = open_tensors(mapped)
                    save_pickle({key: tensors[key] for key in tensors.shapes}, target)
        if layout != "official":
            _write_rest(root, model, layout, extra, [path for path in files if "/" in path])
        _check_destination(destination, layout)
    return components


def _check_destination(path: Path, layout: str) -> None:
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}: choose {', '.join(LAYOUTS)}.")
    if path.exists() or path.is_symlink():
        raise ValueError(f"{path} is there already: give another name, or remove it first.")
    if layout == "official" and ending(path) is None:
        raise ValueError(f"{path} has to be a file: give a name that ends in .safetensors or .pth.")
    if layout != "official" and ending(path) is not None:
        raise ValueError(f"{path} has to be a folder in layout {layout}: give a name without end.")


def _available(model: Source) -> tuple[str, ...]:
    """The components that can be read without a download, all of them checked by their headers."""
    here = []
    for name in model.components:
        try:
            part = model.part(name, download=False)
        except AbsentError as error:
            log.warning("left out: %s", error)
            continue
        module = structure(model.spec)[name]
        check_fit(part, name, module, model.spec)
        _check_tied(part, part.keys[name], module)
        here.append(name)
    return tuple(here)


def _check_tied(part: Part, keys: dict[str, str], module: nn.Module) -> None:
    """ValueError where a file has two tensors of what is one here, and they differ."""
    first: dict[int, str] = {}
    for name, tensor, tied in named_tensors(module):
        other = first.setdefault(id(tensor), name)
        if tied and {name, other} <= keys.keys():
            a, b = keys[name], keys[other]
            if not torch.equal(part.file[a], part.file[b]):
                raise ValueError(f"{part.file.path}: {a} and {b} differ, which Optimus ties.")


def _plan(
    layout: str, spec: ModelSpec, components: tuple[str, ...], text_to_image: bool
) -> dict[str, Keys]:
    """Files below the destination, and what each holds."""
    if text_to_image and layout != "diffusers":
        raise ValueError(
            f"{TEXT_TO_IMAGE} is a folder of layout diffusers: leave --text-to-image "
            f"(text_to_image) out for layout {layout}."
        )
    if layout == OWN:
        return {f"{name}.safetensors": _keys(layout, spec, (name,)) for name in components}
    if layout == "official":
        return {"": _keys(layout, spec, components)}
    groups = dict(_DIFFUSERS_FILES)
    if text_to_image:
        own = (*COMPONENTS[:2], "text_context")
        if lacking := [name for name in own if name not in components]:
            raise ValueError(
                f"The model lacks {', '.join(lacking)}, of which {TEXT_TO_IMAGE} is made: leave "
                "--text-to-image (text_to_image) out."
            )
        groups[f"{TEXT_TO_IMAGE}/diffusion_pytorch_model"] = ("image_unet", own)
    return {
        f"{path}.safetensors": _keys(keys, spec, parts)
        for path, (keys, parts) in groups.items()
        if set(parts) <= set(components)
    }


def _keys(layout: str, spec: ModelSpec, components: tuple[str, ...]) -> Keys:
    keys: Keys = {}
    for component in components:
        # context layers have the names of the network they are in
        place, words = component, layout
        if layout == "image_unet" and component == "text_context":
            place = "image_context"
        if layout == "text_unet" and component == "time_embed":
            words = "image_unet"
        for name, _, tied in named_tensors(structure(spec)[component]):
            if layout == OWN:
                keys |= {} if tied else {name: (component, name)}
            else:
                key = keymaps.file_keys(words, spec, place, name)[0]
                keys[key] = (component, name)
    return keys


def _kind(
    parts: dict[str, Part], component: str, name: str, dtype: torch.dtype | None
) -> torch.dtype:
    part = parts[component]
    kind = part.file.dtypes[_source_key(part, component, name)]
    # what is no kind of weights is refused by its name when it is read
    return dtype or (kind if isinstance(kind, torch.dtype) else torch.float32)


def _source_key(part: Part, component: str, name: str) -> str:
    keys = part.keys[component]
    # of two tied tensors a file may hold one
    return keys[name] if name in keys else keys["gpt2.transformer.wte.weight"]


def _shape(layout: str, key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """What our VAE's attention has as 1x1 convolutions are linear layers in diffusers'."""
    linear = layout == "diffusers" and re.match(r"(en|de)coder\.mid_block\.attentions\.0\.to_", key)
    return shape[:2] if linear else shape


def _write(
    path: Path,
    model: Source,
    keys: Keys,
    shapes: dict[str, tuple[int, ...]],
    kinds: dict[tuple[str, str], torch.dtype],
    update: Callable[[int], object],
) -> None:
    mapped = 0

    def read(key: str) -> Tensor:
        nonlocal mapped
        component, name = keys[key]
        if mapped > _MAPPED:  # not every system lets go of what was read of an open file
            model.close()
            mapped = 0
        part = model.part(component, download=False)
        kind = kinds[component, name]
        tensor = read_weight(part.file, _source_key(part, component, name), _CPU, kind)
        mapped += tensor.nbytes
        update(tensor.nbytes)
        return tensor

    write_tensors(path, shapes, {key: kinds[own] for key, own in keys.items()}, read)


def _write_rest(
    root: Path,
    model: Source,
    layout: str,
    configurations: dict[str, dict],
    files: list[str],
) -> None:
    """Configurations and tokenizers."""
    jsons = {"config.json": model.spec.to_dict()}
    folders = [path.split("/")[0] for path in files]
    words = model.tokenizers
    if layout == "diffusers":
        jsons = {p: v for p, v in configurations.items() if p.split("/")[0] in folders}
        jsons |= {p: v for p, v in configurations.items() if p.startswith("scheduler")}
        if TEXT_TO_IMAGE in folders:
            config = configurations["image_unet/config.json"]
            heads = {"attention_head_dim": model.spec.unet.text_heads}
            jsons[f"{TEXT_TO_IMAGE}/config.json"] = config | heads
        parts = [name for name in folders if name != TEXT_TO_IMAGE] + ["scheduler"]
        parts += ["image_feature_extractor"] * ("image_encoder" in parts)
        parts += ["tokenizer"] * (words is not None)
        jsons |= diffusers_folder.other_files(model.spec, parts)
    for path, values in jsons.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    if words is None:
        return
    clip = words if (words / "vocab.json").is_file() else words / "clip"
    if clip == words:
        shutil.copytree(words, root / "tokenizers" / "clip")
    else:
        shutil.copytree(words, root / "tokenizers")
    if layout == "diffusers":
        shutil.copytree(clip, root / "tokenizer")
        path = root / "tokenizer" / "tokenizer_config.json"
        config = read_json(path) if path.is_file() else {}
        config |= {"model_max_length": model.spec.clip.text.positions}
        config.setdefault("pad_token", "<|endoftext|>")
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
