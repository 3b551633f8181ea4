"""A suite: what is measured and on what; and the one way in which all of them are run.

A suite is a subclass of `Suite` in a module of its own, which is its `SUITE`; `protocol.SUITES`
names the module. It says what it *needs* (`read`, `needs`), its *tasks*, and its *summary*:

    class Colours(Suite):
        parts = ("t2i",)
        about = {"prompts": "names of colours"}

        def tasks(self):
            return [Task("t2i", self.settings.n, self.t2i)]

        def t2i(self, indices):
            pictures = self.generate("t2i", [COLOURS[i] for i in indices], "t2i", indices)
            return [{"right": bool(is_of(p, i))} for p, i in zip(pictures, indices)]

        def summarise(self, rows):
            return {"t2i": {"all": share(row["right"] for row in rows["t2i"])}}

    SUITE = Colours

Everything random about input i is owned by (seed, purpose, i): its row is the same in any batch and
any process. What is measured is what users run: the functions of `analysis`.
"""

from __future__ import annotations

import argparse
import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from analysis import modes
from analysis.folders.caption import caption
from analysis.folders.encoders import own_clip
from analysis.measure import processes, report, sweeps
from analysis.measure.numbers import Section
from analysis.measure.protocol import ACTS_ON, PARTS, Settings, identity, run_name
from analysis.measure.rows import Row, Rows, Task, pack, run
from analysis.metrics.feature_models import FeatureModel
from data.folders import LIST_BYTES, read_file
from data.scenes.judge import Reader
from lib.checks import parse_json
from lib.components import components_for
from lib.config import FLOWS
from lib.files import write_atomic
from lib.images import to_tensor
from lib.model import VersatileDiffusion

if TYPE_CHECKING:
    from analysis.measure.model_card import Card

MODES = SimpleNamespace(caption=caption, **{name: getattr(modes, name) for name in modes.__all__})
"""What is measured: the functions that users call."""
MODE_OF = {
    "t2i": "text_to_image",
    "i2i": "image_variation",
    "i2t": "image_to_text",
    "t2t": "text_variation",
}


class Suite(ABC):
    """What is measured, and on what.

    Attributes:
        parts: of `protocol.PARTS`, those that it measures.
        acts_on: setting -> those of them that look at it.
        about: what the report's protocol says of its inputs.
        main: flow -> name of its task, for runs of sweeps that it makes anyhow.
        card: what it says in a model card, for the suite that a model was made for.

    Args:
        vd: the model, with the components of `needs`.
        settings: what to measure.
        judge: reads pictures; None where none are made.
        models: feature functions, with different names; None among them is the model's own CLIP.
            Without any, what needs one is left out.
        modes: where functions named as in `MODES` come from; None: those that users call.

    Raises:
        ValueError: settings that are out of range, or that this suite does not measure.
    """

    parts: tuple[str, ...] = PARTS
    acts_on: Mapping[str, Sequence[str]] = ACTS_ON
    about: Mapping[str, Any] = {}
    main: Mapping[str, str] = {flow: flow for flow in FLOWS}
    card: Card | None = None

    def __init__(
        self,
        vd: VersatileDiffusion,
        settings: Settings,
        *,
        judge: Reader | None = None,
        models: Sequence[FeatureModel | None] = (),
        modes: Any = None,
    ) -> None:
        self.vd, self.settings = vd, self.accepted(settings).resolved(vd)
        self.judge, self.modes = judge, modes or MODES
        self.models = tuple(own_clip(vd) if model is None else model for model in models)
        names = [model.name for model in self.models]
        if len(set(names)) < len(names):
            raise ValueError(f"features are {', '.join(names)}: give each only once.")

    @classmethod
    def accepted(cls, settings: Settings) -> Settings:
        """The settings with those flows that it measures; ValueError if others were named."""
        others = [part for part in settings.flows if part not in cls.parts]
        if others and settings.flows != PARTS:
            raise ValueError(
                f"The suite {settings.suite} does not measure {', '.join(others)}: its flows are "
                f"{', '.join(cls.parts)}."
            )
        return replace(settings, flows=tuple(p for p in settings.flows if p in cls.parts))

    @classmethod
    def read(cls, args: argparse.Namespace, settings: Settings) -> dict[str, Any]:
        """What the command line names, opened before a model is loaded: arguments of the suite."""
        return {}

    @classmethod
    def needs(cls, settings: Settings, **read: Any) -> tuple[str, ...]:
        """Components of the model that are used, by accepted settings and what `read` opened."""
        flows = [flow for flow in FLOWS if flow in settings.flows]
        more = ("image_encoder",) if settings.sweep_fidelity else ()
        return (*(components_for(flows) if flows else ()), *more)

    def known(self) -> dict[str, Any]:
        """All that a number may depend on: `protocol.identity`, and what the suite adds."""
        features = [model.describe() for model in self.models]
        return identity(self.settings, self.vd, self.judge) | {"features": features} | self.about

    @abstractmethod
    def tasks(self) -> list[Task]:
        """What to measure, in this order."""

    @abstractmethod
    def summarise(self, rows: Mapping[str, Rows]) -> Section:
        """Sections of the report, made of the rows of all tasks."""

    def swept(self, flow: str) -> Callable[..., list[Row]]:
        """Indices, and changes of the sampling -> rows: what a run of a sweep measures."""
        return getattr(self, flow)

    def sheets(self, rows: Mapping[str, Rows]) -> dict[str, tuple[str, Image.Image]]:
        """Contact sheets for the report: title -> (name of its file, picture)."""
        return {}

    def compared(self, section: str, flow: str, part: Rows, rows: Mapping[str, Rows]) -> Section:
        """The few numbers that runs of a sweep are compared by.

        Args:
            section: of the report, one of `report.COMPARED`.
            flow: what was run.
            part: rows of that run.
            rows: of all tasks.

        Raises:
            ValueError: the suite compares nothing, which is so unless it says otherwise.
        """
        raise ValueError(
            f"The suite {self.settings.suite} compares no runs of {flow}: leave out what sweeps it."
        )

    # ------------------------------------------------------------------ what tasks are made of

    def rng(self, purpose: str, i: int) -> np.random.Generator:
        """The generator that owns what is random about input i for one purpose."""
        return np.random.default_rng([self.settings.seed, zlib.crc32(purpose.encode()), i])

    def first_seed(self, purpose: str) -> int:
        """Seed of sample 0; that of sample i is i more. Far apart for different purposes."""
        return int(self.rng(purpose, 0).integers(2**62))

    def sampling(self, purpose: str, indices: range) -> dict[str, Any]:
        """What all modes take by keyword: input i gets the seed that belongs to it."""
        return {
            "n": 1,
            "seed": self.first_seed(purpose) + indices.start,
            "steps": self.settings.steps,
            "sampler": self.settings.sampler,
            "batch_size": self.settings.batch,
            "progress": False,
        }

    def generate(
        self, flow: str, inputs: Sequence[Any], purpose: str, indices: range, **changes: Any
    ) -> list[Any]:
        """One sample of each input: pictures or texts.

        Args:
            flow: of `lib.config.FLOWS`.
            inputs: texts or pictures.
            purpose: owns the seeds.
            indices: of the inputs.
            changes: of a run of a sweep, as arguments of the flow's function.
        """
        options = {**self.sampling(purpose, indices), "scale": self.settings.scale(flow), **changes}
        made = getattr(self.modes, MODE_OF[flow])(self.vd, inputs, **options)
        return made.images if FLOWS[flow][0] == "image" else made.texts

    def paired(self, indices: range) -> range:
        """Those of the inputs that get a second sample."""
        last = min(indices.stop, self.settings.t2t_pairs)
        return range(indices.start, max(indices.start, last))

    def errors(self, pictures: Sequence[Image.Image]) -> list[float]:
        """Mean squared error of pictures after the image VAE, in [0, 1], at the model's own side.

        At least 1e-10 (100 dB), so that it has a logarithm.
        """
        size = (self.vd.spec.image_size,) * 2
        given = [
            p if p.size == size else p.resize(size, Image.Resampling.BICUBIC) for p in pictures
        ]
        out = self.vd.decode_image(self.vd.encode_image(given)).cpu()
        errors = (out - to_tensor(given)).double().square().flatten(1).mean(dim=1)
        return errors.clamp(min=1e-10).tolist()

    def add_features(self, rows: list[Row], name: str, things: Sequence[Any]) -> None:
        """Put a vector of each picture or text into its row: features, feature function, name."""
        for model in self.models if rows else ():
            function = model.texts if isinstance(things[0], str) else model.images
            if function is not None:
                for row, vector in zip(rows, function(things), strict=True):
                    row.setdefault("features", {}).setdefault(model.name, {})[name] = pack(vector)


def measure(
    suite: Suite,
    out: str | Path = "output/evaluation",
    *,
    progress: bool = True,
    figures: bool = True,
) -> report.Report:
    """Measure what a suite asks for, and write the report.

    Args:
        suite: with its model.
        out: the run's folder is made in it.
        progress: bars on stderr.
        figures: whether the report gets them.

    Returns:
        {"protocol": ..., "measures": nested dicts of `Estimate`s, "left_out": number -> why}; the
        same in every process.

    Raises:
        ValueError: a task's check failed, or the run's folder belongs to something else.
    """
    tasks, known = [*suite.tasks(), *sweeps.tasks(suite)], suite.known()
    name = run_name(known)
    folder = Path(out) / name
    claim(folder, known)
    measured = {
        task.name: run(task, folder / "rows", suite.settings.batch, progress) for task in tasks
    }
    rows = {name: part.rows for name, part in measured.items()}
    measures, left_out = report.numbers(suite.summarise(rows) | sweeps.summarise(suite, rows))
    protocol = {
        "run": name,
        **known,
        "finished": max(part.when for part in measured.values()),
        "seconds": round(sum(part.seconds for part in measured.values()), 1),
    }
    made = {"protocol": protocol, "measures": measures, "left_out": left_out}
    report.keep(made, folder, suite.sheets(rows) if figures else {}, figures)
    return made


def claim(folder: Path, known: dict[str, Any]) -> None:
    """Note in a run's folder (made if needed) all that its numbers may depend on, as JSON types.

    Raises:
        ValueError: the folder is for something else.
    """
    path = folder / "protocol.json"
    if processes.rank() == 0 and not path.is_file():
        write_atomic(path, json.dumps(known, indent=2) + "\n")
    processes.wait()
    try:
        same = parse_json(read_file(path, LIST_BYTES)) == known
    except ValueError:
        same = False
    if not same:
        raise ValueError(
            f"{folder} holds another evaluation than this one ({path.name} differs): move it away, "
            "or write elsewhere with --out."
        )
