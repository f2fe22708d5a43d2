# SPDX-License-Identifier: Apache-2.0
"""What is known of public data sets, by name, and what the user says of others: position, names, patients."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bundle.vocabulary import UNKNOWN

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Known:
    """What one data set's files do not say. Empty means not known.

    ``patient`` is a regular expression whose first group, in the image's name without suffix, is the patient.
    """

    position: str = ""
    nature: str = ""
    structures: Mapping[int, str] = field(default_factory=dict)
    label_set: str = ""
    classes: tuple[str, ...] = ()
    patient: str = ""
    license: str = ""
    source: str = ""


KNOWN: dict[str, Known] = {
    "BUSI": Known(
        position="breast",
        nature="tumor",
        structures={255: "lesion"},
        label_set="breast",
        classes=("normal", "benign", "malignant"),
        license="CC0-1.0",
        source="Al-Dhabyani et al. 2020, Dataset of breast ultrasound images",
    ),
    "HC18": Known(
        position="head",
        nature="organ",
        structures={255: "head"},
        patient=r"(\d+)_",
        license="CC-BY-4.0",
        source="van den Heuvel et al. 2018, HC18",
    ),
    "Fetal_HC": Known(
        position="head",
        nature="organ",
        structures={255: "head"},
        patient=r"(\d+)_",
        license="CC-BY-4.0",
        source="van den Heuvel et al. 2018, HC18",
    ),
    "USGRA": Known(
        position="limb",
        nature="organ",
        structures={1: "nerve", 2: "vessel"},
        license="CC-BY-4.0",
        source="tmkand/usgra-seg",
    ),
    "POCUS_Lung": Known(
        position="lung",
        nature="organ",
        label_set="lung",
        classes=("healthy", "pneumonia", "covid-19"),
        patient=r"([^_]+)_",
        license="CC-BY",
        source="Born et al. 2020, POCUS",
    ),
    "GB_BiliaryAtresia": Known(
        position="gallbladder",
        nature="organ",
        label_set="gallbladder",
        classes=("healthy", "biliary atresia"),
        patient=r"([^_]+_p\d+)_",
        license="MIT",
        source="Zhou et al. 2021, sonographic gallbladder images",
    ),
}


@dataclass(frozen=True)
class SetOptions:
    """What the user says of data sets, each by the set's name; it wins over what is known and over ``config.yaml``."""

    position: Mapping[str, str] = field(default_factory=dict)
    nature: Mapping[str, str] = field(default_factory=dict)
    structures: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    label_set: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    patient: Mapping[str, str] = field(default_factory=dict)

    def describe(self, name: str) -> Known:
        """What is known of the set ``name``, with the user's word first.

        Raises:
            ValueError: when position or nature is not known; the message names the option to give.
        """
        known = KNOWN.get(name, Known())
        described = Known(
            position=self.position.get(name, known.position),
            nature=self.nature.get(name, known.nature),
            structures={**known.structures, **self.structures.get(name, {})},
            label_set=self.label_set.get(name, known.label_set),
            classes=self.classes.get(name, known.classes),
            patient=self.patient.get(name, known.patient),
            license=known.license,
            source=known.source,
        )
        for key, example in (("position", "breast"), ("nature", "tumor")):
            if not getattr(described, key):
                raise ValueError(
                    f"data set {name!r}: expected its {key}, got none, and it is not a known set {sorted(KNOWN)}; "
                    f"add --{key} {name}={example} (or {name}={UNKNOWN})."
                )
        return described

    def mentioned(self) -> set[str]:
        """The names of all sets that the options speak of."""
        return set().union(
            self.position, self.nature, self.structures, self.label_set, self.classes, self.patient
        )  # fmt: skip


@dataclass
class PublicSet:
    """What a reader found.

    Items are those of the manifest with absolute paths, without ``group``, and without ``split`` unless it is given.
    ``problems`` are files that had to be left out, ``notices`` what the user should know.
    """

    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    items: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def dataset_entry(known: Known) -> dict[str, Any]:
    """The part of a manifest's data set entry that all kinds of sets have."""
    entry: dict[str, Any] = {"position": known.position, "nature": known.nature}
    entry |= {key: getattr(known, key) for key in ("license", "source") if getattr(known, key)}
    return entry


def patient_of(dataset: str, *, stem: str, known: Known, default: str | None = None) -> str:
    """The patient or video of an image, such as ``Fetal_HC/010``; an image that tells nothing is its own patient.

    Args:
        dataset: the set's name.
        stem: the image's name without suffix.
        known: holds the regular expression, if there is one.
        default: the patient when there is no regular expression; by default the stem.

    Raises:
        ValueError: when the name does not fit the regular expression, or that has no group.
    """
    if not known.patient:
        return f"{dataset}/{stem if default is None else default}"
    match = re.match(known.patient, stem)
    if not match or not match.groups() or not match.group(1):
        raise ValueError(
            f"data set {dataset!r}: expected image names whose start fits the patient pattern {known.patient!r} with "
            f"one group, got {stem!r}; give another pattern with --patient-regex '{dataset}=REGEX'."
        )
    return f"{dataset}/{match.group(1)}"


def image_files(folder: Path) -> list[Path]:
    """The image files in a folder, hidden ones left out, in sorted order."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))


def read_pixel_sizes(path: Path) -> dict[str, float]:
    """Image name -> pixel size in mm, from a table with the columns ``filename`` and ``pixel size(mm)``.

    Raises:
        ValueError: when a column is missing or a size is not a positive number.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = [c for c in reader.fieldnames or [] if re.match(r"pixel[ _]size", c.strip().lower())]
        if not columns or "filename" not in (reader.fieldnames or []):
            raise ValueError(
                f"{path}: expected the columns 'filename' and 'pixel size(mm)', got {reader.fieldnames}; rename them."
            )
        sizes = {}
        for line, row in enumerate(reader, start=2):
            try:
                sizes[row["filename"]] = float(row[columns[0]])
            except (TypeError, ValueError):
                sizes[row["filename"]] = -1.0
            if not 0 < sizes[row["filename"]] < float("inf"):
                raise ValueError(
                    f"{path}, line {line}: expected a positive pixel size in mm, got {row[columns[0]]!r}; correct the "
                    "line or remove it."
                )
    return sizes
