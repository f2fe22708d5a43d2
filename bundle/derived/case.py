# SPDX-License-Identifier: Apache-2.0
"""What the DICOM objects of one image, or of the frames of one clip, are made of."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from monai.utils import optional_import
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as SrCode
from pydicom.uid import UltrasoundImageStorage, UltrasoundMultiFrameImageStorage

from bundle import __version__
from bundle.codes import Code
from bundle.derived.identity import IDENTIFYING, Identity

highdicom, HAS_HIGHDICOM = optional_import("highdicom")
logging.getLogger("highdicom").setLevel(logging.ERROR)  # it logs UIDs, and names that it takes for odd

ALGORITHM = "Ultrasound UPerConvNeXt"
MAKER = "ultrasound-uperconvnext"
SERIES = {"SEG": 9001, "SR": 9002, "SC": 9003, "PR": 9004}
"""Kind of object -> SeriesNumber: above those that scanners use."""


_STAND_INS = (UltrasoundImageStorage, UltrasoundMultiFrameImageStorage)


@dataclass(frozen=True)
class Shot:
    """What was found in an image, or in one frame of a clip.

    Attributes:
        frame: number in its clip, from 0; None for an image.
        mask: (H, W) uint8 structure indices.
        result: plain values, see :class:`bundle.tasks.Records`.
    """

    frame: int | None
    mask: np.ndarray
    result: Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """A source and what was found in it.

    Attributes:
        header: entries of the source's file.
        file: its name, which is in no object.
        shots: one of an image, one or more of a clip.
        structures: their names, background first.
        weights: SHA-256 of the network's weights.
        place: of the image in the run, from 0.
        identity: of the run.
    """

    header: Dataset
    file: str
    shots: Sequence[Shot]
    structures: Sequence[str]
    weights: str
    place: int
    identity: Identity

    @cached_property
    def source(self) -> Dataset:
        """The source as highdicom is told of it: without a name, and of a class of single frames.

        highdicom 0.28 takes no multi-frame source without a coordinate system; see :meth:`finished`.
        """
        source = Dataset()
        for keyword in IDENTIFYING:
            setattr(source, keyword, "")
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(source, keyword, self.identity.of_source(self.header, keyword, self.file))
        source.SOPClassUID, source.Modality = UltrasoundImageStorage, "US"
        source.Rows, source.Columns = self.shots[0].mask.shape
        return source

    @property
    def source_class(self) -> str:
        """The class of the source: an ultrasound image, where it does not say."""
        meta = getattr(self.header, "file_meta", {})
        return str(self.header.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or UltrasoundImageStorage)

    @property
    def laterality(self) -> str | None:
        """The side of a paired organ; None where the source does not say."""
        side = str(self.header.get("Laterality") or self.header.get("ImageLaterality") or "").strip()
        return side if side in ("L", "R") else None

    def tracking(self, name: str) -> str:
        """The UID of one thing in all objects of this source, and in all of its frames."""
        return self.identity.uid("tracking", self.source.SOPInstanceUID, self.file, name)

    def heading(self, kind: str, name: str = "") -> dict[str, Any]:
        """What highdicom is told of an object of a kind: series, instance and what made it.

        Args:
            kind: one of ``SERIES``.
            name: of one among several objects of the source.
        """
        return {
            "series_instance_uid": self.identity.uid(kind, self.source.StudyInstanceUID),
            "series_number": SERIES[kind],
            "sop_instance_uid": self.identity.uid(kind, self.file, name),
            "instance_number": self.place + 1,
            "manufacturer": MAKER,
        }

    @property
    def device(self) -> dict[str, str]:
        """What made the objects, for highdicom."""
        return {
            "manufacturer_model_name": ALGORITHM,
            "software_versions": __version__,
            "device_serial_number": self.weights[:16],
        }

    def finished(self, made: Dataset) -> bytes:
        """An object as a file, with the source's own class and the patient and study that the run allows."""
        for part in made.iterall():
            if part.keyword == "ReferencedSOPClassUID" and part.value in _STAND_INS:
                part.value = self.source_class
        made.SeriesDescription = f"{ALGORITHM} {made.Modality}"
        self.identity.stamp(made, self.header, self.file)
        file = io.BytesIO()
        made.save_as(file, enforce_file_format=True)
        return file.getvalue()


def dicom_code(code: Code) -> SrCode:
    """A code of :mod:`bundle.codes` for pydicom and highdicom."""
    return SrCode(code.value, code.scheme, code.meaning)
