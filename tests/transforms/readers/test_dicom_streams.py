# SPDX-License-Identifier: Apache-2.0
import io
import logging
import struct
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    MPEG4HP41,
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)

from bundle.transforms.loading import to_unit
from bundle.transforms.readers import Raw, read_file
from tests.transforms.readers.made_dicom import COLORS, RAMP, cut_file, jpeg, notes, save


def raw_rgb_jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    """A JPEG stream whose components are RGB: no transform before compression."""
    ycc = Image.frombytes("YCbCr", pixels.shape[1::-1], pixels.tobytes())
    buffer = io.BytesIO()
    ycc.save(buffer, "JPEG", quality=95, subsampling=0)
    content = buffer.getvalue()
    content = content[:2] + content[4 + struct.unpack_from(">H", content, 4)[0] :]
    adobe = b"\xff\xee\x00\x0eAdobe\0d\0\0\0\0\0" if options.get("adobe") else b""
    content = content[:2] + adobe + content[2:]
    frame, scan = content.index(b"\xff\xc0") + 10, content.index(b"\xff\xda") + 5
    for n, name in enumerate(options.get("ids", b"\1\2\3")):
        for at in (frame + 3 * n, scan + 2 * n):
            content = content[:at] + bytes([name]) + content[at + 1 :]
    return content


STREAMS = {
    "1 2 3, no marker": (jpeg(COLORS, jfif=False), "RGB"),
    "1 2 3, no marker, subsampled": (jpeg(COLORS, jfif=False, subsampling=1), "RGB"),
    "0 1 2, subsampled": (jpeg(COLORS, jfif=False, subsampling=2, ids=b"\0\1\2"), "RGB"),
    "JFIF": (jpeg(COLORS), "RGB"),
    "Adobe YCbCr": (jpeg(COLORS, jfif=False, adobe=1), "RGB"),
    "JFIF, label YBR": (jpeg(COLORS), "YBR_FULL_422"),
    "0 1 2, label YBR": (jpeg(COLORS, jfif=False, ids=b"\0\1\2"), "YBR_FULL"),
    "RGB, ids R G B, label RGB": (raw_rgb_jpeg(COLORS, ids=b"RGB"), "RGB"),
    "RGB, ids R G B, label YBR": (raw_rgb_jpeg(COLORS, ids=b"RGB"), "YBR_FULL_422"),
    "RGB, Adobe, label YBR": (raw_rgb_jpeg(COLORS, adobe=True), "YBR_FULL"),
    "RGB, Adobe, label RGB": (raw_rgb_jpeg(COLORS, adobe=True), "RGB"),
    "RGB, 0 1 2, label RGB": (raw_rgb_jpeg(COLORS, ids=b"\0\1\2"), "RGB"),
}


@pytest.mark.parametrize("name", STREAMS)
def test_the_stream_decides_on_the_colors_of_a_jpeg(tmp_path: Path, name: str) -> None:
    stream, label = STREAMS[name]
    path = save(
        tmp_path / "a.dcm", stream, shape=COLORS.shape, syntax=JPEGBaseline8Bit, PhotometricInterpretation=label
    )
    found = read_file(str(path)).pixels
    for rows, columns in ((slice(4, 28), slice(4, 28)), (slice(4, 28), slice(38, 60)), (slice(38, 60), slice(38, 60))):
        difference = found[rows, columns].astype(int) - COLORS[rows, columns]
        assert abs(difference).max() <= 12, f"{name}: {found[rows, columns][5, 5]}, not {COLORS[rows, columns][5, 5]}"


@pytest.mark.parametrize("label", ["RGB", "YBR_FULL", "YBR_RCT", "YBR_ICT"])
def test_jpeg_2000_with_a_color_transform_is_rgb_under_any_label(tmp_path: Path, label: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(COLORS).save(buffer, "JPEG2000", no_jp2=True, irreversible=False, mct=1)
    path = save(
        tmp_path / "a.dcm",
        buffer.getvalue(),
        shape=COLORS.shape,
        syntax=JPEG2000Lossless,
        PhotometricInterpretation=label,
    )
    assert np.array_equal(read_file(str(path)).pixels, COLORS)


def test_cut_files_say_so(tmp_path: Path) -> None:
    native = cut_file(save(tmp_path / "a.dcm", RAMP), 1000)
    with pytest.raises(
        ValueError, match=r"a\.dcm: DICOM file is cut: expected 2080 bytes of pixel data, got 1080; copy"
    ):
        read_file(str(native))
    packed = save(tmp_path / "b.dcm", jpeg(COLORS), shape=COLORS.shape, syntax=JPEGBaseline8Bit)
    for left in (200, packed.stat().st_size - 700):
        with pytest.raises(
            ValueError, match=r"b\.dcm: DICOM file is cut, or has no pixel data: it ends after \d+ byte"
        ):
            read_file(str(cut_file(packed, left)))
    inside = save(tmp_path / "c.dcm", jpeg(COLORS)[:-300], shape=COLORS.shape, syntax=JPEGBaseline8Bit)
    with pytest.raises(ValueError, match=r"c\.dcm: DICOM file is cut: its \d+ bytes of pixel data have no end mark"):
        read_file(str(inside))


def test_a_missing_syntax_is_told_from_the_content(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", jpeg(COLORS, jfif=False), shape=COLORS.shape, syntax=JPEGBaseline8Bit)
    ds = pydicom.dcmread(path)
    expected = read_file(str(path)).pixels
    for name in ("TransferSyntaxUID", "MediaStorageSOPClassUID"):
        del ds.file_meta[name]
    content = io.BytesIO()
    pydicom.dcmwrite(content, ds, implicit_vr=False, little_endian=True, enforce_file_format=False)
    bare = tmp_path / "bare.dcm"
    bare.write_bytes(content.getvalue())
    assert np.array_equal(read_file(str(bare)).pixels, expected)
    assert "transfer syntax is missing or wrong, JPEG Baseline (Process 1) is taken" in notes(bare)


def test_files_are_known_by_content_whatever_their_suffix(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.dcm")
    assert np.array_equal(read_file(str(tmp_path / "a.dcm")).pixels, RAMP)
    save(tmp_path / "b.dcm", RAMP).rename(tmp_path / "b.png")
    assert np.array_equal(read_file(str(tmp_path / "b.png")).pixels, RAMP)


def test_an_object_without_pixels_is_named_by_its_kind(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", RAMP, Rows=None, SOPClassUID=BasicTextSRStorage)
    ds = pydicom.dcmread(path)
    del ds.PixelData
    ds.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    ds.save_as(path)
    with pytest.raises(
        ValueError, match=r"a\.dcm: .*must hold pixel data, got a Basic Text SR Storage object; give an"
    ):
        read_file(str(path))


def test_warnings_of_pydicom_go_to_the_debug_log_with_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    paths = [save(tmp_path / f"{n}.dcm", RAMP, SpecificCharacterSet="ISO_IR", PatientName="A") for n in range(2)]
    caplog.clear()
    recwarn.clear()
    with caplog.at_level(logging.DEBUG):
        for path in paths:
            assert np.array_equal(read_file(str(path)).pixels, RAMP)
    assert not list(recwarn)
    assert [r.levelno for r in caplog.records if "Unknown encoding" in r.getMessage()] == [logging.DEBUG] * 2
    assert [r.getMessage().split(": Unknown")[0] for r in caplog.records] == [str(path) for path in paths]
    logging.getLogger("pydicom").warning("of others")
    assert caplog.records[-1].getMessage() == "of others"


def test_pixels_of_more_frames_than_the_header_says_are_the_first_frame(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", np.vstack([RAMP, 255 - RAMP]), Rows=40)
    assert np.array_equal(read_file(str(path)).pixels, RAMP)


@pytest.mark.parametrize("syntax", ["1.2.3.4", "1.2.840.10008.1.2.1"])
def test_a_wrong_syntax_is_told_from_the_content(tmp_path: Path, syntax: str) -> None:
    path = save(tmp_path / "a.dcm", jpeg(COLORS), shape=COLORS.shape, syntax=JPEGBaseline8Bit)
    expected = read_file(str(path)).pixels
    ds = pydicom.dcmread(path)
    content = path.read_bytes().replace(
        b"UI\x16\x00" + ds.file_meta.TransferSyntaxUID.encode(), b"UI\x16\x00" + syntax.encode().ljust(22, b"\0")
    )
    path.write_bytes(content)
    assert np.array_equal(read_file(str(path)).pixels, expected)
    assert "transfer syntax is missing or wrong, JPEG Baseline (Process 1) is taken" in notes(path)


def test_reading_in_threads_gives_others_their_warnings_back(tmp_path: Path) -> None:
    path = str(save(tmp_path / "a.dcm", np.vstack([RAMP, RAMP]), Rows=40))
    before, shown = list(warnings.filters), warnings.showwarning
    failed: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(5):
                raw: Raw = read_file(path)
                assert torch.equal(to_unit(raw)[0], torch.from_numpy(RAMP / np.float32(255)))
        except BaseException as e:
            failed.append(e)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert warnings.filters == before
    assert warnings.showwarning == shown


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, MPEG4HP41, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_plain_pixels_under_the_label_of_others_are_read(tmp_path: Path, syntax: str) -> None:
    path = save(tmp_path / "a.dcm", RAMP)
    ds = pydicom.dcmread(path)
    body = path.read_bytes().partition(b"1.2.840.10008.1.2.1\0")[2]
    ds.file_meta.TransferSyntaxUID = syntax
    file = DicomBytesIO()
    write_file_meta_info(file, ds.file_meta)
    path.write_bytes(bytes(128) + b"DICM" + file.getvalue() + body)
    assert np.array_equal(read_file(str(path)).pixels, RAMP)
    assert "transfer syntax is missing or wrong, Explicit VR Little Endian is taken" in notes(path)


def test_pixels_of_fractions_are_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", RAMP, BitsAllocated=32, FloatPixelData=RAMP.astype(np.float32).tobytes())
    ds = pydicom.dcmread(path)
    del ds.PixelData
    ds.save_as(path)
    with pytest.raises(ValueError, match="pixel data must be whole numbers, got FloatPixelData; export the image as"):
        read_file(str(path))
