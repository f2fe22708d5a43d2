# SPDX-License-Identifier: Apache-2.0
"""Inference with DICOM objects, as the shipped config runs it."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from tests.derived.conftest import PLANTED
from tests.test_inference import SMALL, run
from tests.transforms.readers.made_dicom import save

ROOT = Path(__file__).resolve().parents[1]
PERSONAL = [word for keyword, value in PLANTED.items() if keyword != "PatientSex" for word in str(value).split("^")]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An image and a clip of one patient, and an image that is no DICOM."""
    random, top = np.random.default_rng(0), tmp_path / "images"
    (top / "sub").mkdir(parents=True)
    tags = {"Modality": "US", "PixelSpacing": [0.5, 0.2], **PLANTED}
    save(top / "sub/a.dcm", random.integers(0, 200, (60, 80), np.uint8), **tags)
    clip = save(
        top / "c.dcm", random.integers(0, 200, (60, 80), np.uint8), **{**tags, "SOPInstanceUID": "1.2.840.999.1.9"}
    )
    header = pydicom.dcmread(clip)
    header.NumberOfFrames, header.FrameTime = 3, "40"
    header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
    header.PixelData = random.integers(0, 200, (3, 60, 80), np.uint8).tobytes()
    header.save_as(clip)
    Image.fromarray(random.integers(0, 200, (60, 80), np.uint8)).save(top / "b.png")
    return top


def made(out: Path) -> dict[str, Dataset]:
    return {path.relative_to(out).as_posix(): pydicom.dcmread(path) for path in sorted(out.rglob("*.dcm"))}


def label_map(seg: Dataset, frame: int | None, names: list[str]) -> np.ndarray:
    """Structure indices (H, W) of an image or a frame, from a Segmentation."""
    found = np.zeros((seg.Rows, seg.Columns), np.uint8)
    planes = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    labels = {segment.SegmentNumber: names.index(segment.SegmentLabel) for segment in seg.SegmentSequence}
    for plane, group in zip(planes, seg.PerFrameFunctionalGroupsSequence, strict=True):
        both = {**seg.SharedFunctionalGroupsSequence[0], **group}
        parts = Dataset({tag: element for tag, element in both.items()})
        number = parts.DerivationImageSequence[0].SourceImageSequence[0].get("ReferencedFrameNumber")
        if frame is None or number == frame + 1:
            found[plane > 0] = labels[parts.SegmentIdentificationSequence[0].ReferencedSegmentNumber]
    return found


STRUCTURES = ["background", "lesion", "head", "nerve", "vessel"]
OPTIONS: dict[str, Any] = {"check_images": False, "gate": None, "position": "breast"}


def test_objects_hold_what_the_masks_hold(archive: Path, tmp_path: Path, weights: Path) -> None:
    out = tmp_path / "out"
    images = run(archive, out, weights, dicom=True, frames=2, **OPTIONS)
    objects = made(out)
    clip = ["c_gsps.dcm", "c_seg.dcm", "c_sr.dcm", "c_frame00000_sc.dcm", "c_frame00002_sc.dcm"]
    assert sorted(objects) == sorted([*clip, *(f"sub/a_{kind}.dcm" for kind in ("gsps", "sc", "seg", "sr"))])
    named = {(record["file"], record["frame"]): record for record in images}
    for key, seg in ((("sub/a.dcm", None), "sub/a_seg.dcm"), (("c.dcm", 0), "c_seg.dcm"), (("c.dcm", 2), "c_seg.dcm")):
        with Image.open(out / named[key]["mask"]) as mask:
            assert np.array_equal(label_map(objects[seg], key[1], STRUCTURES), np.asarray(mask))
    assert len({one.StudyInstanceUID for one in objects.values()}) == 1
    assert named["b.png", None]["seg"] is None
    areas = {round(record["areas"]["lesion"]["mm2"], 4) for record in images if record["file"] == "c.dcm"}
    text = str(objects["c_sr.dcm"])
    assert all(str(area) in text for area in areas)


@pytest.mark.parametrize("keep", ["false", "true"])
def test_the_patient_is_named_only_where_asked(archive: Path, tmp_path: Path, weights: Path, keep: str) -> None:
    options = {"dataset_dir": archive, "output_dir": tmp_path / "out", "ckpt_path": weights, **SMALL, "dicom": "true"}
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.yaml"]
    for name, value in {**options, "keep_identity": keep, "check_images": "False"}.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert [word for word in PERSONAL if word in said] == []
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    naming = {path for path in files for word in PERSONAL if word.encode() in path.read_bytes()}
    objects = {path for path in files if path.suffix == ".dcm"}
    assert len(objects) >= 6
    assert naming == (objects if keep == "true" else set())


def test_objects_are_written_when_asked(archive: Path, tmp_path: Path, weights: Path) -> None:
    run(archive / "sub", tmp_path / "out", weights)
    assert made(tmp_path / "out") == {}


def test_one_kind_can_be_left_out(archive: Path, tmp_path: Path, weights: Path) -> None:
    run(archive / "sub", tmp_path / "out", weights, dicom=True, **{"sinks#sc": None}, **OPTIONS)
    assert sorted(made(tmp_path / "out")) == ["a_gsps.dcm", "a_seg.dcm", "a_sr.dcm"]


def test_highdicom_logs_no_more_than_errors() -> None:
    import bundle.derived  # noqa: F401

    assert logging.getLogger("highdicom.base").getEffectiveLevel() == logging.ERROR
