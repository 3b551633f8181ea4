"""Two processes that evaluate together write the report of one; every input is measured once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from analysis.measure import processes
from analysis.measure.report import leaves
from analysis.measure.rows import shares
from analysis.metrics.statistics import Estimate
from data.scenes.judge import HEADS, Judge, save_judge

ROOT = Path(__file__).resolve().parents[3]
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--"]

PROGRAM = """
import dataclasses, json, sys
from analysis.measure import evaluate
from analysis.measure import processes
from analysis.measure import rows
from analysis.measure import scene_inputs
from analysis.measure import scenes
from analysis.measure import suite
from analysis.cli import main
from analysis.measure.protocol import Settings

scene_inputs.MIN_ACCURACY = 0.0  # of random weights
# a caption that the tiny model's vocabulary can spell
scenes.write = scene_inputs.write = lambda scene, rng: "a large red circle on gray"
evaluate.Settings = lambda **given: Settings(licence_n=4, t2t_pairs=2, **given)
measured = []

def noting(task, *others):
    def measure(indices):
        measured.extend((task.name, i) for i in indices)
        with open(f"{sys.argv[1]}.{processes.rank()}", "w") as file:
            json.dump(measured, file)
        return task.measure(indices)

    return rows.run(dataclasses.replace(task, measure=measure), *others)

suite.run = noting
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def judge(tmp_path):
    torch.manual_seed(0)
    save_judge(Judge(width=4, hidden=16), dict.fromkeys(HEADS, 0.999), tmp_path / "judge")
    return tmp_path / "judge"


def estimates(printed):
    """Leaves of a report that was printed."""

    def read(node):
        if "kind" in node:
            return Estimate.from_dict(node)
        return {name: read(part) for name, part in node.items()}

    return dict(leaves(read(printed["measures"])))


def test_two_processes_write_the_report_of_one(tmp_path, model_folder, judge):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = ["evaluate", "--model", str(model_folder), "--judge", str(judge), "--device", "cpu"]
    words += ["--n", "5", "--batch", "2", "--steps", "2", "--sweep-steps", "1", "--quiet", "--json"]
    words += ["--sweep-sampler", "ddim", "--flows", "t2i,t2t,search,caption"]
    printed, measured, running = {}, {}, {}
    for name, prefix in (("one", []), ("two", LAUNCHER)):
        command = [sys.executable, *prefix, str(program), str(tmp_path / name), *words]
        command += ["--out", str(tmp_path / f"out-{name}")]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running[name] = subprocess.Popen(command, env=environment, **pipes)
    for name, process in running.items():
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        printed[name] = json.loads(out)  # one document: one process prints
        files = sorted(tmp_path.glob(f"{name}.[0-9]"))
        measured[name] = [json.loads(path.read_text()) for path in files]
    assert printed["one"]["protocol"]["run"] == printed["two"]["protocol"]["run"]
    one, two = (estimates(printed[name]) for name in ("one", "two"))
    assert one.keys() == two.keys() and len(one) > 50
    for path, estimate in one.items():
        assert (two[path].n, two[path].kind) == (estimate.n, estimate.kind), path
        for end in ("value", "low", "high"):
            # chunks are cut otherwise, and a matrix product rounds otherwise in another batch
            expected = getattr(estimate, end)
            near = expected if expected is None else pytest.approx(expected, rel=1e-3, abs=1e-4)
            assert getattr(two[path], end) == near, path
    first, second = measured["two"]
    (alone,) = measured["one"]
    assert sorted(first + second) == sorted(alone), "every input once"
    assert {name for name, _ in second} == {name for name, _ in alone}, "both take part in each"
    assert abs(len(first) - len(second)) <= len(alone) // 4
    (folder,) = (tmp_path / "out-two" / "evaluation").iterdir()
    assert (folder / "report.md").read_text().count("](figures/") >= 3
    assert not list(folder.rglob("*.tmp"))


def test_alone_nothing_is_agreed_on(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes.group():
        assert (processes.rank(), processes.world()) == (0, 1)
        assert processes.agreed([3]) == [3]
        processes.wait()


@pytest.mark.parametrize("parties", [1, 2, 3, 7])
@pytest.mark.parametrize("indices", [[], [4], list(range(10)), [0, 1, 5, 6, 7, 20]])
def test_shares_cover_what_is_missing_once(indices, parties):
    parts = shares(indices, 3, parties)
    assert len(parts) == parties
    assert sorted(i for part in parts for chunk in part for i in chunk) == indices
    assert all(1 <= len(chunk) <= 3 for part in parts for chunk in part)
    assert len(indices) < 2 or parties == 1 or parts[1], "nobody waits for one who does it all"
