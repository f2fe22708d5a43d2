# SPDX-License-Identifier: Apache-2.0
"""DICOM headers after the Basic Application Level Confidentiality Profile of PS3.15, annex E.

The table of the profile and what it asks for are those of ``dicom-anonymizer``. It treats the outermost level alone,
makes UIDs at random, and trusts what the table does not name; here every level is treated, equal UIDs stay equal, and
nothing that is left may hold a word of the names and numbers that the header had.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pydicom
from monai.utils import optional_import
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import generate_uid

initialize_actions, HAS_ANONYMIZER = optional_import(
    "dicomanonymizer.simpledicomanonymizer",
    name="initialize_actions",
    descriptor='de-identification needs dicom-anonymizer, got none ({}); pip install -e ".[dicom]"',
)

PROFILE = "dicomfields_2026c"
"""Edition of the table E.1-1."""

TEXTS = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT")
BYTES = ("OB", "OD", "OF", "OL", "OV", "OW", "UN")
PALETTES = tuple(
    f"{kind}{color}PaletteColorLookupTableData" for kind in ("", "Segmented") for color in ("Red", "Green", "Blue")
)
PIXELS = ("PixelData", *PALETTES)

NAMED = (
    "PatientID", "OtherPatientIDs", "IssuerOfPatientID", "AccessionNumber", "StudyID", "InstitutionName",
    "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "PatientAddress", "PatientTelephoneNumbers",
    "DeviceSerialNumber", "MedicalRecordLocator", "RequestingService", "MilitaryRank", "CountryOfResidence",
)  # fmt: skip
"""Besides all names of persons: what holds words that must be nowhere else."""

SHORTEST = 3
"""Letters of such a word; shorter ones are everywhere."""

METHOD = "PS3.15 E.1 Basic Application Level Confidentiality Profile"
CODES = {
    "113100": "Basic Application Confidentiality Profile",
    "113101": "Clean Pixel Data Option",
}


@dataclass(frozen=True)
class Removed:
    """What was done to an element; its value is told nowhere.

    Attributes:
        element: keyword, with those of the sequences that hold it.
        action: removed, emptied or replaced.
    """

    element: str
    action: str


def new_uid(salt: bytes) -> Callable[[str], str]:
    """Gives a UID for each UID, equal for equal ones and the same salt, from which the old one cannot be told."""

    def replaced(uid: str) -> str:
        return str(generate_uid(entropy_srcs=[salt.hex(), str(uid)]))  # SHA-512 of both

    return replaced


def deidentify_header(ds: Dataset, *, uid: Callable[[str], str], pixels_cleaned: bool) -> list[Removed]:
    """Changes a data set and its file meta; returns what was done.

    Args:
        ds: as read.
        uid: old UID -> new UID.
        pixels_cleaned: whether text in the pixels was looked for; the header then says that there is none.

    Raises:
        ImportError: when dicom-anonymizer is not installed.
    """
    before, words = _values(ds), identifying_words(ds)
    for level in _levels(ds):
        _treat(level, uid)
        level.remove_private_tags()
    for level in _levels(ds):
        _without_words(level, words)
    after = _values(ds)
    found = []
    for element, value in before.items():
        if element not in after:
            found.append(Removed(element, "removed"))
        elif after[element] != value:
            found.append(Removed(element, "replaced" if after[element].strip("[]'\" ") else "emptied"))
    _say_so(ds, pixels_cleaned)
    _renew_meta(ds)
    return found


@cache
def _actions() -> dict[tuple[int, ...], Callable[[Any, tuple[int, int]], None]]:
    table: dict[tuple[int, ...], Callable[[Any, tuple[int, int]], None]] = initialize_actions(PROFILE)
    return table


def _levels(ds: Dataset) -> Iterator[Dataset]:
    """The data set and all in its sequences, the outermost first."""
    yield ds
    for element in list(ds):
        if element.VR == "SQ":
            for item in element.value:
                yield from _levels(item)


def _treat(ds: Dataset, uid: Callable[[str], str]) -> None:
    """What the profile asks for, of one level."""
    for tag, action in _actions().items():
        for place in _matching(ds, tag):
            if ds[place].VR == "UI":
                _renew(ds[place], uid)
            if ds[place].VR == "UI" or (ds[place].VR == "SQ" and action.__name__.endswith("replace_UID")):
                continue  # of a sequence of references, the UIDs inside are replaced
            try:
                action(ds, place)
            except (NotImplementedError, TypeError, ValueError):  # a kind of value for which there is no other one
                del ds[place]


def _matching(ds: Dataset, tag: tuple[int, ...]) -> list[tuple[int, int]]:
    """Elements of a level that a row of the table means: one, or those of a repeating group."""
    if len(tag) == 2:
        return [(tag[0], tag[1])] if tag in ds and tag[0] != 2 else []
    found = [(one.group, one.element) for one in list(ds.keys())]
    return [one for one in found if one[0] & tag[2] == tag[0] & tag[2] and one[1] & tag[3] == tag[1] & tag[3]]


def _renew(element: DataElement, uid: Callable[[str], str]) -> None:
    """A UID that is not of the standard gets another one."""
    many = element.VM > 1
    held = element.value if many else [element.value]
    values = [value if not value or _of_standard(value) else uid(value) for value in held]
    element.value = values if many else values[0]


def _of_standard(value: str) -> bool:
    return str(value).startswith("1.2.840.10008.")


def _without_words(ds: Dataset, words: frozenset[str]) -> None:
    """Takes away what still has a word of the names and numbers that were there."""
    for element in list(ds):
        if element.keyword in PIXELS:
            continue
        if element.VR == "PN":
            element.value = ""
        elif element.VR in TEXTS:
            if words & _split(element.value):
                element.value = ""
        elif element.VR in BYTES and words & _in_bytes(bytes(element.value or b"")):
            del ds[element.tag]


def _in_bytes(value: bytes) -> set[str]:
    """Words that bytes hold in any of the usual encodings."""
    return set().union(*(_split(value.decode(name, errors="ignore")) for name in ("latin-1", "utf-8", "utf-16-le")))


def identifying_words(ds: Dataset) -> frozenset[str]:
    """Words of the names of persons and of what ``NAMED`` lists, on every level, without case."""
    found: set[str] = set()
    for level in _levels(ds):
        for element in level:
            if element.VR == "PN" or element.keyword in NAMED:
                found |= _split(element.value)
    return frozenset(found)


def _split(value: Any) -> set[str]:
    """Words of a value, without case; numbers count."""
    values = value if isinstance(value, (list, tuple, pydicom.multival.MultiValue)) else [value]
    parts = (part for one in values for part in re.split(r"[\W_]+", str(one or "").casefold()))
    return {part for part in parts if len(part) >= SHORTEST}


def _values(ds: Dataset, place: str = "") -> dict[str, str]:
    """Each element with its value as text, pixels left out."""
    found: dict[str, str] = {}
    for element in ds:
        name = place + (keyword_for_tag(element.tag) or f"({element.tag.group:04x},{element.tag.element:04x})")
        if element.VR == "SQ":
            found[name] = f"{len(element.value)} items"
            for number, item in enumerate(element.value):
                found |= _values(item, f"{name}[{number}].")
        elif element.keyword not in PIXELS:
            found[name] = str(element.value if element.value is not None else "")
    return found


def _say_so(ds: Dataset, pixels_cleaned: bool) -> None:
    """PS3.15 E.1.1, steps 6 and 7."""
    ds.PatientIdentityRemoved, ds.DeidentificationMethod = "YES", METHOD
    codes = list(CODES.items()) if pixels_cleaned else list(CODES.items())[:1]
    items = []
    for value, meaning in codes:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
        items.append(item)
    ds.DeidentificationMethodCodeSequence = Items(items)
    if pixels_cleaned:
        ds.BurnedInAnnotation = "NO"


def _renew_meta(ds: Dataset) -> None:
    """A file meta and preamble with nothing but what reading needs."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = ds.file_meta.TransferSyntaxUID
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta, ds.preamble = meta, bytes(128)
