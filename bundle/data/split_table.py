# SPDX-License-Identifier: Apache-2.0
"""What the parts of a split hold, as text."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from bundle.data.splits import SPLITS
from bundle.failures import one_line

Items = Sequence[Mapping[str, Any]]

HEADER = ["data set", "part", "patients", "images", "in groups of several", "by class"]


def split_table(items: Items) -> str:
    """A line per data set and part, and per part of all sets: numbers, with their shares of the set in percent.

    Groups of several are those of two images or more, of one patient or near-duplicates.

    Args:
        items: items with ``dataset``, ``patient``, ``group``, ``split`` and perhaps ``class``.
    """
    sizes = Counter(item["group"] for item in items)
    of_set = _by_set(items)
    rows = [HEADER]
    for name, own in sorted(of_set.items()):
        rows += _rows(name, own, sizes=sizes, classes=sorted({item["class"] for item in own if "class" in item}))
    if len(of_set) > 1:
        rows += _rows("total", items, sizes=sizes, classes=[])
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def absent_classes(items: Items) -> list[str]:
    """A sentence per data set and part that holds images of the set but lacks classes that the set has.

    Args:
        items: items with ``dataset``, ``group``, ``split`` and perhaps ``class``.
    """
    notes = []
    for name, own in sorted(_by_set(items).items()):
        groups: defaultdict[str, set[str]] = defaultdict(set)
        for item in own:
            if "class" in item:
                groups[item["class"]].add(item["group"])
        for split in SPLITS:
            present = {item.get("class") for item in own if item["split"] == split}
            absent = [f"{label} (groups in all: {len(groups[label])})" for label in sorted(set(groups) - present)]
            if present and absent:
                notes.append(f"{name}: the {split} split has no image of {', '.join(absent)}")
    return notes


def _by_set(items: Items) -> dict[str, list[Mapping[str, Any]]]:
    of_set: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for item in items:
        of_set[item["dataset"]].append(item)
    return of_set


def _rows(name: str, own: Items, *, sizes: Mapping[str, int], classes: Sequence[str]) -> list[list[str]]:
    patients = {item["patient"]: item["split"] for item in own}
    columns = [
        Counter(patients.values()),
        Counter(item["split"] for item in own),
        Counter(item["split"] for item in own if sizes[item["group"]] > 1),
    ]
    of_class: dict[str, Counter[str]] = {label: Counter() for label in classes}
    for item in own:
        if item.get("class") in of_class:
            of_class[item["class"]][item["split"]] += 1
    return [
        [
            one_line(name) if split == SPLITS[0] else "",
            split,
            *(_share(counts, split) for counts in columns),
            "  ".join(f"{one_line(label)} {_share(counts, split)}" for label, counts in of_class.items()) or "-",
        ]
        for split in SPLITS
    ]


def _share(counts: Counter[str], split: str) -> str:
    total = sum(counts.values())
    return f"{counts[split]} ({counts[split] / total:.1%})" if total else "-"
