"""What exactly was measured: settings, model, judge, code and versions, and a name made of them.

Two evaluations share a folder only if nothing that could change a number differs. So the name of a
run carries a digest of all of that, the source code included: after a change of the sampler, the
same command measures anew instead of reporting what the old one made.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import nn

from analysis.measure import processes
from analysis.modes.sampling import SAMPLERS, Sampling, fingerprint
from lib.config import FLOWS
from lib.files import write_atomic
from lib.model import VersatileDiffusion
from lib.noise import check_seed

PARTS = (*FLOWS, "reconstruction", "search", "caption")
SUITES = {
    "scenes": "analysis.measure.scenes_suite",
    "folder": "analysis.measure.folder_suite",
    "applications": "analysis.measure.applications_suite",
}
"""Suite -> the module that measures on it; `analysis.measure.evaluate` says what it has to have."""
SWEPT = ("t2i", "i2t")
_COUNTS = ("n", "batch", "sweep_n", "licence_n", "search_n", "caption_n", "caption_candidates")
_SOURCES = ("lib", "data", "analysis")
_PACKAGES = ("torch", "transformers", "numpy", "pillow")


@dataclass(frozen=True)
class Settings:
    """What to measure, and how to sample.

    Attributes:
        n: inputs a flow and split.
        seed: chooses the inputs and owns all noise.
        flows: any of `PARTS`.
        steps: sampling steps; None is the model's default.
        scale_text, scale_image: guidance by the kind of context; None is the model's default.
        sampler: one of `analysis.modes.sampling.SAMPLERS`; eta is 0.
        sweep_scale: guidance scales to compare (flows `SWEPT`), on at most `sweep_n` inputs.
        sweep_steps: numbers of steps to compare, each with all of `sweep_sampler` (flow t2i).
        sweep_sampler: see there.
        sweep_fidelity: fidelities to the input to compare (flow i2i).
        sweep_n: inputs of every run of a sweep, at most.
        search_n: pictures to search among, at most.
        caption_n: pictures to caption, at most.
        caption_candidates: captions a picture, of which CLIP chooses one.
        licence_n: renders of each split that the judge has to read first.
        t2t_pairs: inputs of text variation that get a second sample.
        suite: one of `SUITES`.
        batch: inputs at once; changes speed and memory, not what is measured.

    Raises:
        ValueError: names the setting and what is allowed.
    """

    n: int = 500
    seed: int = 7
    flows: tuple[str, ...] = PARTS
    steps: int | None = None
    scale_text: float | None = None
    scale_image: float | None = None
    sampler: str = "ddim"
    sweep_scale: tuple[float, ...] = ()
    sweep_steps: tuple[int, ...] = ()
    sweep_sampler: tuple[str, ...] = tuple(SAMPLERS)
    sweep_fidelity: tuple[float, ...] = ()
    sweep_n: int = 200
    search_n: int = 500
    caption_n: int = 100
    caption_candidates: int = 4
    licence_n: int = 2000
    t2t_pairs: int = 100
    suite: str = "scenes"
    batch: int = 50

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name in _COUNTS:
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}: give an integer from 1.")
        if self.suite not in SUITES:
            raise ValueError(f"There is no suite {self.suite!r}: choose {', '.join(SUITES)}.")
        unknown = [flow for flow in self.flows if flow not in PARTS]
        if unknown or not self.flows:
            told = ", ".join(map(repr, unknown)) or "nothing"
            raise ValueError(f"flows are {told}: choose from {', '.join(PARTS)}.")
        # one order, so that "i2t,t2i" and "t2i,i2t" are the same run
        object.__setattr__(self, "flows", tuple(part for part in PARTS if part in self.flows))
        for name, kind in (("scale", float), ("steps", int), ("sampler", str), ("fidelity", float)):
            given = tuple(dict.fromkeys(map(kind, getattr(self, f"sweep_{name}"))))
            object.__setattr__(self, f"sweep_{name}", given)
        for name, needed in (("scale", SWEPT), ("steps", ("t2i",)), ("fidelity", ("i2i",))):
            if getattr(self, f"sweep_{name}") and not set(needed) & set(self.flows):
                kind = "scales" if name == "scale" else name
                raise ValueError(
                    f"A sweep of {kind} is made of {' and '.join(needed)}, but flows are "
                    f"{', '.join(self.flows)}: add {'one of them' if len(needed) > 1 else 'it'}."
                )

    def resolved(self, vd: VersatileDiffusion) -> Settings:
        """The same with the model's own steps and scales filled in, and checked.

        Raises:
            ValueError: steps, a scale, a fidelity or a sampler are out of range.
        """
        names = ("steps", "scale_text", "scale_image")
        chosen = {name: getattr(self, name) for name in names}
        defaults = {name: getattr(vd.spec, name) for name, v in chosen.items() if v is None}
        settings = replace(self, **defaults)
        for scale in (settings.scale_text, settings.scale_image, *self.sweep_scale):
            Sampling(settings.steps, scale, settings.sampler).timesteps(vd.schedule)
        for sampler in self.sweep_sampler:
            for steps in (settings.steps, *self.sweep_steps):
                Sampling(steps, settings.scale_text, sampler).timesteps(vd.schedule)
        for fidelity in self.sweep_fidelity:
            Sampling(settings.steps, settings.scale_image, fidelity=fidelity)
        return settings

    def scale(self, flow: str) -> float:
        """Guidance of a flow: that of the kind of its context."""
        return self.scale_text if FLOWS[flow][1] == "text" else self.scale_image


def identity(
    settings: Settings, vd: VersatileDiffusion, judge: object, features: str | None
) -> dict[str, Any]:
    """Everything that a number may depend on, as plain JSON types.

    `resolution` is in pixels a side: of the pictures that are generated, and of what the model's
    CLIP is given.

    Args:
        settings: resolved ones.
        vd: the model.
        judge: an `nn.Module`, or whatever reads pictures in its place, or None.
        features: name of the feature function, if one is used.
    """
    chosen = asdict(settings)
    del chosen["batch"]
    components = {name: fingerprint(vd.component(name)) for name in vd.available}
    return {
        "settings": json.loads(json.dumps(chosen)),
        "splits": "data.scenes.world.split: test (unseen scenes), heldout (unseen colour-shape pairs)",
        "prompts": "complete captions by data.scenes.captions.write",
        "resolution": {
            "generated": vd.spec.image_size,
            "clip": vd.spec.clip.vision.image_size,
        },
        "resize": "none for 64x64 pictures; else bilinear (judge), bicubic (context), box (pixels)",
        "model": {
            "name": vd.spec.name,
            "dtype": str(vd.dtype).removeprefix("torch."),
            "device": vd.device.type,
            "spec": _digest([json.dumps(vd.spec.to_dict(), sort_keys=True).encode()]),
            "vocabularies": _vocabularies(vd),
            "weights": components,
        },
        "judge": fingerprint(judge) if isinstance(judge, nn.Module) else type(judge).__name__,
        "features": features,
        "code": source_hash(),
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in _PACKAGES},
    }


def run_name(settings: Settings, vd: VersatileDiffusion, known: dict[str, Any]) -> str:
    """A folder name: readable settings, then a digest of all of `identity`."""
    model = re.sub(r"[^a-z0-9]+", "-", vd.spec.name.lower()).strip("-")
    parts = [] if settings.flows == PARTS else ["-".join(settings.flows)]
    digest = _digest([json.dumps(known, sort_keys=True).encode()])[:8]
    words = [settings.suite, model, *parts, f"n{settings.n}", f"seed{settings.seed}", digest]
    return "_".join(words)


def claim(folder: Path, known: dict[str, Any]) -> None:
    """Note in a run's folder what it is for, or check that it is for the same.

    Args:
        folder: of the run, made if needed.
        known: its `identity`, or what else says all that a number may depend on, as JSON types.

    Raises:
        ValueError: it is for something else.
    """
    path = folder / "protocol.json"
    if processes.rank() == 0 and not path.is_file():
        write_atomic(path, json.dumps(known, indent=2) + "\n")
    processes.wait()
    try:
        same = json.loads(path.read_text(encoding="utf-8")) == known
    except ValueError:
        same = False
    if not same:
        raise ValueError(
            f"{folder} holds another evaluation than this one ({path.name} differs): move it away, "
            "or write elsewhere with out=."
        )


def source_hash() -> str:
    """Digest of the Python files that make the numbers."""
    root = Path(__file__).resolve().parents[2]
    return _files(root, [path for folder in _SOURCES for path in (root / folder).rglob("*.py")])


def _vocabularies(vd: VersatileDiffusion) -> str | None:
    """Digest of the tokenizers' files, where they lie in a folder."""
    folder = getattr(getattr(vd, "tokenizers", None), "source", None)
    if folder is None:
        return None
    return _files(folder, [path for path in folder.rglob("*") if path.is_file()])


def _files(root: Path, paths: Iterable[Path]) -> str:
    """Digest of names and contents of text files, whatever their line ends."""
    pieces = []
    for path in sorted(paths):
        pieces += [path.relative_to(root).as_posix().encode()]
        pieces += [path.read_bytes().replace(b"\r\n", b"\n")]
    return _digest(pieces)


def _digest(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "little"))  # "ab", "c" is not "a", "bc"
        digest.update(piece)
    return digest.hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
