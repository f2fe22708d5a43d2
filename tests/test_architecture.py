# SPDX-License-Identifier: Apache-2.0
"""Imports run one way."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = {
    "vocabulary": 0,
    "files": 0,
    "geometry": 0,
    "palette": 0,
    "tables": 0,
    "described": 0,
    "programs": 0,
    "failures": 0,
    "dicom": 0,
    "guidance": 0,
    "measures": 0,
    "volumes": 0,
    "tirads": 0,
    "codes": 0,
    "networks": 1,
    "losses": 1,
    "metrics": 1,
    "transforms": 1,
    "data": 2,
    "derived": 2,
    "dicomweb": 2,
    "tasks": 3,
    "engines": 4,
    "sinks": 4,
    "pretraining": 6,
    "report": 5,
    "export": 5,
    "live": 5,
    "identity": 6,
}
"""Parts that stand in no row are of layer 4."""

FILES = sorted(Path(ROOT / "bundle").rglob("*.py"))


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports must be absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_part_imports_only_parts_of_lower_layers(path: Path) -> None:
    part = path.relative_to(ROOT / "bundle").parts[0].removesuffix(".py")
    for module in imported_modules(path):
        top, _, rest = module.partition(".")
        assert top not in ("configs", "scripts", "tests"), f"{path} imports {module}"
        other = rest.split(".")[0]
        if top == "bundle" and other not in (part, "__version__"):
            assert LAYERS.get(other, 4) < LAYERS.get(part, 4), f"{path}: {part} must not import {other}"


def test_all_parts_are_looked_at() -> None:
    assert {"vocabulary.py", "losses.py", "sampling.py"} <= {path.name for path in FILES}
