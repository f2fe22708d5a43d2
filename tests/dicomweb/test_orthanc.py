# SPDX-License-Identifier: Apache-2.0
"""Inference from a real server: what comes, under which names, and that nothing else leaves."""

import csv
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import BasicTextSRStorage, ExplicitVRLittleEndian

from bundle.live import open_source
from bundle.live.frames import list_frames
from tests.live.test_sources import write_dicom

ROOT = Path(__file__).resolve().parents[2]
AUTH = ("reader", "secret-4711")
ENVIRONMENT = {"DICOMWEB_USER": AUTH[0], "DICOMWEB_PASSWORD": AUTH[1]}
GREY = np.full((1, 48, 64), 90, np.uint8)


def store(url: str, content: bytes) -> None:
    requests.post(f"{url}/instances", data=content, auth=AUTH, timeout=30).raise_for_status()


def image(folder: Path, *uids: str, pixels: np.ndarray = GREY, modality: str = "US") -> bytes:
    names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    tags = dict(zip(names, uids, strict=True)) | {"Modality": modality, "PatientID": "PAT-0815"}
    return write_dicom(folder / "made.dcm", pixels, **tags).read_bytes()


def report(folder: Path, *uids: str) -> bytes:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.Modality, ds.PatientID = BasicTextSRStorage, "SR", "PAT-0815"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = uids
    ds.save_as(folder / "report.dcm", enforce_file_format=True)
    return (folder / "report.dcm").read_bytes()


@pytest.fixture
def study(orthanc: str, tmp_path: Path) -> str:
    """The URL of a study of two images, a clip and a report."""
    store(orthanc, image(tmp_path, "1.2.1", "1.2.1.1", "1.2.1.1.1"))
    store(orthanc, image(tmp_path, "1.2.1", "1.2.1.1", "1.2.1.1.2"))
    store(orthanc, image(tmp_path, "1.2.1", "1.2.1.2", "1.2.1.2.1", pixels=np.repeat(GREY, 3, axis=0)))
    store(orthanc, report(tmp_path, "1.2.1", "1.2.1.3", "1.2.1.3.1"))
    store(orthanc, image(tmp_path, "1.2.2", "1.2.2.1", "1.2.2.1.1"))
    return f"{orthanc}/dicom-web/studies/1.2.1"


@pytest.fixture
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def command(options: dict[str, object]) -> list[str]:
    words = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.yaml"]
    return words + [part for name, value in options.items() for part in (f"--{name}", str(value))]


def tiny(folder: Path, weights: Path, address: str) -> dict[str, object]:
    return {
        "dataset_dir": address, "output_dir": folder / "out", "ckpt_path": weights, "encoder": "test_convnext",
        "decoder_channels": 16, "check_images": False,
    }  # fmt: skip


def test_a_study_is_predicted_under_its_uids(study: str, tmp_path: Path, weights: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    options = tiny(tmp_path, weights, study) | {"frames": 2}
    environment = {**os.environ, **ENVIRONMENT, "TMPDIR": str(temporary)}
    done = subprocess.run(command(options), cwd=ROOT, capture_output=True, text=True, env=environment)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "3 of 3 instances came from 127.0.0.1" in said
    assert "1 series of other modalities are passed over: SR (1)" in said
    with open(tmp_path / "out/predictions.csv", newline="") as file:
        rows = [(row["file"], row["frame"], row["spacing_mm.source"]) for row in csv.DictReader(file)]
    source = "SequenceOfUltrasoundRegions"
    assert rows == [
        ("1.2.1/1.2.1.1/1.2.1.1.1.dcm", "", source), ("1.2.1/1.2.1.1/1.2.1.1.2.dcm", "", source),
        ("1.2.1/1.2.1.2/1.2.1.2.1.dcm", "0", source), ("1.2.1/1.2.1.2/1.2.1.2.1.dcm", "2", source),
    ]  # fmt: skip
    assert (tmp_path / "out/1.2.1/1.2.1.1/1.2.1.1.1_mask.png").is_file()
    assert (tmp_path / "out/1.2.1/1.2.1.2/1.2.1.2.1_frame00002_mask.png").is_file()
    assert not list(temporary.glob("dicomweb_*"))
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    for secret in ("secret-4711", "PAT-0815", "Doe", "4711", str(temporary)):
        assert secret not in said
        assert secret.encode() not in written


@pytest.mark.usefixtures("_known")
def test_a_server_a_series_and_an_instance_are_read(study: str) -> None:
    top = study.partition("/studies")[0]

    def files(address: str) -> list[str]:
        return [item["file"] for item in list_frames(address)]

    assert {"1.2.1/1.2.1.1/1.2.1.1.1.dcm", "1.2.2/1.2.2.1/1.2.2.1.1.dcm"} <= set(files(top))
    assert files(f"{study}/series/1.2.1.1") == ["1.2.1/1.2.1.1/1.2.1.1.1.dcm", "1.2.1/1.2.1.1/1.2.1.1.2.dcm"]
    assert files(f"{study}/series/1.2.1.1/instances/1.2.1.1.2") == ["1.2.1/1.2.1.1/1.2.1.1.2.dcm"]
    with pytest.raises(FileNotFoundError, match=r"^dataset_dir http.*/1\.2\.1\.3: expected images .*Text SR"):
        files(f"{study}/series/1.2.1.3")
    with pytest.raises(OSError, match="expected instances, got none: the server lists no instances of ultrasound"):
        files(f"{top}/studies/9.9.9")


@pytest.mark.usefixtures("_known")
def test_the_live_view_plays_a_clip_and_stills_of_a_server(study: str) -> None:
    clip = open_source(f"{study}/series/1.2.1.2")
    assert (clip.kind, clip.length) == ("dicom", 3)
    assert all(picture is not None and picture.pixels.shape == (48, 64) for picture in clip.pictures())
    stills = open_source(f"{study}/series/1.2.1.1")
    assert (stills.kind, stills.length, stills.skipped) == ("folder", 2, 0)
    assert len([picture for picture in stills.pictures() if picture is not None]) == 2


@pytest.mark.usefixtures("_known")
def test_only_this_user_reads_the_folder(study: str) -> None:
    folder = Path(list_frames(study)[0]["image"]).parents[2]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_wrong_credentials_are_told_and_not_repeated(study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICOMWEB_USER", "reader")
    monkeypatch.setenv("DICOMWEB_PASSWORD", "wrong-0815")
    with pytest.raises(
        OSError, match=r"refuses access \(status 401\); see the credentials in the environment"
    ) as caught:
        list_frames(study)
    assert "wrong-0815" not in str(caught.value)


@pytest.mark.usefixtures("_known")
def test_files_come_as_they_are_stored(orthanc: str, real_data: Path) -> None:
    stored = {}
    for path in sorted((real_data / "dicom").glob("*.dcm")):
        content = path.read_bytes()
        if requests.post(f"{orthanc}/instances", data=content, auth=AUTH, timeout=30).ok:  # some have no patient ID
            ds = pydicom.dcmread(path, stop_before_pixels=True)
            name = f"{ds.StudyInstanceUID}/{ds.SeriesInstanceUID}/{ds.SOPInstanceUID}.dcm"
            stored.setdefault(name, content)  # one instance in several transfer syntaxes: the first stays
    found = {item["file"]: Path(item["image"]).read_bytes() for item in list_frames(f"{orthanc}/dicom-web", every=0)}
    assert len(stored) == 9
    assert {name: found[name] for name in stored} == stored


def test_a_run_that_is_ended_leaves_no_files(study: str, tmp_path: Path) -> None:
    script = (
        f"import time; from bundle.live.frames import list_frames; list_frames({study!r}); print('here', flush=True);"
        " time.sleep(90)"
    )
    environment = {**os.environ, **ENVIRONMENT, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"
    assert list(tmp_path.glob("dicomweb_*"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(50) == 128 + signal.SIGTERM
    assert not list(tmp_path.glob("dicomweb_*"))
