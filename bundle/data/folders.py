# SPDX-License-Identifier: Apache-2.0
"""Reader of the layout of UniUSNet and UltraUPConvNet.

``ROOT/segmentation/SET/{imgs,masks}`` and ``ROOT/classification/SET/LABEL/*``, in each set perhaps ``config.yaml`` (a
line per label: ``index:name:value in the mask``), ``train.txt``, ``val.txt``, ``test.txt`` and a table of pixel sizes.
"""

from __future__ import annotations

import filecmp
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bundle.data.known_sets import (
    Known,
    PublicSet,
    SetOptions,
    dataset_entry,
    image_files,
    patient_of,
    read_pixel_sizes,
)
from bundle.data.splits import SPLITS
from bundle.vocabulary import BACKGROUND, UNKNOWN

_NAMELESS = ("foreground", "fg", "object", "target", "mask", "roi")


def read_folders(root: str | Path, *, options: SetOptions | None = None, given_splits: bool = False) -> PublicSet:
    """All sets below ``root``, or the one set that ``root`` is.

    A set that is in both ``segmentation`` and ``classification`` becomes one data set; a file that is in both with
    the same name and content becomes one item with mask and class.

    Args:
        root: the folder with ``segmentation`` or ``classification``, or the folder of a set.
        options: what the user says of the sets.
        given_splits: keep to train.txt, val.txt and test.txt; a set without them is left to be split.

    Raises:
        ValueError: when there is no set, or something of a set is not known; the message names the option to give.
    """
    options = options or SetOptions()
    found = PublicSet()
    for folder, task in _sets(Path(root).absolute()):
        known = options.describe(folder.name)
        read = _read_segmentation if task == "segmentation" else _read_classification
        part = read(folder, known=known)
        if given_splits:
            _apply_given(folder, part, images=folder / "imgs" if task == "segmentation" else folder)
        _merge(found, part, name=folder.name)
    return found


def _sets(root: Path) -> list[tuple[Path, str]]:
    """Every set below ``root`` with its task."""
    found = [(f, task) for task in ("segmentation", "classification") for f in _subfolders(root / task)]
    found = [(f, task) for f, task in found if (f / "imgs").is_dir() == (task == "segmentation")]
    if not found and (root / "imgs").is_dir() and (root / "masks").is_dir():
        found = [(root, "segmentation")]
    if not found and any(image_files(f) for f in _subfolders(root)):
        found = [(root, "classification")]
    if not found:
        raise ValueError(
            f"{root}: expected segmentation/SET/imgs and masks, or classification/SET/LABEL, or one such set, got "
            "none; correct the path."
        )
    return found


def _subfolders(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_dir() and f.name[0] != ".") if folder.is_dir() else []


def _read_segmentation(folder: Path, *, known: Known) -> PublicSet:
    name = folder.name
    values = _mask_values(folder, known=known)
    found = PublicSet(datasets={name: dataset_entry(known) | {"mask_values": values}})
    sizes = {k: v for table in sorted(folder.glob("*pixel_size*.csv")) for k, v in read_pixel_sizes(table).items()}
    masks = {mask.stem: mask for mask in image_files(folder / "masks")} if (folder / "masks").is_dir() else {}
    for file in image_files(folder / "imgs"):
        if file.stem not in masks:
            found.problems.append(f"{file}: expected a mask of the same name in {folder / 'masks'}, got none")
            continue
        item: dict[str, Any] = {"image": str(file), "dataset": name, "label": str(masks[file.stem])}
        item["patient"] = patient_of(name, stem=file.stem, known=known)
        if file.name in sizes:
            item["spacing"] = [sizes[file.name]] * 2
        found.items.append(item)
    return found


def _mask_values(folder: Path, *, known: Known) -> dict[str, str]:
    """Value in the mask -> structure, from the user's word or the known table first, ``config.yaml`` second."""
    table = _read_config(folder / "config.yaml")
    values = {"0": BACKGROUND} | {str(value): name for value, name in known.structures.items()}
    for _, name, value in table:
        if name.lower() in _NAMELESS and value not in values:
            raise ValueError(
                f"{folder / 'config.yaml'}: expected the name of a structure for value {value}, got {name!r}, which "
                f"any set could mean; add --structure {folder.name}={value}:NAME."
            )
        values.setdefault(value, name)
    if len(values) < 2:
        raise ValueError(
            f"{folder}: expected config.yaml with the lines 'index:name:value in the mask', got none; write it, or add "
            f"--structure {folder.name}=255:NAME."
        )
    return dict(sorted(values.items(), key=lambda entry: int(entry[0])))


def _read_config(path: Path) -> list[tuple[int, str, str]]:
    """The lines of ``config.yaml`` as (index, name, value in the mask); [] when there is no such file."""
    rows: list[tuple[int, str, str]] = []
    if not path.is_file():
        return rows
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        index, _, rest = line.strip().partition(":")
        name, _, value = rest.rpartition(":")
        if not (index.strip().isdecimal() and name.strip() and value.strip().isdecimal()):
            raise ValueError(
                f"{path}, line {number}: expected 'index:name:value in the mask', got {line!r}; correct it."
            )
        rows.append((int(index), name.strip(), str(int(value))))
    return rows


def _read_classification(folder: Path, *, known: Known) -> PublicSet:
    name = folder.name
    labels = [f for f in _subfolders(folder) if image_files(f)]
    classes = _classes(folder, labels=[f.name for f in labels], known=known)
    label_set = known.label_set or (known.position if known.position != UNKNOWN else "")
    if not label_set:
        raise ValueError(f"{folder}: expected the name of its label set, got none; add --label-set {name}=NAME.")
    entry = dataset_entry(known) | {"label_set": label_set, "classes": list(dict.fromkeys(classes.values()))}
    if known.classes:
        entry["classes"] = list(known.classes)
    found = PublicSet(datasets={name: entry})
    for label in labels:
        for file in image_files(label):
            patient = patient_of(name, stem=file.stem, known=known, default=f"{label.name}/{file.stem}")
            item = {"image": str(file), "dataset": name, "patient": patient, "class": classes[label.name]}
            found.items.append(item)
    return found


def _classes(folder: Path, *, labels: Sequence[str], known: Known) -> dict[str, str]:
    """Name of a label's folder -> class: numbered folders by index, others by name."""
    numbered = all(label.isdecimal() for label in labels)
    if not numbered and not known.classes:
        return {label: label for label in labels}
    table = known.classes or tuple(name for _, name, _ in sorted(_read_config(folder / "config.yaml")))
    if not table:
        raise ValueError(
            f"{folder}: expected the names of the classes {list(labels)}, got none; add --classes "
            f"{folder.name}={','.join('NAME' + label for label in labels)}."
        )
    if numbered and labels and max(map(int, labels)) < len(table):
        return {label: table[int(label)] for label in labels}
    if set(labels) <= set(table):
        return {label: label for label in labels}
    raise ValueError(
        f"{folder}: expected label folders 0 to {len(table) - 1} or {list(table)}, got {list(labels)}; give all names "
        f"with --classes {folder.name}=A,B,..."
    )


def _apply_given(folder: Path, part: PublicSet, *, images: Path) -> None:
    """Set ``split`` from the set's own lists; images that are in no list are left out, with a notice."""
    lists = {split: folder / f"{split}.txt" for split in SPLITS if (folder / f"{split}.txt").is_file()}
    if not lists:
        part.notices.append(f"{folder}: no train.txt, val.txt or test.txt, so it is split like the others")
        return
    by_name: dict[str, list[dict[str, Any]]] = {}
    for item in part.items:
        path = Path(item["image"]).relative_to(images)
        for name in {path.as_posix(), path.with_suffix("").as_posix(), path.name, path.stem}:
            by_name.setdefault(name, []).append(item)
    absent = 0
    for split, path in lists.items():
        for line in filter(None, map(str.strip, path.read_text(encoding="utf-8-sig").splitlines())):
            name = line.replace("\\", "/").removeprefix("imgs/")
            absent += name not in by_name
            for item in by_name.get(name, []):
                if item.setdefault("split", split) != split:
                    raise ValueError(
                        f"{path}: expected images that are in no other list, got {line!r}, which {item['split']}.txt "
                        "names too; remove one of the lines, or leave out --given-splits."
                    )
    unlisted = [item for item in part.items if "split" not in item]
    part.items = [item for item in part.items if "split" in item]
    if absent:
        part.notices.append(f"{folder}: its lists name {absent} images that are not there")
    if unlisted:
        part.notices.append(
            f"{folder}: {len(unlisted)} images are in none of its lists and are left out, the first "
            f"{unlisted[0]['image']}"
        )


def _merge(found: PublicSet, part: PublicSet, *, name: str) -> None:
    """Add ``part`` to ``found``; an image that is there already by name and content gains the class."""
    there = {Path(item["image"]).name: item for item in found.items if item["dataset"] == name}
    for item in part.items:
        twin = there.get(Path(item["image"]).name)
        same = twin is not None and "class" in item and filecmp.cmp(twin["image"], item["image"], shallow=False)
        if not (same and twin is not None):
            found.items.append(item)
            continue
        if twin.get("split", item.get("split")) != item.get("split", twin.get("split")):
            raise ValueError(
                f"{item['image']}: expected the split {twin['split']!r} of the same image {twin['image']}, got "
                f"{item['split']!r}; correct the lists, or leave out --given-splits."
            )
        twin["class"] = item["class"]
    found.datasets.setdefault(name, {}).update(part.datasets[name])
    found.problems += part.problems
    found.notices += part.notices
