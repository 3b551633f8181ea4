"""Numbers move from reports into the README and the model card.

    python -m analysis evaluate --model vd-mini --n 1000 --seed 7
    python -m analysis evaluate --model vd-mini --n 100 --seed 7 --suite applications
    python -m analysis publish output/evaluation/RUN/report.json output/evaluation/RUN2/report.json
    python -m analysis publish                # again, from the reports that were published last

A report is taken for what its suite is about: that of the model's own world (`scenes`, for vd-mini)
for the four flows, `applications`. One that is not given stays as it was published.

Written, each whole or not at all:

| file | what |
|---|---|
| `pretrained/vd-mini/evaluation.json` | the report on scenes, beside the weights it is about |
| `pretrained/vd-mini/applications.json` | that on applications, if there is one |
| `pretrained/vd-mini/MODEL_CARD.md` | the whole card (`analysis.measure.model_card`) |
| `README.md` | what stands between `<!-- measured -->` and `<!-- /measured -->`: three numbers |

Of a suite other than `scenes` the markers have its name, too: `<!-- measured emoji -->`. A report
about other weights than those in the folder is refused: a number stays with what it is about.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.measure.protocol import SUITES
from data.folders import LIST_BYTES, read_file
from lib.checks import parse_json
from lib.config import COMPONENTS, ModelSpec
from lib.files import write_atomic

if TYPE_CHECKING:
    from analysis.measure.model_card import Card

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "pretrained" / "vd-mini"
README = ROOT / "README.md"
APPLICATIONS = "applications"
CARD = "MODEL_CARD.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m analysis publish`."""
    add = parser.add_argument
    add("reports", nargs="*", type=Path, help="report.json files (default: those published last)")
    add("--model", type=Path, default=MODEL, metavar="DIR", help="folder of the model")
    add(
        "--readme", type=Path, default=README, metavar="FILE", help="whose marked blocks are filled"
    )


def run(args: argparse.Namespace) -> int:
    """Publish as the command line asks; print what was written.

    Returns:
        0.

    Raises:
        ValueError, OSError: with one sentence that says what is wrong.
    """
    print("\n".join(map(str, publish(args.reports, args.model, args.readme))))
    return 0


def publish(
    reports: Sequence[Path] = (),
    model: Path = MODEL,
    readme: Path = README,
    judge: Path | None = None,
) -> list[Path]:
    """Put reports' numbers where people read them; returns the files written.

    Args:
        reports: report.json files of `analysis evaluate`, at most one a suite; of the others those
            that were published last are taken.
        model: folder of the model they are about.
        readme: the file whose marked blocks are filled.
        judge: folder of the judge, for what its training took; None is that of the suite.

    Raises:
        ValueError: a file is missing or damaged, lacks a number or a marker, or a report is about
            other weights. Then nothing is written.
        OSError: a file could not be written.
    """
    from lib.checkpoints.sources import read_spec

    spec, made = read_spec(model), collected(reports, model)
    for suite, report in made.items():
        check_weights(report, model, whole=suite != APPLICATIONS)
    contents = texts(made, spec, model, readme, judge)
    for path, text in contents.items():
        write_atomic(path, text)
    return list(contents)


def collected(reports: Sequence[Path], model: Path) -> dict[str, dict[str, Any]]:
    """Suite -> report, that of the model's world first: those given, else those that are kept.

    Raises:
        ValueError: a file is missing or no report, two are of one suite or of two worlds, or there
            is none but on applications.
    """
    made: dict[str, dict[str, Any]] = {}
    for path in reports:
        report = _read(path)
        if not {"protocol", "measures"} <= report.keys():
            raise ValueError(f"{path} is no report: give a report.json of `analysis evaluate`.")
        suite = _suite(report)
        if suite != APPLICATIONS and card_of(suite) is None:
            raise ValueError(
                f"{path} is of the suite {suite!r}, which is not published: give one of the suite "
                f"that the model was made for, or of {APPLICATIONS}."
            )
        if any(kept_in(suite) == kept_in(other) for other in made):
            raise ValueError(f"{path} is a second report of the suite {suite!r}: give one of each.")
        made[suite] = report
    for name in ("evaluation.json", "applications.json"):
        missing = all(kept_in(suite) != name for suite in made)
        if missing and (name == "evaluation.json" or (model / name).exists()):
            report = _read(model / name)
            made[_suite(report)] = report
    return dict(sorted(made.items(), key=lambda item: item[0] == APPLICATIONS))


def kept_in(suite: str) -> str:
    """The file beside a model's weights that a published report of a suite is kept in."""
    return "applications.json" if suite == APPLICATIONS else "evaluation.json"


def card_of(suite: str) -> Card | None:
    """What a suite says about itself in a model card; None if it is not published."""
    return import_module(SUITES[suite][0]).SUITE.card if suite in SUITES else None


def texts(
    reports: Mapping[str, Mapping[str, Any]],
    spec: ModelSpec,
    model: Path,
    readme: Path,
    judge: Path | None = None,
) -> dict[Path, str]:
    """What each file is going to hold.

    Args:
        reports: suite -> report (`collected`); that of applications may be absent.
        spec, model, readme, judge: see `publish`.

    Raises:
        ValueError: a file is missing or damaged, or lacks a number or a marker.
    """
    from analysis.measure import model_card

    suite, report = next(iter(reports.items()))
    about, applied = card_of(suite), reports.get(APPLICATIONS)
    training = _read(model / "training.json")
    judge = judge or about.judge
    if judge is not None:
        training = _read(judge / "training.json") | training
    own = "" if suite == "scenes" else f" {suite}"
    blocks = {f"measured{own}": model_card.headline(report, spec, about)}
    card = model_card.card(spec, about, sizes(model), training, report, applied)
    kept = {
        model / kept_in(suite): json.dumps(part, indent=1, ensure_ascii=False, allow_nan=False)
        for suite, part in reports.items()
    }
    return {
        model / CARD: card,
        readme: fill(readme.read_text(encoding="utf-8"), blocks),
        **{path: f"{text}\n" for path, text in kept.items()},
    }


def fill(text: str, blocks: Mapping[str, str]) -> str:
    """Replace what stands between the markers of each block.

    Args:
        text: has `<!-- NAME -->` and `<!-- /NAME -->` on lines of their own, once, for each NAME.
        blocks: name -> new lines.

    Raises:
        ValueError: a marker is missing, or there twice, or the end stands before the beginning.
    """
    for name, block in blocks.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise ValueError(
                f"There is no one place for {name}: write {begin.strip()} and {end.strip()}, in "
                "this order, each once and on a line of its own."
            )
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}{block}\n{end}{rest.partition(end)[2]}"
    return text


def sizes(model: Path) -> dict[str, tuple[int, int]]:
    """Component -> (parameters, bytes) of the files in a model's folder."""
    from lib.checkpoints.tensor_files import open_tensors

    files = {
        name: sorted(model.glob(f"{name}*.safetensors")) or [model / f"{name}.safetensors"]
        for name in COMPONENTS
    }
    return {
        name: (
            sum(map(math.prod, open_tensors(paths[0]).shapes.values())),
            sum(path.stat().st_size for path in paths),
        )
        for name, paths in files.items()
    }


def check_weights(report: Mapping[str, Any], model: Path, whole: bool = True) -> None:
    """ValueError unless a report is about the weights in a model's folder; `whole`: all of them."""
    import torch

    from lib.checkpoints import load
    from lib.fingerprints import fingerprint

    run, about = report["protocol"]["run"], report["protocol"]["model"]
    known = about["weights"]
    unused = [name for name in COMPONENTS if name not in known]
    if whole and unused:
        raise ValueError(
            f"The report {run} used no {', '.join(unused)}: evaluate all flows (leave --flows out)."
        )
    dtype = getattr(torch, about["dtype"])
    vd = load(model, components=list(known), device="cpu", dtype=dtype)
    other = [name for name in known if fingerprint(vd.component(name)) != known[name]]
    if other:
        raise ValueError(
            f"The report {run} is not about the {', '.join(other)} in {model}: evaluate the model "
            "again, and publish that report."
        )


def _suite(report: Mapping[str, Any]) -> str:
    return report["protocol"]["settings"].get("suite", "scenes")


def _read(path: Path) -> dict[str, Any]:
    try:
        values = parse_json(read_file(path, LIST_BYTES))
    except FileNotFoundError as error:
        raise ValueError(f"There is no {path}: give the path of a report.json.") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}).") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged (not a JSON object).")
    return values
