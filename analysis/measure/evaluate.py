"""Evaluation from the shell: how good a model is, as numbers with intervals.

    python -m analysis evaluate --model vd-mini --n 500 --seed 7 --json
    torchrun --nproc-per-node 2 -m -- analysis evaluate --model vd-mini --n 1000 --seed 7

writes `report.json`, `report.md` and figures to `output/evaluation/<run>/`. A run is named by its
settings and a digest of everything else that a number may depend on (`analysis.measure.protocol`),
so no report is overwritten by another one's. Interrupted, the same command goes on
(`analysis.measure.rows`); it may be given to several processes, which share the work
(`analysis.measure.processes`). What is measured on is a suite (`analysis.measure.suite`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path

from analysis.measure.protocol import SUITES, Settings, words
from lib.config import FLOWS

OUT = Path("output")
FOLDER = "evaluation"
EXAMPLE = "python -m analysis evaluate --model vd-mini --n 500 --seed 7 --json"
SETTINGS = [field for field in fields(Settings) if field.metadata]
"""Settings that are options, too."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m analysis evaluate`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"example:\n  {EXAMPLE}"
    add = parser.add_argument
    add("--model", default="vd-mini", help="name or path of the model (default: %(default)s)")
    for field in SETTINGS:
        add(f"--{field.name.replace('_', '-')}", default=field.default, **field.metadata)
    add("--data", metavar="FOLDER", help="captioned pictures, for the suite folder")
    add("--format", help="of the data (default: as it looks)")
    what = "lists of the data may name pictures outside of its folder"
    add("--outside", action="store_true", default=None, help=what)
    networks = "that compare pictures and texts on a folder, such as own,inception"
    add("--features", type=words, metavar="A,B", help=networks)
    parts = "of the suite applications, such as focus,edit (default: all)"
    add("--applications", type=words, metavar="A,B", help=parts)
    add("--judge", metavar="FOLDER", help="that of what reads pictures (default: the suite's)")
    add("--out", default=str(OUT), metavar="DIR", help=f"report goes to DIR/{FOLDER}/RUN")
    add("--device", help="cpu, cuda, mps (default: the best one here)")
    add("--dtype", choices=("float32", "float16", "bfloat16"), help="(default: the model's)")
    add("--json", action="store_true", help="print the report as one JSON document")
    add("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """Evaluate as the command line asks; print the report.

    Returns:
        0.

    Raises:
        ValueError, OSError: with one sentence that says what is wrong.
    """
    _check_options(args)
    settings = Settings(**{field.name: getattr(args, field.name) for field in SETTINGS})

    import torch  # slow to import: only now, when the options are known to be good

    from analysis.measure import processes, report, suite
    from analysis.results.outputs import prepare
    from lib.checkpoints import load

    prepare(args.out, FOLDER)
    out = Path(args.out) / FOLDER
    kind: type[suite.Suite] = import_module(SUITES[settings.suite][0]).SUITE
    with processes.group():
        try:
            settings = kind.accepted(settings)
            _check_settings(args, settings, kind.acts_on)
            read = kind.read(args, settings)
            if args.judge is not None and "judge" not in read:
                raise ValueError("Nothing is measured that a judge would read: leave out --judge.")
            vd = load(
                args.model,
                components=kind.needs(settings, **read),
                device=args.device,
                dtype=None if args.dtype is None else getattr(torch, args.dtype),
            )
            made = suite.measure(kind(vd, settings, **read), out, progress=not args.quiet)
        except KeyboardInterrupt:
            print("what was measured is kept: the same command goes on from here", file=sys.stderr)
            raise
        if processes.rank() > 0:
            return 0
    if args.json:
        print(report.dumps(made), end="")
    else:
        folder = out / made["protocol"]["run"]
        print(report.to_text(made))
        print(f"{folder / 'report.json'}\n{folder / 'report.md'}")
    return 0


def _check_settings(
    args: argparse.Namespace, settings: Settings, acts_on: Mapping[str, Sequence[str]]
) -> None:
    """ValueError if a setting was given that nothing of what is measured would look at."""
    measured = {*(FLOWS if settings.suite == "applications" else settings.flows)}
    unused = [
        f"--{name.replace('_', '-')} (of {' and '.join(parts)})"
        for name, parts in acts_on.items()
        if not measured & {*parts}
    ]
    if not settings.sweep_steps:
        unused.append("--sweep-sampler (of --sweep-steps)")
        if not (settings.sweep_scale or settings.sweep_fidelity):
            unused.append("--sweep-n (of --sweep-scale, --sweep-steps and --sweep-fidelity)")
    given = {field.name: getattr(args, field.name) != field.default for field in SETTINGS}
    unused = [text for text in unused if given[text[2:].split()[0].replace("-", "_")]]
    if unused:
        raise ValueError(f"Nothing that is measured takes {', '.join(unused)}: leave that out.")


def _check_options(args: argparse.Namespace) -> None:
    """ValueError if an option was given that the suite would not even look at."""
    takers: dict[str, list[str]] = {}
    for suite, (_, options) in SUITES.items():
        for name in options:
            takers.setdefault(name, []).append(suite)
    others = [
        f"--{name} (of {' and '.join(suites)})"
        for name, suites in takers.items()
        if args.suite not in suites and getattr(args, name) is not None
    ]
    if others:
        raise ValueError(
            f"The suite {args.suite} takes no {', '.join(others)}: leave "
            f"{'it' if len(others) == 1 else 'them'} out, or choose another --suite."
        )
