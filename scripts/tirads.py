# SPDX-License-Identifier: Apache-2.0
"""ACR TI-RADS of thyroid nodules whose features a reader coded in a table.

  python scripts/tirads.py nodules.csv --output tirads.csv

A row is a nodule, with the columns composition (cystic, spongiform, mixed, solid), echogenicity (anechoic, hyperechoic,
isoechoic, hypoechoic, very hypoechoic), shape (wider than tall, taller than wide), margin (smooth, ill-defined,
lobulated, irregular, extrathyroidal extension), foci (none, comet-tail, macrocalcifications, peripheral calcifications,
punctate; several separated by semicolons), and if you like diameter_mm, the largest one. "undetermined" is known where
the chart knows it. All other columns are kept.

Adds points, level, advice and error. Rows that cannot be scored are named; the status is 1 then. No network takes part.
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
from bundle.tables import csv_table, read_table  # noqa: E402
from bundle.tirads import POINTS, tirads  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="CSV, a nodule a row")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.csv", help="the table with what was added")
    args = parser.parse_args(arguments)
    try:
        rows = read_table(args.table)
        if not rows or "composition" not in rows[0]:
            got = ", ".join(rows[0]) if rows else "no row"
            raise ValueError(f"{args.table}: column composition expected, got {got}; see --help.")
        scored = [_scored(row) for row in rows]
        folder = OutputFolder(args.output.parent, option="--output", sources=[args.table])
        folder.write(args.output.name, csv_table(scored))
    except Exception as error:
        return failed(error, status=2)
    wrong = [(line, row["error"]) for line, row in enumerate(scored, start=2) if row["error"]]
    for line, reason in wrong:
        print(f"{args.table}, line {line}: {reason}", file=sys.stderr)
    print(f"{len(scored) - len(wrong)} of {len(scored)} nodules scored: {args.output}")
    return 1 if wrong else 0


def _scored(row: Mapping[str, str]) -> dict[str, Any]:
    seen: dict[str, Any] = {name: (row.get(name) or "").strip().lower() for name in POINTS}
    seen["foci"] = [focus.strip() for focus in seen["foci"].split(";") if focus.strip()]
    try:
        found = tirads(seen, float(row["diameter_mm"]) if row.get("diameter_mm") else None)
    except ValueError as error:
        return {**row, "points": None, "level": None, "advice": None, "error": str(error)}
    return {**row, "points": found.points, "level": f"TR{found.level}", "advice": found.advice, "error": None}


if __name__ == "__main__":
    sys.exit(main())
