# SPDX-License-Identifier: Apache-2.0
"""Scores of key points: which are found, and how far off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bundle.metrics.bootstrap import mean_estimate
from bundle.metrics.segmentation import Row
from bundle.metrics.tables import number, table


def summarize_points(rows: Sequence[Row], *, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Per data set and point: how many are found, the mean error of those, and how often it is found where it is not.

    Args:
        rows: ``dataset``, ``group``, ``point``, ``present``, ``found``, ``error_px`` and ``error_mm`` (None where not
            known) of each image that tells of the point.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.
    """
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["dataset"], row["point"]), []).append(row)
    return [
        {"dataset": dataset, "point": name, **_summary(cell, resamples=resamples, seed=seed)}
        for (dataset, name), cell in sorted(cells.items())
    ]


def point_tables(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of Markdown of ``summarize_points``."""
    head = ["Data set", "Point", "Images with it", "Found", "Error in px", "Error in mm", "Without it", "False alarms"]
    rows = [
        [
            entry["dataset"],
            entry["point"],
            str(entry["present"]),
            number(entry["found"]),
            number(entry["error_px"], 2),
            number(entry["error_mm"], 2),
            str(entry["absent"]),
            number(entry["false_alarms"]),
        ]
        for entry in entries
    ]
    return table(head, rows)


def _summary(cell: Sequence[Row], *, resamples: int, seed: int) -> dict[str, Any]:
    def mean(rows: Sequence[Row], key: str) -> Any:
        known = [row for row in rows if row[key] is not None]
        groups = [row["group"] for row in known]
        return mean_estimate([row[key] for row in known], groups, resamples=resamples, seed=seed)

    present, absent = [r for r in cell if r["present"]], [r for r in cell if not r["present"]]
    return {
        "present": len(present),
        "found": mean(present, "found"),
        "error_px": mean(present, "error_px"),
        "error_mm": mean(present, "error_mm"),
        "absent": len(absent),
        "false_alarms": mean(absent, "found"),
    }
