# SPDX-License-Identifier: Apache-2.0
"""DICOM objects of images from DICOM files, of no others, and of clips one for all frames."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.data
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image

from bundle.derived import Identity
from bundle.sinks import PredictionWriter
from bundle.sinks.dicom import Captures, DicomObjects, Presentations, Reports, Segmentations
from tests.sinks.conftest import TASKS
from tests.transforms.readers.made_dicom import save

Writer = Callable[..., PredictionWriter]
Item = Callable[..., dict[str, Any]]
Run = Callable[..., None]

UIDS = {"StudyInstanceUID": "1.2.840.1", "SeriesInstanceUID": "1.2.840.2", "SOPInstanceUID": "1.2.840.3"}


def sinks(*, keep: bool = False) -> dict[str, DicomObjects]:
    identity = Identity(keep)
    return {
        "seg": Segmentations(identity),
        "sr": Reports(identity),
        "sc": Captures(identity, TASKS),
        "gsps": Presentations(identity),
    }


def dicom(folder: Path, name: str, **tags: Any) -> None:
    folder.mkdir(exist_ok=True)
    save(folder / name, np.full((6, 9), 100, np.uint8), **{**UIDS, "PatientName": "Zschoernig^W", **tags})


def objects(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "out").glob("*.dcm"))


def test_a_dicom_image_gets_four_objects_and_another_image_none(
    writer: Writer, item: Item, run: Run, tmp_path: Path
) -> None:
    dicom(tmp_path / "in", "a.dcm")
    Image.new("L", (9, 6)).save(tmp_path / "in/b.png")
    run(writer(**sinks()), item("a.dcm"), item("b.png", place=1))
    assert objects(tmp_path) == ["a_gsps.dcm", "a_sc.dcm", "a_seg.dcm", "a_sr.dcm"]
    one, other = json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    assert [one[kind] for kind in ("seg", "sr", "sc", "gsps")] == [f"a_{k}.dcm" for k in ("seg", "sr", "sc", "gsps")]
    assert {other[kind] for kind in ("seg", "sr", "sc", "gsps")} == {None}
    made = [pydicom.dcmread(tmp_path / "out" / name) for name in objects(tmp_path)]
    assert len({one.StudyInstanceUID for one in made}) == 1  # the four sinks agree on it
    assert len({one.SeriesInstanceUID for one in made}) == 4
    with Image.open(tmp_path / "out/a_overlay.png") as overlay:
        assert np.array_equal(made[1].pixel_array, np.asarray(overlay))


def test_frames_of_a_clip_share_their_objects(writer: Writer, item: Item, run: Run, tmp_path: Path) -> None:
    dicom(tmp_path / "in", "c.dcm", SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1")
    frames = [
        item("c.dcm", frame=n, place=n, output=f"c_frame{n:05d}")
        for n in (2, 0)  # lanes may end in any order
    ]
    run(writer(**sinks()), *frames)
    assert objects(tmp_path) == ["c_frame00000_sc.dcm", "c_frame00002_sc.dcm", "c_gsps.dcm", "c_seg.dcm", "c_sr.dcm"]
    groups = pydicom.dcmread(tmp_path / "out/c_seg.dcm").PerFrameFunctionalGroupsSequence
    sources = [group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber for group in groups]
    assert sources == [1, 3, 1, 3]  # lesion in both, head in both


def test_a_film_gets_none(writer: Writer, item: Item, run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/c.mp4").write_bytes(b"no DICOM" * 40)
    made = sinks()
    run(writer(**made), item("c.mp4", frame=0, output="c_frame00000"))
    assert objects(tmp_path) == []
    assert [sink.frames for sink in made.values()] == [[]] * 4


def test_an_object_of_an_earlier_run_does_not_stay_where_nothing_is_found(
    writer: Writer, item: Item, run: Run, tmp_path: Path
) -> None:
    dicom(tmp_path / "in", "a.dcm")
    run(writer(**sinks()), item("a.dcm"))
    run(writer(**sinks()), item("a.dcm", mask=torch.zeros(1, 6, 9, dtype=torch.uint8)))
    assert "a_seg.dcm" not in objects(tmp_path)
    assert "a_gsps.dcm" not in objects(tmp_path)
    assert "a_sc.dcm" in objects(tmp_path)


@pytest.mark.parametrize("taken", ["a_sr.dcm", "c_seg.dcm"])
def test_a_file_of_others_stops_the_run_before_it_begins(
    writer: Writer, item: Item, run: Run, tmp_path: Path, taken: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / taken).write_text("mine")
    dicom(tmp_path / "in", "a.dcm")
    handler = writer(**sinks())
    data = [{"output": "a"}, {"output": "c_frame00007", "frame": 7}]
    handler.dataloader = torch.utils.data.DataLoader(monai.data.Dataset(data))
    with pytest.raises(FileExistsError, match=taken):
        run(handler, item("a.dcm"))
    assert (tmp_path / "out" / taken).read_text() == "mine"


def test_an_odd_header_costs_no_other_file(
    writer: Writer, item: Item, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dicom(tmp_path / "in", "b.dcm")
    (tmp_path / "in/a.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 50)  # damaged since it was read
    with caplog.at_level(logging.INFO):
        run(writer(**sinks()), item("a.dcm"), item("b.dcm", place=1))
    assert [name for name in objects(tmp_path) if name.startswith("b")] == [
        f"b_{k}.dcm" for k in ("gsps", "sc", "seg", "sr")
    ]
    assert (
        "a.dcm: no _seg.dcm was written: its header must be that of an image, got one that gives ValueError"
        in caplog.text
    )
    assert (tmp_path / "out/a_mask.png").exists()


def test_no_log_names_the_patient(
    writer: Writer, item: Item, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    dicom(tmp_path / "in", "a.dcm", PatientName="Zschoernig", StudyDate="Zschoernig", PatientID="Zschoernig" * 9)
    caplog.clear()  # of what the file's making says
    capfd.readouterr()
    with caplog.at_level(logging.INFO):
        run(writer(**sinks(keep=True)), item("a.dcm"))
    assert len(objects(tmp_path)) == 4
    assert "Zschoernig" not in caplog.text + "".join(capfd.readouterr())


def test_without_highdicom_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bundle.sinks.dicom.HAS_HIGHDICOM", False)
    with pytest.raises(ImportError, match=r'need highdicom, got none; run pip install -e "\.\[dicom\]"'):
        Segmentations(Identity())
