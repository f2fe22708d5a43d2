# SPDX-License-Identifier: Apache-2.0
"""A new manifest in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bundle.data.assemble import Assembly
from bundle.data.splits import SPLITS
from bundle.failures import one_line


def summary_table(assembly: Assembly) -> str:
    """The manifest in figures, one line per data set and one in total, as text."""
    items = assembly.manifest["items"]
    left_out: Counter[str] = Counter()
    for entry in assembly.left_out:
        left_out[entry.dataset] += entry.count
    names = sorted({*assembly.manifest["datasets"], *left_out})
    header = [
        "dataset",
        "images",
        "left out",
        "masks",
        "classes",
        "patients",
        "groups",
        "largest group",
        "near-duplicate pairs",
    ]
    rows = [[*header, "train/val/test"]]
    of_set: dict[str, list[int]] = {name: [] for name in names}
    for index, item in enumerate(items):
        of_set[item["dataset"]].append(index)
    pairs = Counter(name for i, j in assembly.pairs for name in {items[i]["dataset"], items[j]["dataset"]})
    rows += [
        _summary_row(name, own=[items[i] for i in of_set[name]], left_out=left_out[name], pairs=pairs[name])
        for name in names
    ]
    if len(names) > 1:
        rows.append(_summary_row("total", own=items, left_out=left_out.total(), pairs=len(assembly.pairs)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _summary_row(name: str, *, own: Sequence[Mapping[str, Any]], left_out: int, pairs: int) -> list[str]:
    splits = Counter(item["split"] for item in own)
    groups = Counter(item["group"] for item in own)
    classes = Counter(item["class"] for item in own if "class" in item)
    counts = [
        len(own),
        left_out,
        sum("label" in item for item in own),
        " ".join(f"{label}:{n}" for label, n in sorted(classes.items())) if name != "total" else sum(classes.values()),
        len({item["patient"] for item in own}),
        len(groups),
        max(groups.values(), default=0),
        pairs,
        "/".join(str(splits[split]) for split in SPLITS) if own else "",
    ]
    return [one_line(name), *(one_line(str(count)) or "-" for count in counts)]
