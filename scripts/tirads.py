# SPDX-License-Identifier: Apache-2.0
"""ACR TI-RADS of thyroid nodules whose features a reader coded in a table.

  python scripts/tirads.py nodules.csv --output tirads.csv

A row is a nodule, with the columns composition (cystic, spongiform, mixed, solid), echogenicity (anechoic, hyperechoic,
isoechoic, hypoechoic, very hypoechoic), shape (wider than tall, taller than wide), margin (smooth, ill-defined,
lobulated, irregular, extrathyroidal extension), foci (none, comet-tail, macrocalcifications, peripheral calcifications,
punctate; several separated by semicolons), and if you like diameter_mm, the largest one. "undetermined" is known where
the chart knows it. All other columns are kept.

Adds points, level, advice and error; a table that has one of them is refused. Rows that cannot be scored are named; the
status is 1 then. No network takes part.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.failures import failed  # noqa: E402
from bundle.files import OutputFolder  # noqa: E402
from bundle.tables import csv_table, read_lines  # noqa: E402
from bundle.tirads import POINTS, tirads  # noqa: E402

DIAMETER = "diameter_mm"
ADDED = ("points", "level", "advice", "error")
"""Columns of the result."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="CSV, a nodule a row")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.csv", help="the table with what was added")
    args = parser.parse_args(arguments)
    try:
        lines = read_lines(args.table)
        columns = _columns(list(lines[0][1]) if lines else [], args.table)
        scored = [_scored(row, columns) for _, row in lines]
        folder = OutputFolder(args.output.parent, option="--output", sources=[args.table])
        folder.write(args.output.name, csv_table(scored))
    except Exception as error:
        return failed(error, status=2)
    wrong = [(line, row["error"]) for (line, _), row in zip(lines, scored, strict=True) if row["error"]]
    for line, reason in wrong:
        print(f"{args.table}, line {line}: {reason}", file=sys.stderr)
    print(f"{len(scored) - len(wrong)} of {len(scored)} nodules scored: {args.output}")
    return 1 if wrong else 0


def _columns(names: Sequence[str], table: Path) -> dict[str, str]:
    """What is read -> the name of its column; case and blanks around it do not count.

    Raises:
        ValueError: when the composition lacks, a column is there twice, or one would be replaced or mistaken.
    """
    found: dict[str, str] = {}
    for name in names:
        plain = name.strip().lower()
        if plain in ADDED:
            raise ValueError(f"{table}: no column {plain} expected, since it is added, got {name!r}; rename yours.")
        if plain in (*POINTS, DIAMETER) and found.setdefault(plain, name) != name:
            raise ValueError(
                f"{table}: one column {plain} expected, got {found[plain]!r} and {name!r}; rename or remove one."
            )
    if "composition" not in found:
        raise ValueError(f"{table}: column composition expected, got {', '.join(names) or 'no row'}; see --help.")
    if DIAMETER not in found and (other := [name for name in names if "diameter" in name.lower()]):
        raise ValueError(
            f"{table}: a column {DIAMETER} with the largest diameter expected, got {other[0]!r}; rename it if it is"
            f" that, in mm, or add an empty column {DIAMETER}."
        )
    return found


def _scored(row: Mapping[str, str], columns: Mapping[str, str]) -> dict[str, Any]:
    told = {name: row[column].strip().lower() for name, column in columns.items()}
    seen: dict[str, Any] = {name: told.get(name, "") for name in POINTS}
    seen["foci"] = [focus.strip() for focus in seen["foci"].split(";") if focus.strip()]
    try:
        found = tirads(seen, _diameter(told.get(DIAMETER, "")))
    except ValueError as error:
        return {**row, **dict.fromkeys(ADDED), "error": str(error)}
    return {**row, "points": found.points, "level": f"TR{found.level}", "advice": found.advice, "error": None}


def _diameter(text: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError as error:
        raise ValueError(
            f"{DIAMETER} must be a number with a decimal point, or empty, got {text!r}; correct it."
        ) from error


if __name__ == "__main__":
    sys.exit(main())
