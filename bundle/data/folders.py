# SPDX-License-Identifier: Apache-2.0
"""Reader of sets in folders, as UniUSNet and UltraUPConvNet have them, and of what people have instead.

``ROOT/segmentation/SET/{imgs,masks}`` and ``ROOT/classification/SET/LABEL/*``, in each set perhaps ``config.yaml``,
``train.txt``, ``val.txt``, ``test.txt`` and a table of pixel sizes. Every file below a set is used or accounted for.
"""

from __future__ import annotations

import filecmp
from pathlib import Path
from typing import Any

from bundle.data.given_splits import apply_given
from bundle.data.known_sets import PublicSet, SetOptions
from bundle.data.pairing import masks_beside
from bundle.data.set_files import IMAGE_FOLDERS, MASK_FOLDERS, images_in, is_image, subfolders, walk
from bundle.data.set_reading import SetReader

_TASKS = ("segmentation", "classification")


def read_folders(root: str | Path, *, options: SetOptions | None = None, given_splits: bool = False) -> PublicSet:
    """All sets below ``root``, or the one set that ``root`` is.

    A set that is in both ``segmentation`` and ``classification`` becomes one data set; a file that is in both with
    the same name and content becomes one item with mask and class.

    Args:
        root: the folder with ``segmentation`` or ``classification``, with sets of images and masks, or of a set.
        options: what the user says of the sets.
        given_splits: keep to train.txt, val.txt and test.txt; a set without them is left to be split.

    Raises:
        ValueError: when there is no set, or something of the sets is not known; the message names all that is missing,
            with the options to give.
    """
    found, faults = PublicSet(), list[str]()
    root = Path(root).absolute()
    sets = _sets(root)
    for folder, task in sets:
        reader = SetReader(folder, options=options or SetOptions())
        part = reader.read_segmentation() if task == "segmentation" else reader.read_classification()
        if given_splits and part.items and not reader.faults:
            apply_given(folder, part, name=reader.name)
        faults += reader.faults
        if not reader.faults:
            _merge(found, part, name=reader.name)
    if faults:
        raise ValueError("\n".join(dict.fromkeys(faults)))
    used = {part for folder, _ in sets if folder != root for part in folder.relative_to(root).parts[:1]}
    if others := [f.name for f in subfolders(root) if used and f.name not in used]:
        found.notices.append(f"{root}: its folders {', '.join(others)} belong to no set and are not read")
    return found


def _sets(root: Path) -> list[tuple[Path, str]]:
    """Every set below ``root`` with its task."""
    found = [(folder, task) for task in _TASKS for folder in subfolders(root / task)]
    if not found and _holds_roles(root):
        found = [(root, "segmentation")]
    if not found:
        found = [(folder, "segmentation") for folder in subfolders(root) if _holds_roles(folder)]
    if not found and root.is_dir() and masks_beside(images_in(root)):
        found = [(root, "segmentation")]
    if not found and any(is_image(Path(file)) for folder in subfolders(root) for file in walk(folder)[0]):
        found = [(root, "classification")]
    if not found:
        raise ValueError(
            f"{root}: expected segmentation/SET/imgs and masks, or classification/SET/LABEL, or one such set, got "
            f"{'the folders ' + ', '.join(f.name for f in subfolders(root)) if subfolders(root) else 'none'}; correct "
            "the path."
        )
    return found


def _holds_roles(folder: Path) -> bool:
    """Whether a folder holds one of images or one of masks, by name."""
    return any(f.name.lower() in IMAGE_FOLDERS + MASK_FOLDERS for f in subfolders(folder))


def _merge(found: PublicSet, part: PublicSet, *, name: str) -> None:
    """Add ``part`` to ``found``; an image that is there already by name and content gains the class.

    One that has a class already is kept twice, for the search of near-duplicates to tell.
    """
    there: dict[str, list[dict[str, Any]]] = {}
    for item in found.items:
        if item["dataset"] == name:
            there.setdefault(Path(item["image"]).name, []).append(item)
    for item in part.items:
        twins = [
            twin
            for twin in there.get(Path(item["image"]).name, [])
            if "class" in item and "class" not in twin and filecmp.cmp(twin["image"], item["image"], shallow=False)
        ]
        if not twins:
            found.items.append(item)
            continue
        twin = twins[0]
        if twin.get("split", item.get("split")) != item.get("split", twin.get("split")):
            raise ValueError(
                f"{item['image']}: expected the split {twin['split']!r} of the same image {twin['image']}, got "
                f"{item['split']!r}; correct the lists, or leave out --given-splits."
            )
        twin["class"] = item["class"]
    for entry in part.datasets.values():
        found.datasets[name] = found.datasets.get(name, {}) | entry
    found.left_out += part.left_out
    found.notices += part.notices
