# SPDX-License-Identifier: Apache-2.0
"""No text of ours is a formula in a spreadsheet, and every text is read back as it was."""

import csv
import os
import re
from pathlib import Path

import pytest

from bundle.tables import csv_table, plain_cell, read_lines, read_table, text_cell

ROOT = Path(__file__).resolve().parents[1]
FORMULAS = [
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "\uff1d1",
    "=",
    "-x.png",
    "+1/2.png",
    "=cmd|calc.png",
]
QUOTED = ["'=1+1", "''-x", "'\t"]
NUMBERS = ["-0.5", "+2", "-1e-05", "-.5", "3"]
TEXTS = ["a=1.png", "it's", "'quoted'", "", "a,b.png", 'say "x".png', "two\nlines.png", "a\r\nb", "ä ö", "'"]


@pytest.mark.parametrize("text", FORMULAS + QUOTED)
def test_a_formula_follows_an_apostrophe_and_comes_back(text: str) -> None:
    assert text_cell(text) == f"'{text}"
    assert plain_cell(text_cell(text)) == text
    assert text_cell(Path(text)) == f"'{text}"


@pytest.mark.parametrize("value", [*NUMBERS, *TEXTS, -0.5, -3, float("-inf"), None, True])
def test_numbers_and_other_texts_stay_as_they_are(value: object) -> None:
    assert text_cell(value) is value
    assert plain_cell(str(value)) == str(value)


def test_every_name_is_read_back_from_a_table(tmp_path: Path) -> None:
    names = [*FORMULAS, *QUOTED, *NUMBERS, *TEXTS, os.fsdecode(b"Bef\xfcnd.png"), os.fsdecode(b"=\xff.png")]
    path = tmp_path / "table.csv"
    rows = [{"file": name, "=column": -0.25, "missing": None} for name in names]
    path.write_bytes(csv_table(rows[:3]) + csv_table(rows[3:], list(rows[0]), header=False))
    assert read_table(path) == [{"file": name, "=column": "-0.25", "missing": ""} for name in names]
    with path.open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    assert header == ["file", "'=column", "missing"]
    assert {len(line) for line in lines} == {3}
    assert not [line for line in lines if re.match(r"\s*[=@\t\r\n]|\s*[+-](?![\d.]+(e|$))", line[0])]


def test_what_is_no_table_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('file\n"' + "x" * 140_000)
    with pytest.raises(ValueError, match=r"table\.csv: expected a CSV table, got what is none \(field larger"):
        read_table(path)
    path.write_bytes(b"file\n\xff\n")
    with pytest.raises(ValueError, match=r"table\.csv: expected a CSV table, got what is none \('utf-8' codec"):
        read_table(path)
    path.write_text("")
    assert read_table(path) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file,mm\na,1\np0.png,171,5\n", "line 3: 2 cells expected, as in the first line, got 3: .*decimal point"),
        ("file,mm\n\n\na\n", r"line 4: 2 cells expected, as in the first line, got 1: \['a'\]"),
        ("file,mm,,\na,1,2,\n", "line 2: 2 cells expected, as in the first line, got 3"),
        ("foci,file,foci\na,b,c\n", "each column once expected, got 'foci' twice"),
        ("'=a,=a\n1,2\n", "each column once expected, got '=a' twice"),
    ],
)
def test_lines_of_other_cells_and_columns_of_one_name_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"table\.csv.*{reason}"):
        read_table(tmp_path / "table.csv")


def test_empty_columns_at_the_end_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("file,mm,,\na,1,,\nb,,\nc,2\n")
    told = [{"file": "a", "mm": "1"}, {"file": "b", "mm": ""}, {"file": "c", "mm": "2"}]
    assert read_table(tmp_path / "table.csv") == told


def test_rows_have_the_numbers_of_their_lines(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text('file\n\na\n\n\n"two\nlines"\nb\n')
    assert read_lines(tmp_path / "table.csv") == [(3, {"file": "a"}), (7, {"file": "two\nlines"}), (8, {"file": "b"})]


def test_one_place_writes_all_tables() -> None:
    files = [path for folder in ("bundle", "scripts") for path in (ROOT / folder).rglob("*.py")]
    writers = [path for path in files if re.search(r"csv\.(DictW|w)riter|\.to_csv\(", path.read_text())]
    assert [path.relative_to(ROOT).as_posix() for path in writers] == ["bundle/tables.py"]
