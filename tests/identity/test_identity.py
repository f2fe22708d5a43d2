# SPDX-License-Identifier: Apache-2.0
"""A planted name is nowhere in what is written, and pixels, regions and times are what they were."""

import csv
import io
import os
import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, UltrasoundImageStorage, generate_uid
from torch import Tensor

from bundle.identity.folder import deidentify_folder, mapping
from bundle.identity.header import deidentify_header, identifying_words, new_uid
from bundle.live.cine import cine_pictures
from bundle.live.pictures import Picture

pytest.importorskip("dicomanonymizer", reason="needs dicom-anonymizer")

NAME, NUMBER, PLACE = "Plantagenet", "MRN778812", "Castlemoor Clinic"
SECRETS = ("plantagenet", "778812", "castlemoor", "eleanor", "19731224")
SALT = b"0123456789abcdef"


def image(shape: tuple[int, ...] = (40, 50)) -> Dataset:
    """An ultrasound image with a name wherever one fits."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = UltrasoundImageStorage, generate_uid(entropy_srcs=["a"])
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(entropy_srcs=["s"]), generate_uid(entropy_srcs=["t"])
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = f"{NAME}^Eleanor", NUMBER, "19731224"
    ds.PatientSex, ds.PatientAge, ds.AccessionNumber, ds.StudyDate = "F", "052Y", "A778812", "20260102"
    ds.InstitutionName, ds.ReferringPhysicianName, ds.Modality = PLACE, "Mortimer^Roger", "US"
    ds.ImageComments = f"seen by Dr Mortimer, patient {NAME}"
    ds.ImageType = ["ORIGINAL", "PRIMARY", NAME.upper()]
    ds.Manufacturer, ds.SoftwareVersions = "ACME", f"v3 licensed to {PLACE}"
    ds.FrameTime, ds.PatientComments = 33.3, f"call {NAME}"
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = UltrasoundImageStorage, generate_uid(entropy_srcs=["r"])
    item.PatientName, item.TextValue = f"{NAME}^Eleanor", f"{NAME} {NUMBER}"
    ds.ReferencedImageSequence = [item]
    region = Dataset()
    region.RegionSpatialFormat, region.PhysicalDeltaX, region.PhysicalDeltaY = 1, 0.02, 0.03
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 0, 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 49, 39
    inner = Dataset()
    inner.PersonName = f"{NAME}^Eleanor"
    region.add_new((0x0040, 0x0275), "SQ", [inner])
    ds.SequenceOfUltrasoundRegions = [region]
    block = ds.private_block(0x0019, "ACME 1.0", create=True)
    block.add_new(1, "LO", NAME)
    block.add_new(2, "UN", f"{NAME} 19731224".encode())
    ds.add_new((0x6000, 0x4000), "LT", NAME)
    pixels = np.random.default_rng(0).integers(60, 200, shape, np.uint8)
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = *shape[-2:], 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation, ds.PixelData = 7, 0, pixels.tobytes()
    if len(shape) == 3:
        ds.NumberOfFrames = shape[0]
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.file_meta.SourceApplicationEntityTitle = NAME.upper()
    ds.preamble = NAME.encode().ljust(128, b"\0")
    return ds


def corner(image: Tensor) -> np.ndarray:
    """Takes the upper left corner for text."""
    found = np.zeros(tuple(image.shape[1:]), bool)
    found[:8, :20] = True
    return found


def leaks(content: bytes) -> list[str]:
    text = content.decode("latin-1").casefold()
    return [secret for secret in SECRETS if secret in text]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A folder whose names are a patient's too."""
    folder = tmp_path / f"{NAME}_{NUMBER}"
    folder.mkdir()
    image().save_as(folder / f"{NAME}.dcm", enforce_file_format=True)
    cine = image((3, 40, 50))
    cine.SOPInstanceUID = cine.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["b"])
    cine.save_as(folder / "b_cine", enforce_file_format=True)
    note = PngImagePlugin.PngInfo()
    note.add_text("Patient", f"{NAME} {NUMBER}")
    Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(folder / "c.png", pnginfo=note)
    (folder / "d.dcm").write_bytes((folder / "b_cine").read_bytes()[:900])
    return folder


def test_no_output_holds_a_planted_name(archive: Path, tmp_path: Path) -> None:
    outcome = deidentify_folder(archive, tmp_path / "clean", finder=corner, salt=SALT)
    assert sorted(outcome.written.values()) == ["00001.dcm", "00002.dcm", "00003.png"]
    assert list(outcome.failed) == [archive / "d.dcm"]
    written = [path for path in (tmp_path / "clean").rglob("*") if path.is_file()]
    assert len(written) == 5  # three images, the report, the list of outputs
    for path in written:
        assert not leaks(path.read_bytes()), path.name
        assert not leaks(path.name.encode())


def test_what_is_seen_and_measured_stays(archive: Path, tmp_path: Path) -> None:
    outcome = deidentify_folder(archive, tmp_path / "clean", finder=corner, salt=SALT)
    new = pydicom.dcmread(tmp_path / "clean" / outcome.written[archive / "b_cine"])
    pixels = new.pixel_array
    truth = image((3, 40, 50)).pixel_array
    assert (pixels[:, :8, :20] == truth.min()).all()
    shown = ~corner(Tensor(1, 40, 50))
    assert np.array_equal(pixels[:, shown], truth[:, shown])
    assert (new.Modality, new.FrameTime, new.NumberOfFrames, new.Manufacturer) == ("US", 33.3, 3, "ACME")
    [region] = new.SequenceOfUltrasoundRegions
    assert (region.PhysicalDeltaX, region.RegionLocationMaxX1) == (0.02, 49)
    assert (new.PatientName, new.PatientSex) == ("", "")
    assert (new.PatientIdentityRemoved, new.BurnedInAnnotation) == ("YES", "NO")
    assert [code.CodeValue for code in new.DeidentificationMethodCodeSequence] == ["113100", "113101"]


def test_equal_uids_stay_equal_and_old_ones_are_gone(archive: Path, tmp_path: Path) -> None:
    outcome = deidentify_folder(archive, tmp_path / "clean", finder=None, salt=SALT)
    one, other = (pydicom.dcmread(tmp_path / "clean" / outcome.written[archive / n]) for n in (f"{NAME}.dcm", "b_cine"))
    assert one.StudyInstanceUID == other.StudyInstanceUID != image().StudyInstanceUID
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID
    assert one.SOPClassUID == one.ReferencedImageSequence[0].ReferencedSOPClassUID == UltrasoundImageStorage
    again = deidentify_folder(archive, tmp_path / "again", finder=None, salt=b"another secret..")
    assert (
        pydicom.dcmread(tmp_path / "again" / again.written[archive / "b_cine"]).StudyInstanceUID != one.StudyInstanceUID
    )
    assert [code.CodeValue for code in one.DeidentificationMethodCodeSequence] == ["113100"]
    assert "BurnedInAnnotation" not in one  # nobody looked


def test_the_report_says_what_went_and_no_value(archive: Path, tmp_path: Path) -> None:
    outcome = deidentify_folder(archive, tmp_path / "clean", finder=corner, salt=SALT)
    with open(tmp_path / "clean/deidentified.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["file"] == outcome.written[archive / f"{NAME}.dcm"]]
    told = {row["element"]: row["action"] for row in rows}
    assert told["PatientName"] == "emptied"
    assert told["ReferencedImageSequence[0].PatientName"] == "emptied"
    assert told["StudyInstanceUID"] == "replaced"
    assert told["(0019,1001)"] == "removed"
    assert told["PixelData"] == "text made black"
    assert [row["pixels"] for row in rows if row["pixels"]] == ["160"]
    assert NAME in mapping(outcome).decode()


def test_words_of_a_stream_are_looked_for(tmp_path: Path) -> None:
    ds = image()
    file = io.BytesIO()
    Image.fromarray(ds.pixel_array).save(file, "jpeg", comment=NAME.encode(), quality=95)
    frame = file.getvalue() + b"\0" * (len(file.getvalue()) % 2)
    ds.PixelData = pydicom.encaps.encapsulate([frame])
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    outcome = deidentify_folder(tmp_path / "a.dcm", tmp_path / "clean", finder=None, salt=SALT)
    content = (tmp_path / "clean" / outcome.written[tmp_path / "a.dcm"]).read_bytes()
    assert not leaks(content)
    shown = pydicom.dcmread(io.BytesIO(content)).pixel_array
    assert np.array_equal(shown, pydicom.dcmread(tmp_path / "a.dcm").pixel_array)


@pytest.mark.parametrize(("colors", "black"), [("MONOCHROME1", 255), ("RGB", 0), ("PALETTE COLOR", 7)])
def test_text_becomes_black_in_every_color_model(tmp_path: Path, colors: str, black: int) -> None:
    ds = image()
    pixels = np.arange(2000, dtype=np.uint16).reshape(40, 50) % 256
    if colors == "RGB":
        pixels = np.stack([pixels] * 3, -1)
        ds.SamplesPerPixel, ds.PlanarConfiguration = 3, 0
    ds.PhotometricInterpretation, ds.PixelData = colors, pixels.astype(np.uint8).tobytes()
    if colors == "PALETTE COLOR":
        table = np.full(256, 200, np.uint16) << 8
        table[7] = 0
        for name in ("Red", "Green", "Blue"):
            setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
            setattr(ds, f"{name}PaletteColorLookupTableData", table.tobytes())
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    outcome = deidentify_folder(tmp_path / "a.dcm", tmp_path / "clean", finder=corner, salt=SALT)
    assert not outcome.failed
    found = pydicom.dcmread(tmp_path / "clean/00001.dcm").pixel_array
    assert (found[:8, :20] == black).all()
    assert np.array_equal(found[8:], pixels[8:])


def test_words_are_those_of_names_and_numbers() -> None:
    assert {"plantagenet", "eleanor", "mrn778812", "castlemoor", "mortimer"} <= identifying_words(image())
    assert "acme" not in identifying_words(image())


def test_uids_come_from_a_secret() -> None:
    one = new_uid(SALT)("1.2.3")
    assert one == new_uid(SALT)("1.2.3") != new_uid(b"x" * 16)("1.2.3")
    assert pydicom.uid.UID(one).is_valid
    ds = image()
    assert any(row.element == "PatientID" for row in deidentify_header(ds, uid=new_uid(SALT), pixels_cleaned=False))


def test_pipes_are_named_and_not_waited_for(archive: Path, tmp_path: Path) -> None:
    pipes = [archive / "x.dcm", archive / "x.png"]
    for pipe in pipes:
        os.mkfifo(pipe)
    outcome = deidentify_folder(archive, tmp_path / "clean", finder=None, salt=SALT)
    assert set(outcome.failed) == {*pipes, archive / "d.dcm"}
    assert outcome.failed[pipes[1]] == "must be a plain file, got a pipe, a socket or a device; remove it."


def test_the_input_and_files_of_others_stay(archive: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in archive.iterdir()}
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean/00001.dcm").write_text("mine")
    with pytest.raises(FileExistsError):
        deidentify_folder(archive, tmp_path / "clean", finder=None, salt=SALT)
    assert (tmp_path / "clean/00001.dcm").read_text() == "mine"
    assert {path: path.read_bytes() for path in archive.iterdir()} == before


@pytest.mark.parametrize(
    "name", ["pydicomdata_OBXXXX1A", "pydicom_examples_ybr_color", "pydicomdata_gdcm-US-ALOKA-16_big"]
)
def test_files_of_scanners_can_be_read_again(name: str, real_data: Path, tmp_path: Path) -> None:
    source = real_data / f"dicom/{name}.dcm"
    outcome = deidentify_folder(source, tmp_path, finder=corner, salt=SALT)
    assert not outcome.failed
    old, new = pydicom.dcmread(source), pydicom.dcmread(tmp_path / "00001.dcm")
    assert (old.Rows, old.Columns) == (new.Rows, new.Columns)
    before, after = (next(iter(cine_pictures(path, 1))) for path in (source, tmp_path / "00001.dcm"))
    assert isinstance(before, Picture)
    assert isinstance(after, Picture)
    assert not after.pixels[:8, :20].any()
    difference = np.abs(before.pixels[8:].astype(int) - after.pixels[8:])
    assert difference.max() <= 2  # of YBR turned to RGB once and twice
    texts = [str(element.value) for element in new.iterall() if element.VR not in ("SQ", "UI", "OB", "OW")]
    assert not identifying_words(old) & set(re.findall(r"[^\W_]+", " ".join(texts).casefold()))


def test_files_of_an_earlier_run_do_not_stay(archive: Path, tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    deidentify_folder(archive, clean, finder=None, salt=SALT)
    (clean / "00009.png").write_text("mine")
    (archive / "c.png").unlink()
    (archive / "d.dcm").unlink()
    outcome = deidentify_folder(archive, clean, finder=None, salt=SALT)
    assert sorted(outcome.written.values()) == ["00001.dcm", "00002.dcm"]
    assert sorted(path.name for path in clean.glob("0*")) == ["00001.dcm", "00002.dcm", "00009.png"]


def test_pictures_are_read_as_for_inference(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    deep = np.linspace(0, 65535, 1200).reshape(30, 40).astype(np.uint16)
    Image.fromarray(deep).save(folder / "a.png")
    color = np.zeros((30, 40, 3), np.uint8)
    color[..., 0] = 200
    Image.fromarray(color).save(folder / "b.png")
    page = Image.fromarray(np.full((30, 40), 90, np.uint8))
    page.save(folder / "c.tif", save_all=True, append_images=[page])
    outcome = deidentify_folder(folder, tmp_path / "clean", finder=None, salt=SALT)
    assert list(outcome.failed) == [folder / "c.tif"]
    found = np.asarray(Image.open(tmp_path / "clean/00001.png")).astype(int)
    assert np.abs(found - deep / 257).max() <= 1
    assert np.array_equal(np.asarray(Image.open(tmp_path / "clean/00002.png")), color)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "utf-16-le"])
def test_words_are_found_in_bytes_of_any_encoding(encoding: str) -> None:
    ds = image()
    ds.SpecificCharacterSet, ds.PatientName = "ISO_IR 192", "M\u00fcller^Eleanor"
    ds.add_new((0x0028, 0x3006), "OW", "of M\u00fcller .".encode(encoding).ljust(40, b" "))
    deidentify_header(ds, uid=new_uid(SALT), pixels_cleaned=False)
    assert (0x0028, 0x3006) not in ds
