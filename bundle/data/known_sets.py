# SPDX-License-Identifier: Apache-2.0
"""What is known of public data sets, by name, and what the user says of others: position, names, patients."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bundle.data.set_files import SPLIT_FOLDERS, place_of, sort_files, stem_of
from bundle.failures import named
from bundle.vocabulary import UNKNOWN


@dataclass(frozen=True)
class Known:
    """What one data set's files do not say. Empty means not known.

    ``patient`` is a regular expression whose first group, in the image's name without suffix, is the patient; with a
    ``/`` in it, in the path within the set's folder of images or of the class.
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
    """What the user says of data sets, each by the set's name; it wins over ``config.yaml`` and over what is known."""

    position: Mapping[str, str] = field(default_factory=dict)
    nature: Mapping[str, str] = field(default_factory=dict)
    structures: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    threshold: Mapping[str, int] = field(default_factory=dict)
    label_set: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    patient: Mapping[str, str] = field(default_factory=dict)

    def describe(self, name: str) -> Known:
        """What is known of the set ``name``, with the user's word first."""
        known = KNOWN.get(name, Known())
        return Known(
            position=self.position.get(name, known.position),
            nature=self.nature.get(name, known.nature),
            structures={**known.structures, **self.structures.get(name, {})},
            label_set=self.label_set.get(name, known.label_set),
            classes=self.classes.get(name, known.classes),
            patient=self.patient.get(name, known.patient),
            license=known.license,
            source=known.source,
        )

    def mentioned(self) -> set[str]:
        """The names of all sets that the options speak of."""
        return set().union(
            *(self.position, self.nature, self.structures, self.threshold, self.label_set, self.classes, self.patient)
        )


NO_SET = "(no set)"
"""Stands for the data set of files that lie in none."""


@dataclass(frozen=True)
class LeftOut:
    """Files of a data set that are not in the manifest: how many, and which with the reason.

    ``whole`` tells that they are the whole set, which waits for what the user has to say or to correct.
    """

    dataset: str
    reason: str
    count: int = 1
    whole: bool = False


def left_out_files(dataset: str, files: Sequence[str | Path], reason: str) -> list[LeftOut]:
    """One entry for files of one reason, with the first of them; none for no file."""
    return [LeftOut(dataset, f"{named(files)}: {reason}", len(files))] if files else []


def linked_folders(dataset: str, links: Sequence[Path]) -> list[LeftOut]:
    """Entries for links to folders that are read by another way, with the number of images there."""
    return [
        LeftOut(
            dataset,
            f"{link}: expected a folder of its own, got a link to {os.path.realpath(link)}, which is read already; "
            "remove the link",
            len(sort_files(link)[0]),
        )
        for link in links
    ]


def no_images(dataset: str, files: Sequence[Path]) -> list[LeftOut]:
    """Entries for files that are no images, one a suffix."""
    of_suffix: dict[str, list[Path]] = {}
    for file in files:
        of_suffix.setdefault(file.suffix.lower(), []).append(file)
    return [
        entry
        for suffix, some in of_suffix.items()
        for entry in left_out_files(
            dataset, some, f"expected an image, got {suffix or 'no suffix'}; convert it or move it"
        )
    ]


@dataclass
class PublicSet:
    """What a reader found.

    Items are those of the manifest with absolute paths, without ``group``, and without ``split`` unless it is given.
    ``left_out`` are files that had to be left out, ``notices`` what the user should know.
    """

    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    items: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def missing_words(name: str, *, known: Known, count: int) -> list[str]:
    """What has to be said of the set ``name`` with ``count`` images, of position and nature; [] for nothing."""
    asked = {"position": "breast", "nature": "tumor"}
    keys = [key for key in asked if not getattr(known, key)]
    if not keys:
        return []
    told = " ".join(option(key, name, asked[key]) for key in keys)
    return [
        f"data set {name!r}: expected its {' and its '.join(keys)}, got none, and it is not a known set; add {told} "
        f"(or {UNKNOWN}); {count} images wait for it."
    ]


def option(key: str, name: str, value: str) -> str:
    r"""An option as it is typed in a shell, such as ``--position MYSET=breast``; = in a set's name becomes ``\=``."""
    name = re.sub(r"([\\=])", r"\\\1", name)
    return f"--{key} {shlex.quote(f'{name}={value}')}"


def dataset_entry(known: Known) -> dict[str, Any]:
    """The part of a manifest's data set entry that all kinds of sets have."""
    entry: dict[str, Any] = {"position": known.position, "nature": known.nature}
    entry |= {key: getattr(known, key) for key in ("license", "source") if getattr(known, key)}
    return entry


def patient_of(dataset: str, *, image: Path, root: Path, known: Known, label: str = "") -> str:
    """The patient or video of an image, such as ``Fetal_HC/010``.

    Without a regular expression an image is its own patient, and images of a folder within ``root`` are of one patient
    or video: a site's images then stay together, where a patient's would leak.

    Args:
        dataset: the set's name.
        image: the image file.
        root: the folder of the set, or of one class.
        known: holds the regular expression, if there is one.
        label: the class's folder; images of one name in two of them are two patients.

    Raises:
        ValueError: when the name does not fit the regular expression, or that has no group.
    """
    place = stem_of(place_of(image, root))
    if not known.patient:
        own = f"{label}/{place}" if label else place
        return f"{dataset}/{nested_folder(image, root) or own}"
    text = place if "/" in known.patient else stem_of(image.name)
    match = re.match(known.patient, text)
    if not match or not match.groups() or not match.group(1):
        raise ValueError(
            f"data set {dataset!r}: expected image names whose start fits the patient pattern {known.patient!r} with "
            f"one group, got {text!r}; give another pattern with --patient-regex '{dataset}=REGEX'."
        )
    return f"{dataset}/{match.group(1)}"


def nested_folder(image: Path, root: Path) -> str:
    """The folder within ``root`` that an image lies in, without parts that only say what they hold; "" for none."""
    parts = place_of(image, root).split("/")[:-1]
    return "/".join(part for part in parts if part.lower() not in (*SPLIT_FOLDERS, "data", "png", "jpg", "dicom"))
