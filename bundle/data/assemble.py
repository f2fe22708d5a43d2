# SPDX-License-Identifier: Apache-2.0
"""From what the readers found to one manifest: files checked, near-duplicates joined, split by patient."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bundle.data import neighbors
from bundle.data.duplicates import Fingerprints, near_duplicates
from bundle.data.examine import examine, labels_of
from bundle.data.known_sets import LeftOut, PublicSet, left_out_files
from bundle.data.manifest import check_datalist
from bundle.data.masks_seen import Masks, mask_notices
from bundle.data.split_table import absent_classes
from bundle.data.splits import SPLITS, find_leaks, join_groups, split_items
from bundle.files import OutputFolder
from bundle.tables import ODD_NAMES
from bundle.vocabulary import NO_ORGAN


@dataclass
class Assembly:
    """A manifest and what there is to say about it.

    Where no item is left, the manifest has no data set and is not to be written. ``pairs`` are the near-duplicates of
    different patients, as indices of the manifest's items; ``left_out`` the files that are not in it.
    """

    manifest: dict[str, Any]
    pairs: list[tuple[int, int]]
    left_out: list[LeftOut]
    notices: list[str]


def assemble(
    sets: Sequence[PublicSet],
    *,
    folder: str | Path,
    fractions: Mapping[str, float],
    seed: int,
    folds: int | None = None,
    given: bool = False,
    leaks_accepted: bool = False,
    workers: int = 1,
) -> Assembly:
    """One manifest of all sets.

    Args:
        sets: what the readers found.
        folder: where the manifest will lie; its root is relative to it.
        fractions: share of train, val and test.
        seed: seed of the split.
        folds: number of folds outside the test split.
        given: the sets' own splits were asked for.
        leaks_accepted: note in the manifest that the user accepts its leaks.
        workers: processes that read images.

    Raises:
        ValueError: when two sets of one name differ, a file is in two sets, or groups are fewer than folds.
    """
    datasets = _join_datasets(sets)
    left_out = [entry for found in sets for entry in found.left_out]
    items = _each_once(sets, left_out)
    items, prints, seen = _readable(items, datasets=datasets, left_out=left_out, workers=workers)
    notices = [notice for found in sets for notice in found.notices] + _lost_classes(items, sets)
    if not items:
        return Assembly({"datasets": {}, "split": {"leaks": []}, "items": []}, [], left_out, notices)
    pairs = near_duplicates(prints, owners=[item["patient"] for item in items])
    split = {"seed": seed, "fractions": dict(fractions), "folds": folds, "given": given, "near_duplicates": len(pairs)}
    manifest = _manifest(items, pairs, folder=folder, split=split | {"leaks": [], "leaks_accepted": leaks_accepted})
    manifest["datasets"] = _described(items, datasets, seen)
    check_datalist(manifest, name="the new manifest")
    notices += [*_notices(items, pairs), *_organ_notices(items, pairs, datasets), *mask_notices(seen, datasets)]
    return Assembly(manifest, pairs, left_out, notices)


def _manifest(
    items: list[dict[str, Any]], pairs: Sequence[tuple[int, int]], *, folder: str | Path, split: dict[str, Any]
) -> dict[str, Any]:
    """The items split by group, with paths from their common folder; its data sets are still to be described."""
    for item, group in zip(items, join_groups([i["patient"] for i in items], pairs), strict=True):
        item["group"] = group
    split_items(items, fractions=split["fractions"], seed=split["seed"], folds=split["folds"])
    _check_folds(items, folds=split["folds"])
    root = _common_root(items)
    for item in items:
        _make_relative(item, root=root)
    split["leaks"] = find_leaks(items, pairs)
    place = os.path.relpath(root, os.path.realpath(folder))
    return {"version": 1, "root": place, "datasets": {}, "split": split, "items": items}


def _described(
    items: Sequence[Mapping[str, Any]], datasets: Mapping[str, Any], seen: Mapping[str, Masks]
) -> dict[str, Any]:
    """The data sets that have items, with what their masks show."""
    return {
        name: datasets[name] | ({"mask_scaled": True} if seen[name].scaled else {})
        for name in sorted({item["dataset"] for item in items})
    }


def write_datalist(manifest: Mapping[str, Any], path: str | Path) -> None:
    """Write a manifest in one step: the file is either whole or as it was before.

    Raises:
        FileExistsError: when it would replace what no earlier run wrote.
    """
    path = Path(path)
    head = {key: value for key, value in manifest.items() if key != "items"}

    def write(new: Path) -> None:
        with new.open("w", encoding="utf-8", errors=ODD_NAMES) as file:
            file.write(json.dumps(head, indent=1, ensure_ascii=False)[:-2] + ',\n "items": [\n')
            for index, item in enumerate(manifest["items"]):
                file.write((",\n  " if index else "  ") + json.dumps(item, ensure_ascii=False))
            file.write("\n ]\n}\n")

    OutputFolder(path.parent, option="--output").write(path.name, write, sync=True)


def _join_datasets(sets: Sequence[PublicSet]) -> dict[str, Any]:
    datasets: dict[str, Any] = {}
    for found in sets:
        for name, entry in found.datasets.items():
            first = datasets.setdefault(name, entry)
            differ = sorted(key for key in first.keys() | entry.keys() if first.get(key) != entry.get(key))
            if differ:
                raise ValueError(
                    f"data set {name!r}: expected one description, got two that differ in {differ}; leave out one of "
                    "the folders or tables that hold it (--busi, --folders and --clips may all do), or rename one."
                )
    return datasets


def _readable(
    items: Sequence[dict[str, Any]], *, datasets: Mapping[str, Any], left_out: list[LeftOut], workers: int
) -> tuple[list[dict[str, Any]], Fingerprints, dict[str, Masks]]:
    """The items whose files can be read, their fingerprints, and what the masks of each data set show.

    The other items are added to ``left_out``.
    """
    kept: list[dict[str, Any]] = []
    prints = Fingerprints()
    masks: dict[str, Masks] = {item["dataset"]: Masks() for item in items}
    tasks = ((item, datasets[item["dataset"]]) for item in items)
    with Pool(workers) if workers > 1 else nullcontext() as pool:
        results = pool.imap(examine, tasks, chunksize=16) if pool else map(examine, tasks)
        bar = tqdm(results, desc="reading images", unit="image", total=len(items), leave=False)
        for item, seen in zip(items, bar, strict=True):
            if seen.mark is None:
                left_out.append(LeftOut(item["dataset"], seen.fault))
                continue
            masks[item["dataset"]].add(item, seen)
            kept.append(item)
            prints.append(seen.mark)
    mistaken = {name: label for name, found in masks.items() if (label := found.no_class())}
    left_out += [_no_classes(name, label, masks[name]) for name, label in mistaken.items()]
    rows = [row for row, item in enumerate(kept) if item["dataset"] not in mistaken]
    return [kept[row] for row in rows], prints.of(rows) if mistaken else prints, masks


def _no_classes(name: str, mistaken: str, found: Masks) -> LeftOut:
    """A set whose folders are not classes, but images and masks."""
    total = sum(found.of_class.values())
    reason = (
        f"{name}: expected images of classes, got the class {mistaken!r}, of which {found.drawn[mistaken]} of "
        f"{found.of_class[mistaken]} images look like masks, the first {found.first_drawn[mistaken]}; put the images "
        "into segmentation/SET/imgs and their masks into segmentation/SET/masks, or remove what is no image."
    )
    return LeftOut(name, reason, total, whole=True)


def _each_once(sets: Sequence[PublicSet], left_out: list[LeftOut]) -> list[dict[str, Any]]:
    """The items in order, without those that a link gives a second time, which are added to ``left_out``.

    Raises:
        ValueError: when a file is given twice under one path, such as by --busi and --folders.
    """
    items = sorted((dict(item) for found in sets for item in found.items), key=lambda i: (i["dataset"], i["image"]))
    of_file: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        of_file.setdefault(os.path.realpath(item["image"]), []).append(item)
    links: dict[str, list[tuple[str, str]]] = {}
    for same in of_file.values():
        first, *others = sorted(same, key=lambda item: _links(item["image"])) if len(same) > 1 else same
        for item in others:
            if os.path.normpath(item["image"]) == os.path.normpath(first["image"]):
                raise ValueError(
                    f"{item['image']}: expected each image once, got it in the data set {item['dataset']!r} and in "
                    f"{first['dataset']!r} again; leave out one of the folders that hold it."
                )
            links.setdefault(item["dataset"], []).append((item["image"], first["image"]))
    for dataset, files in links.items():
        reason = f"expected each image once, got a link to one that is read already, {files[0][1]}; remove the link"
        left_out += left_out_files(dataset, [file for file, _ in files], reason)
    dropped = {file for files in links.values() for file, _ in files}
    return [item for item in items if item["image"] not in dropped]


def _links(path: str) -> int:
    """How many parts of a path are links."""
    return sum(os.path.islink(part) for part in (Path(path), *Path(path).parents))


def _common_root(items: Sequence[Mapping[str, Any]]) -> str:
    folders = {os.path.dirname(path) for item in items for path in (item["image"], *labels_of(item))}
    return str(os.path.commonpath(sorted(folders)))


def _make_relative(item: dict[str, Any], *, root: str) -> None:
    label = item.get("label")
    item["image"] = Path(os.path.relpath(item["image"], root)).as_posix()
    if isinstance(label, str):
        item["label"] = Path(os.path.relpath(label, root)).as_posix()
    elif label:
        item["label"] = [Path(os.path.relpath(path, root)).as_posix() for path in label]


def _check_folds(items: Sequence[Mapping[str, Any]], *, folds: int | None) -> None:
    used = {item["fold"] for item in items if "fold" in item}
    if folds and len(used) < folds:
        raise ValueError(
            f"expected at least {folds} groups of patients outside the test split for {folds} folds, got {len(used)}; "
            "ask for fewer --folds."
        )


def _lost_classes(items: Sequence[Mapping[str, Any]], sets: Sequence[PublicSet]) -> list[str]:
    """Classes that had images, none of which could be used."""
    before = {(item["dataset"], item["class"]) for found in sets for item in found.items if "class" in item}
    after = {(item["dataset"], item["class"]) for item in items if "class" in item}
    return [f"{name}: no image of the class {label!r} is left" for name, label in sorted(before - after)]


def _notices(items: Sequence[Mapping[str, Any]], pairs: Sequence[tuple[int, int]]) -> list[str]:
    notices = []
    classes = [item.get("class") for item in items]
    differ = [(i, j) for i, j in pairs if None not in (classes[i], classes[j]) and classes[i] != classes[j]]
    if differ:
        i, j = differ[0]
        notices.append(
            f"{len(differ)} near-duplicate pairs have different classes, the first {items[i]['image']} "
            f"({classes[i]}) and {items[j]['image']} ({classes[j]}): one of each pair is wrong"
        )
    for split in SPLITS:
        if not any(item["split"] == split for item in items):
            notices.append(f"the {split} split is empty")
    if len(items) > neighbors.EXACT:
        notices.append(
            f"the search for near-duplicates is approximate for {len(items)} images and may miss some pairs: up to "
            f"{neighbors.EXACT} images all pairs are compared, of more only those that share part of the hash"
        )
    return notices + absent_classes(items)


def _organ_notices(
    items: Sequence[Mapping[str, Any]], pairs: Sequence[tuple[int, int]], datasets: Mapping[str, Any]
) -> list[str]:
    """Images of an organ that are near-duplicates of one that is said to show none."""
    none = [(item.get("organ") or datasets[item["dataset"]].get("organ")) == NO_ORGAN for item in items]
    differ = [(i, j) if none[j] else (j, i) for i, j in pairs if none[i] != none[j]]
    return [
        f"{len(differ)} images of no organ are near-duplicates of images of one, the first {items[j]['image']} "
        f"({items[j]['dataset']}) of {items[i]['image']} ({items[i]['dataset']}): remove what is in the wrong set"
        for i, j in differ[:1]
    ]
