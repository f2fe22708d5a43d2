# SPDX-License-Identifier: Apache-2.0
"""Splits by patient: whatever belongs to one patient, or is a near-duplicate of it, stays in one part.

One split serves both tasks. It depends on the seed and on the items, not on their order or on other data sets.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from bundle.data.balance import assign_groups

SPLITS = ("train", "val", "test")
FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}
"""Share of the images in each split, unless told otherwise."""


def join_groups(patients: Sequence[str], pairs: Sequence[tuple[int, int]]) -> list[str]:
    """The group of every item: patients joined by near-duplicates, named after the first patient of each.

    Args:
        patients: patient per item.
        pairs: indices of items that belong together.
    """
    parent = {patient: patient for patient in patients}

    def find(patient: str) -> str:
        while parent[patient] != patient:
            parent[patient] = parent[parent[patient]]
            patient = parent[patient]
        return patient

    for i, j in pairs:
        low, high = sorted((find(patients[i]), find(patients[j])))
        parent[high] = low
    return [find(patient) for patient in patients]


def split_items(
    items: Sequence[dict[str, Any]],
    *,
    fractions: Mapping[str, float],
    seed: int,
    folds: int | None = None,
) -> None:
    """Fill in ``split``, and with ``folds`` also ``fold`` of all items outside the test split.

    An item that has a ``split`` already keeps it, and the rest of its group follows.

    Args:
        items: items with ``image``, ``group``, ``patient``, ``dataset`` and perhaps ``class``, ``label`` and ``split``;
            changed in place.
        fractions: share of train, val and test.
        seed: another seed gives another split.
        folds: number of folds, 2 or more.
    """
    fixed: dict[str, str] = {}
    for item in sorted(items, key=lambda i: str(i["image"])):
        if "split" in item:
            fixed.setdefault(item["group"], item["split"])
    parts = _assign(items, shares=fractions, seed=seed, fixed=fixed)
    for item in items:
        item.setdefault("split", parts[item["group"]])
    if folds:
        rest = [item for item in items if item["split"] != "test"]
        parts = _assign(rest, shares={str(fold): 1.0 for fold in range(folds)}, seed=seed, fixed={})
        for item in rest:
            item["fold"] = int(parts[item["group"]])


def _assign(
    items: Sequence[Mapping[str, Any]], *, shares: Mapping[str, float], seed: int, fixed: Mapping[str, str]
) -> dict[str, str]:
    """The part of every group: each data set by itself, so that its split is the same whatever sets are beside it.

    Data sets that a group joins are split together, and so are all that have fewer groups than there are parts.
    """
    names = [item["dataset"] for item in items]
    first: dict[str, int] = {}
    pairs = [(first.setdefault(item["group"], index), index) for index, item in enumerate(items)]
    joined = join_groups(names, [(i, j) for i, j in pairs if names[i] != names[j]])
    groups = Counter(joined[index] for index in first.values())
    parts = sum(share > 0 for share in shares.values())
    apart: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for item, name in zip(items, joined, strict=True):
        apart[name if groups[name] >= parts else ""].append(item)
    return {
        group: part
        for members in apart.values()
        for group, part in assign_groups(members, shares=shares, seed=seed, fixed=fixed).items()
    }


def find_leaks(items: Sequence[Mapping[str, Any]], pairs: Sequence[tuple[int, int]]) -> list[list[str]]:
    """``[image, image, reason]`` for every near-duplicate pair in two splits, and one per patient and two splits.

    Args:
        items: items with ``image``, ``patient`` and ``split``.
        pairs: indices of near-duplicates.
    """
    first: dict[str, dict[str, str]] = {}
    for item in sorted(items, key=lambda i: str(i["image"])):
        first.setdefault(item["patient"], {}).setdefault(item["split"], item["image"])
    leaks = [
        [images[a], images[b], f"patient {patient} in {a} and {b}"]
        for patient, images in sorted(first.items())
        for a, b in combinations(sorted(images, key=SPLITS.index), 2)
    ]
    for i, j in pairs:
        a, b = sorted((items[i], items[j]), key=lambda item: SPLITS.index(item["split"]))
        if a["split"] != b["split"] and a["patient"] != b["patient"]:
            leaks.append([a["image"], b["image"], f"near-duplicates in {a['split']} and {b['split']}"])
    return leaks
