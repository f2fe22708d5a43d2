# SPDX-License-Identifier: Apache-2.0
"""Summaries as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bundle.failures import one_line
from bundle.metrics.segmentation import Tolerance

PAPER_NOTE = (
    "Paper protocol, for comparison with published figures only: scores inside the centered square crop whose side is "
    "the shorter side of the image; images whose mask is empty there are left out. It hides false alarms and whatever "
    "lies outside the crop."
)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(one_line(cell).replace('|', '/') for cell in line)} |" for line in lines]


def number(estimate: Mapping[str, Any], digits: int = 3) -> str:
    """``0.904 (0.880 to 0.925)``; a dash when not defined."""
    if estimate["value"] is None:
        return "-"
    value = f"{estimate['value']:.{digits}f}"
    if estimate["low"] is None:
        return value
    return f"{value} ({estimate['low']:.{digits}f} to {estimate['high']:.{digits}f})"


def segmentation_tables(entries: Sequence[Mapping[str, Any]], tolerance: Tolerance | None) -> list[str]:
    """Overlap and surfaces of ``summarize_segmentation``; the paper's protocol under a heading of its own.

    Args:
        entries: of one protocol or both.
        tolerance: of NSD; None where no surfaces were scored.
    """
    limits = {}
    if tolerance is not None:
        limits = {"mm": f"{tolerance.mm:g} mm", "px": f"{100 * tolerance.fraction:g} % of the diagonal"}
    native = [entry for entry in entries if entry["protocol"] == "native"]
    paper = [entry for entry in entries if entry["protocol"] == "paper"]
    lines = [*_overlap_table(native), *_surface_table(native, limits)]
    if paper:
        lines += ["", "### Paper protocol", "", PAPER_NOTE, "", *_paper_table(paper)]
        lines += _surface_table(paper, limits, " (paper protocol)")
    return lines


def class_tables(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Scores of ``summarize_classification``, and a confusion matrix of each label set."""
    lines = _class_table(entries)
    for entry in entries:
        lines += _confusion_table(entry)
    return lines


def _overlap_table(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ["Data set", "Structure", "Images", "Patients", "With structure", "Dice", "IoU"]
    head += ["Without", "False alarms", "False area", "Dice of all images", "Other area"]
    return table(
        head,
        [
            [
                *(str(e[k]) for k in ("dataset", "structure", "images", "patients", "present")),
                number(e["dice"]),
                number(e["iou"]),
                str(e["absent"]),
                number(e["false_alarm_rate"]),
                number(e["false_area"]),
                number(e["dice_all"]),
                number(e["other_area"]),
            ]
            for e in entries
        ],
    )


def _paper_table(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ["Data set", "Structure", "Images", "Patients", "Left out"]
    head += ["Dice (paper protocol)", "IoU (paper protocol)"]
    return table(
        head,
        [
            [str(e[k]) for k in ("dataset", "structure", "images", "patients", "left_out")]
            + [number(e["dice"]), number(e["iou"])]
            for e in entries
        ],
    )


def _surface_table(entries: Sequence[Mapping[str, Any]], limits: Mapping[str, str], mark: str = "") -> list[str]:
    rows = [
        [e["dataset"], e["structure"], str(s["images"]), number(s["nsd"]), limits[unit], number(s["hd95"], 1), unit]
        for e in entries
        for unit, s in e["surface"].items()
    ]
    head = ["Data set", "Structure", "Images", f"NSD{mark}", "Tolerance", f"HD95{mark}", "Unit of HD95"]
    return ["", *table(head, rows)] if rows else []


def _class_table(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ["Label set", "Images", "Patients", "Accuracy", "Balanced accuracy", "Macro F1", "AUROC", "Class"]
    rows = []
    for e in entries:
        area = number(e["auroc"]) if e["auroc"]["value"] is not None else e["auroc_note"]
        scores = [number(e[k]) for k in ("accuracy", "balanced_accuracy", "f1")]
        start = [e["label_set"], str(e["images"]), str(e["patients"]), *scores, area]
        for name in e["sensitivity"]:
            rows.append([*start, name, number(e["sensitivity"][name]), number(e["specificity"][name])])
            start = [""] * len(start)
    return table([*head, "Sensitivity", "Specificity"], rows)


def _confusion_table(entry: Mapping[str, Any]) -> list[str]:
    rows = [[name, *map(str, counts)] for name, counts in zip(entry["classes"], entry["confusion"], strict=True)]
    return ["", *table([f"{entry['label_set']}: truth / prediction", *entry["classes"]], rows)]
