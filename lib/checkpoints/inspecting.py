"""What a model's files hold, and what can be done with it: from their headers, without weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from lib.checkpoints.parts import check_fit
from lib.checkpoints.sources import SIDE_FILES, AbsentError, Source, locate
from lib.components import components_for, structure
from lib.config import COMPONENTS, ModelSpec

WORDS = {
    "t2i": "pictures from texts",
    "i2i": "pictures from pictures",
    "i2t": "texts from pictures",
    "t2t": "texts from texts",
}


@dataclass(frozen=True)
class Held:
    """A component that is here.

    Attributes:
        parameters, size: how many; bytes of them in the file.
        dtypes: kinds of numbers, the most frequent first.
        path, layout: its file, and how that names its tensors.
    """

    parameters: int
    size: int
    dtypes: tuple[str, ...]
    path: Path
    layout: str


@dataclass(frozen=True)
class Report:
    """A model, as its files' headers show it.

    Attributes:
        where: file, folder or name.
        spec: its sizes.
        held: component -> what is here of it.
        damaged: component -> one sentence that says what is wrong with its tensors.
        tokenizers: folder of the tokenizers; None: those of the hub.
    """

    where: Path | str
    spec: ModelSpec
    held: dict[str, Held]
    damaged: dict[str, str]
    tokenizers: Path | None

    def missing(self, flow: str, encoders: bool = False) -> list[str]:
        """Components that a flow needs and that are not here; `encoders`: also to start from."""
        return [name for name in components_for([flow], encoders) if name not in self.held]

    def lines(self) -> Iterator[str]:
        """The report as text."""
        held = self.held.values()
        size, count = sum(one.size for one in held), sum(one.parameters for one in held)
        layouts = ", ".join(sorted({one.layout for one in held})) or "nothing that is known"
        yield f"{self.where}: {self.spec.name}, layout {layouts}"
        of = f"{len(held)} of {len(COMPONENTS)} components"
        yield f"{of}, {short(count)} parameters, {size_of(size)}"
        yield ""
        yield f"{'component':<15}{'parameters':>11}  {'numbers':<10}{'size':>9}  file"
        for name in COMPONENTS:
            if name in self.held:
                one = self.held[name]
                kinds = "+".join(one.dtypes)
                numbers = f"{short(one.parameters):>11}  {kinds:<10}{size_of(one.size):>9}"
                path = one.path
                if isinstance(self.where, Path) and path.is_relative_to(self.where.parent):
                    path = path.relative_to(self.where.parent)
                yield f"{name:<15}{numbers}  {path}"
        yield ""
        for flow, words in WORDS.items():
            absent, rest = self.missing(flow), self.missing(flow, encoders=True)
            state = "works" if not absent else f"needs {', '.join(absent)}"
            if rest and not absent:
                state += f"; starting from a given one needs {', '.join(rest)}"
            yield f"{flow}  {words:<23} {state}"
        yield ""
        absent = [name for name in COMPONENTS if name not in {*self.held, *self.damaged}]
        if absent:
            files = dict.fromkeys(SIDE_FILES[name] for name in absent if name in SIDE_FILES)
            advice = f" (put {' and '.join(files)} beside it)" if files else ""
            yield f"not here: {', '.join(absent)}{advice}"
        yield from self.damaged.values()
        words = self.tokenizers or "none here; the released model takes those of the hub"
        yield f"tokenizers: {words}"


def inspect(source: str | Path | Source, spec: ModelSpec | None = None) -> Report:
    """Read what a model's files hold, without their weights and without a download.

    Args:
        source: what `load` takes: a name, a checkpoint file, or a folder.
        spec: sizes, for files of another model than the released one.

    Raises:
        ValueError: nothing is there, or a file is damaged, or no checkpoint of this model.
    """
    model = source if isinstance(source, Source) else locate(source, spec)
    held: dict[str, Held] = {}
    damaged: dict[str, str] = {}
    for name in COMPONENTS:
        try:
            part = model.part(name, download=False)
        except AbsentError:
            continue
        try:
            check_fit(part, name, structure(model.spec)[name], model.spec)
        except ValueError as error:
            damaged[name] = str(error)
            continue
        kinds: dict[str, int] = {}
        size = 0
        for key in part.keys[name].values():
            kind, count = part.file.dtypes[key], math.prod(part.file.shapes[key])
            word = str(kind).removeprefix("torch.")
            kinds[word] = kinds.get(word, 0) + count
            size += count * (kind.itemsize if isinstance(kind, torch.dtype) else 1)
        own = sum(p.numel() for p in structure(model.spec)[name].parameters())
        dtypes = tuple(sorted(kinds, key=kinds.__getitem__, reverse=True))
        held[name] = Held(own, size, dtypes, part.file.path, part.layout)
    return Report(model.where, model.spec, held, damaged, model.tokenizers)


def short(count: float) -> str:
    """1234567 -> "1.23 M"."""
    return _scaled(count, (" B", " M", " k", ""))


def size_of(count: float) -> str:
    """Bytes in words: 2070000000 -> "2.07 GB"."""
    return _scaled(count, (" GB", " MB", " kB", " B"))


def _scaled(value: float, words: tuple[str, ...]) -> str:
    for power, word in zip((1e9, 1e6, 1e3), words, strict=False):
        if value >= power:
            return f"{value / power:.3g}{word}"
    return f"{value:.3g}{words[-1]}"
