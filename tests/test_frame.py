"""What stands around the code says the truth: README, Makefile, requirements, assets, sizes."""

import ast
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analysis import cli as analysis_cli
from analysis.measure import publish
from analysis.modes import MODES
from analysis.results.mode_sheets import RECORDS
from analysis.results.outputs import read_record
from data.scenes.captions import parse
from data.scenes.draw import render
from data.scenes.judge import JUDGE_FOLDER
from data.scenes.world import BACKGROUNDS, COLORS, SHAPES, SIZES, STYLES, is_test
from lib.checkpoints import load
from lib.checkpoints.hub import MAIN_FILES, SOURCES
from lib.checkpoints.sources import read_spec
from lib.components import build, components_for
from lib.fingerprints import fingerprint
from lib.specs import VD_FOUR_FLOW_V1_0
from tests import golden
from training import __main__ as training_cli
from training import stages

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FRENCH = (ROOT / "README.fr.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
ENVIRONMENT = (ROOT / "environment.yml").read_text(encoding="utf-8")
NOTEBOOK = ROOT / "run_inference_analyse.ipynb"
MODEL = ROOT / "pretrained" / "vd-mini"
OWN = ("lib", "data", "analysis", "training", "benchmarks", "tests")
TOOLS = {"jupyter", "nbconvert", "ruff"}
"""Declared without being imported: programs."""
NOT_OURS = {"__pycache__", "runs", "output"}
MB = 1_000_000


def files() -> Iterator[Path]:
    """Every file that belongs to the repository."""
    for folder, below, names in os.walk(ROOT):
        here = Path(folder)
        below[:] = [
            name
            for name in sorted(below)
            if name not in NOT_OURS and (not name.startswith(".") or name == ".ci")
        ]
        if here == ROOT / "pretrained":
            below[:] = ["judge", "vd-emoji", "vd-emoji-judge", "vd-mini"]
            names = ["README.md"]
        yield from (here / name for name in sorted(names))


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def shown_commands() -> list[str]:
    """Commands in both READMEs, in the notebook's prose and in the Makefile."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "markdown"]
    prose = README + FRENCH + "\n".join(texts)
    lines = [line for block in fenced(prose, "bash") for line in block.splitlines()]
    lines += re.findall(r"`((?:python -m|make) [^`]+)`", prose)
    recipes = MAKEFILE.replace("\\\n", " ").replace("$(RUNS)", "runs")
    ours = r"^\t\$\(BIN\)/(python -m (?:analysis|training)\b.*)$"
    lines += re.findall(ours, recipes, re.MULTILINE)
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


# ---------------------------------------------------------------------- README


@pytest.mark.parametrize("readme", [README, FRENCH], ids=["English", "French"])
def test_the_python_example_runs(readme, model_folder, tmp_path, capsys):
    example = fenced(readme, "python")[0]
    assert len(example.splitlines()) <= 10
    assert example.count('"vd-mini"') == example.count('"output"') == 1
    here = example.replace('"vd-mini"', repr(str(model_folder)))
    exec(compile(here.replace('"output"', repr(str(tmp_path))), "README.md", "exec"), {})
    *paths, captions = capsys.readouterr().out.splitlines()
    assert [read_record(path)["seed"] for path in paths] == [20, 21, 22, 23]
    assert all(path.startswith(f"{tmp_path}{os.sep}t2i") for path in paths)
    assert len(ast.literal_eval(captions)) == 4


@pytest.mark.parametrize("line", shown_commands())
def test_a_shown_command_is_one_that_exists(line, monkeypatch):
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", MAKEFILE, re.MULTILINE)
        return
    if words[0] in ("conda", "jupyter"):
        assert all((ROOT / word).is_file() for word in words if re.search(r"\.(yml|ipynb)$", word))
        name = re.search(r"^name: (.+)$", ENVIRONMENT, re.MULTILINE)[1]
        assert words[1] != "activate" or words[2] == name
        return
    assert words[:2] == ["python", "-m"]
    module, arguments = words[2], words[3:]
    if "--help" in arguments:
        with pytest.raises(SystemExit) as left:
            analysis_cli.main(arguments)
        assert left.value.code == 0
    elif module == "analysis":
        args = analysis_cli.build_parser(arguments[0]).parse_args(arguments)
        named = getattr(args, "images", None) or []
        assert all((ROOT / path).exists() for path in named if str(path).startswith("assets/"))
    elif module == "training":
        asked = []
        monkeypatch.setattr(stages, "run", lambda name, args: asked.append(name) or {})
        assert training_cli.main(arguments) == 0
        assert asked
    elif module != "tests.golden":
        path = ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    else:
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(golden, "load_recipe", lambda spec: None)
        monkeypatch.setattr(golden, "compare", lambda given, vd: ([], True))
        assert golden.main(arguments) == 0


def test_relative_links_lead_somewhere():
    for path in (p for p in files() if p.suffix == ".md"):
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
            if not target.startswith("https://"):
                assert (path.parent / target).exists(), f"{path.relative_to(ROOT)}: {target}"


def test_links_to_a_section_find_it():
    for path in (p for p in files() if p.suffix == ".md"):
        links = re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", path.read_text(encoding="utf-8"))
        for target, anchor in links:
            if not target.startswith("https://"):
                text = (path.parent / target if target else path).read_text(encoding="utf-8")
                heads = re.findall(r"^##* (.+)$", text, re.MULTILINE)
                anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in heads}
                assert anchor in anchors, f"{path.relative_to(ROOT)}: {target}#{anchor}"


def test_the_readmes_are_short_and_show_every_mode():
    """Pictures are made by `make pictures`, from what each command saves."""
    assert len(README.splitlines()) <= 150
    for readme in (README, FRENCH):
        shown = set(re.findall(r"^\|.*?`([\w-]+)` ", readme, re.MULTILINE))
        shown |= set(re.findall(r"; `([\w-]+)` ", readme))
        assert {*MODES, "search", "caption"} <= shown
        pictures = re.findall(r"\]\(assets/modes/([\w-]+)\.png\)", readme)
        assert sorted(pictures) == sorted({*MODES, "search"} - {"encode"})
    recipe = MAKEFILE.partition("\npictures:")[2].partition("\n\n")[0]
    drawn = set(re.findall(r"for mode in ([^;]+);", recipe)[0].split())
    assert drawn == set(MODES) - {"encode"}
    assert drawn <= set(re.findall(r"python -m analysis ([\w-]+) ", recipe))


def test_the_readme_lists_the_words_of_vd_mini():
    section = README.partition("## What the models know")[2].partition("\n## ")[0]
    for word in (*BACKGROUNDS, *STYLES, *SIZES, *COLORS, *SHAPES):
        assert re.search(rf"\b{word}\b", section), word


def test_french_readme_knows_how_many():
    counts = {"deux tailles": SIZES, "huit couleurs": COLORS, "huit formes": SHAPES}
    numbers = {"deux": 2, "huit": 8}
    words = " ".join(FRENCH.split())
    for phrase, values in counts.items():
        assert phrase in words and numbers[phrase.split()[0]] == len(values)


def test_named_files_exist():
    """From the root, or in the room that the line is about."""
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", README + FRENCH))
    assert {"lib/", "assets/", "checkpoints/"} <= named
    for name in named:
        rooms = (ROOT, *(ROOT / package for package in OWN))
        assert name.startswith("output/") or any((room / name).exists() for room in rooms), name


def test_every_folder_is_in_the_guide():
    for readme in (README, FRENCH):
        for package in OWN:
            assert f"`{package}/" in readme, package
    for path in (ROOT / "analysis").iterdir():
        if (path / "__init__.py").is_file():
            assert f"{path.name}/`" in README and f"`{path.name}`" in FRENCH, path.name


def test_text_to_image_needs_that_many_parameters():
    with torch.device("meta"):
        parts = [build(VD_FOUR_FLOW_V1_0, name) for name in components_for(["t2i"])]
    count = sum(p.numel() for part in parts for p in part.parameters())
    assert f"{count / 1e9:.2f} billion parameters for text-to-image" in " ".join(README.split())


def test_the_official_files_are_listed():
    listed = (ROOT / "pretrained" / "README.md").read_text(encoding="utf-8")
    assert set(MAIN_FILES) < set(SOURCES)
    for name in set(SOURCES) - set(MAIN_FILES[2:]):  # those of the first release by their ending
        assert f"`{name}`" in listed, name
        assert f"`{SOURCES[name][0][0]}`" in listed, name


def test_published_numbers_are_those_of_the_report_and_of_the_weights():
    """If this fails: evaluate the model again, and `python -m analysis publish REPORT`."""
    made = publish.collected((), MODEL)
    expected = publish.texts(made, read_spec(MODEL), MODEL, ROOT / "README.md", JUDGE_FOLDER)
    for path, text in expected.items():
        assert path.read_text(encoding="utf-8") == text, path.name
    for suite, report in made.items():
        publish.check_weights(report, MODEL, whole=suite == "scenes")


def weights_in(value: object) -> Iterator[tuple[str, str]]:
    """Component and fingerprint of all weights that records within a JSON value name."""
    if isinstance(value, dict):
        model = value.get("model")
        if isinstance(model, dict) and model.get("name") == "vd-mini":
            yield from model["weights"].items()
        for inner in value.values():
            yield from weights_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from weights_in(inner)


@pytest.fixture(scope="module")
def committed() -> dict[str, str]:
    """Component of vd-mini -> fingerprint of the weights in the repository, as records have it."""
    vd = load(MODEL, device="cpu")
    return {name: fingerprint(vd.component(name)) for name in vd.available}


def test_pictures_of_the_modes_were_made_with_the_committed_weights(committed):
    """If this fails: `make pictures`."""
    for path in sorted((ROOT / "assets" / "modes").glob("*.png")):
        if path.stem == "search":  # a sheet of saved pictures: it has a record of its own
            continue
        with Image.open(path) as image:
            named = set(weights_in(json.loads(image.text[RECORDS])))
        assert named and named <= set(committed.items()), path.name


# ---------------------------------------------------------------------- requirements


def imported() -> set[str]:
    """Names of the packages that any of our code imports, wherever the import stands."""
    sources = [p.read_text(encoding="utf-8") for p in files() if p.suffix == ".py"]
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    sources += ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    names: set[str] = set()
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
    tops = {name.partition(".")[0] for name in names}
    return tops - set(sys.stdlib_module_names) - set(OWN)


def test_requirements_are_what_is_imported():
    lines = (ROOT / "requirements_analyse.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[\w-]+>=[\d.]+,<[\d.]+", line), line
    declared = {re.sub(r"[-_.]+", "-", line.split(">=")[0]).lower() for line in lines}
    known = packages_distributions()
    used = {re.sub(r"[-_.]+", "-", known[name][0]).lower() for name in imported()}
    assert used - declared == set()
    assert declared - used == TOOLS


def test_both_environments_install_the_same():
    assert "- -r requirements_analyse.txt" in ENVIRONMENT
    assert "-m pip install" in MAKEFILE and "-r requirements_analyse.txt" in MAKEFILE


# ---------------------------------------------------------------------- files


def test_nothing_is_tied_to_one_machine():
    rooted = re.compile(r"(?<![\w.~/-])/(?:home|root|work|tmp|mnt|opt|Users|private)/")
    for path in files():
        if path.suffix in (".py", ".md", ".ipynb", ".json", ".toml", ".txt", ".yml", ""):
            found = rooted.search(path.read_text(encoding="utf-8"))
            assert not found, f"{path.relative_to(ROOT)}: {found}"


def test_files_stay_small():
    for path in files():
        assert path.stat().st_size <= 20 * MB, path.name
    for model, most in {"vd-mini": 48, "vd-emoji": 40}.items():
        folder = ROOT / "pretrained" / model
        assert sum(p.stat().st_size for p in files() if p.is_relative_to(folder)) <= most * MB


def test_input_pictures_are_drawn_as_said():
    text = (ROOT / "assets" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+\.png)` \| (\d+) \| (.+) \|$", text, re.MULTILINE)
    assert {name for name, *_ in rows} == {p.name for p in (ROOT / "assets/pictures").iterdir()}
    for name, seed, caption in rows:
        scene = parse(caption)
        assert is_test(scene) and not scene.held_out, name
        with Image.open(ROOT / "assets" / "pictures" / name) as image:
            assert np.array_equal(image.convert("RGB"), render(scene, int(seed))), name
