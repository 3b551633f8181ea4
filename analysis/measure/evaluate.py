"""Evaluation from the shell: how good a model is, as numbers with intervals.

    python -m analysis evaluate --model vd-mini --n 500 --seed 7 --json
    torchrun --nproc-per-node 2 -m -- analysis evaluate --model vd-mini --n 1000 --seed 7

writes `report.json`, `report.md` and figures to `output/evaluation/<run>/`. A run is named by its
settings and a digest of everything else that a number may depend on (`analysis.measure.protocol`), so no
report is overwritten by another one's. Interrupted, the same command goes on (`analysis.measure.rows`); it
may be given to several processes, which share the work (`analysis.measure.processes`).

What is measured on is a *suite*, a module of its own (`analysis.measure.protocol.SUITES`) with

    evaluate(args, settings, out) -> report

    args: all options as they were given (`add_arguments`), those of the suite among them.
    settings: `analysis.measure.protocol.Settings` made of them, not yet `resolved`.
    out: the folder in which it makes the run's own: `protocol.claim` takes it, `rows.run` measures
        into it (and shards), `report.keep` writes the report.
    report: {"protocol": {"run": name of the run's folder, ...}, "measures": nested dicts of
        `Estimate`s}, the same in every process.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

from analysis.measure import processes, report
from analysis.measure.protocol import PARTS, SUITES, SWEPT, Settings
from analysis.metrics.feature_models import DEFAULT as DEFAULT_FEATURES
from analysis.modes.sampling import SAMPLERS
from analysis.results.outputs import prepare
from data.captioned import FORMATS
from data.scenes.judge import JUDGE_FOLDER

OUT = Path("output")
FOLDER = "evaluation"
EXAMPLE = "python -m analysis evaluate --model vd-mini --n 500 --seed 7 --json"
_AT_MOST = {
    "sweep_n": "inputs of every run of a sweep, at most",
    "search_n": "pictures to search among, at most",
    "caption_n": "pictures to caption, at most",
    "caption_candidates": "captions a picture, of which the best is chosen",
}
_OF_SUITE = {
    "data": "folder",
    "format": "folder",
    "features": "folder",
    "applications": "applications",
}
"""Option -> the one suite that takes it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m analysis evaluate`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"example:\n  {EXAMPLE}"
    default = Settings()
    add = parser.add_argument
    add("--model", default="vd-mini", help="name or path of the model (default: %(default)s)")
    add("--suite", default="scenes", choices=SUITES, help="what to measure on (%(default)s)")
    add("--n", type=int, default=default.n, help="inputs a flow and split (default: %(default)s)")
    add("--seed", type=int, default=default.seed, help="chooses inputs and noise (%(default)s)")
    add("--flows", type=_words, default=PARTS, metavar="A,B", help=f"of {','.join(PARTS)}")
    add("--steps", type=int, help="sampling steps (default: the model's)")
    add("--sampler", default=default.sampler, choices=sorted(SAMPLERS), help="(%(default)s)")
    add("--scale-text", type=float, help="guidance of text contexts (default: the model's)")
    add("--scale-image", type=float, help="guidance of image contexts (default: the model's)")
    swept = f"also compare these guidance scales ({' and '.join(SWEPT)})"
    add("--sweep-scale", type=_numbers, default=(), metavar="1,2,3", help=swept)
    steps = "also compare these numbers of steps (t2i)"
    add("--sweep-steps", type=_wholes, default=(), metavar="10,20,50", help=steps)
    samplers = f"samplers to compare them with (default: {','.join(default.sweep_sampler)})"
    add("--sweep-sampler", type=_words, default=default.sweep_sampler, metavar="A,B", help=samplers)
    fidelities = "also compare these fidelities to the input, 0 to 1 (i2i)"
    add("--sweep-fidelity", type=_numbers, default=(), metavar="0,0.5", help=fidelities)
    for name, told in _AT_MOST.items():
        value = getattr(default, name)
        add(f"--{name.replace('_', '-')}", type=int, default=value, help=f"{told} ({value})")
    add("--data", metavar="FOLDER", help="captioned pictures, for the suite folder")
    add("--format", choices=FORMATS, help="of the data (default: as it looks)")
    networks = f"that compare pictures and texts on a folder (default: {DEFAULT_FEATURES})"
    add("--features", type=_words, metavar="A,B", help=networks)
    chosen = "of the suite applications, such as focus,edit (default: all)"
    add("--applications", type=_words, metavar="A,B", help=chosen)
    add("--batch", type=int, default=default.batch, help="inputs at once (default: %(default)s)")
    add("--judge", default=str(JUDGE_FOLDER), help="folder of the judge")
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
    settings = Settings(
        n=args.n,
        seed=args.seed,
        flows=tuple(args.flows),
        steps=args.steps,
        sampler=args.sampler,
        scale_text=args.scale_text,
        scale_image=args.scale_image,
        sweep_scale=tuple(args.sweep_scale),
        sweep_steps=tuple(args.sweep_steps),
        sweep_sampler=tuple(args.sweep_sampler),
        sweep_fidelity=tuple(args.sweep_fidelity),
        **{name: getattr(args, name) for name in _AT_MOST},
        suite=args.suite,
        batch=args.batch,
    )
    prepare(args.out, FOLDER)
    out = Path(args.out) / FOLDER
    with processes.group():
        try:
            made = import_module(SUITES[settings.suite]).evaluate(args, settings, out)
        except KeyboardInterrupt:
            print("what was measured is kept: the same command goes on from here", file=sys.stderr)
            raise
        if processes.rank() == 0:
            _show(made, out, args.json)
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """ValueError if an option was given that the suite would not even look at."""
    others = [
        f"--{name} (of {suite})"
        for name, suite in _OF_SUITE.items()
        if suite != args.suite and getattr(args, name) is not None
    ]
    if others:
        raise ValueError(
            f"The suite {args.suite} takes no {', '.join(others)}: leave "
            f"{'it' if len(others) == 1 else 'them'} out, or choose another --suite."
        )


def _show(made: report.Report, out: Path, as_json: bool) -> None:
    if as_json:
        print(report.dumps(made), end="")
        return
    folder = out / made["protocol"]["run"]
    print(report.to_text(made["measures"]))
    print(f"{folder / 'report.json'}\n{folder / 'report.md'}")


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in _words(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 1,2,3") from error


def _wholes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _words(text))
    except ValueError as error:
        told = f"{text!r} is no list of whole numbers such as 10,20,50"
        raise argparse.ArgumentTypeError(told) from error
