"""Which file holds which component: from a model's name or path to opened, sorted files.

A released model is spread over files (diffuser, image VAE, text VAE, CLIP), and one file may hold a
part or everything. A `Source` answers for one component at a time, so that files which nobody asks
for are not opened, let alone downloaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from lib.checkpoints import diffusers_folder, hub
from lib.checkpoints.diffusers_folder import checked
from lib.checkpoints.parts import OWN, Part, own_file, shorten, sort_file
from lib.checkpoints.tensor_files import ENDINGS, ending
from lib.checks import read_json
from lib.config import COMPONENTS, ModelSpec
from lib.specs import VD_FOUR_FLOW_V1_0

SIDE_FILES = {
    "image_encoder": "kl-f8.pth",
    "image_decoder": "kl-f8.pth",
    "text_encoder": "optimus-vae.pth",
    "text_decoder": "optimus-vae.pth",
    "clip_text": "clip-vit-large-patch14/model.safetensors",
    "clip_vision": "clip-vit-large-patch14/model.safetensors",
}
_SIDE_LAYOUTS = ("kl-f8", "optimus-vae", "clip", "vae")
_DIFFUSERS_FOLDERS = {
    "time_embed": "image_unet",
    "image_data": "image_unet",
    "image_context": "image_unet",
    "text_data": "text_unet",
    "text_context": "text_unet",
    "image_encoder": "vae",
    "image_decoder": "vae",
    "clip_text": "text_encoder",
    "clip_vision": "image_encoder",
}
_DIFFUSERS_NAME = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)"
    r"(?P<a>\.\w+)?(?P<part>-\d{5}-of-\d{5})?(?P<b>\.\w+)?"
)

Candidates = Iterator[tuple[Path | str, str | None]]
"""Files that may hold a component, or an official one's name (`hub.SOURCES`), with their layout
where it is known beforehand."""


class AbsentError(ValueError):
    """A model lacks a component; says what to do about it."""


class Source:
    """Where a model's components are.

    Args:
        spec, where: sizes of the model; the file or folder, for messages.
        find: component -> files that may hold it, best first; a later one is only asked for (and
            downloaded) when no earlier one does.
        tokenizers: folder of the tokenizers, if there is one.
        components: those that it has, as far as can be told without a download.
    """

    def __init__(
        self,
        spec: ModelSpec,
        where: Path | str,
        find: Callable[[str], Candidates],
        tokenizers: Path | None = None,
        components: tuple[str, ...] = COMPONENTS,
    ) -> None:
        self.spec = spec
        self.where = where
        self.find = find
        self.tokenizers = tokenizers if tokenizers is not None and tokenizers.is_dir() else None
        self.components = components
        self._parts: dict[Path, Part] = {}

    def open(self, path: Path, layout: str | None = None) -> Part:
        """Open and sort a file, once."""
        if path not in self._parts:
            self._parts[path] = sort_file(path, self.spec, layout)
        return self._parts[path]

    def close(self) -> None:
        """Forget the open files: what of them was mapped into memory goes with their tensors."""
        self._parts.clear()

    def part(self, component: str, download: bool = True) -> Part:
        """The first file that holds the component.

        Args:
            component: one of `lib.config.COMPONENTS`.
            download: whether to get an official file that is not on this machine.

        Raises:
            AbsentError: none does.
            ValueError: a file cannot be read or understood.
            OSError: an official file is not here and could not be downloaded.
        """
        for where, layout in self.find(component):
            path = where if isinstance(where, Path) else hub.fetch(where, download)
            part = None if path is None else self.open(path, layout)
            if part is not None and component in part.keys:
                return part
        side = SIDE_FILES.get(component)
        raise AbsentError(
            f"{self.where} does not hold the component {component}: "
            f"{f'put {side} beside it, or ' if side else ''}ask for others (components=, flows=)."
        )


def locate(name_or_path: str | Path, spec: ModelSpec | None = None) -> Source:
    """Find a model by name or path.

    Args:
        name_or_path: the name of a folder or file in `pretrained/`, "vd-four-flow-v1-0", or the
            path of a checkpoint file or a model folder. The name of a folder with a model wins over
            a path in the working directory.
        spec: sizes; needed for files of another model than the released one.

    Raises:
        ValueError: nothing is there, or it is not a model.
    """
    name, path = str(name_or_path), Path(name_or_path)
    isfile, isdir = os.path.isfile, os.path.isdir  # False, where Path raises: names too long
    if isfile(hub.PRETRAINED / name / "config.json"):
        return _own_folder(hub.PRETRAINED / name, spec)
    sizes = spec or VD_FOUR_FLOW_V1_0
    if name == VD_FOUR_FLOW_V1_0.name:
        return _released(sizes)
    if not os.path.exists(path) and isfile(hub.PRETRAINED / name):
        path = hub.PRETRAINED / name
    if isfile(path):
        return _single_file(path, sizes)
    if isfile(path / "config.json"):
        return _own_folder(path, spec)
    if isfile(path / "model_index.json"):
        return _diffusers_folder(path, spec)
    if isdir(path):
        return _single_file(_main_file(path), sizes)
    if name == "vd-mini":
        raise ValueError(
            f"The weights of vd-mini are not in {hub.PRETRAINED / name}: they come with the "
            "repository (check the clone), or make them with `python -m training all`."
        )
    configs = hub.PRETRAINED.glob("*/config.json")  # the judge has one, too
    here = {p.parent.name for p in configs if '"unet"' in p.read_text(encoding="utf-8")}
    raise ValueError(
        f"There is no model {name if len(name) < 200 else name[:200] + '...'!r}: give "
        f"{' or '.join(sorted(here | {VD_FOUR_FLOW_V1_0.name}))}, or the path of a checkpoint file "
        "or model folder."
    )


def read_spec(folder: Path) -> ModelSpec:
    """The spec in a folder's config.json.

    Raises:
        ValueError: it is damaged, of something else, or a value is not possible.
    """
    path = folder / "config.json"
    values = read_json(path)
    if "unet" not in values:
        raise ValueError(f"{path} is not the configuration of a model of this project.")
    return checked(values, path)


def _own_folder(folder: Path, spec: ModelSpec | None) -> Source:
    own = read_spec(folder)
    if spec is not None and spec != own:
        raise ValueError(f"{folder} has its own config.json, which differs: leave spec= out.")

    def find(component: str) -> Candidates:
        path = own_file(folder, component)
        if path is None:
            raise AbsentError(
                f"{folder} lacks {component}.safetensors: copy the whole folder, or ask for other "
                "components (components=, flows=)."
            )
        yield path, OWN

    here = tuple(name for name in COMPONENTS if own_file(folder, name))
    return Source(own, folder, find, folder / "tokenizers", here)


def _released(spec: ModelSpec) -> Source:
    if here := _named(hub.PRETRAINED, *hub.MAIN_FILES):
        return _single_file(here[0], spec)

    def find(component: str) -> Candidates:
        if component in SIDE_FILES:
            yield from _side_files(hub.PRETRAINED, component, spec)
        else:
            yield hub.MAIN_FILES[0], None

    return Source(spec, spec.name, find, tokenizers=hub.PRETRAINED / "tokenizers")


def _single_file(path: Path, spec: ModelSpec) -> Source:
    if re.split(r"[-.]", path.name)[0] in COMPONENTS and (path.parent / "config.json").is_file():
        raise ValueError(f"{path} is of one component of a model: give the folder {path.parent}.")
    main = sort_file(path, spec)
    alone = main.layout in _SIDE_LAYOUTS

    def find(component: str) -> Candidates:
        yield path, None
        if not alone:
            yield from _side_files(path.parent, component, spec)

    here = tuple(name for name in COMPONENTS if name in main.keys) if alone else COMPONENTS
    source = Source(spec, path, find, path.parent / "tokenizers", here)
    source._parts[path] = main
    return source


def _diffusers_folder(folder: Path, spec: ModelSpec | None) -> Source:
    kind = str(read_json(folder / "model_index.json").get("_class_name"))
    if not kind.startswith("VersatileDiffusion"):
        raise ValueError(f"{folder} is a diffusers folder of {kind}, not of Versatile Diffusion.")
    if "TextToImage" in kind or "DualGuided" in kind:
        raise ValueError(
            f"{folder} was saved by {kind}, which moves context layers from one network into the "
            "other: nobody can tell which they are. Save a VersatileDiffusionPipeline instead."
        )
    spec = spec or diffusers_folder.read_spec(folder)

    def find(component: str) -> Candidates:
        if component not in _DIFFUSERS_FOLDERS:  # diffusers has no text VAE
            yield from _side_files(folder, component, spec)
            return
        part = folder / _DIFFUSERS_FOLDERS[component]
        yield _diffusers_file(part), part.name if part.name.endswith("unet") else None

    own = folder / "tokenizers"
    return Source(spec, folder, find, own if own.is_dir() else folder / "tokenizer")


def _diffusers_file(folder: Path) -> Path:
    """The weights in a part of a diffusers folder: safetensors and full precision if it can be."""
    choices = []
    for path in _weights(folder):
        match = _DIFFUSERS_NAME.fullmatch(path.name.removesuffix(ending(path)))
        if match:
            variant = match["a"] or match["b"] or ""
            kind = ENDINGS.index(ending(path).lower())
            choices.append((kind, variant == ".non_ema", variant, path.name, path))
    if not choices:
        raise AbsentError(f"{folder} holds no weights: download the whole folder.")
    return min(choices)[-1]


def _main_file(folder: Path) -> Path:
    if named := _named(folder, *hub.MAIN_FILES):
        return named[0]
    sides = _named(folder, *SIDE_FILES.values())
    main = [path for path in _weights(folder) if path not in sides] or sides
    if len(main) != 1:
        held = shorten([path.name for path in main]) if main else "no file of weights"
        raise ValueError(
            f"{folder} is not a model folder: it has neither config.json nor one of "
            f"{', '.join(hub.MAIN_FILES)}, and holds {held}. Give the path of the file."
        )
    return main[0]


def _side_files(folder: Path, component: str, spec: ModelSpec) -> Candidates:
    """Files that hold what the diffuser's file often lacks: beside it, or the official ones."""
    name = SIDE_FILES.get(component)
    if name is None:
        return
    own = name.split("/")[0]  # CLIP's is a folder; one file of its name will do, too
    for path in (*_named(folder / own, "model", "pytorch_model"), *_named(folder, own)):
        yield path, None
    if spec == VD_FOUR_FLOW_V1_0:
        yield name, None


def _named(folder: Path, *names: str) -> list[Path]:
    """A folder's files of weights of these names, whatever their endings, in that order."""
    stems = [name.removesuffix(ending(Path(name)) or "") for name in names]
    files = [(path.name.removesuffix(ending(path)), path) for path in _weights(folder)]
    return [path for stem in stems for own, path in files if own == stem]


def _weights(folder: Path) -> list[Path]:
    """A folder's files of weights, the preferred endings first."""
    files = [path for path in sorted(folder.glob("*")) if ending(path) and path.is_file()]
    return sorted(files, key=lambda path: ENDINGS.index(ending(path).lower()))
