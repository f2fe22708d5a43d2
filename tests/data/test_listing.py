# SPDX-License-Identifier: Apache-2.0
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from bundle.data.listing import list_images
from bundle.data.set_files import is_image

US, MULTI, SR, DIRECTORY = "6.1", "3.1", "88.11", "1.2.840.10008.1.3.10"
KINDS = {"KO": "88.59", "PDF": "104.1", "PR": "11.1", "SEG": "66.4", "PLAN": "481.5", "RAW": "66", "private": "1.2.3"}


def write(path: Path, kind: str, *, pixels: bool = False, modality: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    uid = kind if kind.startswith("1.2.") else f"1.2.840.10008.5.1.4.1.1.{kind}"
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = uid
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    if modality:
        ds.Modality = modality
    if pixels:
        ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = 4, 6, 1, "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit, ds.PixelRepresentation = 7, 0
        ds.PixelData = bytes(24)
    ds.save_as(path, enforce_file_format=True)
    return path


def names(folder: Path) -> list[str]:
    return [Path(item["image"]).relative_to(folder).as_posix() for item in list_images(folder)]


def test_a_dicom_disk_gives_its_images_and_names_the_rest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "DICOMDIR", DIRECTORY)
    write(tmp_path / "PAT0/STU0/IM_0001", US, pixels=True)
    write(tmp_path / "PAT0/STU0/IM_0002.dcm", US, pixels=True)
    write(tmp_path / "PAT0/STU0/1.2.840.77", MULTI, pixels=True)
    write(tmp_path / "PAT0/STU0/odd.img", "1.2.3", pixels=True)
    write(tmp_path / "PAT0/STU0/empty.dcm", US)  # an image's class: its failure is told later on
    write(tmp_path / "PAT0/SR0/SR000000", SR)
    write(tmp_path / "PAT0/SR0/report.dcm", SR)
    for name, kind in KINDS.items():
        write(tmp_path / f"other/{name}", kind, pixels=name == "SEG")
    with caplog.at_level(logging.INFO):
        found = names(tmp_path)
    assert found == [f"PAT0/STU0/{n}" for n in ("1.2.840.77", "IM_0001", "IM_0002.dcm", "empty.dcm", "odd.img")]
    (line,) = caplog.messages
    assert line.startswith(
        "10 DICOM objects that are no images of ultrasound are passed over: DICOMDIR (Media Storage Directory"
    )
    for name in (
        "PAT0/SR0/SR000000 (Basic Text SR Storage)",
        "other/SEG (Segmentation Storage)",
        "other/private (1.2.3)",
    ):
        assert name in line


def test_images_of_other_modalities_are_passed_over_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "us.dcm", US, pixels=True)
    write(tmp_path / "ct.dcm", "2", pixels=True, modality="CT")
    write(tmp_path / "xray.dcm", "1.1", pixels=True, modality="DX")
    write(tmp_path / "tagged.dcm", "1", pixels=True, modality="US")  # a gateway's class for everything
    write(tmp_path / "capture.dcm", "7", pixels=True, modality="OT")
    write(tmp_path / "film.dcm", "7", pixels=True, modality="MG")
    with caplog.at_level(logging.INFO):
        assert names(tmp_path) == ["capture.dcm", "tagged.dcm", "us.dcm"]
    (line,) = caplog.messages
    assert line == (
        "3 DICOM objects that are no images of ultrasound are passed over: ct.dcm (CT Image Storage), film.dcm"
        " (Secondary Capture Image Storage of modality MG), xray.dcm (Digital X-Ray Image Storage - For Presentation)."
    )
    with pytest.raises(ValueError, match="expected an image or a folder, got a CT Image Storage object"):
        list_images(tmp_path / "ct.dcm")


def test_a_disk_without_images_is_an_error_that_names_what_there_is(tmp_path: Path) -> None:
    path = write(tmp_path / "DICOMDIR", DIRECTORY)
    with pytest.raises(FileNotFoundError, match=r"got none; 1 DICOM objects that .* passed over: DICOMDIR"):
        list_images(tmp_path)
    with pytest.raises(ValueError, match=r"got a Media Storage Directory Storage object; give the folder"):
        list_images(path)


def test_files_that_are_passed_over_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.png", ".hidden.png", "._a.png", "scan", "photo.jfif"):
        Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / name, format="JPEG" if "jf" in name else "PNG")
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "clip.mp4").touch()
    for number in range(25):
        (tmp_path / f"z{number:02d}.xml").touch()
    with caplog.at_level(logging.INFO):
        assert names(tmp_path) == ["a.png"]
    lines = {record.getMessage(): record.levelname for record in caplog.records}
    assert len(lines) == 3
    warning = next(text for text, level in lines.items() if level == "WARNING")
    assert warning.startswith("2 files look like images but have no image's suffix and are left out; rename them")
    assert warning.endswith("photo.jfif (JPEG), scan (PNG).")
    others = next(text for text in lines if "of no image format" in text)
    assert others.startswith("27 files of no image format are passed over: clip.mp4, notes.txt, z00.xml")
    assert others.endswith("z17.xml and 7 more.")
    assert "1 hidden images, with a dot before their name, are passed over: .hidden.png." in lines


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".webp", ".gif", ".jp2", ".NRRD", ".Nii.gz"])
def test_every_format_that_is_read_is_listed(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").touch()
    assert names(tmp_path) == [f"a{suffix}"]


def test_images_of_a_folder_are_found_by_name_and_content(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/c.nii.gz", "a/d.jpeg", "notes.txt", ".hidden.png", ".cache/e.png", "a/._f.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png/empty.dcm").mkdir(parents=True)
    (tmp_path / "folder.png/scan.dcm").mkdir()
    (tmp_path / "folder.png/scan.dcm/b.png").touch()
    (tmp_path / "IM_0001").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "1.2.840.113").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "README").write_text("text")
    found = [str(Path(entry["image"]).relative_to(tmp_path)) for entry in list_images(tmp_path)]
    assert found == ["1.2.840.113", "IM_0001", "a/c.nii.gz", "a/d.jpeg", "b.PNG", "folder.png/scan.dcm/b.png"]
    assert list_images(tmp_path / "notes.txt") == [{"image": str(tmp_path / "notes.txt")}]


def test_links_that_lead_round_in_circles_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "set/a").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("set/x.png", "set/a/y.png", "elsewhere/z.png"):
        (tmp_path / name).touch()
    (tmp_path / "set/self").symlink_to(tmp_path / "set")
    (tmp_path / "set/a/out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "set/a")
    found = [str(Path(entry["image"]).relative_to(tmp_path)) for entry in list_images(tmp_path / "set")]
    assert found == ["set/a/out/z.png", "set/a/y.png", "set/x.png"]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected images .*, got none"):
        list_images(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none: expected a folder with images, got no such folder"):
        list_images(tmp_path / "none")


def test_an_empty_name_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of an unset variable of a shell."""
    (tmp_path / "a.png").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="dataset_dir '': expected a folder with images, got no such folder"):
        list_images("")
    assert list_images(".") == [{"image": "./a.png"}]


@pytest.mark.parametrize("first", ["a", "z"])
def test_a_link_to_a_folder_that_is_read_is_named_and_read_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, first: str
) -> None:
    for name in ("set/m/sub/x.png", "set/m/y.png", "elsewhere/deep/z.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / f"set/{first}").symlink_to(tmp_path / "set/m")
    (tmp_path / "set/b").symlink_to(tmp_path / "elsewhere/deep")
    (tmp_path / "set/c").symlink_to(tmp_path / "elsewhere")  # holds what b leads to
    with caplog.at_level(logging.INFO):
        assert names(tmp_path / "set") == ["b/z.png", "m/sub/x.png", "m/y.png"]
    assert caplog.messages == [f"1 links to folders that are read by another way are not followed: {first}."]


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    for name in ("a.png", "b.dcm", "c"):
        os.mkfifo(tmp_path / name)
    assert names(tmp_path) == ["a.png", "b.dcm"]  # whose reading tells what is wrong
    assert not is_image(tmp_path / "c")


def test_a_link_to_a_hidden_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / ".store/v1").mkdir(parents=True)
    (tmp_path / ".store/v1/a.png").touch()
    (tmp_path / "now").symlink_to(tmp_path / ".store/v1")
    assert names(tmp_path) == ["now/a.png"]
