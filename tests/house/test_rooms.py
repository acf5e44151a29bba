"""The rules of the rooms: no import circles, few modules beside the folders, short modules."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("split_model", "edge_runtime", "cloud_server", "benchmarks", "models", "deploy")
MOST_LINES = 300
#: A longer module says why, near its top.
REASON = re.compile(r"^# Over 300 lines: \S+", re.MULTILINE)
NEAR_THE_TOP = 40
MOST_MODULES_BESIDE_FOLDERS = 6


def name_of(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(node: ast.AST, modules: set[str]) -> Iterator[str]:
    """Modules among ``modules`` that a tree imports, inside functions too, but not for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from imported(other, modules)
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names if alias.name in modules)
        elif isinstance(child, ast.ImportFrom) and child.module:
            for alias in child.names:
                full = f"{child.module}.{alias.name}"
                if full in modules or child.module in modules:
                    yield full if full in modules else child.module
        yield from imported(child, modules)


def import_graph(package: Path) -> dict[str, set[str]]:
    paths = {name_of(path, package.parent): path for path in sorted(package.rglob("*.py"))}
    return {
        name: set(imported(ast.parse(path.read_text(encoding="utf-8")), set(paths))) - {name}
        for name, path in paths.items()
    }


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module (Tarjan)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    waiting: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        waiting.append(module)
        for other in sorted(graph[module]):
            if other not in number:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in waiting:
                lowest[module] = min(lowest[module], number[other])
        if lowest[module] == number[module]:
            at = waiting.index(module)
            component = waiting[at:]
            del waiting[at:]
            if len(component) > 1:
                found.append(sorted(component))

    for module in graph:
        if module not in number:
            visit(module)
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    graph = import_graph(ROOT / package)
    assert any(graph.values())  # the imports were read
    assert circles(graph) == []


def test_a_circle_is_found_inside_functions_too(tmp_path: Path) -> None:
    package = tmp_path / "made"
    package.mkdir()
    files = {
        "__init__": "",
        "one": "from made import two\n",
        "two": "def later():\n    from made.three import x\n",
        "three": "import made.one\nx = 1\n",
        "apart": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from made import typed\n",
        "typed": "from made import apart\n",
    }
    for name, text in files.items():
        (package / f"{name}.py").write_text(text)
    assert circles(import_graph(package)) == [["made.one", "made.three", "made.two"]]


def test_the_device_program_has_few_modules_beside_its_folders() -> None:
    beside = [path.name for path in (ROOT / "edge_runtime").glob("*.py")]
    assert len(beside) <= MOST_MODULES_BESIDE_FOLDERS, sorted(beside)


def tracked(pattern: str) -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", pattern],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("not a checkout of git")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_a_long_module_says_why() -> None:
    long = set()
    for path in tracked("*.py"):
        name = path.relative_to(ROOT).as_posix()
        lines = path.read_text(encoding="utf-8").splitlines()
        if name.startswith("tests/") or len(lines) <= MOST_LINES:
            continue
        if not REASON.search("\n".join(lines[:NEAR_THE_TOP])):
            long.add(name)
    assert long == set()


def test_nothing_edits_the_path_that_modules_are_imported_from() -> None:
    edits = re.compile(r"sys\.path(\.(insert|append|extend)\(|\[|\s*\+?=)")
    wrong = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if edits.search(line) and path != Path(__file__)
    ]
    assert wrong == []
