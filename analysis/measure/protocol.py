"""What exactly is measured: settings, model, judge, code and versions, and a name made of them.

Two evaluations share a folder only if nothing that could change a number differs. So the name of a
run carries a digest of all of that, the source code included: after a change of the sampler, the
same command measures anew instead of reporting what the old one made.

A setting is declared once, as a field of `Settings` with the words of its option. Nothing here
imports torch before a model is at hand, so that `evaluate --help` answers at once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.checks import number, whole_number
from lib.config import FLOWS

if TYPE_CHECKING:
    from lib.model import VersatileDiffusion

SUITES = {
    "scenes": ("analysis.measure.scenes", ("judge",)),
    "emoji": ("analysis.measure.emoji", ("judge",)),
    "folder": ("analysis.measure.folder", ("data", "format", "outside", "features")),
    "applications": ("analysis.measure.applications", ("judge", "applications")),
}
"""Suite -> the module whose `SUITE` it is, and which options for single suites it takes."""
PARTS = (*FLOWS, "reconstruction", "search", "caption")
"""What `flows` may name; a suite measures all of them or fewer."""
ACTS_ON = {
    "search_n": ("search",),
    **dict.fromkeys(("caption_n", "caption_candidates"), ("caption",)),
    "scale_text": ("t2i", "i2i", "t2t"),  # i2i: where pictures and texts are mixed beside it
    "scale_image": ("i2i", "i2t", "caption"),
    **dict.fromkeys(("steps", "sampler"), (*FLOWS, "caption")),
}
"""Setting -> the parts of a suite that look at it, where these are not all."""
SWEEPS = {"scale": ("t2i", "i2t"), "steps": ("t2i",), "fidelity": ("i2i",)}
"""What is swept -> the flows that are run again and again for it."""
_MOST = {
    **dict.fromkeys(("n", "sweep_n", "licence_n", "caption_n"), 10**6),
    "search_n": 10**4,
    "batch": 4096,
    "caption_candidates": 1000,
}
"""What settings are at most: who asks for more has mistyped, or would wait for years."""
_SOURCES = ("lib", "data", "analysis")
_PACKAGES = ("torch", "transformers", "numpy", "pillow")


def items(kind: Callable[[str], Any], example: str) -> Callable[[str], tuple[Any, ...]]:
    """A type for argparse: values with commas between them; `example` is shown to who errs."""

    def read(text: str) -> tuple[Any, ...]:
        try:
            return tuple(kind(part.strip()) for part in text.split(",") if part.strip())
        except ValueError as error:
            what = "whole numbers" if kind is int else "numbers"
            message = f"{text!r} is no list of {what} such as {example}"
            raise argparse.ArgumentTypeError(message) from error

    return read


words = items(str, "A,B")


def option(default: Any, help: str, type: Callable[[str], Any] = str, **more: Any) -> Any:
    """A setting that is an option, too; `more` goes to argparse."""
    return field(default=default, metadata={"help": help, "type": type, **more})


@dataclass(frozen=True)
class Settings:
    """What to measure, and how to sample: as the options say, and

    Attributes:
        licence_n: renders of each split that the judge has to read first.
        t2t_pairs: inputs of text variation that get a second sample.
        suite: one of `SUITES`.
        batch: inputs at once; changes speed and memory, not what is measured.

    Raises:
        ValueError: names the setting and what is allowed.
    """

    n: int = option(500, "inputs a flow and split (%(default)s)", int)
    seed: int = option(7, "chooses inputs and noise (%(default)s)", int)
    flows: tuple[str, ...] = option(PARTS, f"of {','.join(PARTS)}", words, metavar="A,B")
    steps: int | None = option(None, "sampling steps (default: the model's)", int)
    scale_text: float | None = option(None, "guidance of texts (default: the model's)", float)
    scale_image: float | None = option(None, "guidance of pictures (default: the model's)", float)
    sampler: str = option("ddim", "as the modes take it; eta is 0 (%(default)s)")
    sweep_scale: tuple[float, ...] = option(
        (),
        f"also compare these guidance scales ({' and '.join(SWEEPS['scale'])})",
        items(float, "1,2,3"),
        metavar="1,2,3",
    )
    sweep_steps: tuple[int, ...] = option(
        (), "also compare these numbers of steps (t2i)", items(int, "10,20,50"), metavar="10,20,50"
    )
    sweep_sampler: tuple[str, ...] = option(
        ("ddim", "dpmpp_2m", "heun"),
        "samplers to compare them with (default: ddim,dpmpp_2m,heun)",
        words,
        metavar="A,B",
    )
    sweep_fidelity: tuple[float, ...] = option(
        (),
        "also compare these fidelities to the input, 0 to 1 (i2i)",
        items(float, "0,0.5"),
        metavar="0,0.5",
    )
    sweep_n: int = option(200, "inputs of every run of a sweep, at most (%(default)s)", int)
    search_n: int = option(500, "pictures to search among, at most (%(default)s)", int)
    caption_n: int = option(100, "pictures to caption, at most (%(default)s)", int)
    caption_candidates: int = option(
        4, "captions a picture, of which the best is chosen (%(default)s)", int
    )
    licence_n: int = 2000
    t2t_pairs: int = 100
    suite: str = option("scenes", "what to measure on (%(default)s)", choices=tuple(SUITES))
    batch: int = option(50, "inputs at once (%(default)s)", int)

    def __post_init__(self) -> None:
        whole_number("seed", self.seed, 0, 2**63 - 1)
        for name, most in _MOST.items():
            whole_number(name, getattr(self, name), 1, most)
        if self.suite not in SUITES:
            raise ValueError(f"There is no suite {self.suite!r}: choose {', '.join(SUITES)}.")
        # one order, so that "i2t,t2i" and "t2i,i2t" are the same run
        object.__setattr__(self, "flows", chosen("flows", self.flows, PARTS))
        for name, kind in (("scale", float), ("steps", int), ("sampler", str), ("fidelity", float)):
            values = tuple(dict.fromkeys(map(kind, getattr(self, f"sweep_{name}"))))
            object.__setattr__(self, f"sweep_{name}", values)
        for name, flows in SWEEPS.items():
            if getattr(self, f"sweep_{name}") and not set(flows) & set(self.flows):
                kind = "scales" if name == "scale" else name
                raise ValueError(
                    f"A sweep of {kind} is made of {' and '.join(flows)}, but flows are "
                    f"{', '.join(self.flows)}: add {'one of them' if len(flows) > 1 else 'it'}."
                )

    def resolved(self, vd: VersatileDiffusion) -> Settings:
        """The same with the model's own steps and scales filled in, and checked.

        Raises:
            ValueError: steps, a scale, a fidelity or a sampler are out of range.
        """
        from lib.sampler import SAMPLERS

        defaults = {
            name: getattr(vd.spec, name)
            for name in ("steps", "scale_text", "scale_image")
            if getattr(self, name) is None
        }
        settings = replace(self, **defaults)
        for scale in (settings.scale_text, settings.scale_image, *self.sweep_scale):
            number("scale", scale, 0, 100)
        for sampler in (self.sampler, *self.sweep_sampler):
            if sampler not in SAMPLERS:
                raise ValueError(f"sampler is {sampler!r}: choose {', '.join(SAMPLERS)}.")
        for steps in (settings.steps, *self.sweep_steps):
            vd.schedule.timesteps(steps)
        for fidelity in self.sweep_fidelity:
            number("fidelity", fidelity, 0, 1)
        return settings

    def scale(self, flow: str) -> float:
        """Guidance of a flow: that of the kind of its context."""
        return self.scale_text if FLOWS[flow][1] == "text" else self.scale_image


def chosen(what: str, names: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """The names in the order in which they are known; ValueError if there are others, or none."""
    names, known = tuple(names), tuple(known)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        listed = ", ".join(map(repr, unknown)) or "nothing"
        raise ValueError(f"{what} are {listed}: choose from {', '.join(known)}.")
    return tuple(name for name in known if name in names)


def identity(settings: Settings, vd: VersatileDiffusion, judge: object) -> dict[str, Any]:
    """Everything that a number may depend on whatever the suite, as plain JSON types.

    `resolution` is in pixels a side: of the pictures that are generated, and of what the model's
    CLIP is given.

    Args:
        settings: resolved ones.
        vd: the model, with all the components that are going to be used.
        judge: a module, or whatever reads pictures in its place, or None.
    """
    from lib.fingerprints import fingerprint

    values = asdict(settings)
    del values["batch"]
    return {
        "settings": json.loads(json.dumps(values)),
        "resolution": {
            "generated": vd.spec.image_size,
            "clip": vd.spec.clip.vision.image_size,
        },
        "model": {
            "name": vd.spec.name,
            "dtype": str(vd.dtype).removeprefix("torch."),
            "device": vd.device.type,
            "spec": _digest([json.dumps(vd.spec.to_dict(), sort_keys=True).encode()]),
            "vocabularies": _vocabularies(vd),
            "weights": {name: fingerprint(vd.component(name)) for name in vd.available},
        },
        "judge": fingerprint(judge) if hasattr(judge, "state_dict") else type(judge).__name__,
        "code": source_hash(),
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in _PACKAGES},
    }


def run_name(known: dict[str, Any]) -> str:
    """A folder name: readable settings, then a digest of all that is known of the run."""
    s = known["settings"]
    model = re.sub(r"[^a-z0-9]+", "-", known["model"]["name"].lower()).strip("-")
    parts = [] if tuple(s["flows"]) == PARTS else ["-".join(s["flows"])]
    digest = _digest([json.dumps(known, sort_keys=True).encode()])[:8]
    return "_".join([s["suite"], model, *parts, f"n{s['n']}", f"seed{s['seed']}", digest])


@cache
def source_hash() -> str:
    """Digest of the Python files that make the numbers, as they were when first asked for."""
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
