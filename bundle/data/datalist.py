# SPDX-License-Identifier: Apache-2.0
"""From the manifest to the item dictionaries that the transforms start from.

Every item has the same keys, with a sentinel where something is missing: ``image`` (absolute path), ``label`` (paths,
[] = no mask), ``mask_values`` (value in the mask file -> structure index), ``mask_kind``, ``mask_scaled``,
``mask_threshold`` (0 = none), ``labeled`` (a bool per structure: does the data set label it?), ``classes`` (label set
-> index of its class), ``dataset``, ``patient``, ``group``, ``position``, ``nature``, ``spacing`` (mm per row,
column; nan = unknown), ``item`` (its name), and the keys that the tasks add (None = not labeled).
"""

from __future__ import annotations

import functools
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bundle.data.joining import join_position, join_tables, warn_of_names
from bundle.data.manifest import read_datalist
from bundle.data.organs import check_organs
from bundle.data.packed import PackedItems
from bundle.data.splits import SPLITS
from bundle.vocabulary import Organs, switch

__all__ = ["ALLOW_LEAKS", "load_split", "read_datalist"]

ALLOW_LEAKS = "I know that the splits leak"
"""What ``allow_leaks`` must say, word for word, for a manifest with leaking splits to be used."""


def load_split(
    datalist: str | Path,
    *,
    split: str,
    organs: Organs,
    tasks: Sequence[Any] = (),
    heads: Mapping[str, str | None] | None = None,
    merge_structures: bool | str = False,
    neutral_positions: Sequence[str] = (),
    fold: int | None = None,
    allow_leaks: bool | str | None = False,
) -> PackedItems:
    """The items of one split, as item dictionaries in the manifest's order; each is made anew when it is asked for.

    Args:
        datalist: path of the manifest.
        split: ``train``, ``val`` or ``test``.
        organs: the network's table of what there is to see.
        tasks: the declared tasks, whose ``schema`` says which keys they add to an item.
        heads: label set of the manifest -> of the network, or None to leave it out, where they differ (docs/data.md).
        merge_structures: every structure of the manifest counts as the network's structure 1.
        neutral_positions: positions of the manifest that the network does not know and shall take for unknown.
        fold: with a number, ``val`` is that fold and ``train`` all other folds.
        allow_leaks: the exact text of ``ALLOW_LEAKS`` lets splits pass that share patients or near-duplicates.

    Raises:
        ValueError: when the manifest is not valid, does not fit in the tables, leaks, or has no item in this split.
    """
    name, extra = str(datalist), {key: rule for task in tasks for key, rule in task.schema.items()}
    manifest = read_datalist(datalist, extra)
    parts = split_parts(manifest, split=split, fold=fold, name=name)
    if allow_leaks != ALLOW_LEAKS:
        _check_leaks(manifest, parts=parts, name=name)
    merge = switch(merge_structures, "merge_structures")
    tables = join_tables(manifest, name=name, organs=organs, heads=heads or {}, merge_structures=merge)
    join = functools.partial(join_position, positions=organs.positions, neutral=neutral_positions)
    chosen = _chosen(manifest, [part == split for part in parts], name=name, tables=tables, join=join, tasks=tasks)
    check_organs(chosen, organs, name=name)
    warn_of_names(manifest["items"] if split == "train" else (), tasks, name=name)
    return chosen


def _chosen(
    manifest: Mapping[str, Any],
    wanted: Sequence[bool],
    *,
    name: str,
    tables: Mapping[str, Mapping[str, Any]],
    join: Callable[..., str],
    tasks: Sequence[Any],
) -> PackedItems:
    """The wanted items of a manifest."""
    root = os.path.normpath(os.path.join(os.path.realpath(Path(name).parent), manifest["root"]))
    chosen, extra = PackedItems(), [key for task in tasks for key in task.schema]
    for index, raw in enumerate(manifest["items"]):
        if wanted[index]:
            where, table = f"{name} item {index}", tables[raw["dataset"]]
            position = join(raw, entry=table["entry"], where=where)
            item = _item(raw, table=table, root=root, position=position, where=where)
            item |= {key: raw.get(key, table["entry"].get(key)) for key in extra}
            for task in tasks:
                item = task.read(item, where=where)
            chosen.append(item)
    return chosen


def _part(item: Mapping[str, Any], fold: int | None) -> str:
    """The split that an item is in: its own, or by fold; "" when it is in none."""
    if fold is None or item["split"] == "test":
        return str(item["split"])
    if "fold" not in item:
        return ""
    return "val" if item["fold"] == fold else "train"


def split_parts(manifest: Mapping[str, Any], *, split: str, fold: int | None, name: str) -> list[str]:
    """The split of each item, of which one or more are in ``split``; "" for one in no fold.

    Raises:
        ValueError: when the manifest has no such fold, or no item in the split.
    """
    folds = sorted({item["fold"] for item in manifest["items"] if "fold" in item})
    if fold is not None and fold not in folds:
        raise ValueError(
            f"{name}: expected fold to be one of the manifest's folds {folds}, got {fold}; "
            "make the manifest with --folds, or leave fold out."
        )
    parts = [_part(item, fold) for item in manifest["items"]]
    if split not in SPLITS:
        raise ValueError(f"split must be one of {list(SPLITS)}, got {split!r}; correct it.")
    if split not in parts:
        counts = Counter(p for p in parts if p)
        raise ValueError(
            f"{name}: expected items in split {split!r}, got none; the manifest has {dict(sorted(counts.items()))}. "
            "Make it again with other --fractions, or ask for a split that it has."
        )
    return parts


def _check_leaks(manifest: Mapping[str, Any], *, parts: Sequence[str], name: str) -> None:
    remedy = (
        "Make the manifest again without --given-splits, or, knowing that the scores will be too good, set "
        f'allow_leaks to the text "{ALLOW_LEAKS}".'
    )
    leaks = manifest["split"]["leaks"]
    if leaks and not manifest["split"]["leaks_accepted"]:
        raise ValueError(
            f"{name}, key 'split/leaks': expected splits that share no patient and no near-duplicate, got {len(leaks)} "
            f"leaking pairs, the first {leaks[0]}. {remedy}"
        )
    for key in ("group", "patient"):
        first: dict[str, int] = {}
        for index, (item, part) in enumerate(zip(manifest["items"], parts, strict=True)):
            other = first.setdefault(item[key], index) if part else index
            if parts[other] != part:
                raise ValueError(
                    f"{name}: item {index}, key 'split': expected {key} {item[key]!r} in one split, got {part!r} here "
                    f"and {parts[other]!r} in item {other}, so that the splits leak. {remedy}"
                )


def _item(raw: Mapping[str, Any], *, table: Mapping[str, Any], root: str, position: str, where: str) -> dict[str, Any]:
    entry = table["entry"]
    label = raw.get("label", [])
    labels = [label] if isinstance(label, str) else list(label)
    return {
        "image": os.path.join(root, raw["image"]),
        "label": [os.path.join(root, path) for path in labels],
        "mask_values": dict(table["mask_values"]) if labels else {},
        "mask_kind": entry.get("mask_kind", "filled"),
        "mask_scaled": bool(entry.get("mask_scaled", False)),
        "mask_threshold": int(entry.get("mask_threshold", 0)),
        "labeled": list(table["labeled"]) if labels else [False] * len(table["labeled"]),
        "classes": dict(table["classes"][raw["class"]]) if "class" in raw else {},
        "dataset": raw["dataset"],
        "patient": raw["patient"],
        "group": raw["group"],
        "position": position,
        "nature": str(raw.get("nature", entry["nature"])),
        "spacing": [float(v) for v in raw.get("spacing", (math.nan, math.nan))],
        "item": where,
    }
