"""The notebook runs from a clean kernel, on any model, and is committed as it ran."""

import ast
import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from lib.config import FLOWS

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "run_inference_analyse.ipynb"
ENDING = {"t2i": "png", "i2i": "png", "i2t": "txt", "t2t": "txt"}
ENDING |= {"focus": "png", "dual": "png", "blend": "png", "describe": "txt", "edit": "png"}
ENDING |= {"latent-edit": "png", "interpolate": "png", "films": "gif", "search": "png"}
FOREIGN = ["a large red circle", "a tiny striped star left of a big green heart"]
"""Prompts that the random model's few tokens can write."""
FIGURES = {
    "activations",
    "film-strip",
    "focus-spectrum-content",
    "focus-spectrum-style",
    "four-flows",
    "guidance-over-time",
    "heat-maps",
    "latent-norms",
    "noise-schedule",
    "self-attention",
}


def read() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    (cell,) = (c for c in code_cells(notebook) if "parameters" in c.metadata.get("tags", []))
    return cell


def assigned(source: str) -> set[str]:
    """Names that a cell leaves behind."""
    tree = ast.parse(source)
    inner = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.comprehension)
        for name in ast.walk(node.target)
    }
    stored = (n for n in ast.walk(tree) if isinstance(n, ast.Name) and n not in inner)
    return {node.id for node in stored if isinstance(node.ctx, ast.Store)}


def only_prepares(source: str) -> bool:
    """Whether a cell has nothing to show: imports and assignments."""
    kinds = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    return all(isinstance(statement, kinds) for statement in ast.parse(source).body)


def silent(notebook: nbformat.NotebookNode) -> list[str]:
    """Cells that should show something and do not."""
    cells = code_cells(notebook)
    return [c.id for c in cells if not c.outputs and not only_prepares(c.source)]


@pytest.mark.parametrize("model", ["another model", "vd-mini"])
def test_runs_from_a_clean_kernel(model, model_folder, tmp_path):
    out = tmp_path / "output"
    changes = {"MODEL": "vd-mini", "OUT": str(out), "STEPS": 3, "MEASURED": 3}
    if model != "vd-mini":
        changes |= {"MODEL": str(model_folder), "PROMPTS": FOREIGN, "WORDS": ["red circle"]}
        changes |= {"SHOWN": FOREIGN, "WANTED": FOREIGN[::-1], "NEGATIVE": FOREIGN[1]}
    for mode, ending in ENDING.items():  # results of an earlier run
        (out / mode).mkdir(parents=True)
        (out / mode / f"0001_earlier_seed1.{ending}").write_text("kept")
    notebook = read()
    cell = parameters(notebook)
    assert changes.keys() <= assigned(cell.source)
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in changes.items())
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(ROOT)}},
    )
    client.execute(env=os.environ | {"IPYTHONDIR": str(tmp_path / "ipython")})

    assert silent(notebook) == []
    assert set(FLOWS) < set(ENDING)
    assert {path.name for path in out.iterdir()} == {*ENDING, "figures", "caption"}
    for mode, ending in ENDING.items():
        earlier, *made = sorted((out / mode).glob(f"*.{ending}"))
        assert earlier.read_text() == "kept"
        assert made and made[0].name.startswith("0002_")
        for path in made:
            record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            assert (record["mode"], record["file"]) == (mode, path.name)
    drawn = FIGURES | ({"readability"} if model == "vd-mini" else set())
    kept = {path.name for path in (out / "figures").iterdir()}
    assert kept == {f"{name}.{kind}" for name in drawn for kind in ("png", "svg")}
    assert (out / "caption" / "metadata.jsonl").read_text(encoding="utf-8").count("\n") == 4


def test_is_thin():
    notebook = read()
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        kinds = {type(node) for node in ast.walk(ast.parse(cell.source))}
        assert not kinds & {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda}


def test_no_cell_changes_what_another_one_made():
    seen: dict[str, str] = {}
    for cell in code_cells(read()):
        for name in assigned(cell.source):
            assert seen.setdefault(name, cell.id) == cell.id, name


def test_is_committed_as_it_ran_on_the_embedded_model():
    """If this fails: `make notebook`."""
    notebook = read()
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert silent(notebook) == []
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(parameters(notebook).source).body
    }
    assert (values["MODEL"], values["STEPS"], values["OUT"]) == ("vd-mini", None, "output")
    (load,) = (cell for cell in cells if "load(MODEL)" in cell.source)
    assert "'vd-mini'" in load.outputs[0]["data"]["text/plain"]
