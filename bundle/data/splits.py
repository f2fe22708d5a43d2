# SPDX-License-Identifier: Apache-2.0
"""Splits by patient: whatever belongs to one patient, or is a near-duplicate of it, stays in one part.

One split serves both tasks. It depends on the seed and on the items, not on their order.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

SPLITS = ("train", "val", "test")


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


def assign_groups(
    groups: Sequence[str],
    *,
    strata: Sequence[Sequence[str]],
    shares: Mapping[str, float],
    seed: int,
    fixed: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The part of every group, so that each part gets its share of every stratum as well as whole groups allow.

    Greedy: large groups first, in seeded order; each goes to the part that lacks most of what the group holds.

    Args:
        groups: group per item.
        strata: per item the names of the strata that it counts in, such as data set and class.
        shares: part -> share of the items; the shares are taken relative to their sum, a part with 0 stays empty.
        seed: another seed gives another split.
        fixed: group -> part, for groups that are placed already.
    """
    holds: dict[str, Counter[str]] = {}
    for group, names in zip(groups, strata, strict=True):
        holds.setdefault(group, Counter()).update(names)
    totals: Counter[str] = Counter()
    for counts in holds.values():
        totals.update(counts)
    whole = sum(shares.values())
    missing = {
        part: {name: share / whole * total for name, total in totals.items()}
        for part, share in sorted(shares.items(), key=lambda entry: -entry[1])
        if share > 0
    }
    sizes = Counter(groups)
    placed: dict[str, str] = {}
    for group in sorted(holds, key=lambda g: (g not in (fixed or {}), -sizes[g], _digest(g, seed))):
        if fixed and group in fixed:
            part = fixed[group]
        else:
            part = max(missing, key=lambda p: sum(n / totals[s] * missing[p][s] for s, n in holds[group].items()))
        placed[group] = part
        for name, count in holds[group].items():
            if part in missing:
                missing[part][name] -= count
    return placed


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
        items: items with ``group``, ``dataset`` and perhaps ``class``; changed in place.
        fractions: share of train, val and test.
        seed: another seed gives another split.
        folds: number of folds, 2 or more.
    """
    fixed: dict[str, str] = {}
    for item in sorted(items, key=lambda i: str(i["image"])):
        if "split" in item:
            fixed.setdefault(item["group"], item["split"])
    groups = [item["group"] for item in items]
    strata = [_strata(item) for item in items]
    parts = assign_groups(groups, strata=strata, shares=fractions, seed=seed, fixed=fixed)
    for item in items:
        item.setdefault("split", parts[item["group"]])
    if folds:
        rest = [item for item in items if item["split"] != "test"]
        parts = assign_groups(
            [item["group"] for item in rest],
            strata=[_strata(item) for item in rest],
            shares={str(fold): 1.0 for fold in range(folds)},
            seed=seed,
        )
        for item in rest:
            item["fold"] = int(parts[item["group"]])


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


def _digest(group: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{group}".encode()).hexdigest()


def _strata(item: Mapping[str, Any]) -> list[str]:
    return [item["dataset"], f"{item['dataset']}/{item.get('class', '')}"]
