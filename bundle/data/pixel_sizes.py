# SPDX-License-Identifier: Apache-2.0
"""Tables of pixel sizes: from ``*pixel_size*.csv`` to the spacing of items."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bundle.data.partners import Partners
from bundle.data.set_files import passed_over
from bundle.failures import named

_SHOWN = 3  # names in a note


class Row(NamedTuple):
    """A line of a table: an image as it is written there, its pixel size in mm, and where the line is."""

    image: str
    size: float
    table: Path
    line: int


def pixel_size_tables(folder: Path) -> list[Path]:
    """The tables of pixel sizes in a folder, in sorted order; the letter case of their names does not count."""
    return sorted(
        path
        for path in folder.iterdir()
        if re.fullmatch(r".*pixel_size.*\.csv", path.name, re.I) and path.is_file() and not passed_over(path.name)
    )


def read_pixel_sizes(path: Path) -> list[Row]:
    """The rows of a table with the columns ``filename`` and ``pixel size(mm)``.

    Raises:
        ValueError: when the file cannot be read, a column is missing or twice, or a size is not a positive number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            lines = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: expected a readable CSV file in UTF-8, got {error}; save it as such.") from error
    sizes = [column for column in columns if re.match(r"pixel[ _]size", column.strip().lower())]
    if not sizes or "filename" not in columns:
        raise ValueError(f"{path}: expected the columns 'filename' and 'pixel size(mm)', got {columns}; rename them.")
    if len(sizes) > 1 or columns.count("filename") > 1:
        raise ValueError(
            f"{path}: expected one column 'filename' and one of pixel sizes, got {columns}; rename the others."
        )
    return [
        Row(row["filename"] or "", _size(row, column=sizes[0], where=f"{path}, line {line}"), path, line)
        for line, row in lines
    ]


def _size(row: Mapping[Any, Any], *, column: str, where: str) -> float:
    """The pixel size of a line."""
    if any(row.get(None, [])):  # as of a decimal comma: 0,12
        raise ValueError(
            f"{where}: expected as many cells as in the first line, got {row[None]} beyond; correct the line (numbers "
            "have a decimal point)."
        )
    try:
        size = float(row[column])
    except (TypeError, ValueError):
        size = -1.0
    if not 0 < size < float("inf"):
        raise ValueError(
            f"{where}: expected a positive pixel size in mm, got {row[column]!r}; correct the line or remove it."
        )
    return size


def add_pixel_sizes(
    items: Sequence[dict[str, Any]], tables: Sequence[Path], *, images: Sequence[Path], roots: Sequence[Path]
) -> list[str]:
    """Adds ``spacing`` to items whose image has one size in the tables; gives notes on rows and images without.

    Args:
        items: with absolute paths of images; they change.
        tables: of pixel sizes.
        images: all images of the set, also those in no item: a name that two of them have is none's own.
        roots: folders that paths in the tables may be relative to.

    Raises:
        ValueError: when a table is not valid.
    """
    if not tables:
        return []
    rows = [row for table in tables for row in read_pixel_sizes(table)]
    partners = Partners(images, *roots)
    found = [(row, partners.find(row.image)) for row in rows]
    rows_of: dict[str, list[Row]] = {}
    for row, some in found:
        if len(some) == 1:
            rows_of.setdefault(str(some[0]), []).append(row)
    for item in items:
        sizes = {row.size for row in rows_of.get(item["image"], [])}
        if len(sizes) == 1:
            item["spacing"] = [*sizes] * 2
    notes = [_ambiguous(found, root=roots[-1]), _contradictions(rows_of), _without(found, items=items, root=roots[-1])]
    where = named([tables[0], *(table.name for table in tables[1:])])
    return [f"{where}: {note}" for note in notes if note]


def _ambiguous(found: Sequence[tuple[Row, list[Path]]], *, root: Path) -> str:
    several = [(row, some) for row, some in found if len(some) > 1]
    if not several:
        return ""
    row, some = several[0]
    return (
        f"rows must name one image each, {len(several)} of {len(found)} have names that several have, such as "
        f"{row.image!r} ({named([image.relative_to(root) for image in some], at_most=_SHOWN)}); none of them "
        f"gets a pixel size by these rows; write the path within {root}"
    )


def _contradictions(rows_of: Mapping[str, Sequence[Row]]) -> str:
    told = [(image, rows) for image, rows in rows_of.items() if len({row.size for row in rows}) > 1]
    if not told:
        return ""
    images = [f"{Path(image).name} ({named([_source(row) for row in rows], at_most=_SHOWN)})" for image, rows in told]
    some = "1 has several and gets" if len(told) == 1 else f"{len(told)} have several and get"
    return f"images must have one pixel size, {some} none: {named(images, at_most=_SHOWN)}; correct the rows"


def _source(row: Row) -> str:
    return f"{row.size:g} in {row.table.name} line {row.line}"


def _without(found: Sequence[tuple[Row, list[Path]]], *, items: Sequence[Mapping[str, Any]], root: Path) -> str:
    """How many rows name no image, and how many images have no pixel size."""
    rows = [row.image for row, some in found if not some]
    images = [Path(item["image"]).relative_to(root) for item in items if "spacing" not in item]
    parts = [
        f"{len(names)} of {total} {kind} ({named(names, at_most=_SHOWN)})"
        for names, total, kind in (
            (rows, len(found), "rows name no image of the set"),
            (images, len(items), "images get no pixel size"),
        )
        if names
    ]
    return ", ".join(parts)


def join_spacings(twins: Sequence[tuple[dict[str, Any], Mapping[str, Any]]]) -> list[str]:
    """Joins the spacing of items of one image, the first of which change; gives a note on those that contradict."""
    differ = []
    for one, other in twins:
        if one.setdefault("spacing", other.get("spacing")) != other.get("spacing", one["spacing"]):
            differ.append(f"{one['image']} ({one['spacing'][0]:g}) and {other['image']} ({other['spacing'][0]:g})")
            one["spacing"] = None
        if not one["spacing"]:
            del one["spacing"]
    if not differ:
        return []
    return [
        "the pixel sizes of an image in segmentation and in classification must be equal, of "
        f"{len(differ)} they differ, and it gets none: {named(differ, at_most=_SHOWN)}; correct the tables"
    ]
