# SPDX-License-Identifier: Apache-2.0
"""What a set says of itself: ``config.yaml``, a line ``index:name`` or ``index:name:value in the mask`` a label."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bundle.described import EXPRESSION_MARKS

_NAMES = ("config.yaml", "config.yml")
_EXPECTED = "'index:name' or 'index:name:value in the mask', such as 1:lesion:255"


@dataclass(frozen=True)
class Label:
    """A line of ``config.yaml``. ``value`` in the mask is None where it is not given."""

    index: int
    name: str
    value: int | None = None


def read_config(folder: Path) -> tuple[Path, list[Label]]:
    """The path of a set's ``config.yaml`` and its labels by index; [] when there is no such file.

    Comments, blank lines, spaces and quotes are passed over.

    Raises:
        ValueError: when there are two such files, a line is not valid, or an index or value is given twice; the message
            names file and line.
    """
    files = sorted(f for f in folder.iterdir() if f.name.lower() in _NAMES and f.is_file())
    if len(files) > 1:
        raise ValueError(f"{folder}: expected one config.yaml, got {[f.name for f in files]}; remove the others.")
    if not files:
        return folder / "config.yaml", []
    labels: list[Label] = []
    for number, line in text_lines(files[0]):
        content = re.sub(r"(^|\s)#.*", "", line).strip()
        if content and content not in ("---", "..."):
            label = _parse(content, where=f"{files[0]}, line {number}", line=line)
            _check_new(label, labels, where=f"{files[0]}, line {number}", line=line)
            labels.append(label)
    return files[0], sorted(labels, key=lambda label: label.index)


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line of a UTF-8 file, with or without byte order mark.

    Raises:
        ValueError: when it is in another encoding.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text, got other bytes ({error}); save it as UTF-8.") from error
    yield from enumerate(lines, start=1)


def _parse(content: str, *, where: str, line: str) -> Label:
    index, *rest = (part.strip().strip("'\"").strip() for part in content.split(":"))
    name, value = (rest[0], None) if len(rest) == 1 else (":".join(rest[:-1]), "".join(rest[-1:]))
    numbers = [index] if value is None else [index, value]
    if not name or not all(re.fullmatch(r"[0-9]{1,9}", number) for number in numbers):
        raise ValueError(f"{where}: expected {_EXPECTED}, with whole numbers from 0, got {line!r}; correct it.")
    if name.startswith(EXPRESSION_MARKS):
        raise ValueError(f"{where}: expected a name that begins with no $, @ or %, got {line!r}; rename it.")
    if value is not None and int(value) > 65535:
        raise ValueError(f"{where}: expected a value in the mask from 0 to 65535, got {line!r}; correct it.")
    return Label(int(index), name, None if value is None else int(value))


def _check_new(label: Label, others: list[Label], *, where: str, line: str) -> None:
    for other in others:
        if label.index == other.index:
            raise ValueError(f"{where}: expected each index once, got {line!r} after {other.name!r}; correct it.")
        if label.value is not None and label.value == other.value and label.name != other.name:
            raise ValueError(
                f"{where}: expected one name for a value in the mask, got {line!r} after {other.name!r}; correct it."
            )
