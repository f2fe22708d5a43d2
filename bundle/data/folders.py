# SPDX-License-Identifier: Apache-2.0
"""Reader of sets in folders, as UniUSNet and UltraUPConvNet have them, and of what people have instead.

``ROOT/segmentation/SET/{imgs,masks}`` and ``ROOT/classification/SET/LABEL/*``, in each set perhaps ``config.yaml``,
``train.txt``, ``val.txt``, ``test.txt`` and a table of pixel sizes. Every file below a set is used or accounted for.
"""

from __future__ import annotations

import filecmp
import unicodedata
from collections.abc import Container, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bundle.data.given_splits import apply_given
from bundle.data.known_sets import NO_SET, LeftOut, PublicSet, SetOptions, left_out_files
from bundle.data.pairing import masks_beside, nameless_masks
from bundle.data.pixel_sizes import join_spacings
from bundle.data.set_files import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    SPLIT_FOLDERS,
    below_masks,
    counted,
    images_in,
    is_image,
    sort_files,
    subfolders,
    walk,
)
from bundle.data.set_reading import SetReader
from bundle.transforms.readers import image_digest
from bundle.vocabulary import TASKS

NOTHING_SAID = SetOptions()


def read_folders(root: str | Path, *, options: SetOptions = NOTHING_SAID, given_splits: bool = False) -> PublicSet:
    """All sets below ``root``, or the one set that ``root`` is.

    A set that is in both ``segmentation`` and ``classification`` becomes one data set; a file that is in both with
    the same name and content becomes one item with mask and class.

    Args:
        root: the folder with ``segmentation`` or ``classification``, with sets of images and masks, or of a set.
        options: what the user says of the sets.
        given_splits: keep to train.txt, val.txt and test.txt; a set without them is left to be split.

    A set of which something is not known is left out; the reason names all that is missing, with the options to give.

    Raises:
        ValueError: when there is no set, or the splits of an image that is in two sets differ.
    """
    found, root = PublicSet(), Path(root).absolute()
    sets = _sets(root, told=options.structures)
    parts: list[tuple[str, PublicSet]] = []
    faults: dict[str, list[str]] = {}
    for folder, task in sets:
        alone = sum(other.name == folder.name for other, _ in sets) == 1
        reader = SetReader(folder, options=options, alone=alone)
        part = reader.read_segmentation() if task == "segmentation" else reader.read_classification()
        if given_splits and part.items and not reader.faults:
            reader.attempt(partial(apply_given, folder, part, name=reader.name))
        parts.append((reader.name, part))
        if reader.faults:
            faults.setdefault(reader.name, []).extend(reader.faults)
    for name, part in parts:
        if name in faults:
            found.left_out += part.left_out
        else:
            _merge(found, part, name=name)
    for name, reasons in faults.items():
        count = sum(len(part.items) for own, part in parts if own == name)
        found.left_out.append(LeftOut(name, " ".join(dict.fromkeys(reasons)), count, whole=True))
    if root not in [folder for folder, _ in sets]:
        _add_others(found, root, sets=[folder for folder, _ in sets])
    return found


def _add_others(found: PublicSet, root: Path, *, sets: Sequence[Path]) -> None:
    """Account for what lies beside the sets.

    Args:
        found: changed.
        root: the folder that holds the sets.
        sets: their folders.
    """
    used = {folder.relative_to(root).parts[0] for folder in sets}
    places = [folder for folder in (root, *(root / task for task in TASKS)) if folder.is_dir() and folder not in sets]
    found.left_out += left_out_files(
        NO_SET,
        [image for folder in places for image in images_in(folder)],
        f"expected images in a set, such as {root / 'segmentation/SET/imgs'} or {root / 'classification/SET/LABEL'}, "
        "got them beside the sets; move them",
    )
    if others := [f for f in subfolders(root) if f.name not in used]:
        found.notices.append(f"{root}: its folders {counted(others)} belong to no set and are not read")


def _sets(root: Path, *, told: Container[str]) -> list[tuple[Path, str]]:
    """Every set below ``root`` with its task; ``told`` are the sets of which the user says structures."""
    found = [(folder, task) for task in TASKS for folder in _joined(root / task, subfolders(root / task))]
    if not found and _holds_roles(root):
        found = [(root, "segmentation")]
    if not found:
        found = [(f, "segmentation") for f in _joined(root, [f for f in subfolders(root) if _holds_roles(f)])]
    if not found and root.is_dir():
        found = [(folder, "segmentation") for folder in _with_masks(root, told=told)]
    classes = [folder for folder in subfolders(root) if folder.name not in TASKS]
    if not found and any(is_image(Path(file)) for folder in classes for file in walk(folder)[0]):
        found = [(root, "classification")]
    if not found:
        raise ValueError(
            f"{root}: expected segmentation/SET/imgs and masks, or classification/SET/LABEL, or one such set, got "
            f"{'the folders ' + ', '.join(f.name for f in subfolders(root)) if subfolders(root) else 'none'}; correct "
            "the path."
        )
    return found


def _joined(root: Path, folders: Sequence[Path]) -> list[Path]:
    """The folders, each a set; or ``root``, which holds them, where they are named after the parts of its split.

    Raises:
        ValueError: when some of them are named so, and others are not.
    """
    parts = [folder.name for folder in folders if folder.name.lower() in SPLIT_FOLDERS]
    if parts and len(parts) < len(folders):
        others = ", ".join(folder.name for folder in folders if folder.name not in parts)
        raise ValueError(
            f"{root}: expected sets, or the parts of one set, got {', '.join(parts)} beside {others}; put those parts "
            "into a folder named after their set, or rename them."
        )
    return [root] if parts else list(folders)


def _with_masks(root: Path, *, told: Container[str]) -> list[Path]:
    """The folders of ``root`` that are sets, or ``root``, by masks that lie deeper, or beside their images.

    Several folders of images with masks beside them may be patients, sets or classes: the user's word tells.
    """
    files = sort_files(root)[0]
    masks = masks_beside(files)
    if any(mask.parent == root for mask in masks) or 2 * len(nameless_masks(files)) > len(files) - len(masks):
        return [root]
    below = [file for file in files if file.parent != root and file.relative_to(root).parts[0] not in TASKS]
    if deep := _firsts(root, [file for file in below if below_masks(file, root)]):
        return _joined(root, deep)
    masked = _firsts(root, sorted(set(masks).intersection(below)))
    names = [unicodedata.normalize("NFC", f.name) for f in (root, *masked)]
    if masked and names[0] in told:
        return [root]
    sets = len(_firsts(root, below)) == 1 or any(name in told or name.lower() in SPLIT_FOLDERS for name in names[1:])
    return _joined(root, masked) if sets else []


def _firsts(root: Path, files: Sequence[Path]) -> list[Path]:
    """The folders of ``root`` that files lie in, in sorted order."""
    return [root / name for name in sorted({file.relative_to(root).parts[0] for file in files})]


def _holds_roles(folder: Path) -> bool:
    """Whether a folder holds one of images or one of masks, by name."""
    return any(f.name.lower() in IMAGE_FOLDERS + MASK_FOLDERS for f in subfolders(folder))


def _same_content(one: str, other: str) -> bool:
    return filecmp.cmp(one, other, shallow=False) and image_digest(one) == image_digest(other)


def _merge(found: PublicSet, part: PublicSet, *, name: str) -> None:
    """Add ``part`` to ``found``; an image that is there already by name and content gains the class.

    One that has a class already is kept twice, for the search of near-duplicates to tell.
    """
    there: dict[str, list[dict[str, Any]]] = {}
    joined: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for item in found.items:
        if item["dataset"] == name:
            there.setdefault(Path(item["image"]).name, []).append(item)
    for item in part.items:
        twins = [
            twin
            for twin in there.get(Path(item["image"]).name, [])
            if "class" in item and "class" not in twin and _same_content(twin["image"], item["image"])
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
        joined.append((twin, item))
    for entry in part.datasets.values():
        found.datasets[name] = found.datasets.get(name, {}) | entry
    found.left_out += part.left_out
    found.notices += part.notices + [f"{name}: {note}" for note in join_spacings(joined)]
