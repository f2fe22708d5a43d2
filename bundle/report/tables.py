# SPDX-License-Identifier: Apache-2.0
"""Tables of an evaluation: rows for CSV files, and the results as Markdown."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bundle.failures import named, one_line

logger = logging.getLogger(__name__)

Row = dict[str, Any]

NOTES = (
    "Values in parentheses are 95 % bootstrap intervals, drawn by group (patient or video, joined with its "
    "near-duplicates). Scores are taken per image on the native grid, then averaged over images.",
    "Dice and IoU: images whose truth holds the structure. False alarms: share of the other images in which at least "
    "one pixel is predicted; false area: mean share of the image predicted there. Dice of all images: an empty truth "
    "scores 1 when the prediction is empty too, else 0. Other area: mean share of the image that is called a structure "
    "which the data set does not label.",
    "NSD: share of the two boundaries within the tolerance of each other. HD95: 95th percentile of the distance "
    "between the boundaries, the greater of the two directions. A structure that is missed altogether scores NSD 0 and "
    "HD95 the diagonal of its image. Millimeters where the pixel spacing is known, else pixels.",
    "Sensitivity and specificity: of the named class, at the most probable class. AUROC: one versus rest, mean over "
    "classes.",
)


def common_folder(paths: Sequence[str]) -> str:
    """The deepest folder that holds all paths; "" where there is none."""
    try:
        return os.path.commonpath([os.path.dirname(os.path.abspath(p)) for p in paths])
    except ValueError:  # no paths, or paths on several drives
        return ""


def without_folder(rows: Sequence[Mapping[str, Any]], folder: str) -> list[Row]:
    """The rows with every absolute path given relative to ``folder``, so that no table tells where the data lie."""

    def shown(value: Any) -> Any:
        if not isinstance(value, str) or not os.path.isabs(value):
            return value
        inside = bool(folder) and value.startswith(folder)
        return Path(os.path.relpath(value, folder)).as_posix() if inside else os.path.basename(value)

    return [{key: shown(value) for key, value in row.items()} for row in rows]


def flat_probabilities(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Rows with one column per class in place of a mapping of probabilities."""
    return [
        {
            **{key: value for key, value in row.items() if key != "probabilities"},
            **{f"probability_{name}": value for name, value in row.get("probabilities", {}).items()},
        }
        for row in rows
    ]


def results_markdown(summary: Mapping[str, Any], sections: Mapping[str, Sequence[str]]) -> str:
    """The results as Markdown: the tasks' sections, and notes.

    Args:
        summary: what ``EvaluationReport`` writes to summary.json.
        sections: heading -> lines.
    """
    lines = [
        f"# Results: {summary['split']} split",
        "",
        f"{summary['images']} images of {summary['patients']} patients or videos ({summary['groups']} groups); "
        f"seed {summary['seed']}; bundle {summary['version']}, weights {summary['weights_sha256'][:12]}; "
        f"{summary['machine']['processor']}, {summary['date']}.",
        "",
        "Means: " + (", ".join(f"{k} {v:.3f}" for k, v in summary["means"].items()) or "nothing was scored") + ".",
    ]
    lines += unreadable_lines(summary["unreadable"])
    for section, part in sections.items():
        lines += ["", f"## {section[0].upper()}{section[1:]}", "", *part]
    return "\n".join([*lines, "", "## How to read this", "", *(f"- {note}" for note in NOTES), ""])


def unreadable_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The section that names images that could not be read, each with its reason; nothing without any."""
    if not rows:
        return []
    head = f"Not scored, because they could not be read ({len(rows)}):"
    return ["", head, "", *(one_line(f"- {row['image']}: {row['error']}") for row in rows)]


def end_with(unreadable: Sequence[Mapping[str, Any]]) -> None:
    """Ends the process with status 1 where images could not be read, once all else is written.

    Raises:
        SystemExit: when there is one.
    """
    if unreadable:
        for row in unreadable:
            logger.error(one_line(f"{row['image']}: {row['error']}"))
        logger.error(
            f"{len(unreadable)} images could not be read and are not scored: {named([r['image'] for r in unreadable])};"
            " the reasons are above and in the report."
        )
        raise SystemExit(1)
