"""The one-way arrows between the packages, held by reading the imports of every file.

cli → face → {rewrite, pruning, verification, benchmark, deployment, report} → channels → ops → graph. `gates` stands
apart: what passes between it and the rest is a file.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent / "optimizer"

# Every part of the package and how high it stands; a part imports what stands lower, or beside it without a circle.
FACE = "onnxshrink"
HEIGHT = {
    "errors": 0,
    "choices": 1,
    "files": 1,
    "graph": 1,
    "ops": 2,
    "channels": 3,
    "runtime": 4,
    "rewrite": 5,
    "pruning": 5,
    "verification": 5,
    "benchmark": 5,
    "deployment": 5,
    "report": 5,
    FACE: 6,
    "cli": 7,
    "__main__": 8,
    "gates": 9,
}

# A package outside ours, and the only parts that may import it.
CONFINED = {"onnx_graphsurgeon": {"graph"}, "onnxruntime": {"runtime"}, "torch": {"gates"}}


class Import(NamedTuple):
    """One import statement: where it stands, the part that it belongs to, and the module that it names."""

    where: str
    part: str
    target: str


def part_of(module: str) -> str:
    """The part that a dotted name belongs to: `graph` for `onnxshrink.graph.view`.

    A module beside the packages that has no height of its own is a piece of the face.
    """
    part = module.split(".")[1] if "." in module else FACE
    return part if part in HEIGHT or (ROOT / FACE / part).is_dir() else FACE


def module_of(path: Path) -> str:
    """The dotted name of a file's module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[Import]:
    """All imports of a file, those inside functions and under TYPE_CHECKING included."""
    module = module_of(path)
    package = ".".join(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        where = f"{path.relative_to(ROOT.parent)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(where, part_of(module), alias.name)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                target = f"{base}.{alias.name}"
                # `from .. import errors` names a module, `from ..errors import ModelError` something in one.
                is_module = any((ROOT / target.replace(".", "/")).with_suffix(s).exists() for s in ("", ".py"))
                yield Import(where, part_of(module), target if is_module else base)


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    found = [found for path in sorted((ROOT / FACE).rglob("*.py")) for found in imports_of(path)]
    assert found
    return found


@pytest.fixture(scope="module")
def ours(imports: list[Import]) -> list[tuple[Import, str]]:
    """Imports of one part by another, with the part that is imported."""
    pairs = [(found, part_of(found.target)) for found in imports if found.target.split(".")[0] == FACE]
    return [(found, target) for found, target in pairs if found.part != target]


def test_every_part_has_its_height() -> None:
    parts = {part_of(module_of(path)) for path in (ROOT / FACE).rglob("*.py")}
    assert parts <= set(HEIGHT), "say in HEIGHT where the new part stands"


def test_arrows_run_one_way(ours: list[tuple[Import, str]]) -> None:
    wrong = [f"{found.where}: {found.part} → {to}" for found, to in ours if HEIGHT[found.part] < HEIGHT[to]]
    assert not wrong, "\n".join(wrong)


def test_no_circle(ours: list[tuple[Import, str]]) -> None:
    arrows: dict[str, set[str]] = {}
    for found, to in ours:
        arrows.setdefault(found.part, set()).add(to)
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_gates_stand_apart(ours: list[tuple[Import, str]]) -> None:
    wrong = [
        found.where for found, to in ours if (found.part == "gates" and to not in ("errors", "files")) or to == "gates"
    ]
    assert not wrong, "\n".join(wrong)


def test_runtime_is_not_for_analysis(ours: list[tuple[Import, str]]) -> None:
    wrong = [found.where for found, to in ours if to == "runtime" and found.part in ("graph", "ops", "channels")]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", CONFINED)
def test_confined(package: str, imports: list[Import]) -> None:
    users = {found.part for found in imports if found.target.split(".")[0] == package}
    assert users <= CONFINED[package]


@pytest.mark.parametrize("package", ["torch", "onnxruntime"])
def test_imported_only_when_needed(package: str) -> None:
    """Importing the face, or any module but those of gates, imports neither PyTorch nor ONNX Runtime."""
    modules = [module_of(path) for path in sorted((ROOT / FACE).rglob("*.py"))]
    modules = [name for name in modules if part_of(name) not in ("gates", "__main__")]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        f"    if {package!r} in sys.modules:\n"
        "        print(name)\n"
        "        break\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    assert not done.stdout, f"{package} is imported by {done.stdout}"
