"""Numbers move from reports into the README and the model card.

    python -m analysis evaluate --model vd-mini --n 1000 --seed 7
    python -m analysis evaluate --model vd-mini --n 100 --seed 7 --suite applications
    python -m analysis.measure.publish output/evaluation/RUN/report.json output/evaluation/RUN2/report.json
    python -m analysis.measure.publish                # again, from the reports that were published last

A report is taken for what its suite is about: `scenes` for the four flows, `applications`. One that
is not given stays as it was published.

Written, each whole or not at all:

| file | what |
|---|---|
| `pretrained/vd-mini/evaluation.json` | the report on scenes, beside the weights it is about |
| `pretrained/vd-mini/applications.json` | that on applications, if there is one |
| `pretrained/vd-mini/MODEL_CARD.md` | the whole card (`analysis.measure.model_card`) |
| `README.md` | what stands between `<!-- measured -->` and `<!-- /measured -->`; so `trained` |

A report about other weights than those in the folder is refused: a number and what it is about stay
together.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from analysis.measure import model_card
from analysis.modes.sampling import fingerprint
from data.scenes.judge import JUDGE_FOLDER
from lib.checkpoints.hub import PRETRAINED
from lib.checkpoints.sources import read_spec
from lib.checkpoints.tensor_files import open_tensors
from lib.checkpoints.weights import load
from lib.config import COMPONENTS, ModelSpec
from lib.files import write_atomic

README = PRETRAINED.parent / "README.md"
KEPT = {"scenes": "evaluation.json", "applications": "applications.json"}
"""Suite -> the file that its published report is kept in."""
CARD = "MODEL_CARD.md"


def publish(
    reports: Sequence[Path] = (),
    model: Path = PRETRAINED / "vd-mini",
    readme: Path = README,
    judge: Path = JUDGE_FOLDER,
) -> list[Path]:
    """Put reports' numbers where people read them.

    Args:
        reports: report.json files of `analysis evaluate`, at most one a suite; of the others those
            that were published last are taken.
        model: folder of the model they are about.
        readme: the file whose marked blocks are filled.
        judge: folder of the judge, for what its training took.

    Returns:
        The files written.

    Raises:
        ValueError: a file is missing or damaged, lacks a number or a marker, or a report is about
            other weights. Then nothing is written.
        OSError: a file could not be written.
    """
    spec, made = read_spec(model), collected(reports, model)
    for suite, report in made.items():
        check_weights(report, model, whole=suite == "scenes")
    contents = texts(made, spec, model, readme, judge)
    for path, text in contents.items():
        write_atomic(path, text)
    return list(contents)


def collected(reports: Sequence[Path], model: Path) -> dict[str, dict[str, Any]]:
    """Suite -> report: those given, and for other suites what the model's folder keeps.

    Raises:
        ValueError: a file is missing or no report, two are of one suite, or none is on scenes.
    """
    made: dict[str, dict[str, Any]] = {}
    for path in reports:
        report = _read(path)
        if not {"protocol", "measures"} <= report.keys():
            raise ValueError(f"{path} is no report: give a report.json of `analysis evaluate`.")
        suite = report["protocol"]["settings"].get("suite", "scenes")
        if suite not in KEPT:
            raise ValueError(
                f"{path} is of the suite {suite!r}: {' and '.join(KEPT)} are published."
            )
        if suite in made:
            raise ValueError(f"{path} is a second report of the suite {suite!r}: give one of each.")
        made[suite] = report
    for suite, name in KEPT.items():
        if suite not in made and (suite == "scenes" or (model / name).exists()):
            made[suite] = _read(model / name)
    return made


def texts(
    reports: Mapping[str, Mapping[str, Any]],
    spec: ModelSpec,
    model: Path,
    readme: Path,
    judge: Path,
) -> dict[Path, str]:
    """What each file is going to hold.

    Args:
        reports: suite -> report; that of applications may be absent.
        spec, model, readme, judge: see `publish`.

    Raises:
        ValueError: a file is missing or damaged, or lacks a number or a marker.
    """
    training = {**_read(judge / "training.json"), **_read(model / "training.json")}
    scenes, applied = reports["scenes"], reports.get("applications")
    blocks = {
        "trained": model_card.trained(training),
        "measured": model_card.measured(scenes, spec),
    }
    if applied is not None:
        blocks["effects"] = model_card.effects(applied, spec)
    return {
        model / CARD: model_card.card(spec, sizes(model), training, scenes, applied),
        readme: fill(readme.read_text(encoding="utf-8"), blocks),
        **{
            model / KEPT[suite]: json.dumps(made, indent=1, ensure_ascii=False, allow_nan=False)
            + "\n"
            for suite, made in reports.items()
        },
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
    found = {}
    for name in COMPONENTS:
        path = model / f"{name}.safetensors"
        count = sum(math.prod(shape) for shape in open_tensors(path).shapes.values())
        found[name] = (count, path.stat().st_size)
    return found


def check_weights(report: Mapping[str, Any], model: Path, whole: bool = True) -> None:
    """ValueError unless a report is about the weights in a model's folder; `whole`: all of them."""
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


def main(argv: Sequence[str] | None = None) -> int:
    """Publish as the command line asks; print what was written."""
    args = build_parser().parse_args(argv)
    try:
        written = publish(args.reports, args.model, args.readme)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(map(str, written)))
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Options of `python -m analysis.measure.publish`."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.measure.publish",
        description="Put an evaluation's numbers into the README and the model card.",
    )
    add = parser.add_argument
    add("reports", nargs="*", type=Path, help="report.json files (default: those published last)")
    add("--model", type=Path, default=PRETRAINED / "vd-mini", help="folder of the model")
    add("--readme", type=Path, default=README, help="whose marked blocks are filled")
    return parser


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"There is no {path}: give the path of a report.json.") from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}).") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged (not a JSON object).")
    return values


if __name__ == "__main__":
    sys.exit(main())
