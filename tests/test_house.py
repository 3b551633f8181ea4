"""The house: imports go down, each thing is written once, files are short, help comes at once."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from analysis.cli import ELSEWHERE
from analysis.modes import MODES
from lib.config import FLOWS

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {
    "lib": 0,
    "data": 1,
    "training": 2,
    "analysis.results": 2,
    "analysis.modes": 3,
    "analysis.metrics": 3,
    "analysis.inside": 4,
    "analysis.folders": 4,
    "analysis.measure": 5,
    "analysis.cli": 6,
    "analysis.widgets": 6,
    "analysis": 7,
    "analysis.__main__": 7,
}
"""Room -> floor; rooms of one floor know nothing of each other."""
LIMITS = {
    "analysis": (77, 15_550),
    "lib": (37, 7_500),
    "data": (27, 5_110),
    "training": (28, 4_260),
}
"""Room -> Python files and lines that it has at most; to be lowered whenever it shrinks."""
OURS = ("lib", "data", "training", "analysis")


def module_name(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {module_name(p): p for top in OURS for p in sorted((ROOT / top).rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def imports(tree: ast.Module) -> Iterator[str]:
    """Our modules that a module imports, also in functions and as `Lazy`; not for type checkers."""
    typing = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if node in typing:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports say the whole name"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in inner]
        elif isinstance(node, ast.Call) and any(
            isinstance(part, ast.Name) and part.id == "Lazy" for part in (node.func, *node.args)
        ):
            constants = (part for part in ast.walk(node) if isinstance(part, ast.Constant))
            names = [part.value for part in constants if isinstance(part.value, str)]
        yield from (name for name in names if name.partition(".")[0] in OURS)


GRAPH = {name: set(imports(tree)) - {name} for name, tree in TREES.items()}


def room(name: str) -> str:
    return max((known for known in FLOORS if f"{name}.".startswith(f"{known}.")), key=len)


def test_imports_are_read():
    """What the tests below stand on: each way of importing is seen."""
    assert {"lib.noise", "lib.model"} <= GRAPH["analysis.modes.sampling"]
    assert "analysis.modes.build" in GRAPH["analysis.modes.heavy"]  # by Lazy
    assert "analysis.results.outputs" in GRAPH["analysis.cli"]  # in a function
    assert "lib.model" not in GRAPH["analysis.modes.flows"]  # for type checkers
    assert set().union(*GRAPH.values()) <= set(MODULES)


def test_imports_go_down():
    for name, others in GRAPH.items():
        here = room(name)
        for other in others:
            there = room(other)
            assert there == here or FLOORS[there] < FLOORS[here], f"{name} imports {other}"
            if "training" in (here, there):
                assert {here, there} <= {"training", "lib", "data"}, f"{name} imports {other}"


def test_imports_have_no_circles():
    above: list[str] = []
    done: set[str] = set()

    def visit(name: str) -> None:
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            above.append(name)
            for other in sorted(GRAPH[name]):
                visit(other)
            done.add(above.pop())

    for name in GRAPH:
        visit(name)


def test_only_tests_and_benchmarks_import_tests_and_benchmarks():
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            module = node.module if isinstance(node, ast.ImportFrom) else ""
            assert not (module or "").startswith(("tests", "benchmarks")), name


def test_files_are_short():
    for name, path in MODULES.items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 350, f"{name} has {lines} lines"


def test_the_rooms_are_as_large_as_they_may_be():
    def size(top: str) -> tuple[int, int]:
        paths = [path for name, path in MODULES.items() if f"{name}.".startswith(f"{top}.")]
        lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)
        return len([path for path in paths if path.name != "__init__.py"]), lines

    for top, (most_files, most_lines) in LIMITS.items():
        files, lines = size(top)
        assert files <= most_files and lines <= most_lines, (top, files, lines)


# ------------------------------------------------------------------ written once


def test_json_is_read_in_one_place():
    """Which knows all the ways in which a file can be damaged."""
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if name != "lib.checks" and isinstance(node, ast.Call):
                called = ast.unparse(node)
                own = called.startswith("json.loads(json.dumps(")  # plain types of what we have
                assert own or not called.startswith(("json.load(", "json.loads(")), (name, called)


OPTIONS = {option for mode in MODES.values() for option in mode.options}


@cache
def declared(module: str) -> set[str]:
    """Options that a module declares: flags, defaults of keywords, and fields of lists of options.

    A class is a list of options if at least three of its fields with defaults are named so.
    """
    names: set[str] = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.FunctionDef):
            pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            names |= {argument.arg for argument, default in pairs if default is not None}
        elif isinstance(node, ast.ClassDef):
            parts = (part for part in node.body if isinstance(part, ast.AnnAssign) and part.value)
            fields = {part.target.id for part in parts}
            names |= fields if len(fields & OPTIONS) >= 3 else set()
        elif isinstance(node, ast.Constant) and str(node.value).startswith("--"):
            names.add(str(node.value).removeprefix("--").replace("-", "_"))
    return names


@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_an_option_is_declared_in_few_files(option):
    """Once, that is; a second file reads a part of them, a command of its own may have its own.

    Functions without a command (of `inside`, of indexing) have arguments, not options: they are not
    in this count, and neither are the networks' (`lib`) and the stages' (`training`).
    """
    rooms = ("analysis.modes", "analysis.cli", "analysis.measure", "analysis.widgets")
    commands = {module for module, _ in ELSEWHERE.values()}
    files = [
        name
        for name in TREES
        if (room(name) in rooms or name in commands) and option in declared(name)
    ]
    assert 1 <= len(files) <= 3, files


@cache
def named(module: str) -> set[str]:
    """Words that a module spells as a whole: in strings, in lists of words, and as imports."""
    words: set[str] = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = node.value.split(" ")
            words |= set(parts) if all(re.fullmatch(r"[\w-]+", part) for part in parts) else set()
        elif isinstance(node, ast.ImportFrom) and str(node.module) == "analysis.modes":
            words |= {alias.name for alias in node.names}
    return words


@pytest.mark.parametrize("mode", sorted({*MODES} - {*FLOWS} - OPTIONS))
def test_a_mode_is_named_in_few_files(mode):
    """The two lists of public names, its own file, and where its effect is measured.

    The suites that measure count as one. The flows are not counted: the model itself is made of
    these four directions, and trained and measured by them. Nor is what an option is called, too.
    """
    own = MODES[mode].function.__name__
    files = {
        "analysis.measure" if room(module) == "analysis.measure" else module
        for module in TREES
        if {mode, own} & named(module)
    }
    assert 1 <= len(files) <= 4, files


def test_public_names_cost_nothing():
    """That each name is there is tested in a process that has everything loaded anyway."""
    code = (
        "import analysis, sys, json\n"
        "heavy = {'torch', 'numpy', 'PIL', 'transformers'} & set(sys.modules)\n"
        "print(json.dumps([sorted(heavy), analysis.__all__]))\n"
    )
    heavy, names = json.loads(output_of(code))
    assert heavy == []
    functions = {mode.function.__name__ for mode in MODES.values()}
    assert {"load", "save", "show", *functions} <= set(names)


# ------------------------------------------------------------------ the shell


def output_of(code: str) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture(scope="module")
def helped() -> dict[str, str]:
    """Command -> its help; all of them in a process that has nothing else to do."""
    code = (
        "import contextlib, io, json, sys\n"
        "from analysis.cli import main\n"
        "texts = {}\n"
        f"for command in {[*MODES, *ELSEWHERE, '']!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "        with contextlib.suppress(SystemExit):\n"
        "            main([*command.split(), '--help'])\n"
        "    texts[command] = out.getvalue()\n"
        "heavy = {'torch', 'numpy', 'transformers', 'matplotlib'} & set(sys.modules)\n"
        "print(json.dumps({**texts, 'heavy': sorted(heavy)}))\n"
    )
    return json.loads(output_of(code))


def test_help_waits_for_nothing_that_takes_seconds(helped):
    assert helped["heavy"] == []


@pytest.mark.parametrize("command", [*MODES, *ELSEWHERE])
def test_help_lists_every_option(helped, command):
    text = helped[command]
    assert text.startswith(f"usage: python -m analysis {command} ")
    if command in MODES:
        mode = MODES[command]
        assert f"example:\n  python -m analysis {mode.example}\n" in f"{text}\n"
        for name, option in mode.options.items():
            for flag in option.flags or (f"--{name.replace('_', '-')}",):
                assert re.search(rf"{flag}\b", text), flag


def test_help_lists_every_command(helped):
    for command in (*MODES, *ELSEWHERE):
        assert re.search(rf"^ +{command}\s", helped[""], re.MULTILINE), command
