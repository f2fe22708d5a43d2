# SPDX-License-Identifier: Apache-2.0
"""Readers of public releases: from the files as they are downloaded to data sets and items. Nothing is copied."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bundle.data.folders import read_folders
from bundle.data.known_sets import (
    KNOWN,
    Known,
    LeftOut,
    PublicSet,
    SetOptions,
    dataset_entry,
    left_out_files,
    linked_folders,
    no_images,
    patient_of,
)
from bundle.data.pairing import pair_files
from bundle.data.pixel_sizes import add_pixel_sizes, pixel_size_tables
from bundle.data.set_files import counted, images_in, sort_files, subfolders
from bundle.data.set_tables import mask_entry

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
    options = options or SetOptions()
    known = options.describe("BUSI")
    folder = _inside(Path(root), "Dataset_BUSI_with_GT", contents=known.classes, release="BUSI")
    entry = _entry("BUSI", known=known, options=options) | {
        "label_set": known.label_set,
        "classes": list(known.classes),
    }
    found = PublicSet(datasets={"BUSI": entry})
    for name in known.classes:
        if not (folder / name).is_dir():
            found.notices.append(f"BUSI: no folder {folder / name}, so the class {name!r} has no image")
            continue
        _add_pairs(found, folder / name, name="BUSI", known=known, label=name)
    _add_others(found, folder, name="BUSI", read=known.classes)
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
    options = options or SetOptions()
    known = options.describe("HC18")
    folder = Path(root)
    if folder.name == "training_set":
        folder = folder.parent
    folder = _inside(folder, "HC18", contents=("training_set",), release="HC18")
    found = PublicSet(datasets={"HC18": _entry("HC18", known=known, options=options) | {"mask_kind": "outline"}})
    table = folder / "training_set_pixel_size_and_HC.csv"
    tables = [path for path in pixel_size_tables(folder) if path.name.lower() == table.name.lower()]
    if not tables:
        found.notices.append(f"HC18: no table {table}, so areas and distances will be in pixels")
    if (folder / "test_set").is_dir():
        found.notices.append(f"HC18: {folder / 'test_set'} has no annotations and is left out")
    images = _add_pairs(found, folder / "training_set", name="HC18", known=known)
    _add_others(found, folder, name="HC18", read=("training_set", "test_set"))
    found.notices += add_pixel_sizes(found.items, tables, images=images, roots=[folder, folder / "training_set"])
    return found


def _entry(name: str, *, known: Known, options: SetOptions) -> dict[str, Any]:
    return dataset_entry(known) | mask_entry(name, values=known.structures, options=options)


def _add_pairs(found: PublicSet, folder: Path, *, name: str, known: Known, label: str = "") -> list[Path]:
    """Add the images of a folder with the masks beside them, and of one class where ``label`` names it.

    Gives all images of the folder.
    """
    images, others, links = sort_files(folder)
    pairing = pair_files(images, root=folder)
    for file, labels in pairing.pairs:
        item: dict[str, Any] = {"image": str(file), "dataset": name}
        item |= {"class": label} if label else {}
        item["patient"] = patient_of(name, image=file, root=folder, known=known)
        item["label"] = str(labels[0]) if len(labels) == 1 else [str(mask) for mask in labels]
        found.items.append(item)
    found.left_out += [LeftOut(name, reason) for reason in pairing.left_out]
    found.left_out += no_images(name, others) + linked_folders(name, links)
    return pairing.images


def _add_others(found: PublicSet, folder: Path, *, name: str, read: Sequence[str]) -> None:
    """Account for the images of a release that lie in none of its folders."""
    reason = f"expected images in the folders {', '.join(read)}, got them beside; move them"
    found.left_out += left_out_files(name, images_in(folder), reason)
    if others := [f for f in subfolders(folder) if f.name not in read]:
        found.notices.append(
            f"{name}: the folders {counted(others)} of {folder} are none of the release's and are not read"
        )


def _inside(root: Path, name: str, *, contents: tuple[str, ...], release: str) -> Path:
    """``root``, or the folder ``name`` in it: whichever holds one of the release's folders."""
    for folder in (root, root / name):
        if any((folder / content).is_dir() for content in contents):
            return folder.absolute()
    raise ValueError(
        f"{root}: expected the folder of {release} that holds {' or '.join(contents)}, got none of them; correct the "
        "path, or use --folders for another layout."
    )
