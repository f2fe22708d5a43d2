# SPDX-License-Identifier: Apache-2.0
"""Who and what a derived object is of: the source's identity, or one that says nothing of the patient."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid
from pydicom.valuerep import DA, TM

from bundle.dicom import PREAMBLE, starts_as_dicom
from bundle.files import DICOM_SUFFIXES
from bundle.transforms.readers import parse_dicom
from bundle.vocabulary import switch

IDENTIFYING = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
    "StudyDate", "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""Of the modules Patient and General Study (PS3.3 C.7.1.1, C.7.2.1): what leads an object back into its study."""

REMOVED = "New UIDs; patient and study left out"
"""DeidentificationMethod."""

_KINDS = {"PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM}
_UTF_8 = "ISO_IR 192"


def read_header(path: str | Path) -> Dataset | None:
    """The entries of a DICOM file without its pixels; None for any other file.

    Raises:
        OSError, ValueError: when it cannot be read, or holds no image.
    """
    with open(path, "rb") as file:
        if not (starts_as_dicom(file.read(PREAMBLE)) or str(path).lower().endswith(DICOM_SUFFIXES)):
            return None
        file.seek(0)
        header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        if "Rows" in header:
            return header
        file.seek(0)
        header = parse_dicom(file)  # written otherwise than it says
    if "Rows" not in header:
        raise ValueError(f"{path}: DICOM header must tell the image's Rows, got none; copy the file again.")
    return header


class Identity:
    """Gives derived objects their patient, their study and their UIDs.

    Without ``keep`` nothing of the source's identity is in them: all UIDs, references included, are hashes of the
    source's with a secret of the run, which is thrown away. Objects of one study of one run share their study, and
    those of one patient a made-up patient.

    Args:
        keep: whether objects belong to the source's patient and study and refer to its instances; also as text.

    Raises:
        ValueError: when ``keep`` is neither true nor false.
    """

    def __init__(self, keep: bool | str = False) -> None:
        self.keep = switch(keep, "keep_identity")
        self.secret = secrets.token_hex(16)

    def uid(self, *parts: Any) -> str:
        """A new UID, the same for the same parts in this run."""
        return str(generate_uid(entropy_srcs=[self.secret, *map(str, parts)]))

    def of_source(self, header: Dataset, keyword: str, file: str) -> str:
        """A UID of the source as objects name it; a new one where the source has none that is valid."""
        given = UID(str(header.get(keyword) or "").strip(" \0"))
        if not given and keyword == "SOPInstanceUID":
            given = UID(str(getattr(header, "file_meta", {}).get("MediaStorageSOPInstanceUID", "")))
        known = bool(given) and given.is_valid
        return str(given) if self.keep and known else self.uid("source", keyword, given if known else file)

    def stamp(self, made: Dataset, header: Dataset, file: str) -> None:
        """Writes patient and study into an object."""
        for keyword in IDENTIFYING:
            if keyword in made:
                del made[keyword]  # highdicom's objects share the element with what they were made of
            value = _plain(keyword, header.get(keyword)) if self.keep else ""
            if value or keyword != "IssuerOfPatientID":
                setattr(made, keyword, value)
        made.SpecificCharacterSet = _UTF_8
        if self.keep:
            return
        told = [str(header.get(keyword) or "") for keyword in ("PatientName", "PatientID", "IssuerOfPatientID")]
        patient = self.uid("patient", *(told if any(told) else [self.of_source(header, "StudyInstanceUID", file)]))
        made.PatientName, made.PatientID = f"ANON^{patient[-12:]}", f"ANON{patient[-12:]}"
        made.PatientIdentityRemoved = "YES"
        made.DeidentificationMethod = REMOVED
        made.LongitudinalTemporalInformationModified = "REMOVED"


def _plain(keyword: str, value: Any) -> str:
    """A value as text in the form that the standard asks for; "" where it has none."""
    text = "" if value is None else str(value).strip(" \0")
    if keyword == "PatientSex":
        return text if text in ("M", "F", "O") else ""
    kind = _KINDS.get(keyword)
    if kind is None:
        return text
    digits = text.replace(".", "") if kind is DA else text.replace(":", "")  # as ACR-NEMA wrote them
    try:
        return digits if digits and kind(digits) else ""
    except ValueError:
        return ""
