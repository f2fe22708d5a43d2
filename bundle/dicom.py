# SPDX-License-Identifier: Apache-2.0
"""Which DICOM files hold an image, told from the start of the file."""

from __future__ import annotations

from typing import IO, Any

import pydicom
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID

PREAMBLE = 132
"""Bytes that tell a DICOM file: 128 of any content, then DICM."""

SEGMENTATIONS = "1.2.840.10008.5.1.4.1.1.66."  # they have pixels, and are no image of the patient


def starts_as_dicom(head: bytes) -> bool:
    """Whether a file with these first ``PREAMBLE`` bytes says that it is DICOM."""
    return head[128:PREAMBLE] == b"DICM"


def class_name(header: Any, meta: Any) -> str:
    """What kind of object it is, such as "Ultrasound Image Storage"; "" when it does not say."""
    uid = str(meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID") or "")
    return UID(uid).name if uid else ""


def is_image_class(name: str) -> bool:
    """Whether objects of this kind are images, by the kind's name in the standard."""
    return "Image Storage" in name


def other_object(file: str | IO[bytes]) -> str | None:
    """The kind of a DICOM object that is no image: a directory, a report, a PDF, a segmentation.

    None for an image, and for what does not say what it is.
    """
    try:
        meta: Any = read_file_meta_info(file)
        if is_image_class(class_name({}, meta)):
            return None
        wanted = ["SOPClassUID", "Rows"]
        header: Any = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=wanted)
        name = class_name(header, meta)
        segmentation = str(meta.get("MediaStorageSOPClassUID", "")).startswith(SEGMENTATIONS)
        return name if name and (segmentation or ("Rows" not in header and not is_image_class(name))) else None
    except Exception:  # damaged: the reader says of what kind
        return None
