# SPDX-License-Identifier: Apache-2.0
"""Objects go to an archive, lie in the source's study there, and come back as they were."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest

from bundle.derived import Case, Identity
from tests.derived.conftest import PLANTED, blobs
from tests.derived.test_identity import OBJECTS

PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
requests = pytest.importorskip("requests")
pytest.importorskip("dicomweb_client")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an empty Orthanc on loopback."""
    if shutil.which("Orthanc") is None or not Path(PLUGIN).exists():
        pytest.skip("no Orthanc with DICOMweb; install orthanc and orthanc-dicomweb")
    folder, port = tmp_path_factory.mktemp("orthanc"), free_port()
    settings = {
        "StorageDirectory": str(folder / "files"),
        "IndexDirectory": str(folder / "files"),
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "DicomServerEnabled": False,
        "AuthenticationEnabled": False,
        "Plugins": [PLUGIN],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        for _ in range(150):
            try:
                requests.get(f"http://127.0.0.1:{port}/system", timeout=5).raise_for_status()
                break
            except requests.ConnectionError:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/dicom-web"
    finally:
        process.terminate()
        process.wait(20)


def store(archive: str, *files: Path) -> None:
    """As docs/dicom.md does it."""
    script = Path(sys.executable).with_name("dicomweb_client")
    subprocess.run([script, "--url", archive, "store", "instances", *files], check=True, timeout=60)


def back(archive: str, study: str) -> dict[str, pydicom.Dataset]:
    """Modality -> instance, of a study of the archive."""
    from dicomweb_client import DICOMwebClient

    return {one.Modality: one for one in DICOMwebClient(archive).retrieve_study(study)}


@pytest.mark.parametrize("clip", [False, True], ids=["image", "clip"])
@pytest.mark.parametrize("keep", [True, False], ids=["kept", "anonymous"])
def test_objects_come_back_as_they_were(
    archive: str, case: Callable[..., Case], tmp_path: Path, keep: bool, clip: bool
) -> None:
    study = f"1.2.840.999.2.{1 + 2 * keep + clip}"
    tags = {"StudyInstanceUID": study, "SOPInstanceUID": f"{study}.9"}
    masks = {0: blobs(), 1: np.roll(blobs(), 4, axis=1)} if clip else None
    one = case(identity=Identity(keep), masks=masks, **tags)
    files = {kind: tmp_path / f"{kind}.dcm" for kind in OBJECTS}
    for kind, path in files.items():
        path.write_bytes(OBJECTS[kind](one) or b"")
    store(archive, tmp_path / "a.dcm", *files.values())
    expected = {"SEG": "seg", "SR": "sr", "PR": "gsps", "OT": "sc"}
    own = one.source.StudyInstanceUID
    found = back(archive, own)
    assert set(found) == {*expected, "US"} if keep else set(expected)
    for modality, kind in expected.items():
        sent = pydicom.dcmread(files[kind])
        assert found[modality].to_json_dict() == sent.to_json_dict(), kind
    assert {str(instance.PatientID) for instance in found.values()} == {
        PLANTED["PatientID"] if keep else sent.PatientID
    }
    assert set(back(archive, study)) == ({*expected, "US"} if keep else {"US"})
