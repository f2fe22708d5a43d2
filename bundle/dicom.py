# SPDX-License-Identifier: Apache-2.0
"""Which DICOM files hold an image, told from the start of the file."""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path
from typing import IO, Any

import pydicom
from pydicom.filereader import read_dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

PREAMBLE = 132
"""Bytes that tell a DICOM file: 128 of any content, then DICM."""

MOST_INFLATED = 1 << 29
"""Bytes that a deflated file may hold; 1 MiB of zeros deflates to 1 KiB."""

LARGE_READ = 1 << 20

SEGMENTATIONS = "1.2.840.10008.5.1.4.1.1.66."  # they have pixels, and are no image of the patient


ULTRASOUND = ("US", "IVUS")
"""Modalities that are read, whatever the object is called."""

UNDECIDED = ("", "OT", "SC", "DOC")
"""Modalities of captures that may show ultrasound."""


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


class BoundedFile(io.BufferedReader):
    """A file that is opened to be read, of which a large read asks for no more than is there.

    Python allocates what a read asks for, and readers ask for the length that an entry claims.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(io.FileIO(path))

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes, ``size`` at most."""
        if size is not None and size > LARGE_READ:
            size = min(size, max(os.fstat(self.fileno()).st_size - self.tell(), 0))
        return super().read(size)


def read_entries(file: str | Path | IO[bytes], **options: Any) -> Any:
    """A file's entries, as ``pydicom.dcmread`` gives them, whether or not it begins as DICOM.

    Args:
        file: path, or an open file, which is read from where it stands.
        options: of ``pydicom.dcmread``.

    Raises:
        ValueError: when a deflated file (PS3.5 section A.5) unpacks to more than ``MOST_INFLATED`` bytes, which pydicom
            would do at once; and what damaged files make pydicom raise.
    """
    if isinstance(file, (str, Path)):
        with BoundedFile(file) as opened:
            return read_entries(opened, **options)
    check_inflated(file)
    return pydicom.dcmread(file, force=True, **options)


def check_inflated(file: IO[bytes]) -> None:
    """Refuses a deflated file that unpacks to too much; the file stands where it stood.

    Raises:
        ValueError: then, see :func:`read_entries`.
    """
    start = file.tell()
    try:
        syntax = _meta(file).get("TransferSyntaxUID")
    except Exception:  # damaged, or no DICOM: dcmread says so
        syntax = None
    if syntax == DeflatedExplicitVRLittleEndian:
        _count_inflated(file)
    file.seek(start)


def _meta(file: IO[bytes]) -> Any:
    """The file meta information of an open file, which then stands behind it."""
    start = file.tell()
    if not starts_as_dicom(file.read(PREAMBLE)):
        file.seek(start)
    return read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 > 2)


def _count_inflated(file: IO[bytes]) -> None:
    unpacker, packed, size = zlib.decompressobj(-zlib.MAX_WBITS), file.read(), 0
    while packed and not unpacker.eof:
        try:
            size += len(unpacker.decompress(packed, 1 << 20))
        except zlib.error:
            return
        packed = unpacker.unconsumed_tail
        if size > MOST_INFLATED:
            raise ValueError(f"deflated DICOM must unpack to {MOST_INFLATED >> 20} MiB at most, got more; export it.")


def identity(file: str | Path | IO[bytes]) -> tuple[str, str, str]:
    """UIDs of the study, the series and the instance of a file; "" where it does not say."""
    names = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    header = read_entries(file, stop_before_pixels=True, specific_tags=names)
    study, series, instance = (str(header.get(name) or "") for name in names)
    return study, series, instance


def other_object(path: str) -> str | None:
    """The kind of a DICOM object that is no image (a directory, a report, a PDF, a segmentation) or no ultrasound.

    None for an image of ultrasound, for one that may be (a secondary capture), and for what does not say what it is.
    """
    try:
        with BoundedFile(path) as file:
            if not starts_as_dicom(file.read(PREAMBLE)):
                return None
            file.seek(0)
            meta = _meta(file)
            file.seek(0)
            wanted = ["SOPClassUID", "Rows", "Modality"]
            header = read_entries(file, stop_before_pixels=True, specific_tags=wanted)
        if str(meta.get("MediaStorageSOPClassUID", "")).startswith(SEGMENTATIONS):
            return class_name(header, meta)
        return _other_kind(class_name(header, meta), header)
    except Exception:  # damaged: the reader says of what kind
        return None


def _other_kind(name: str, header: Any) -> str | None:
    modality = str(header.get("Modality") or "")
    if not is_image_class(name):
        return name if name and "Rows" not in header else None
    if modality in ULTRASOUND or "Ultrasound" in name:
        return None
    if "Secondary Capture" in name:
        return None if modality in UNDECIDED else f"{name} of modality {modality}"
    return name
