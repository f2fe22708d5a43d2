# SPDX-License-Identifier: Apache-2.0
"""Files have up to 300 lines, functions up to 40."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE, FUNCTION = 300, 40  # lines at most, a function's from its ``def`` to its last


def too_long(path: str, text: str) -> Iterator[str]:
    """The file, if it is too long, and each function that is, with their lengths."""
    if (lines := len(text.splitlines())) > FILE:
        yield f"{path}: {lines} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION:
                yield f"{path}:{node.lineno}: {node.name}, {lines} lines"


def test_files_and_functions_are_short() -> None:
    files = (file for top in ("bundle", "scripts", "tests") for file in sorted((ROOT / top).rglob("*.py")))
    texts = {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in files}
    assert len(texts) > 200
    found = [line for path, text in texts.items() for line in too_long(path, text)]
    assert not found, f"files must have up to {FILE} lines and functions up to {FUNCTION}; split\n" + "\n".join(found)


def test_lengths_are_counted_from_the_def() -> None:
    body = "    x = 1\n" * 39
    assert list(too_long("a.py", f"@d\n# why\ndef f():\n{body}")) == []
    assert list(too_long("a.py", f"class A:\n  async def f():\n{body}    x = 2\n")) == ["a.py:2: f, 41 lines"]
    assert list(too_long("a.py", "x = 1\n" * 300)) == []
    assert list(too_long("a.py", "x = 1\n" * 301)) == ["a.py: 301 lines"]
