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
PAPER_NOTE = (
    "Paper protocol, for comparison with published figures only: scores inside the centered square crop whose side is "
    "the shorter side of the image; images whose mask is empty there are left out. It hides false alarms and whatever "
    "lies outside the crop."
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
    """Classification rows with one column per class in place of the mapping."""
    return [
        {
            **{key: value for key, value in row.items() if key != "probabilities"},
            **{f"probability_{name}": value for name, value in row["probabilities"].items()},
        }
        for row in rows
    ]


def results_markdown(summary: Mapping[str, Any]) -> str:
    """The results as Markdown: segmentation, classification, confusion matrices, paper protocol, notes.

    Args:
        summary: what ``EvaluationReport`` writes to summary.json.
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
    if summary["segmentation"]:
        lines += ["", "## Segmentation", "", *_overlap_table(summary["segmentation"])]
        lines += _surface_table(summary["segmentation"], summary["nsd_tolerance"])
    if summary["classification"]:
        lines += ["", "## Classification", "", *_class_table(summary["classification"])]
        for entry in summary["classification"]:
            lines += _confusion_table(entry)
    if summary["segmentation_paper_protocol"]:
        lines += ["", "## Paper protocol", "", PAPER_NOTE, ""]
        lines += _paper_table(summary["segmentation_paper_protocol"])
        lines += _surface_table(summary["segmentation_paper_protocol"], summary["nsd_tolerance"], " (paper protocol)")
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


def _overlap_table(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ["Data set", "Structure", "Images", "Patients", "With structure", "Dice", "IoU"]
    head += ["Without", "False alarms", "False area", "Dice of all images", "Other area"]
    return _table(
        head,
        [
            [
                *(str(e[k]) for k in ("dataset", "structure", "images", "patients", "present")),
                _number(e["dice"]),
                _number(e["iou"]),
                str(e["absent"]),
                _number(e["false_alarm_rate"]),
                _number(e["false_area"]),
                _number(e["dice_all"]),
                _number(e["other_area"]),
            ]
            for e in entries
        ],
    )


def _paper_table(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ["Data set", "Structure", "Images", "Patients", "Left out"]
    head += ["Dice (paper protocol)", "IoU (paper protocol)"]
    return _table(
        head,
        [
            [str(e[k]) for k in ("dataset", "structure", "images", "patients", "left_out")]
            + [_number(e["dice"]), _number(e["iou"])]
            for e in entries
        ],
    )


def _surface_table(entries: Sequence[Mapping[str, Any]], tolerance: Mapping[str, float], mark: str = "") -> list[str]:
    limits = {"mm": f"{tolerance['mm']:g} mm", "px": f"{100 * tolerance['fraction_of_diagonal']:g} % of the diagonal"}
    rows = [
        [e["dataset"], e["structure"], str(s["images"]), _number(s["nsd"]), limits[unit], _number(s["hd95"], 1), unit]
        for e in entries
        for unit, s in e["surface"].items()
    ]
    head = ["Data set", "Structure", "Images", f"NSD{mark}", "Tolerance", f"HD95{mark}", "Unit of HD95"]
    return ["", *_table(head, rows)] if rows else []


def _class_table(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ["Label set", "Images", "Patients", "Accuracy", "Balanced accuracy", "Macro F1", "AUROC", "Class"]
    rows = []
    for e in entries:
        area = _number(e["auroc"]) if e["auroc"]["value"] is not None else e["auroc_note"]
        scores = [_number(e[k]) for k in ("accuracy", "balanced_accuracy", "f1")]
        start = [e["label_set"], str(e["images"]), str(e["patients"]), *scores, area]
        for name in e["sensitivity"]:
            rows.append([*start, name, _number(e["sensitivity"][name]), _number(e["specificity"][name])])
            start = [""] * len(start)
    return _table([*head, "Sensitivity", "Specificity"], rows)


def _confusion_table(entry: Mapping[str, Any]) -> list[str]:
    rows = [[name, *map(str, counts)] for name, counts in zip(entry["classes"], entry["confusion"], strict=True)]
    return ["", *_table([f"{entry['label_set']}: truth / prediction", *entry["classes"]], rows)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(one_line(cell).replace('|', '/') for cell in line)} |" for line in lines]


def _number(estimate: Mapping[str, Any], digits: int = 3) -> str:
    """``0.904 (0.880 to 0.925)``; a dash when not defined."""
    if estimate["value"] is None:
        return "-"
    value = f"{estimate['value']:.{digits}f}"
    if estimate["low"] is None:
        return value
    return f"{value} ({estimate['low']:.{digits}f} to {estimate['high']:.{digits}f})"
