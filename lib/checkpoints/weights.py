"""Loading and saving: lazy, strict, atomic.

*Lazy*: a flow needs a part of the model (text-to-image 1.03 B of 3.8 B parameters); only the
components asked for are built, and only their tensors are read. Modules are built on the `meta`
device, without memory, and the file's tensors become their parameters (`assign=True`).

*Strict*: every parameter of a component is filled, every key that belongs to it is consumed exactly
once, every other key of the file belongs to something known. Anything else is an error by name.

*Atomic*: files are written beside their destination and renamed, so that an interrupted `save`
leaves the old file or the new one.

Our own layout, which `save` writes, is a folder: config.json (the `ModelSpec`), one
<component>.safetensors each, tokenizers/.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from lib.checkpoints import keymaps
from lib.checkpoints.sources import OWN, Part, locate, some
from lib.checkpoints.tensor_files import open_tensors
from lib.components import build, check_components
from lib.config import COMPONENTS, VD_FOUR_FLOW_V1_0, ModelSpec, components_for
from lib.files import replacing
from lib.model import VersatileDiffusion
from lib.tokenizers import load_tokenizers

log = logging.getLogger(__name__)

BIG = 200_000_000
"""Parameters from which on half precision is worth its rounding (see `choose_dtype`)."""


def load(
    name_or_path: str | Path = "vd-mini",
    *,
    flows: Sequence[str] | str | None = None,
    components: Sequence[str] | str | None = None,
    encoders: bool = True,
    spec: ModelSpec | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> VersatileDiffusion:
    """Load a model, ready for inference; each component is read when it is first required.

    Args:
        name_or_path: "vd-mini" or another folder in `pretrained/`; "vd-four-flow-v1-0" (files in
            `pretrained/`, else the hub); the path of a checkpoint in any released layout
            (`lib.checkpoints.keymaps`), of a model folder that `save` wrote, or of a diffusers
            folder.
        flows: any of `lib.config.FLOWS`, whose components are read at once; with `encoders`, also
            what starting from a given picture or text needs.
        components: any of `lib.config.COMPONENTS`, which are read at once, too.
        encoders: see flows.
        spec: sizes, for files of another model than the released one; folders bring their own.
        device: cpu, cuda, cuda:1, ... or mps; default: cuda, else mps, else cpu.
        dtype: default: `choose_dtype`.

    Returns:
        The model in evaluation mode, without gradients.

    Raises:
        ValueError: nothing of that name, a damaged file, or weights that do not fit; names the
            file and what is missing, left over or of a wrong shape. (Also when a component is read
            later.)
        OSError: an official file is not here and could not be downloaded.

    Example:
        >>> vd = load("vd-four-flow-v1-0")
        >>> vd.require(*components_for(["t2i"]))                     # 1.03 of 3.8 B parameters
    """
    flows, components = (
        (value,) if isinstance(value, str) else tuple(value or ()) for value in (flows, components)
    )
    wanted = {*components_for(flows, encoders), *components} if flows else set(components)
    check_components(sorted(wanted))
    device = choose_device(device)
    source = locate(name_or_path, spec)
    spec = source.spec
    with torch.device("meta"):
        modules = [build(spec, name) for name in wanted or source.default]
    count = sum(p.numel() for module in modules for p in module.parameters())
    dtype = dtype or choose_dtype(device, count)
    log.info("%s: %.1f M parameters, %s on %s", source.where, count / 1e6, dtype, device)

    def read(name: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
        with torch.device("meta"):
            module = build(spec, name)
        fill(module, name, source.part(name), spec, device, dtype)
        return module.eval().requires_grad_(False)

    words = None
    if source.tokenizers is not None or spec == VD_FOUR_FLOW_V1_0:
        words = load_tokenizers(source.tokenizers, spec)
    vd = VersatileDiffusion(
        spec, {}, words, read=read, readable=source.default, device=device, dtype=dtype
    ).eval()
    vd.require(*(name for name in COMPONENTS if name in wanted))
    return vd


def fill(
    module: nn.Module,
    component: str,
    part: Part,
    spec: ModelSpec,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Give every parameter of a module its tensor from a file, and leave none of the file's over.

    Raises:
        ValueError: parameters without a tensor, tensors without a parameter, or shapes that differ.
    """
    sources: dict[str, tuple[str, Tensor]] = {}
    missing: list[str] = []
    misshapen: list[str] = []
    for name, own, tied in _named_tensors(module):
        keys = (name,)
        if part.layout != OWN:
            keys = keymaps.file_keys(part.layout, spec, component, name)
        key = next((key for key in keys if key in part.owned[component]), None)
        if key is not None:
            sources[name] = (key, own)
            found, want = part.file.shapes[key], tuple(own.shape)
            # diffusers keeps some 1x1 convolutions as linear layers: the same numbers
            linear = part.layout in keymaps.DIFFUSERS and (*found, 1, 1) == want
            if found != want and not linear:
                misshapen.append(f"{key} is {found} instead of {want}")
        elif not tied:
            missing.append(keys[0])
    used = {key for key, _ in sources.values()}
    problems = {
        "missing": missing,
        "left over": sorted(part.owned[component] - used),
        "of a wrong shape": misshapen,
    }
    if any(problems.values()):
        told = "; ".join(f"{len(v)} {k}: {some(v)}" for k, v in problems.items() if v)
        raise ValueError(
            f"{part.file.path} does not fit the {component} of {spec.name} ({told}). Check that "
            "file and model (spec=) belong together."
        )
    tensors = {
        name: _to(part.file[key], device, dtype).reshape(own.shape)
        for name, (key, own) in sources.items()
    }
    try:
        module.load_state_dict(tensors, assign=True)
    except ValueError as error:  # the text decoder checks that its tied tensors agree
        raise ValueError(f"{part.file.path}: {error}") from error
    assert not any(t.is_meta for t in (*module.parameters(), *module.buffers())), component


def choose_device(device: torch.device | str | None = None) -> torch.device:
    """The device asked for, or the best one here: cuda, mps, cpu.

    torch knows more kinds of device than these, but some of them only by name, and `meta` holds no
    numbers: none of the others is taken.

    Raises:
        ValueError: not such a device, or not one of this machine.
    """
    counts = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    if device is None:
        return torch.device(next(kind for kind, count in counts.items() if count))
    try:
        chosen = torch.device(device)
        count = counts[chosen.type]
    except (KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"device is {device!r}: choose cpu, cuda, cuda:1, ... or mps.") from error
    if (chosen.index or 0) >= count:
        here = ["cpu", *(f"cuda:{i}" for i in range(counts["cuda"])), *["mps"] * counts["mps"]]
        raise ValueError(
            f"device is {device!r}, but this machine has no {chosen}: choose {', '.join(here)}."
        )
    return chosen


def choose_dtype(device: torch.device, parameters: int) -> torch.dtype:
    """The precision of the weights when nobody chose one.

    Half precision is for models that are slow or large without it; a small one gains nothing and
    would lose parity. Among halves: float16 where hardware multiplies it, because the released
    half-precision weights are float16; bfloat16 on a CPU, and only where the CPU has it natively
    (emulated, it is slower than float32).

    | device | up to `BIG` parameters | more |
    |---|---|---|
    | cuda, mps | float32 | float16 |
    | cpu with bfloat16 instructions | float32 | bfloat16 |
    | other | float32 | float32 |
    """
    if parameters <= BIG:
        return torch.float32
    if device.type in ("cuda", "mps"):
        return torch.float16
    return torch.bfloat16 if device.type == "cpu" and cpu_has_bfloat16() else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16, AMX, or Arm's BF16)."""
    read = getattr(torch.cpu, "get_capabilities", None)
    found = read() if read is not None else {}
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))


def save(
    vd: VersatileDiffusion,
    folder: str | Path,
    dtype: torch.dtype = torch.float16,
    components: Sequence[str] | None = None,
) -> None:
    """Write components, the configuration and the tokenizers to a folder that `load` reads.

    Other components that the folder holds already stay. All files are written in full before the
    first one takes its place.

    Args:
        vd: the model.
        folder: made if needed.
        dtype: of the stored weights.
        components: default: all that the model has, also those that were not read yet.

    Raises:
        ValueError: the model lacks a component, a weight is not finite in `dtype`, or the folder
            holds components of another model.
        OSError: the files could not be written (disk full, no permission); the folder is unchanged.
    """
    folder = Path(folder)
    names = vd.available if components is None else tuple(components)
    vd.require(*names)
    _check_neighbours(folder, vd.spec, names)
    with _atomic(folder) as stage:
        for name in names:
            tensors = _stored(vd.component(name), name, dtype)
            save_file(tensors, stage(f"{name}.safetensors"), metadata={"format": "pt"})
        text = json.dumps(vd.spec.to_dict(), indent=2) + "\n"
        stage("config.json").write_text(text, encoding="utf-8")
        words = getattr(vd.tokenizers, "source", None)
        if words is not None and words.resolve() != (folder / "tokenizers").resolve():
            for path in sorted(p for p in words.rglob("*") if p.is_file()):
                shutil.copyfile(path, stage(f"tokenizers/{path.relative_to(words)}"))


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """Name and tensor of all that a checkpoint holds, and whether it came under another name."""
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        yield name, tensor, id(tensor) in seen
        seen.add(id(tensor))


def _to(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)


def _stored(module: nn.Module, component: str, dtype: torch.dtype) -> dict[str, Tensor]:
    tensors = {}
    for name, tensor, tied in _named_tensors(module):
        if tied:
            continue
        stored = _to(tensor.detach(), torch.device("cpu"), dtype).contiguous()
        if not torch.isfinite(stored).all():
            was = tensor.detach().abs().max().item()
            raise ValueError(
                f"{component}.{name} cannot be saved in {dtype} (largest absolute value {was:g}): "
                "save in float32 or bfloat16, or look for the step that broke training."
            )
        tensors[name] = stored
    return tensors


def _check_neighbours(folder: Path, spec: ModelSpec, names: Sequence[str]) -> None:
    """Refuse to write a configuration that the folder's other components would not fit."""
    for name in COMPONENTS:
        path = folder / f"{name}.safetensors"
        if name in names or not path.is_file():
            continue
        with torch.device("meta"):
            module = build(spec, name)
        own = {n: tuple(t.shape) for n, t, tied in _named_tensors(module) if not tied}
        if own != open_tensors(path).shapes:
            raise ValueError(
                f"{path} belongs to a model of other sizes than {spec.name}: save to another "
                "folder, or remove it first."
            )


@contextmanager
def _atomic(folder: Path) -> Iterator[Callable[[str], Path]]:
    """Hands out temporary paths for names in a folder; at the end all take their places at once."""
    try:
        with replacing() as temporary:
            yield lambda name: temporary(folder / name)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"Could not save to {folder} ({error}); what it held before is unchanged. Free some "
            "space or choose another folder, and save again."
        ) from error
