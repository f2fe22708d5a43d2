# SPDX-License-Identifier: Apache-2.0
"""Readers of public releases: from the files as they are downloaded to data sets and items. Nothing is copied."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bundle.data.folders import read_folders
from bundle.data.known_sets import (
    KNOWN,
    PublicSet,
    SetOptions,
    dataset_entry,
    image_files,
    patient_of,
    read_pixel_sizes,
)
from bundle.vocabulary import BACKGROUND

__all__ = ["KNOWN", "PublicSet", "SetOptions", "read_busi", "read_folders", "read_hc18"]


def read_busi(root: str | Path, *, options: SetOptions | None = None) -> PublicSet:
    """BUSI: folders ``benign``, ``malignant``, ``normal`` with ``NAME.png`` and masks ``NAME_mask.png``, ``_mask_1``...

    No patient is published, so each image is its own until near-duplicates join some.

    Args:
        root: the folder that holds the class folders, or the one above it.
        options: what the user says of the set ``BUSI``.

    Raises:
        ValueError: when the folder is not BUSI.
    """
    known = (options or SetOptions()).describe("BUSI")
    folder = _inside(Path(root), "Dataset_BUSI_with_GT", contents=known.classes, release="BUSI")
    values = {"0": BACKGROUND} | {str(value): name for value, name in known.structures.items()}
    entry = dataset_entry(known) | {"mask_values": values, "label_set": known.label_set, "classes": list(known.classes)}
    found = PublicSet(datasets={"BUSI": entry})
    for name in known.classes:
        if not (folder / name).is_dir():
            found.notices.append(f"BUSI: no folder {folder / name}, so the class {name!r} has no image")
            continue
        files = image_files(folder / name)
        masks: dict[str, list[str]] = {}
        for file in files:
            if match := re.fullmatch(r"(.+)_mask(_\d+)?", file.stem):
                masks.setdefault(match.group(1), []).append(str(file))
        for file in files:
            if re.fullmatch(r".+_mask(_\d+)?", file.stem):
                continue
            if file.stem not in masks:
                found.problems.append(f"{file}: expected a mask {file.stem}_mask.png beside it, got none")
                continue
            labels = masks[file.stem]
            item: dict[str, Any] = {"image": str(file), "dataset": "BUSI", "class": name}
            item["patient"] = patient_of("BUSI", stem=file.stem, known=known)
            found.items.append(item | {"label": labels[0] if len(labels) == 1 else labels})
    return found


def read_hc18(root: str | Path, *, options: SetOptions | None = None) -> PublicSet:
    """HC18: ``training_set`` with ``NAME.png`` and the outline ``NAME_Annotation.png``, and the table of pixel sizes.

    The test set has no annotations and is left out, with a notice.

    Args:
        root: the folder that holds ``training_set`` and the tables, or ``training_set`` itself.
        options: what the user says of the set ``HC18``.

    Raises:
        ValueError: when the folder is not HC18, or its table is not valid.
    """
    known = (options or SetOptions()).describe("HC18")
    folder = Path(root)
    if folder.name == "training_set":
        folder = folder.parent
    folder = _inside(folder, "HC18", contents=("training_set",), release="HC18")
    values = {"0": BACKGROUND} | {str(value): name for value, name in known.structures.items()}
    found = PublicSet(datasets={"HC18": dataset_entry(known) | {"mask_values": values, "mask_kind": "outline"}})
    table = folder / "training_set_pixel_size_and_HC.csv"
    sizes = read_pixel_sizes(table) if table.is_file() else {}
    if not sizes:
        found.notices.append(f"HC18: no table {table}, so areas and distances will be in pixels")
    if (folder / "test_set").is_dir():
        found.notices.append(f"HC18: {folder / 'test_set'} has no annotations and is left out")
    for file in image_files(folder / "training_set"):
        if file.stem.endswith("_Annotation"):
            continue
        outline = file.with_name(f"{file.stem}_Annotation.png")
        if not outline.is_file():
            found.problems.append(f"{file}: expected the outline {outline.name} beside it, got none")
            continue
        item: dict[str, Any] = {"image": str(file), "dataset": "HC18", "label": str(outline)}
        item["patient"] = patient_of("HC18", stem=file.stem, known=known)
        if file.name in sizes:
            item["spacing"] = [sizes[file.name]] * 2
        found.items.append(item)
    return found


def _inside(root: Path, name: str, *, contents: tuple[str, ...], release: str) -> Path:
    """``root``, or the folder ``name`` in it: whichever holds one of the release's folders."""
    for folder in (root, root / name):
        if any((folder / content).is_dir() for content in contents):
            return folder.absolute()
    raise ValueError(
        f"{root}: expected the folder of {release} that holds {' or '.join(contents)}, got none of them; correct the "
        "path, or use --folders for another layout."
    )
