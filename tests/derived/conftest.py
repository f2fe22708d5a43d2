# SPDX-License-Identifier: Apache-2.0
import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UltrasoundMultiFrameImageStorage

from bundle.derived import Case, Identity, Shot, read_header
from bundle.measures import LENGTHS
from bundle.measures import lengths as measured_lengths
from tests.transforms.readers.made_dicom import save

STRUCTURES = ("background", "lesion", "head", "nerve", "vessel")
WEIGHTS = "0123456789abcdef" * 4
PLANTED: dict[str, Any] = {
    "PatientName": "Zschoernig^Wilhelmine",
    "PatientID": "PID-4711-77",
    "IssuerOfPatientID": "St. Nirgendwo",
    "PatientBirthDate": "19310507",
    "PatientSex": "F",
    "AccessionNumber": "ACC-99183",
    "StudyID": "STUDY-5521",
    "StudyDate": "20190203",
    "StudyTime": "040506",
    "ReferringPhysicianName": "Quacksalber^Otto",
    "InstitutionName": "Klinik Irgendwo",
    "StationName": "US-ROOM-17",
    "OperatorsName": "Schallkopf^Ida",
    "StudyDescription": "Secret study 8812",
    "PatientComments": "comment 3391",
    "StudyInstanceUID": "1.2.840.999.1.11111",
    "SeriesInstanceUID": "1.2.840.999.1.22222",
    "SOPInstanceUID": "1.2.840.999.1.33333",
    "FrameOfReferenceUID": "1.2.840.999.1.44444",
}
"""What no object may hold unless it is asked to."""


def blobs() -> np.ndarray:
    """A mask (40, 56): a lesion of two parts, the larger one with a hole, and a head in the corner."""
    mask = np.zeros((40, 56), np.uint8)
    mask[10:30, 8:28] = 1
    mask[18:22, 14:20] = 0
    mask[33:37, 40:50] = 1
    mask[:6, :9] = 2
    return mask


def result(mask: np.ndarray, *, spacing: tuple[float, float] | None = (0.5, 0.2)) -> dict[str, Any]:
    """A record as :class:`bundle.tasks.Records` gives it."""
    measures, areas = {}, {}
    for index, name in enumerate(STRUCTURES[1:], start=1):
        found = measured_lengths(mask == index, spacing) if spacing else None
        measures[name] = {f"{key}_mm": round(found[key], 3) if found else None for key in LENGTHS} | {"cut": False}
        count = int((mask == index).sum())
        areas[name] = {"pixels": count, "mm2": round(count * spacing[0] * spacing[1], 4) if spacing else None}
    row, column = spacing or (None, None)
    return {
        "spacing_mm": {"row": row, "column": column, "source": "PixelSpacing" if spacing else None},
        "areas": areas,
        "measures": measures,
        "presence": {"lesion": 0.875, "head": 0.75, "nerve": 0.125, "vessel": None},
        "classes": {"breast": {"predicted": "benign", "probabilities": {"benign": 0.625, "malignant": 0.375}}},
        "organ": {"predicted": "breast", "probabilities": {"breast": 0.5}},
        "fetal_head": {"hc_mm": 123.4, "bpd_mm": 33.3, "ofd_mm": 44.4, "gestational_age_weeks": 16.25},
    }


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., Path]:
    """Gives a gray ultrasound image (40, 56), or a clip of four frames, with a patient who may not be told."""

    def make(name: str = "a.dcm", *, frames: int = 0, **tags: Any) -> Path:
        path = save(tmp_path / name, np.full((40, 56), 90, np.uint8), **{"Modality": "US", **PLANTED, **tags})
        if frames:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                header = pydicom.dcmread(path)
                header.NumberOfFrames, header.FrameTime = frames, "40"
                header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
                header.PixelData = np.full((frames, 40, 56), 90, np.uint8).tobytes()
                header.save_as(path)
        return path

    return make


@pytest.fixture
def case(source: Callable[..., Path]) -> Callable[..., Case]:
    """Gives what was found in such an image; with ``masks``, in the frames of a clip."""

    def make(
        *, keep: bool = False, masks: dict[int, np.ndarray] | None = None, identity: Identity | None = None, **tags: Any
    ) -> Case:
        header = read_header(source(frames=max(masks) + 1 if masks else 0, **tags))
        assert header is not None
        shots = [Shot(number, mask, result(mask)) for number, mask in (masks or {None: blobs()}).items()]
        return Case(header, "a.dcm", shots, STRUCTURES, WEIGHTS, 4, identity or Identity(keep))

    return make


@pytest.fixture
def loaded() -> Callable[[bytes | None], Dataset]:
    """Gives an object that was written as a file."""

    def read(content: bytes | None) -> Dataset:
        assert content is not None
        return pydicom.dcmread(pydicom.filebase.DicomBytesIO(content))

    return read


@pytest.fixture
def problems(tmp_path: Path) -> Callable[[bytes | None], list[str]]:
    """Gives the errors that dciodvfy (Debian: dicom3tools) finds in an object."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("no dciodvfy; install dicom3tools")

    def check(content: bytes | None) -> list[str]:
        assert content is not None
        (tmp_path / "object.dcm").write_bytes(content)
        done = subprocess.run(["dciodvfy", tmp_path / "object.dcm"], capture_output=True, text=True, errors="replace")
        lines = (done.stdout + done.stderr).splitlines()
        assert any(line in ("Segmentation", "ComprehensiveSR", "SCImage") or "Softcopy" in line for line in lines), (
            lines
        )
        return [line for line in lines if line.startswith(("Error", "Abort"))]

    return check
