"""Saving: a folder that `load` reads, written in full or not at all.

The folder is this project's own layout: config.json (the `ModelSpec`), one <component>.safetensors
each (or parts of it and their index, as diffusers and transformers have them), tokenizers/.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from lib.checkpoints.parts import own_file
from lib.checkpoints.tensor_files import INDEX, open_tensors, write_tensors
from lib.components import named_tensors, structure
from lib.config import COMPONENTS, ModelSpec
from lib.files import replacing
from lib.fingerprints import fingerprint
from lib.model import VersatileDiffusion

log = logging.getLogger(__name__)


def save(
    vd: VersatileDiffusion,
    folder: str | Path,
    dtype: torch.dtype = torch.float16,
    components: Sequence[str] | None = None,
    max_file: int | None = None,
) -> None:
    """Write components, the configuration and the tokenizers to a folder that `load` reads.

    Other components that the folder holds already stay. All files are written in full before the
    first one takes its place.

    Args:
        vd: the model.
        folder: made if needed.
        dtype: of the stored weights.
        components: default: all that the model has, also those that were not read yet.
        max_file: bytes of a file of weights; a component of more is divided (a tensor is not).

    Raises:
        ValueError: the model lacks a component, a weight is not finite in `dtype`, or the folder
            holds components of another model.
        OSError: the files could not be written (disk full, no permission); the folder is unchanged.
    """
    folder = Path(folder)
    names = vd.available if components is None else tuple(components)
    vd.require(*names)
    _check_neighbours(folder, vd.spec, names)
    written = []
    try:
        with replacing() as temporary:
            for name in names:
                tensors = {
                    inner: tensor
                    for inner, tensor, tied in named_tensors(vd.component(name))
                    if not tied
                }
                read = partial(_stored, tensors, name, dtype)
                sizes = {key: tensor.numel() * dtype.itemsize for key, tensor in tensors.items()}
                files = _divided(name, vd.component(name), sizes, max_file)
                for file, keys in files.items():
                    shapes = {key: tuple(tensors[key].shape) for key in keys}
                    path = temporary(folder / file)
                    write_tensors(path, shapes, dict.fromkeys(keys, dtype), read)
                written += files
                if len(files) > 1:  # placed last, and only then does anybody see its files
                    index = {"metadata": {"total_size": sum(sizes.values())}}
                    index["weight_map"] = {key: file for file in files for key in files[file]}
                    written.append(f"{name}.safetensors{INDEX}")
                    temporary(folder / written[-1]).write_text(json.dumps(index, indent=2) + "\n")
            text = json.dumps(vd.spec.to_dict(), indent=2) + "\n"
            temporary(folder / "config.json").write_text(text, encoding="utf-8")
            words = getattr(vd.tokenizers, "source", None)
            if words is not None and words.resolve() != (folder / "tokenizers").resolve():
                for path in sorted(p for p in words.rglob("*") if p.is_file()):
                    copy = folder / "tokenizers" / path.relative_to(words)
                    shutil.copyfile(path, temporary(copy))
    except OSError as error:
        raise OSError(
            f"Could not save to {folder} ({error}); what it held before is unchanged. Free some "
            "space or choose another folder, and save again."
        ) from error
    ours = rf"({'|'.join(names)})(-[0-9a-f]{{8}}-\d{{5}}-of-\d{{5}})?\.safetensors(\.index\.json)?"
    # an index wins over a whole file, which is seen from here on; and names parts that go then
    for path in sorted(folder.iterdir(), key=lambda p: not p.name.endswith(INDEX)):
        if re.fullmatch(ours, path.name) and path.name not in written:
            # what is open elsewhere may stay: nothing names it any more, once the index has gone
            with nullcontext() if path.name.endswith(INDEX) else suppress(OSError):
                path.unlink()


def _divided(
    name: str, module: nn.Module, sizes: dict[str, int], most: int | None
) -> dict[str, list[str]]:
    """Files of at most so many bytes, and the tensors in each.

    Several are named after the weights in them, so none takes the place of one that an index names.
    """
    if most is None:
        return {f"{name}.safetensors": list(sizes)}
    from huggingface_hub import split_state_dict_into_shards_factory as split

    sizes = {key: size + 256 for key, size in sizes.items()}  # what a header says of each
    largest = max(sizes, key=sizes.__getitem__)
    if sizes[largest] > most:
        log.warning("%s.%s alone is more than %d bytes, so its file is, too", name, largest, most)
    pattern = f"{name}-{fingerprint(module)[:8]}{{suffix}}.safetensors"
    parts = split(sizes, get_storage_size=int, filename_pattern=pattern, max_shard_size=most)
    files = parts.filename_to_tensors
    return files if len(files) > 1 else _divided(name, module, sizes, None)


def _stored(tensors: dict[str, Tensor], component: str, dtype: torch.dtype, name: str) -> Tensor:
    stored = tensors[name].detach().to("cpu", dtype)
    if not torch.isfinite(stored).all():
        was = tensors[name].detach().abs().max().item()
        raise ValueError(
            f"{component}.{name} cannot be saved in {dtype} (largest absolute value {was:g}): "
            "save in float32 or bfloat16, or look for the step that broke training."
        )
    return stored


def _check_neighbours(folder: Path, spec: ModelSpec, names: Sequence[str]) -> None:
    """Refuse to write a configuration that the folder's other components would not fit."""
    for name in COMPONENTS:
        path = own_file(folder, name)
        if name in names or path is None:
            continue
        own = named_tensors(structure(spec)[name])
        if open_tensors(path).shapes != {n: tuple(t.shape) for n, t, tied in own if not tied}:
            raise ValueError(
                f"{path} belongs to a model of other sizes than {spec.name}: save to another "
                "folder, or remove it first."
            )
