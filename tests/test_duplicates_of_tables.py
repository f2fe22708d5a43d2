# SPDX-License-Identifier: Apache-2.0
"""A table stands once: what one module names at its top, no other module spells out again."""

import ast
import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FEWEST = 3  # constants that make a table


def constants(node: ast.expr) -> tuple[object, ...] | None:
    """What a literal holds, nested as it is, lists as tuples; None where a part is no constant."""
    if isinstance(node, ast.Constant):
        return (type(node.value).__name__, node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return ("minus", constants(node.operand))
    if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        kind, parts = "set" if isinstance(node, ast.Set) else "tuple", node.elts
    elif isinstance(node, ast.Dict) and None not in node.keys:
        kind, parts = "dict", [part for entry in zip(node.keys, node.values, strict=True) for part in entry if part]
    else:
        return None
    held = [constants(part) for part in parts]
    return None if None in held else (kind, *(sorted(held, key=repr) if kind == "set" else held))


def is_table(node: ast.AST) -> bool:
    return isinstance(node, (ast.Tuple, ast.List, ast.Set, ast.Dict)) and (
        sum(isinstance(part, ast.Constant) for part in ast.walk(node)) >= FEWEST
    )


def tables(tree: ast.Module) -> Iterator[ast.expr]:
    """The literals that a module gives a name."""
    for statement in tree.body:
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value and is_table(statement.value):
            yield statement.value


def repeated(sources: dict[str, str]) -> list[str]:
    """Places of each table of a module that stands in another one, too.

    Args:
        sources: path -> program text.
    """
    trees = {path: ast.parse(text) for path, text in sources.items()}
    named = defaultdict(set)
    for path, tree in trees.items():
        for table in tables(tree):
            named[constants(table)].add(f"{path}:{table.lineno}")
    named.pop(None, None)
    found = defaultdict(set)
    for path, tree in trees.items():
        for node in filter(is_table, ast.walk(tree)):
            if (value := constants(node)) in named:
                found[value].add(f"{path}:{node.lineno}")
    lines = (sorted(named[value] | places) for value, places in found.items())
    return sorted(", ".join(line) for line in lines if len({place.split(":")[0] for place in line}) > 1)


def test_no_table_stands_twice() -> None:
    paths = itertools.chain(*((ROOT / top).rglob("*.py") for top in ("bundle", "scripts")))
    sources = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    assert len(sources) > 100
    twice = repeated(sources)
    assert not twice, "one module must name a table and the others import it, got it in " + "; in ".join(twice)


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ('A = ("x", "y", "z")', 'B = ["x", "y", "z"]', True),
        (
            'A: tuple[str, ...] = ("x", "y", "z")',
            'def f():\n    for name in ("x", "y", "z"):\n        print(name)',
            True,
        ),
        ('A = {"x": 1, "y": 2}', 'B = f({"x": 1, "y": 2})', True),
        ("A = {1, 2, 3}", "B = {3, 2, 1}", True),
        ("A = (-1, 0, 1)", "B = (-1, 0, 1)", True),
        ("A = (-1, 0, 1)", "B = (1, 0, 1)", False),
        ('A = ("x", "y", "z")', 'B = ("x", "z", "y")', False),  # the order is part of a table
        ("A = (0, 1, 2)", "B = (False, True, 2)", False),
        ('A = ("x", "y")', 'B = ("x", "y")', False),
        ("f((1, 2, 3))", "g((1, 2, 3))", False),  # neither has a name
        ('A = ("x", y, "z", "w")', 'B = ("x", y, "z", "w")', False),
    ],
)
def test_what_counts_as_the_same_table(first: str, second: str, found: bool) -> None:
    lines = repeated({"a.py": first, "b.py": second})
    assert [[place.split(":")[0] for place in line.split(", ")] for line in lines] == [["a.py", "b.py"]] * found
