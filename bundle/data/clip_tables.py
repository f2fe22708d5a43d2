# SPDX-License-Identifier: Apache-2.0
"""Tables of clips: which file, which class, whose."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bundle.tables import read_lines

COLUMNS = {
    "file": ("file", "path", "filename", "file_name", "video", "video_path", "clip", "clip_path"),
    "class": ("class", "label", "diagnosis", "target"),
    "patient": ("patient", "patient_id", "patientid", "subject", "subject_id", "case", "case_id"),
}
"""What a column tells -> its names, in lower case; the last one may be absent."""


class ClipRow(NamedTuple):
    """A clip of a table: its file, class and patient ("" where none is told), and where the line is."""

    file: str
    label: str
    patient: str
    where: str


def read_clip_rows(table: Path) -> list[ClipRow]:
    """The clips of a table, in order.

    Raises:
        OSError: when it cannot be opened.
        ValueError: when it is no such table, lacks a file or class, or tells a clip twice.
    """
    lines = read_lines(table)
    names = list(lines[0][1]) if lines else []
    columns = {what: _column(names, what, table) for what in COLUMNS}
    for what in ("file", "class"):
        if columns[what] is None:
            got = ", ".join(names) or "no row"
            raise ValueError(f"{table}: a column {' or '.join(COLUMNS[what])} expected, got {got}; rename it.")
    found: dict[str, ClipRow] = {}
    for number, row in lines:
        file, label, patient = (row[column].strip() if column else "" for column in columns.values())
        where = f"{table}, line {number}"
        if not file or not label:
            raise ValueError(f"{where}: a file and a class expected, got {file!r} and {label!r}; correct the table.")
        file = str(PurePosixPath(file))
        if file in found:
            raise ValueError(f"{where}: {file} once expected, got it twice; correct the table.")
        found[file] = ClipRow(file, label, patient, where)
    return list(found.values())


def _column(names: list[str], what: str, table: Path) -> str | None:
    """The name of the column that tells something, the first of ``COLUMNS``; case and blanks do not count."""
    for known in COLUMNS[what]:
        same = [name for name in names if name.strip().lower() == known]
        if len(same) > 1:
            raise ValueError(f"{table}: one column {known} expected, got {', '.join(same)}; rename or remove one.")
        if same:
            return same[0]
    return None
