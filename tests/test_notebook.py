"""The notebook runs from a clean kernel, on any model, and is committed as it ran."""

import ast
import json
import os
import re
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from analysis import load, text_to_image
from lib.config import FLOWS

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "run_inference_analyse.ipynb"
ENDING = {"t2i": "png", "i2i": "png", "i2t": "txt", "t2t": "txt"}
ENDING |= {"focus": "png", "dual": "png", "blend": "png", "describe": "txt", "edit": "png"}
ENDING |= {"latent-edit": "png", "interpolate": "png", "films": "gif", "search": "png"}
FIGURES = {
    "activations",
    "film-strip",
    "focus-components",
    "focus-spectrum-content",
    "focus-spectrum-style",
    "four-flows",
    "guidance-over-time",
    "heat-maps",
    "latent-norms",
    "noise-schedule",
}


def read() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    (cell,) = (c for c in code_cells(notebook) if "parameters" in c.metadata.get("tags", []))
    return cell


def values_of(notebook: nbformat.NotebookNode) -> dict[str, object]:
    """Name -> value of the parameters."""
    body = ast.parse(parameters(notebook).source).body
    return {node.targets[0].id: ast.literal_eval(node.value) for node in body}


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


@pytest.mark.parametrize("model", ["vd-emoji", "vd-mini"])
def test_runs_from_a_clean_kernel(model, tmp_path):
    out = tmp_path / "output"
    changes = {"MODEL": model, "OUT": str(out), "STEPS": 3, "MEASURED": 3, "SCALES": [0, 2]}
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
    assert len(notebook.cells) <= 65
    assert NOTEBOOK.stat().st_size <= 1.5e6
    for cell in code_cells(notebook):
        kinds = {type(node) for node in ast.walk(ast.parse(cell.source))}
        assert not kinds & {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda}


def test_one_cell_of_five_lines_imports_the_public_names():
    cells = [c for c in code_cells(read()) if "from analysis import" in c.source]
    (lines,) = (cell.source.splitlines() for cell in cells)
    assert len(lines) == 5
    for line in lines:
        (statement,) = ast.parse(line).body
        assert isinstance(statement, ast.ImportFrom) and statement.module == "analysis"
        assert all(name.asname is None for name in statement.names)


HEADING = re.compile(r"^#+ .+$", re.MULTILINE)


def without_code(prose: str) -> str:
    return re.sub(r"```.*?```", "", prose, flags=re.DOTALL)


def test_a_line_in_french_stands_below_every_heading():
    for cell in read().cells:
        prose = without_code(cell.source)
        for heading in HEADING.finditer(prose if cell.cell_type == "markdown" else ""):
            below = prose[heading.end() :].lstrip("\n").splitlines()
            assert re.fullmatch(r"\*[^*]+[.!?]\*", below[0]) and below[1] == "", heading[0]


def test_headings_stand_before_what_they_are_about():
    """Prose and code take turns, and a cell of prose opens one section, or a section's part."""
    kinds = [cell.cell_type for cell in read().cells]
    assert kinds[:4] == ["markdown", "code", "code", "code"]
    assert all(first != second for first, second in pairwise(kinds[3:]))
    levels = [
        [heading.partition(" ")[0] for heading in HEADING.findall(without_code(cell.source))]
        for cell in read().cells
        if cell.cell_type == "markdown"
    ]
    assert {tuple(below) for below in levels} <= {(), ("#",), ("##",), ("###",), ("##", "###")}
    sources = [cell.source for cell in read().cells]
    (readable,) = (k for k, text in enumerate(sources) if "a scene becomes readable" in text)
    assert "attribute_readability(" in sources[readable + 1]


def test_guidance_is_seen_and_focus_is_shown_before_it_is_defined():
    sources = [cell.source for cell in read().cells]
    (sweep,) = (source for source in sources if "for scale in SCALES" in source)
    assert "text_to_image(" in sweep and values_of(read())["SCALES"] == [0, 1, 2, 4, 8, 15]
    marks = ('"focus-components"', "turned = focus(", r"X' = r\,\Bigl(")
    order = [next(k for k, source in enumerate(sources) if mark in source) for mark in marks]
    assert order == sorted(order) and len(set(order)) == 3


def test_pictures_have_words_for_who_cannot_see_them_and_paths_are_printed_once():
    notebook = read()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert not [kind for kind in kinds if kind.startswith("image/")]  # none without words
    pages = [output.get("data", {}).get("text/html", "") for output in outputs]
    pictures = re.findall(r'<img (?:alt="([^"]*)")? ?src=', "".join(pages))
    assert len(pictures) > 25 and all(len(alt) > 8 for alt in pictures)
    assert "".join(pages).count("<img") == len(pictures)
    printed = "".join(output.get("text", "") for output in outputs)
    assert len(re.findall(r"output/\S+\.(?:png|txt|gif)", printed)) == 1


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
    values = values_of(notebook)
    assert (values["MODEL"], values["STEPS"], values["OUT"]) == ("vd-mini", None, "output")
    (loading,) = (cell for cell in cells if "load(MODEL)" in cell.source)
    assert "'vd-mini'" in loading.outputs[0]["data"]["text/plain"]
    (record,) = (
        ast.literal_eval(output["data"]["text/plain"])
        for cell in cells
        if "record_of(0)" in cell.source
        for output in cell.outputs
        if output.output_type == "execute_result"
    )
    job = text_to_image.job(
        load("vd-mini"), values["ASK"]["vd-mini"]["prompts"], n=4, seed=values["SEED"]
    )
    assert record["model"] == job.record_of(0)["model"]  # by these very weights
