# SPDX-License-Identifier: Apache-2.0
"""Reader of one set in a folder: images with masks, or images in a folder a class."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bundle.data.known_sets import (
    LeftOut,
    PublicSet,
    SetOptions,
    dataset_entry,
    left_out_files,
    linked_folders,
    missing_words,
    nested_folder,
    no_images,
    option,
    patient_of,
)
from bundle.data.manifest import dataset_fault
from bundle.data.pairing import masks_beside, pair_files
from bundle.data.pixel_sizes import add_pixel_sizes, pixel_size_tables
from bundle.data.set_files import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    SPLIT_FOLDERS,
    below_masks,
    sort_files,
    subfolders,
)
from bundle.data.set_tables import class_table, mask_entry, structure_values
from bundle.vocabulary import UNKNOWN

Result = TypeVar("Result")


class SetReader:
    """Reads one set. Every file below its folder is used, named or counted.

    Args:
        folder: of the set, after which it is named.
        options: what the user says of sets.
        alone: whether no other set of this name has labels of the other kind.

    Attributes:
        name: the set's name, in composed Unicode form.
        faults: what the user has to say or to correct before the set can be read, a sentence each.
    """

    def __init__(self, folder: Path, *, options: SetOptions, alone: bool = True) -> None:
        self.folder, self.options, self.alone = folder, options, alone
        self.name = unicodedata.normalize("NFC", folder.name)
        self.known = options.describe(self.name)
        self.faults: list[str] = []
        self._found = PublicSet()

    def read_segmentation(self) -> PublicSet:
        """Images with their masks."""
        pairing = pair_files(self._image_files(), root=self.folder)
        self._found.left_out += [LeftOut(self.name, reason) for reason in pairing.left_out]
        if not pairing.pairs:
            if not pairing.left_out:
                self._found.left_out.append(LeftOut(self.name, f"{self.folder}: no image in it", 0))
            return self._found
        self.faults += missing_words(self.name, known=self.known, count=len(pairing.pairs))
        values = self.attempt(self._structures)
        entry = self.attempt(lambda: mask_entry(self.name, values=values or {}, options=self.options))
        self._found.datasets[self.name] = dataset_entry(self.known) | (entry or {})
        self._check(classes=self.options.classes, label_set=self.options.label_set)
        for file, labels in pairing.pairs:
            item = self._add_item(file, root=self.folder)
            item["label"] = str(labels[0]) if len(labels) == 1 else [str(label) for label in labels]
        self._add_pixel_sizes(pairing.images)
        self._note_nested()
        return self._found

    def read_classification(self) -> PublicSet:
        """Images with their class."""
        of_label = self._images_by_label()
        if not of_label:
            if not self._found.left_out:
                self._found.left_out.append(LeftOut(self.name, f"{self.folder}: no image in it", 0))
            return self._found
        self.faults += missing_words(self.name, known=self.known, count=sum(map(len, of_label.values())))
        label_set = self.known.label_set or (self.known.position if self.known.position != UNKNOWN else "")
        if not label_set and self.known.position:
            told = option("label-set", self.name, "NAME")
            self.faults.append(f"{self.folder}: expected the name of its label set, got none; add {told}.")
        classes, of_folder = self.attempt(lambda: self._classes(list(of_label))) or ([], {})
        self._found.datasets[self.name] = dataset_entry(self.known) | {"label_set": label_set, "classes": classes}
        self._check(structure=self.options.structures, mask_threshold=self.options.threshold)
        for label, images in of_label.items():
            for file in images:
                item = self._add_item(file, root=self.folder / label, label=label)
                item["class"] = of_folder.get(label, "")
        self._add_pixel_sizes([file for images in of_label.values() for file in images])
        self._note_nested()
        return self._found

    def _check(self, **others: Mapping[str, Any]) -> None:
        """Adds to the faults what a manifest would refuse of the set, and options of the other kind of set."""
        entry = self._found.datasets[self.name]
        flags = " and ".join(f"--{flag.replace('_', '-')}" for flag, told in others.items() if self.name in told)
        if flags and self.alone:
            kind = "classes, a folder each" if "classes" in entry else "masks"
            self.faults.append(
                f"{self.folder}: expected no {flags} for {self.name}, which was read as a set of {kind}; leave it out, "
                "or name the folders imgs and masks where they are those."
            )
        if not self.faults and (fault := dataset_fault(self.name, entry)):
            self.faults.append(fault)

    def _structures(self) -> dict[int, str]:
        return structure_values(
            self.folder, name=self.name, options=self.options, notices=self._found.notices, faults=self.faults
        )

    def _classes(self, labels: list[str]) -> tuple[list[str], dict[str, str]]:
        return class_table(
            self.folder, name=self.name, labels=labels, options=self.options, notices=self._found.notices
        )

    def _add_pixel_sizes(self, images: Sequence[Path]) -> None:
        """Adds the pixel sizes of the set's tables to the items; ``images`` are all of the set."""
        tables, items = pixel_size_tables(self.folder), self._found.items
        notes = self.attempt(lambda: add_pixel_sizes(items, tables, images=images, roots=[self.folder]))
        self._found.notices += notes or []

    def attempt(self, step: Callable[[], Result]) -> Result | None:
        """The result of a step, or None when the user has to correct something first."""
        try:
            return step()
        except ValueError as error:
            if str(error) not in self.faults:
                self.faults.append(str(error))
            return None

    def _leave_out(self, files: Sequence[Path], reason: str) -> None:
        self._found.left_out += left_out_files(self.name, files, reason)

    def _add_item(self, file: Path, *, root: Path, label: str = "") -> dict[str, Any]:
        """The new item of an image, to be filled in."""
        patient = self.attempt(lambda: patient_of(self.name, image=file, root=root, known=self.known, label=label))
        item: dict[str, Any] = {"image": str(file), "dataset": self.name, "patient": patient}
        self._found.items.append(item)
        return item

    def _image_files(self) -> list[Path]:
        """The image files below the folder; the others are accounted for."""
        images, others, links = sort_files(self.folder)
        self._found.left_out += no_images(self.name, others) + linked_folders(self.name, links)
        return images

    def _images_by_label(self) -> dict[str, list[Path]]:
        """The images of every class folder; what lies elsewhere is accounted for."""
        of_label: dict[str, list[Path]] = {f.name: [] for f in subfolders(self.folder)}
        for file in self._image_files():
            label = file.relative_to(self.folder).parts[0] if file.parent != self.folder else ""
            of_label.setdefault(label, []).append(file)
        self._leave_out(of_label.pop("", []), "expected images in class folders, got one beside them; move it")
        told = self.options.classes.get(self.name, ())
        roles = [f for f in of_label if f.lower() in SPLIT_FOLDERS + IMAGE_FOLDERS + MASK_FOLDERS and f not in told]
        for label in roles:
            self._leave_out(
                of_label.pop(label),
                f"expected {self.folder} to hold a folder a class, got {', '.join(roles)}; put the class folders "
                "directly below it (splits are named in train.txt, val.txt, test.txt), and sets with masks below "
                "segmentation",
            )
        for label, files in of_label.items():
            of_label[label] = self._without_masks(label, files)
            if not of_label[label]:
                self._found.notices.append(f"{self.folder / label}: no image in it, so it is no class")
        return {label: files for label, files in of_label.items() if files}

    def _without_masks(self, label: str, files: Sequence[Path]) -> list[Path]:
        """The files of a class that are images; the masks beside them are accounted for."""
        masks = {file for file in files if below_masks(file, self.folder / label)} | set(masks_beside(files))
        told = option("structure", self.name, "255:NAME")
        self._leave_out(
            sorted(masks),
            f"expected images of the class {label!r}, got masks; --busi reads BUSI, segmentation/SET takes masks, and "
            f"where the folders are patients, --folders {self.folder} with {told}",
        )
        return [file for file in files if file not in masks]

    def _note_nested(self) -> None:
        """Tell how images of folders within folders are grouped, and of folders that are named after splits."""
        below, splits = [], set()
        for item in self._found.items:
            file = Path(item["image"])
            parts = file.relative_to(self.folder).parts
            nested = nested_folder(file, self.folder / parts[0] if "class" in item else self.folder)
            below += [nested] if nested else []
            splits |= {part for part in parts[:-1] if part.lower() in SPLIT_FOLDERS}
        if below and not self.known.patient:
            self._found.notices.append(
                f"{self.name}: {len(below)} images lie in {len(set(below))} folders such as {below[0]}, each of which "
                "counts as one patient; where each image is one, add "
                + option("patient-regex", self.name, "((.*/)?.+)")
            )
        if splits:
            self._found.notices.append(
                f"{self.name}: its folders {', '.join(sorted(splits))} are read together, not as its split; for that, "
                "name their images in train.txt, val.txt and test.txt (--given-splits)"
            )
