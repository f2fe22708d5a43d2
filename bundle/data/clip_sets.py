# SPDX-License-Identifier: Apache-2.0
"""Sets of clips with a class each, listed in a table: their frames become images, those of a patient one group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bundle.data.known_sets import Known, LeftOut, PublicSet, SetOptions, dataset_entry, missing_words, option
from bundle.data.manifest import dataset_fault
from bundle.data.written import short_hash, write_picture
from bundle.failures import reason
from bundle.files import OutputFolder
from bundle.tables import ODD_NAMES, read_table
from bundle.vocabulary import UNKNOWN

_NO_PATIENTS = "{table}: no column of patients, so each clip is taken for one; add the column patient"

COLUMNS = {
    "file": ("file", "path", "filename", "file_name", "video", "video_path", "clip", "clip_path"),
    "class": ("class", "label", "diagnosis", "target"),
    "patient": ("patient", "patient_id", "patientid", "subject", "subject_id", "case", "case_id"),
}
"""What a column tells -> its names, in lower case; the last one may be absent."""


def read_clip_table(
    table: str | Path,
    folder: Path,
    *,
    options: SetOptions,
    frames: Callable[[str, int], Iterator[np.ndarray]],
    count: int,
) -> PublicSet:
    """The data set that a table lists, called like the table: evenly spaced frames of each clip, written as PNG.

    Where the table tells no patients, each clip is one. A clip that cannot be read, or a set of which something is not
    known, is left out with the reason.

    Args:
        table: CSV with a clip a row, see ``COLUMNS``; files are below its folder.
        folder: of the frames; only files of an earlier run are replaced.
        options: what the user says of the set.
        frames, count: (path, most) -> evenly spaced frames of a clip, uint8 (H, W) or (H, W, 3) RGB; and how many.

    Raises:
        FileExistsError: when a file that no earlier run wrote would be replaced.
        ValueError: when it is no such table, tells a clip twice, or a clip lies outside its folder.
    """
    name, rows = Path(table).stem, _rows(Path(table))
    entry, faults = _entry(options.describe(name), name, rows)
    if faults:
        return PublicSet(left_out=[LeftOut(name, " ".join(faults), len(rows), whole=True)])
    found, output = PublicSet({name: entry}), OutputFolder(folder, option="--output")
    for row in tqdm(rows, desc=name, unit="clip", leave=False):
        clip = short_hash(row["file"].encode(errors=ODD_NAMES))
        item = {"dataset": name, "patient": f"{name}/{row['patient'] or row['file']}", "class": row["class"]}
        try:
            for index, pixels in enumerate(frames(str(Path(table).absolute().parent / row["file"]), count)):
                found.items.append({"image": write_picture(output, f"{clip}_f{index:02d}", pixels), **item})
        except (OSError, ValueError) as error:
            if isinstance(error, FileExistsError):
                raise
            found.left_out.append(LeftOut(name, reason(error)))
    found.notices += [] if any(row["patient"] for row in rows) else [_NO_PATIENTS.format(table=table)]
    return found


def check_clip_tables(tables: Sequence[str | Path]) -> None:
    """Refuses tables of one name, before frames of any are written.

    Raises:
        ValueError: with the first two of them.
    """
    first: dict[str, str | Path] = {}
    for table in tables:
        name = Path(table).stem
        if name in first:
            raise ValueError(
                f"--clips {table}: a name of its own expected, after which the data set is called, got that of"
                f" {first[name]}; rename one, or leave it out."
            )
        first[name] = table


def _rows(table: Path) -> list[dict[str, str]]:
    """File, class and patient of each clip, in order."""
    rows = read_table(table)
    given = {name.strip().lower(): name for name in (rows[0] if rows else ())}
    columns = {what: next((given[name] for name in names if name in given), None) for what, names in COLUMNS.items()}
    for what in ("file", "class"):
        if columns[what] is None:
            got = ", ".join(given.values()) or "no row"
            raise ValueError(f"{table}: a column {' or '.join(COLUMNS[what])} expected, got {got}; rename it.")
    found: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, start=2):
        told = {what: (row[column] or "").strip() if column else "" for what, column in columns.items()}
        path = Path(told["file"])
        if not told["file"] or not told["class"]:
            raise ValueError(f"{table}, line {number}: a file and a class expected, got {told}; correct the table.")
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(
                f"{table}, line {number}: a file below {table.parent} expected, got {told['file']}; put the table above"
                " the clips."
            )
        if found.setdefault(told["file"], told) is not told:
            raise ValueError(f"{table}, line {number}: {told['file']} once expected, got it twice; correct the table.")
    return list(found.values())


def _entry(known: Known, name: str, rows: Sequence[dict[str, str]]) -> tuple[dict[str, Any], list[str]]:
    """The set's entry, and faults; rows of numbered classes that the user names get the names."""
    seen = sorted({row["class"] for row in rows})
    faults = missing_words(name, known=known, count=len(rows))
    numbers = {str(number): word for number, word in enumerate(known.classes)}
    if set(seen) <= set(numbers) and not set(seen) <= set(known.classes):
        for row in rows:
            row["class"] = numbers[row["class"]]
    elif known.classes and (unknown := [label for label in seen if label not in known.classes]):
        faults.append(f"{name}: classes {', '.join(known.classes)} expected, got {unknown[0]!r}; correct --classes.")
    label_set = known.label_set or (known.position if known.position != UNKNOWN else "")
    if not label_set and known.position:
        faults.append(f"{name}: name of its label set expected, got none; add {option('label-set', name, 'NAME')}.")
    entry = dataset_entry(known) | {"label_set": label_set, "classes": list(known.classes) or seen}
    if not faults and (fault := dataset_fault(name, entry)):
        faults.append(fault)
    return entry, faults
