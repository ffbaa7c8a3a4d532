"""Mutants that operators on the syntax tree make, the same ones for the same source.

Guards against None are left alone: without one the package crashes, or nothing happens where a type is only wider than
what occurs; neither is a wrong answer. Of all candidates a file takes the share with the smallest hashes of what they
are (function, operator, text), so another function's edit does not change which ones are taken.
"""

from __future__ import annotations

import ast
import zlib
from collections.abc import Iterator
from pathlib import Path

from .mutant import PACKAGE, Mutant

TARGETS = {
    "ops/broadcast.py": 10,
    "ops/cast.py": 2,
    "ops/chains.py": 5,
    "ops/conv.py": 12,
    "ops/fact.py": 4,
    "ops/grid.py": 7,
    "ops/interval.py": 4,
    "ops/jumps.py": 3,
    "ops/matmul.py": 10,
    "ops/movement.py": 6,
    "ops/normalization.py": 5,
    "ops/pad.py": 5,
    "ops/pool.py": 4,
    "ops/reduction.py": 4,
    "ops/selection.py": 6,
    "ops/shape.py": 5,
    "ops/tie.py": 7,
    "channels/collapse.py": 2,
    "channels/negligible.py": 4,
    "channels/chains.py": 5,
    "channels/solve.py": 7,
    "rewrite/cut.py": 3,
    "rewrite/execute.py": 5,
}
"""File -> number of mutants."""

SPARED = ("macs", "label", "stand_in", "channels", "derived", "cached", "__post_init__", "align", "_ragged", "_rounded")
"""Functions that only count, name or cache, and alignment, which may choose as it likes."""

COMPARISONS: dict[type, str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.In: "not in",
    ast.NotIn: "in",
}
ARITHMETIC: dict[type, str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "+",
    ast.FloorDiv: "*",
    ast.Div: "*",
    ast.Mod: "//",
    ast.BitAnd: "|",
    ast.BitOr: "&",
}
CALLS = {
    "any": "all",
    "all": "any",
    "min": "max",
    "max": "min",
    "argmax": "argmin",
    "minimum": "maximum",
    "maximum": "minimum",
    "ones": "zeros",
    "zeros": "ones",
    "copy": "view",
}


def mutants(package: Path = PACKAGE) -> list[Mutant]:
    """The mutants of all target files."""
    return [mutant for file, count in TARGETS.items() for mutant in of_file(package, file, count)]


def of_file(package: Path, file: str, count: int) -> list[Mutant]:
    """The `count` candidates of smallest hash, in the order of the file."""
    source = (package / file).read_text(encoding="utf-8")
    ranked: list[tuple[int, Mutant]] = []
    seen: dict[str, int] = {}
    for function, mutant in candidates(file, source):
        key = f"{file}:{function}:{mutant.kind}:{'->'.join(mutant.changed())}"
        seen[key] = seen.get(key, 0) + 1
        ranked.append((zlib.crc32(f"{key}:{seen[key]}".encode()), mutant))
    chosen = sorted(ranked, key=lambda pair: pair[0])[:count]
    return sorted((mutant for _, mutant in chosen), key=lambda m: (m.line, m.kind))


def candidates(file: str, source: str) -> Iterator[tuple[str, Mutant]]:
    """(function, mutant) for every place where an operator applies."""
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef) and function.name not in SPARED:
            for statement in function.body:
                for node in _walk(statement):
                    for kind, start, end, text in _edits(node, source):
                        mutated = source[:start] + text + source[end:]
                        yield function.name, _as_data(file, source, mutated, start, end, len(text), kind)


def _as_data(file: str, source: str, mutated: str, start: int, end: int, length: int, kind: str) -> Mutant:
    """The change as text that is unique in the file: whole lines, and more of them until there is no other place."""
    first, last = source.rfind("\n", 0, start) + 1, source.find("\n", end)
    while source.count(source[first:last]) > 1:
        first = source.rfind("\n", 0, max(first - 1, 0)) + 1
        last = source.find("\n", last + 1)
    shift = length - (end - start)
    line = source.count("\n", 0, start) + 1
    return Mutant(file, source[first:last], mutated[first : last + shift], kind, line)


def _edits(node: ast.AST, source: str) -> Iterator[tuple[str, int, int, str]]:
    """(kind, start, end, new text) of the faults that a node allows."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
        start, end = _between(node.left, node.comparators[0], source)
        yield "comparison", start, end, f" {COMPARISONS[type(node.ops[0])]} "
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC and not _is_sequence(node.left):
        start, end = _between(node.left, node.right, source)
        if "\n" not in source[start:end] and "(" not in source[start:end] and ")" not in source[start:end]:
            yield "arithmetic", start, end, f" {ARITHMETIC[type(node.op)]} "
    elif isinstance(node, ast.BoolOp):
        for left, right in zip(node.values, node.values[1:], strict=False):
            start, end = _between(left, right, source)
            if _guards(left) or _guards(right) or isinstance(right, ast.Constant | ast.Tuple):
                continue
            word, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            if word in source[start:end]:
                yield "connective", start, end, source[start:end].replace(word, other)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert | ast.USub):
        start, end = _offset(node.lineno, node.col_offset, source), _start(node.operand, source)
        yield "negation", start, end, "" if "(" not in source[start:end] else "("
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CALLS:
        end = _end(node.func, source)
        yield "call", end - len(node.func.attr), end, CALLS[node.func.attr]
    elif isinstance(node, ast.Constant) and type(node.value) is int and -3 <= node.value <= 4:
        yield "constant", _start(node, source), _end(node, source), str(node.value + 1)
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        yield "constant", _start(node, source), _end(node, source), str(not node.value)
    elif isinstance(node, ast.AugAssign) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        yield "dropped statement", _start(node, source), _end(node, source), "pass"
    elif isinstance(node, ast.If) and not _guards(node.test):
        yield "condition", _start(node.test, source), _end(node.test, source), "False"
    elif isinstance(node, ast.Return) and isinstance(node.value, ast.List) and len(node.value.elts) > 1:
        first, second = node.value.elts[:2]
        yield "dropped element", _start(first, source), _start(second, source), ""


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """The node and what is below it, without annotations, assertions, `strict` of zip and the constants of `x or 0`."""
    if isinstance(node, ast.Assert | ast.Raise):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns") or (isinstance(node, ast.keyword) and node.arg == "strict"):
            continue
        for child in value if isinstance(value, list) else [value]:
            spared = isinstance(node, ast.BoolOp) and isinstance(child, ast.Constant)
            if isinstance(child, ast.AST) and not spared:
                yield from _walk(child)


def _is_sequence(node: ast.AST) -> bool:
    """Whether a text, tuple or list is written here: other arithmetic with these does not even run."""
    return isinstance(node, ast.JoinedStr | ast.Tuple | ast.List | ast.Constant)


def _guards(node: ast.AST) -> bool:
    """Whether a condition is about None."""
    return any(isinstance(part, ast.Compare) and isinstance(part.ops[0], ast.Is | ast.IsNot) for part in ast.walk(node))


def _offset(line: int, column: int, source: str) -> int:
    """Index in the source of a line (from 1) and a column in UTF-8 bytes."""
    start = 0
    for _ in range(line - 1):
        start = source.index("\n", start) + 1
    text = source[start : source.find("\n", start)]
    return start + len(text.encode()[:column].decode())


def _start(node: ast.AST, source: str) -> int:
    return _offset(node.lineno, node.col_offset, source)  # type: ignore[attr-defined]


def _end(node: ast.AST, source: str) -> int:
    return _offset(node.end_lineno, node.end_col_offset, source)  # type: ignore[attr-defined]


def _between(left: ast.AST, right: ast.AST, source: str) -> tuple[int, int]:
    return _end(left, source), _start(right, source)
