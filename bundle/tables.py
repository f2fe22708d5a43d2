# SPDX-License-Identifier: Apache-2.0
"""CSV tables: written so that a spreadsheet computes none of their texts, and read back."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

ODD_NAMES = "backslashreplace"
"""How text is encoded that is not UTF-8, as names of files may be; in JSON this reads back as the same name."""

_COMPUTED = r"(?:\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n])"
_NUMBER = r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_FORMULA = re.compile(rf"(?!{_NUMBER}\Z)'*{_COMPUTED}")
_QUOTED = re.compile(rf"'+{_COMPUTED}")
_ODD_BYTE = re.compile(r"\\udc([89a-f][0-9a-f])")


def text_cell(value: Any) -> Any:
    """A cell as it is written: text that a spreadsheet would compute follows an apostrophe, numbers stay as they are.

    Such text begins with ``=``, ``+``, ``-``, ``@``, their full-width forms, a tab or a line's end (OWASP, CSV
    injection). One that begins with apostrophes before them gets one more, so that :func:`plain_cell` gives it back.
    """
    return f"'{value}" if isinstance(value, (str, PurePath)) and _FORMULA.match(str(value)) else value


def plain_cell(text: str) -> str:
    """What a cell of our tables says, without the apostrophe and with the bytes that are not UTF-8."""
    text = text[1:] if _QUOTED.match(text) else text
    return _ODD_BYTE.sub(lambda match: chr(0xDC00 + int(match[1], 16)), text)


def csv_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None, *, header: bool = True) -> bytes:
    """Rows as a CSV file; a column that a row lacks, and None, are left empty.

    Args:
        rows: column -> value.
        columns: names in order; None: those of the rows, in the order in which they come.
        header: with the line of names; False for lines that follow others.

    Raises:
        ValueError: when a row has a column that is not among ``columns``.
    """
    names = list(dict.fromkeys(name for row in rows for name in row)) if columns is None else list(columns)
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, names)
    if header:
        writer.writerow({name: text_cell(name) for name in names})
    writer.writerows({name: text_cell(value) for name, value in row.items()} for row in rows)
    return table.getvalue().encode(errors=ODD_NAMES)


def read_table(path: str | Path) -> list[dict[str, str]]:
    """The rows of :func:`read_lines`."""
    return [row for _, row in read_lines(path)]


def read_lines(path: str | Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a table of :func:`csv_table` or a user's, as they were given, in text, each with its line's number.

    Lines without a cell are passed over, and so are columns at the end that hold nothing, as spreadsheets write them.

    Raises:
        OSError: when it cannot be opened.
        ValueError: when it is no UTF-8 text, or no table, a column is there twice, or a line has more or fewer cells.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            columns = [plain_cell(name) for name in _filled(next(reader, []))]
            lines = [(reader.line_num, row) for row in reader if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected a CSV table, got what is none ({error}); write it again.") from error
    if twice := [name for number, name in enumerate(columns) if name in columns[:number]]:
        raise ValueError(f"{path}: each column once expected, got {twice[0]!r} twice; rename or remove one.")
    return [(n, dict(zip(columns, _cells(row, columns, f"{path}, line {n}"), strict=True))) for n, row in lines]


def _filled(cells: Sequence[str]) -> list[str]:
    """The cells without those at the end that hold nothing."""
    return list(cells[: max((number for number, cell in enumerate(cells, start=1) if cell.strip()), default=0)])


def _cells(row: Sequence[str], columns: Sequence[str], where: str) -> list[str]:
    """The cells of a line, one a column."""
    cells = row if len(row) <= len(columns) else _filled(row) + [""] * (len(columns) - len(_filled(row)))
    if len(cells) != len(columns):
        raise ValueError(
            f"{where}: {len(columns)} cells expected, as in the first line, got {len(cells)}: {list(cells)}; correct it"
            " (numbers have a decimal point, a text with a comma stands in quotation marks)."
        )
    return [plain_cell(cell) for cell in cells]
