# SPDX-License-Identifier: Apache-2.0
"""Sets of clips with a class each, listed in a table: their frames become images, those of a patient one group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bundle.data.clip_tables import ClipRow, read_clip_rows
from bundle.data.known_sets import Known, LeftOut, PublicSet, SetOptions, dataset_entry, missing_words, option
from bundle.data.manifest import dataset_fault
from bundle.data.names import find_name, same_names
from bundle.data.written import short_hash, write_picture
from bundle.failures import reason
from bundle.files import OutputFolder
from bundle.tables import ODD_NAMES
from bundle.vocabulary import UNKNOWN

_NO_PATIENTS = "{table}: no column of patients, so each clip is taken for one; add the column patient"


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
        table: CSV with a clip a row, see ``bundle.data.clip_tables.COLUMNS``; files are below its folder.
        folder: of the frames; only files of an earlier run are replaced.
        options: what the user says of the set.
        frames, count: (path, most) -> evenly spaced frames of a clip, uint8 (H, W) or (H, W, 3) RGB; and how many.

    Raises:
        FileExistsError: when a file that no earlier run wrote would be replaced.
        ValueError: when it is no such table, tells a clip twice, or a clip lies outside its folder.
    """
    name, rows = Path(table).stem, _rows(Path(table))
    entry, rows, faults = _entry(options.describe(name), name, rows)
    if faults:
        return PublicSet(left_out=[LeftOut(name, " ".join(faults), len(rows), whole=True)])
    found, output = PublicSet({name: entry}), OutputFolder(folder, option="--output")
    for row in tqdm(rows, desc=name, unit="clip", leave=False):
        clip = short_hash(row.file.encode(errors=ODD_NAMES))
        item = {"dataset": name, "patient": f"{name}/{row.patient or row.file}", "class": row.label}
        try:
            for index, pixels in enumerate(frames(str(Path(table).absolute().parent / row.file), count)):
                found.items.append({"image": write_picture(output, f"{clip}_f{index:02d}", pixels), **item})
        except (OSError, ValueError) as error:
            if isinstance(error, FileExistsError):
                raise
            found.left_out.append(LeftOut(name, reason(error)))
    found.notices += [] if any(row.patient for row in rows) else [_NO_PATIENTS.format(table=table)]
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


def _rows(table: Path) -> list[ClipRow]:
    """The clips of a table, which are below its folder."""
    rows = read_clip_rows(table)
    for row in rows:
        if Path(row.file).is_absolute() or ".." in Path(row.file).parts:
            raise ValueError(
                f"{row.where}: a file below {table.parent} expected, got {row.file}; put the table above the clips."
            )
    return rows


def _entry(known: Known, name: str, rows: list[ClipRow]) -> tuple[dict[str, Any], list[ClipRow], list[str]]:
    """The set's entry, its rows, and faults; rows of classes that the user numbers or names get these names."""
    seen = sorted({row.label for row in rows})
    faults = missing_words(name, known=known, count=len(rows))
    numbers = {str(number): word for number, word in enumerate(known.classes)}
    if set(seen) <= set(numbers) and not set(seen) <= set(known.classes):
        rows = [row._replace(label=numbers[row.label]) for row in rows]
    elif known.classes:
        meant = {label: find_name(label, known.classes) or label for label in seen}
        rows = [row._replace(label=meant[row.label]) for row in rows]
        if unknown := [row for row in rows if row.label not in known.classes]:
            faults.append(
                f"{unknown[0].where}: classes {', '.join(known.classes)} expected, got {unknown[0].label!r}; correct"
                " the table or --classes."
            )
    elif same := same_names(seen):
        one, other = same[0]
        faults.append(
            f"{next(row.where for row in rows if row.label == other)}: classes of different names expected, got"
            f" {other!r} beside {one!r}; correct the table, or say {option('classes', name, 'A,B')}."
        )
    label_set = known.label_set or (known.position if known.position != UNKNOWN else "")
    if not label_set and known.position:
        faults.append(f"{name}: name of its label set expected, got none; add {option('label-set', name, 'NAME')}.")
    entry = dataset_entry(known) | {"label_set": label_set, "classes": list(known.classes) or seen}
    if not faults and (fault := dataset_fault(name, entry)):
        faults.append(fault)
    return entry, rows, faults
