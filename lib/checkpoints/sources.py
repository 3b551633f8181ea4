"""Which file holds which component: from a model's name or path to opened, sorted files.

A released model is spread over files (diffuser, image VAE, text VAE, CLIP), and one file may hold a
part or everything. A `Source` answers for one component at a time, so that files which nobody asks
for are not opened, let alone downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.checkpoints import hub, keymaps
from lib.checkpoints.tensor_files import PICKLES, TensorFile, open_tensors
from lib.config import COMPONENTS, VD_FOUR_FLOW_V1_0, ModelSpec

OWN = "own"
"""Layout of this project: a folder with config.json and one <component>.safetensors each."""

_SIDE_FILES = {
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

Candidates = Iterator[tuple[Path, str | None]]
"""Files that may hold a component, with their layout where it is known beforehand."""


@dataclass(frozen=True)
class Part:
    """An opened file, sorted.

    Attributes:
        file: names, shapes and values.
        layout: `OWN` or one of `keymaps.LAYOUTS`.
        owned: component -> the file's keys that belong to it; known-optional keys are left out.
    """

    file: TensorFile
    layout: str
    owned: dict[str, set[str]]


class Source:
    """Where a model's components are.

    Args:
        spec: sizes of the model.
        where: the file or folder, for messages.
        find: component -> files that may hold it, best first; a later one is only asked for (and
            downloaded) when no earlier one does.
        tokenizers: folder of the tokenizers, if there is one.
        default: the components that it has, as far as can be told without a download.
    """

    def __init__(
        self,
        spec: ModelSpec,
        where: Path | str,
        find: Callable[[str], Candidates],
        tokenizers: Path | None = None,
        default: tuple[str, ...] = COMPONENTS,
    ) -> None:
        self.spec = spec
        self.where = where
        self.find = find
        self.tokenizers = tokenizers if tokenizers is not None and tokenizers.is_dir() else None
        self.default = default
        self._parts: dict[Path, Part] = {}

    def open(self, path: Path, layout: str | None = None) -> Part:
        """Open and sort a file, once."""
        if path not in self._parts:
            self._parts[path] = sort_file(path, self.spec, layout)
        return self._parts[path]

    def part(self, component: str) -> Part:
        """The first file that holds the component.

        Raises:
            ValueError: none does, or a file cannot be read or understood.
            OSError: an official file is not here and could not be downloaded.
        """
        for path, layout in self.find(component):
            part = self.open(path, layout)
            if component in part.owned:
                return part
        side = _SIDE_FILES.get(component)
        raise ValueError(
            f"{self.where} does not hold the component {component}: "
            f"{f'put {side} beside it, or ' if side else ''}ask for others (components=, flows=)."
        )


def sort_file(path: Path, spec: ModelSpec, layout: str | None = None) -> Part:
    """Open a file and say which component each of its keys belongs to.

    Raises:
        ValueError: a key belongs to nothing that is known, or the file is none of the layouts.
    """
    file = open_tensors(path)
    if layout == OWN:
        return Part(file, OWN, {path.stem: set(file.shapes)})
    layout = layout or keymaps.detect(file.shapes)
    if layout is None:
        starts = sorted({key.split(".")[0] for key in file.shapes})
        raise ValueError(
            f"{path} is no checkpoint of Versatile Diffusion that is known here: its keys start "
            f"with {some(starts) or 'nothing'}."
        )
    owned: dict[str, set[str]] = {}
    unknown = []
    for key in file.shapes:
        owner = keymaps.owner(layout, spec, key)
        if owner is None:
            unknown.append(key)
        elif owner != keymaps.OPTIONAL:
            owned.setdefault(owner, set()).add(key)
    if unknown:
        raise ValueError(
            f"{path} ({layout} layout) holds {len(unknown)} keys that belong to no component of "
            f"{spec.name}: {some(unknown)}. Check that file and model (spec=) belong together."
        )
    return Part(file, layout, owned)


def locate(name_or_path: str | Path, spec: ModelSpec | None = None) -> Source:
    """Find a model by name or path.

    Args:
        name_or_path: the name of a folder in `pretrained/`, "vd-four-flow-v1-0", or the path of a
            checkpoint file or a model folder. A name wins over a path in the working directory.
        spec: sizes; needed for files of another model than the released one.

    Raises:
        ValueError: nothing is there, or it is not a model.
    """
    name, path = str(name_or_path), Path(name_or_path)
    if (hub.PRETRAINED / name / "config.json").is_file():
        return _own_folder(hub.PRETRAINED / name, spec)
    if name == VD_FOUR_FLOW_V1_0.name:
        return _released(spec or VD_FOUR_FLOW_V1_0)
    if path.is_file():
        return _single_file(path, spec or VD_FOUR_FLOW_V1_0)
    if (path / "config.json").is_file():
        return _own_folder(path, spec)
    if (path / "model_index.json").is_file():
        return _diffusers_folder(path, spec or VD_FOUR_FLOW_V1_0)
    if path.is_dir():
        return _single_file(_main_file(path), spec or VD_FOUR_FLOW_V1_0)
    if name == "vd-mini":
        raise ValueError(
            f"The weights of vd-mini are not in {hub.PRETRAINED / name}: they come with the "
            "repository (check the clone), or make them with `python -m training all`."
        )
    here = {path.parent.name for path in hub.PRETRAINED.glob("*/config.json") if _of_model(path)}
    raise ValueError(
        f"There is no model {name!r}: give {' or '.join(sorted(here | {VD_FOUR_FLOW_V1_0.name}))}, "
        "or the path of a checkpoint file or model folder."
    )


def _of_model(path: Path) -> bool:
    """Whether a config.json is that of a model: the judge has one, too."""
    try:
        return "unet" in _read_json(path)
    except ValueError:
        return False


def read_spec(folder: Path) -> ModelSpec:
    """The spec in a folder's config.json."""
    path = folder / "config.json"
    values = _read_json(path)
    if "unet" not in values:
        raise ValueError(f"{path} is not the configuration of a model of this project.")
    try:
        return ModelSpec.from_dict(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def some(names: list[str], count: int = 4) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - count
    return ", ".join(names[:count]) + (f" and {more} more" if more > 0 else "")


def _own_folder(folder: Path, spec: ModelSpec | None) -> Source:
    own = read_spec(folder)
    if spec is not None and spec != own:
        raise ValueError(f"{folder} has its own config.json, which differs: leave spec= out.")

    def find(component: str) -> Candidates:
        path = folder / f"{component}.safetensors"
        if not path.is_file():
            raise ValueError(
                f"{folder} lacks {path.name}: copy the whole folder, or ask for other components "
                "(components=, flows=)."
            )
        yield path, OWN

    here = tuple(name for name in COMPONENTS if (folder / f"{name}.safetensors").is_file())
    return Source(own, folder, find, folder / "tokenizers", here)


def _released(spec: ModelSpec) -> Source:
    for name in hub.MAIN_FILES:
        if (hub.PRETRAINED / name).is_file():
            return _single_file(hub.PRETRAINED / name, spec)

    def find(component: str) -> Candidates:
        if component in _SIDE_FILES:
            yield from _side_files(hub.PRETRAINED, component, spec)
        else:
            yield hub.fetch(hub.MAIN_FILES[0]), None

    return Source(spec, spec.name, find, tokenizers=hub.PRETRAINED / "tokenizers")


def _single_file(path: Path, spec: ModelSpec) -> Source:
    if path.stem in COMPONENTS and (path.parent / "config.json").is_file():
        raise ValueError(f"{path} is one component of a model: give the folder {path.parent}.")
    main = sort_file(path, spec)
    alone = main.layout in _SIDE_LAYOUTS

    def find(component: str) -> Candidates:
        yield path, main.layout
        if not alone:
            yield from _side_files(path.parent, component, spec)

    default = tuple(name for name in COMPONENTS if name in main.owned) if alone else COMPONENTS
    source = Source(spec, path, find, path.parent / "tokenizers", default)
    source._parts[path] = main
    return source


def _diffusers_folder(folder: Path, spec: ModelSpec) -> Source:
    kind = str(_read_json(folder / "model_index.json").get("_class_name"))
    if not kind.startswith("VersatileDiffusion"):
        raise ValueError(f"{folder} is a diffusers folder of {kind}, not of Versatile Diffusion.")
    stems = ("diffusion_pytorch_model", "model", "pytorch_model")
    names = [f"{s}{v}{e}" for e in (".safetensors", ".bin") for s in stems for v in ("", ".fp16")]

    def find(component: str) -> Candidates:
        if component not in _DIFFUSERS_FOLDERS:  # diffusers has no text VAE
            yield from _side_files(folder, component, spec)
            return
        sub = folder / _DIFFUSERS_FOLDERS[component]
        found = [sub / name for name in names if (sub / name).is_file()]
        if not found:
            raise ValueError(f"{sub} holds no weights: download the whole folder.")
        yield found[0], sub.name if sub.name.endswith("unet") else None

    return Source(spec, folder, find)


def _main_file(folder: Path) -> Path:
    named = [folder / name for name in hub.MAIN_FILES if (folder / name).is_file()]
    if named:
        return named[0]
    files = [p for p in sorted(folder.iterdir()) if p.suffix in (".safetensors", *PICKLES)]
    main = [p for p in files if p.name not in _SIDE_FILES.values()] or files
    if len(main) != 1:
        held = some([p.name for p in main]) if main else "no file of weights"
        raise ValueError(
            f"{folder} is not a model folder: it has neither config.json nor one of "
            f"{', '.join(hub.MAIN_FILES)}, and holds {held}. Give the path of the file."
        )
    return main[0]


def _side_files(folder: Path, component: str, spec: ModelSpec) -> Candidates:
    """Files that hold what the diffuser's file often lacks: beside it, or the official ones."""
    name = _SIDE_FILES.get(component)
    if name is None:
        return
    stem = name.removesuffix(".pth").removesuffix("/model.safetensors")
    for path in (name, f"{stem}.safetensors", f"{stem}.pth", f"{stem}/pytorch_model.bin"):
        if (folder / path).is_file():
            yield folder / path, None
    if spec == VD_FOUR_FLOW_V1_0:
        yield hub.fetch(name), None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not text
        raise ValueError(f"{path} is damaged ({error}): copy it again.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged (not a JSON object): copy it again.")
    return values
