# SPDX-License-Identifier: Apache-2.0
"""From the manifest, or from a folder of images, to the item dictionaries that the transforms start from.

Every item has the same keys, with a sentinel where something is missing: ``image`` (absolute path), ``label`` (paths,
[] = no mask), ``mask_values`` (value in the mask file -> structure index), ``mask_kind``, ``mask_scaled``, ``labeled``
(a bool per structure: does the data set label it?), ``cls`` (an index per label set, -1 = no class), ``dataset``,
``patient``, ``group``, ``position``, ``nature``, ``spacing`` (mm per row, column; nan = unknown), ``item`` (its name).
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bundle.data.manifest import read_datalist
from bundle.data.organs import check_organs
from bundle.data.packed import PackedItems
from bundle.data.splits import SPLITS
from bundle.vocabulary import BACKGROUND, UNKNOWN, switch

__all__ = ["ALLOW_LEAKS", "list_images", "load_split", "read_datalist"]

ALLOW_LEAKS = "I know that the splits leak"
"""What ``allow_leaks`` must say, word for word, for a manifest with leaking splits to be used."""

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".nii", ".nii.gz", ".nrrd", ".nhdr", ".dcm", ".dicom", ".ima",
)  # fmt: skip


def load_split(
    datalist: str | Path,
    *,
    split: str,
    structures: Sequence[str],
    label_sets: Mapping[str, Sequence[str]],
    positions: Sequence[str],
    heads: Mapping[str, str | None] | None = None,
    merge_structures: bool | str = False,
    neutral_positions: Sequence[str] = (),
    organ_structures: Mapping[str, Sequence[str]] | None = None,
    fold: int | None = None,
    allow_leaks: bool | str | None = False,
) -> PackedItems:
    """The items of one split, as item dictionaries in the manifest's order; each is made anew when it is asked for.

    Args:
        datalist: path of the manifest.
        split: ``train``, ``val`` or ``test``.
        structures: the network's structures; the index is the channel, 0 is the background.
        label_sets: the network's label sets: name -> class names.
        positions: the position table.
        heads: label set of the manifest -> label set of the network, classes joined by their index; None leaves the
            manifest's label set out. A label set that is not named here keeps its name, and its classes must be equal.
        merge_structures: every structure of the manifest counts as the network's structure 1.
        neutral_positions: positions of the manifest that the network does not know and shall take for unknown.
        organ_structures: position -> names of its structures; every structure with masks must have its organ.
        fold: with a number, ``val`` is that fold and ``train`` all other folds.
        allow_leaks: the exact text of ``ALLOW_LEAKS`` lets splits pass that share patients or near-duplicates.

    Raises:
        ValueError: when the manifest is not valid, does not fit in the network's tables, leaks between its splits, or
            has no item in this split. The message names the file and the remedy.
    """
    manifest = read_datalist(datalist)
    name = str(datalist)
    if split not in SPLITS:
        raise ValueError(f"split must be one of {list(SPLITS)}, got {split!r}; correct it.")
    parts = [_part(item, fold) for item in manifest["items"]]
    _check_fold(manifest, fold=fold, name=name)
    if allow_leaks != ALLOW_LEAKS:
        _check_leaks(manifest, parts=parts, name=name)
    tables = _tables(
        manifest["datasets"],
        name=name,
        structures=structures,
        label_sets=label_sets,
        heads=heads or {},
        merge_structures=switch(merge_structures, "merge_structures"),
    )
    root = os.path.normpath(os.path.join(os.path.realpath(Path(name).parent), manifest["root"]))
    chosen, used = PackedItems(), set()
    for index, (raw, part) in enumerate(zip(manifest["items"], parts, strict=True)):
        if part != split:
            continue
        where, table = f"{name} item {index}", tables[raw["dataset"]]
        position = _position(raw, entry=table["entry"], positions=positions, neutral=neutral_positions, where=where)
        chosen.append(_item(raw, table=table, root=root, position=position, where=where))
        used.add((str(raw["dataset"]), position, bool(raw.get("label"))))
    if not chosen:
        counts = Counter(p for p in parts if p)
        raise ValueError(
            f"{name}: expected items in split {split!r}, got none; the manifest has {dict(sorted(counts.items()))}. "
            "Make it again with other --fractions, or ask for a split that it has."
        )
    if organ_structures is not None:
        check_organs(used, organ_structures, tables=tables, positions=positions, structures=structures, name=name)
    return chosen


def list_images(dataset_dir: str | Path) -> list[dict[str, str]]:
    """Every image below a folder, as ``[{"image": path}, ...]`` in sorted order; a single file is taken as it is.

    Known suffixes, and files without a suffix that start like DICOM, are images; other files, whatever begins with a
    dot, and links to folders that were walked already are passed over. A folder with an image's name is listed, so
    that it is reported as unreadable later on.

    Raises:
        FileNotFoundError: when there is no such folder, or no image in it.
    """
    top = Path(dataset_dir)
    if top.is_file():
        return [{"image": str(top)}]
    if not top.is_dir():
        raise FileNotFoundError(
            f"dataset_dir {top}: expected a folder with images, got no such folder; correct --dataset_dir."
        )
    found: list[str] = []
    walked = {os.path.realpath(top)}

    def is_new(folder: str) -> bool:
        real = os.path.realpath(folder)
        new = real not in walked or not os.path.islink(folder)
        walked.add(real)
        return new

    for folder, folders, files in os.walk(top, followlinks=True):
        kept = sorted(f for f in folders if not f.startswith(".") and is_new(os.path.join(folder, f)))
        found += [os.path.join(folder, f) for f in kept if _has_image_suffix(f)]
        folders[:] = [f for f in kept if not _has_image_suffix(f)]
        found += [os.path.join(folder, f) for f in files if not f.startswith(".") and _is_image(Path(folder, f))]
    if not found:
        raise FileNotFoundError(
            f"dataset_dir {top}: expected images ({' '.join(IMAGE_SUFFIXES)}, or DICOM without a suffix), got none; "
            "correct --dataset_dir."
        )
    return [{"image": path} for path in sorted(found)]


def _has_image_suffix(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _is_image(path: Path) -> bool:
    if _has_image_suffix(path.name):
        return True
    if path.suffix and not path.suffix[1:].isdigit():  # a DICOM UID as a name ends in ".<digits>"
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _part(item: Mapping[str, Any], fold: int | None) -> str:
    """The split that an item is in: its own, or by fold; "" when it is in none."""
    if fold is None or item["split"] == "test":
        return str(item["split"])
    if "fold" not in item:
        return ""
    return "val" if item["fold"] == fold else "train"


def _check_fold(manifest: Mapping[str, Any], *, fold: int | None, name: str) -> None:
    folds = sorted({item["fold"] for item in manifest["items"] if "fold" in item})
    if fold is not None and fold not in folds:
        raise ValueError(
            f"{name}: expected fold to be one of the manifest's folds {folds}, got {fold}; "
            "make the manifest with --folds, or leave fold out."
        )


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
    first: dict[str, int] = {}
    for index, (item, part) in enumerate(zip(manifest["items"], parts, strict=True)):
        other = first.setdefault(item["group"], index) if part else index
        if parts[other] != part:
            raise ValueError(
                f"{name}: item {index}, key 'split': expected group {item['group']!r} in one split, got {part!r} here "
                f"and {parts[other]!r} in item {other}, so that the splits leak. {remedy}"
            )


def _tables(
    datasets: Mapping[str, Any],
    *,
    name: str,
    structures: Sequence[str],
    label_sets: Mapping[str, Sequence[str]],
    heads: Mapping[str, str | None],
    merge_structures: bool,
) -> dict[str, dict[str, Any]]:
    """Per data set what its items have in common: mask_values, labeled, classes -> (head, index), position, nature."""
    for source, head in heads.items():
        if head is not None and head not in label_sets:
            raise ValueError(
                f"{name}: heads must join a label set of the manifest with one of the network's {list(label_sets)} or "
                f"null, got {source!r}: {head!r}; correct heads in the config."
            )
    tables = {}
    for dataset, entry in datasets.items():
        where = f"{name}: dataset {dataset!r}"
        values = _mask_values(entry.get("mask_values", {}), structures=structures, merge=merge_structures, where=where)
        channels = {0, *values.values()} if values else set()
        tables[dataset] = {
            "entry": entry,
            "mask_values": values,
            "labeled": [index in channels for index in range(len(structures))],
            "no_class": [-1] * len(label_sets),
            "classes": _class_indices(entry, label_sets=label_sets, heads=heads, where=where),
        }
    return tables


def _mask_values(values: Mapping[str, str], *, structures: Sequence[str], merge: bool, where: str) -> dict[int, int]:
    if merge:
        if values and len(structures) < 2:
            raise ValueError(
                f"{where}, key 'mask_values': expected the network to have a structure beside the background to merge "
                f"into, got structures {list(structures)}; add one in the config."
            )
        return {int(raw): int(structure != BACKGROUND) for raw, structure in values.items()}
    for structure in values.values():
        if structure not in structures:
            raise ValueError(
                f"{where}, key 'mask_values': expected structures out of the network's {list(structures)}, got "
                f"{structure!r}; add it to structures in the config and train on it, or set merge_structures to true."
            )
    return {int(raw): list(structures).index(structure) for raw, structure in values.items()}


def _class_indices(
    entry: Mapping[str, Any], *, label_sets: Mapping[str, Sequence[str]], heads: Mapping[str, str | None], where: str
) -> dict[str, list[int]]:
    """Class name -> ``cls`` of an item of that class: its index in its own label set, -1 in all others."""
    if "label_set" not in entry:
        return {}
    label_set, classes = entry["label_set"], entry["classes"]
    head = heads.get(label_set, label_set)
    if head is None:
        return {name: [-1] * len(label_sets) for name in classes}
    if head not in label_sets:
        raise ValueError(
            f"{where}, key 'label_set': expected one of the network's label sets {list(label_sets)}, got "
            f"{label_set!r}; add '{label_set}: {_yaml(classes)}' to label_sets in the config, or join it with a head: "
            f"heads: {{{label_set}: <label set of the network, or null to leave it out>}}."
        )
    table = list(label_sets[head])
    if label_set in heads and len(classes) > len(table):
        raise ValueError(
            f"{where}, key 'classes': expected at most {len(table)} classes for head {head!r} {table}, got "
            f"{len(classes)}: {classes}; choose another head in heads, or null to leave it out."
        )
    if label_set not in heads and list(classes) != table:
        raise ValueError(
            f"{where}, key 'classes': expected the network's classes {table} for label set {label_set!r}, got "
            f"{classes}; set '{label_set}: {_yaml(classes)}' under label_sets in the config, or join them by index "
            f"with heads: {{{label_set}: {head}}}."
        )
    return {name: [index if other == head else -1 for other in label_sets] for index, name in enumerate(classes)}


def _yaml(names: Sequence[str]) -> str:
    return f"[{', '.join(names)}]"


def _position(
    raw: Mapping[str, Any], *, entry: Mapping[str, Any], positions: Sequence[str], neutral: Sequence[str], where: str
) -> str:
    position = str(raw.get("position", entry["position"]))
    if position in neutral:
        return UNKNOWN
    if position not in (*positions, "", UNKNOWN):
        raise ValueError(
            f"{where} (dataset {raw['dataset']!r}), key 'position': expected one of {[*positions, UNKNOWN]}, got "
            f"{position!r}; correct it, or add it to positions in the config, or to neutral_positions."
        )
    return position


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
        "labeled": list(table["labeled"]) if labels else [False] * len(table["labeled"]),
        "cls": list(table["classes"][raw["class"]] if "class" in raw else table["no_class"]),
        "dataset": raw["dataset"],
        "patient": raw["patient"],
        "group": raw["group"],
        "position": position,
        "nature": str(raw.get("nature", entry["nature"])),
        "spacing": [float(v) for v in raw.get("spacing", (math.nan, math.nan))],
        "item": where,
    }
