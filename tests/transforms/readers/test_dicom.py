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
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    MPEG4HP41,
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    UltrasoundImageStorage,
)

from bundle.transforms.loading import to_unit
from bundle.transforms.readers import Raw, read_file

RAMP = np.repeat(np.arange(0, 256, 5, dtype=np.uint8)[None], 40, axis=0)  # (40, 52), dark left, 255 right
COLORS = np.zeros((64, 96, 3), np.uint8)
COLORS[:, :32], COLORS[:32, 32:64], COLORS[32:, 32:64] = (200, 40, 30), (30, 180, 60), (20, 50, 220)


def save(path: Path, pixels: np.ndarray | bytes, *, shape: tuple[int, ...] = (), **tags: Any) -> Path:
    """A DICOM file of native pixels, or of one compressed stream; tags that are None are left out."""
    shape = shape or np.shape(pixels)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = tags.pop("syntax", ExplicitVRLittleEndian)
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UltrasoundImageStorage, "1.2.3"
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    bits = 8 if isinstance(pixels, bytes) else pixels.dtype.itemsize * 8
    values: dict[str, Any] = {
        "SOPClassUID": UltrasoundImageStorage, "Rows": shape[0], "Columns": shape[1],
        "SamplesPerPixel": 3 if len(shape) == 3 else 1,
        "PhotometricInterpretation": "RGB" if len(shape) == 3 else "MONOCHROME2",
        "PlanarConfiguration": 0 if len(shape) == 3 else None,
        "BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": 0,
    } | tags  # fmt: skip
    for name, value in values.items():
        if value is not None:
            setattr(ds, name, value)
    if isinstance(pixels, bytes):
        ds.PixelData = encapsulate([pixels])
        ds["PixelData"].is_undefined_length = True
    else:
        ds.PixelData = pixels.tobytes() + bytes(pixels.nbytes % 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.save_as(str(path))
    return path


def put_text(path: Path, tag: tuple[int, int], value: str) -> Path:
    """Replaces a number's text by anything of the same length, as pydicom would not write it."""
    content, head = path.read_bytes(), struct.pack("<HH", *tag)
    at = content.index(head + b"DS") + 8
    length = struct.unpack_from("<H", content, at - 2)[0]
    path.write_bytes(content[:at] + value.encode().ljust(length)[:length] + content[at + length :])
    return path


def unit(path: Path) -> np.ndarray:
    return to_unit(read_file(str(path))).numpy()


def notes(path: Path) -> str:
    return "; ".join(read_file(str(path)).notes)


def jpeg(pixels: np.ndarray, *, subsampling: int = 0, jfif: bool = True, ids: bytes = b"", adobe: int = -1) -> bytes:
    """A JPEG stream of YCbCr, with its markers changed."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=subsampling)
    content = buffer.getvalue()
    if not jfif:
        content = content[:2] + content[4 + struct.unpack_from(">H", content, 4)[0] :]
    if adobe >= 0:
        content = content[:2] + b"\xff\xee\x00\x0eAdobe\0d\0\0\0\0" + bytes([adobe]) + content[2:]
    if ids:
        frame, scan = content.index(b"\xff\xc0") + 10, content.index(b"\xff\xda") + 5
        for n, name in enumerate(ids):
            for at in (frame + 3 * n, scan + 2 * n):
                content = content[:at] + bytes([name]) + content[at + 1 :]
    return content


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


def test_files_of_the_collection(cases: Path) -> None:
    right = read_file(str(cases / "jpeg_ybr_label_right.dcm"))
    labeled = read_file(str(cases / "jpeg_ybr_nojfif_label_rgb.dcm"))
    assert np.array_equal(labeled.pixels, right.pixels)
    eight, sixteen = (cases / f"{name}.dcm" for name in ("stored12_values12", "stored16_values12_no_window"))
    np.testing.assert_allclose(unit(sixteen), unit(eight), atol=1e-3)
    assert "0 is black, 4080 white" in notes(sixteen)
    for name in ("nometa_implicit", "spacing_text", "region2_no_deltay", "regions_float_noise"):
        raw = read_file(str(cases / f"{name}.dcm"))
        assert raw.pixels.shape == (429, 512)
        assert np.isnan(raw.spacing[0]) if name in ("nometa_implicit", "spacing_text") else raw.spacing == (0.0625,) * 2
    assert "transfer syntax is missing or wrong, Implicit VR Little Endian is taken" in notes(
        cases / "nometa_implicit.dcm"
    )


@pytest.fixture
def cases() -> Path:
    folder = Path(__file__).resolve().parents[4] / "shared/cases/files"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


INVERTED: dict[str, dict[str, Any]] = {
    "slope": {"RescaleSlope": -1, "RescaleIntercept": 255},
    "slope and intercept 0": {"RescaleSlope": -2, "RescaleIntercept": 0},
    "inverse": {"PresentationLUTShape": "INVERSE"},
    "MONOCHROME1": {"PhotometricInterpretation": "MONOCHROME1"},
    "MONOCHROME1, inverse": {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
    "slope, window": {"RescaleSlope": -1, "RescaleIntercept": 255, "WindowCenter": 128, "WindowWidth": 256},
    "inverse, window": {"PresentationLUTShape": "INVERSE", "WindowCenter": 128, "WindowWidth": 256},
}


@pytest.mark.parametrize("name", INVERTED)
def test_inverted_images_are_bright_where_their_values_are_low(tmp_path: Path, name: str) -> None:
    found = unit(save(tmp_path / "a.dcm", RAMP, **INVERTED[name]))[0]
    np.testing.assert_allclose(found, 1 - RAMP / 255, atol=5e-3)


@pytest.mark.parametrize(
    "tags",
    [
        {"RescaleSlope": 0, "RescaleIntercept": 0},
        {"VOILUTFunction": "LOG", "WindowCenter": 128, "WindowWidth": 256},
        {"WindowCenter": [1, 128], "WindowWidth": [0, 256]},
        {"WindowCenter": [128, 20], "WindowWidth": [256, 10]},
        {"VOILUTSequence": [Dataset()]},
        {"PresentationLUTShape": "IDENTITY"},
        {"PresentationLUTShape": "FOO"},
        {"SmallestImagePixelValue": 9, "LargestImagePixelValue": 10},
        {"BitsStored": 12, "HighBit": 11},
        {"BitsStored": None, "HighBit": None, "PixelRepresentation": None},
        {"PhotometricInterpretation": None, "SamplesPerPixel": None},
    ],
)
def test_entries_that_are_void_or_absent_cost_nothing(tmp_path: Path, tags: dict[str, Any]) -> None:
    np.testing.assert_allclose(unit(save(tmp_path / "a.dcm", RAMP, **tags))[0], RAMP / 255, atol=5e-3)


@pytest.mark.parametrize(
    ("name", "tag", "note"),
    [
        ("WindowWidth", (0x28, 0x1051), "WindowCenter and WindowWidth are no numbers"),
        ("RescaleSlope", (0x28, 0x1053), "RescaleSlope and RescaleIntercept are no valid numbers"),
        ("PixelSpacing", (0x28, 0x30), "PixelSpacing is not two numbers above 0"),
    ],
)
@pytest.mark.parametrize("text", ["unknown", "nan", "0,25\\0,25", "1.5", "-1\\-1", "0\\0", "1e999\\1"])
def test_text_in_the_place_of_numbers_costs_that_entry_alone(
    tmp_path: Path, name: str, tag: tuple[int, int], note: str, text: str
) -> None:
    tags = {"WindowCenter": 128, "WindowWidth": 256, "RescaleSlope": 1, "RescaleIntercept": 0}
    path = save(
        tmp_path / "a.dcm", RAMP, **tags | {name: "1.00000000\\2" if name == "PixelSpacing" else "256.00000000"}
    )
    raw = read_file(str(put_text(path, tag, text)))
    assert raw.pixels.shape == (40, 52)
    if name == "PixelSpacing":
        assert np.isnan(raw.spacing).all()
        assert note in "; ".join(raw.notes)
    elif text in ("unknown", "nan"):
        assert note in "; ".join(raw.notes)


def region(delta_x: Any, delta_y: Any, unit_x: int = 3, unit_y: int = 3) -> Dataset:
    r = Dataset()
    r.PhysicalUnitsXDirection, r.PhysicalUnitsYDirection = unit_x, unit_y
    for name, value in (("PhysicalDeltaX", delta_x), ("PhysicalDeltaY", delta_y)):
        if value is not None:
            setattr(r, name, value)
    return r


@pytest.mark.parametrize(
    ("regions", "spacing", "note"),
    [
        ([region(0.0123456789, 0.0123456789), region(0.0123456780, 0.0123456780)], 0.123456789, ""),
        ([region(0.01, 0.01), region(0.010005, 0.010005)], 0.1, ""),
        ([region(0.01, 0.01), region(0.0102, 0.0102)], None, "different scales"),
        ([region(0.01, 0.01), region(0.01, None)], 0.1, "a region without PhysicalDelta"),
        ([region(0.01, -0.01)], 0.1, ""),
        ([region(0.0, 0.01), region(float("nan"), 0.01)], None, "a region without PhysicalDelta"),
        ([region(0.01, 0.01), region(0.5, 0.01, unit_x=4)], 0.1, ""),
        ([Dataset()], None, ""),
    ],
)
def test_regions_within_a_thousandth_are_one_calibration(
    tmp_path: Path, regions: list[Dataset], spacing: float | None, note: str
) -> None:
    raw = read_file(str(save(tmp_path / "a.dcm", RAMP, SequenceOfUltrasoundRegions=regions)))
    assert raw.spacing == pytest.approx((spacing, spacing)) if spacing else np.isnan(raw.spacing).all()
    assert note in "; ".join(raw.notes)


def test_values_of_fewer_bits_than_stored_take_their_own_range(tmp_path: Path) -> None:
    for stored, values, white in ((16, 12, 4080), (16, 14, 16320), (12, 10, 1020), (16, 8, 255)):
        deep = RAMP.astype(np.uint16) << (values - 8)
        path = save(tmp_path / f"{stored}_{values}.dcm", deep, BitsStored=stored, HighBit=stored - 1)
        np.testing.assert_allclose(unit(path)[0], RAMP / 255, atol=1e-5)
        assert f"0 is black, {white} white" in notes(path)
    dark = save(tmp_path / "dark.dcm", np.full((8, 9), 3, np.uint16))
    assert unit(dark).max() == pytest.approx(3 / 255)  # noise of a black image stays dark
    windowed = save(tmp_path / "w.dcm", RAMP.astype(np.uint16) * 16, WindowCenter=2048, WindowWidth=4096)
    np.testing.assert_allclose(unit(windowed)[0], RAMP / 255, atol=5e-3)
    assert notes(windowed) == ""
    signed = save(tmp_path / "s.dcm", RAMP.astype(np.int16) - 100, PixelRepresentation=1)
    np.testing.assert_allclose(unit(signed)[0], RAMP / 255, atol=1e-5)


def cut_file(path: Path, left: int) -> Path:
    path.write_bytes(path.read_bytes()[:-left])
    return path


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "rows": ({"Rows": 0}, r"must have 1 to \d+ pixels, got 0x52"),
    "rows absent": ({"Rows": None}, "DICOM entry Rows must be a whole number, got None"),
    "bits absent": ({"BitsAllocated": None}, "DICOM entry BitsAllocated must be a whole number, got None"),
    "huge": ({"Rows": 60000, "Columns": 60000}, r"must have 1 to \d+ pixels, got 60000x60000"),
    "too many rows": ({"Rows": 400}, "is cut: expected 20800 bytes of pixel data, got 2080; copy the file again"),
    "samples": ({"SamplesPerPixel": 4}, "must have 1 or 3 samples a pixel, got 4"),
    "palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, "must come with its tables, got none for red"),
    "partial": (
        {"PhotometricInterpretation": "YBR_PARTIAL_422"},
        "must be RGB, YBR_FULL or grey, got YBR_PARTIAL_422",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_headers_that_cannot_be_right_are_named(tmp_path: Path, kind: str) -> None:
    tags, message = BROKEN[kind]
    with pytest.raises(ValueError, match=rf"a\.dcm: .*{message}"):
        read_file(str(save(tmp_path / "a.dcm", RAMP, **tags)))


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


WIDE = np.repeat(np.arange(0, 4096, 80, dtype=np.uint16)[None], 40, axis=0)  # (40, 52), 12 bits


@pytest.mark.parametrize(
    ("pixels", "tags"),
    [
        (WIDE << 4, {"BitsStored": 12, "HighBit": 15}),
        (WIDE << 2, {"BitsStored": 12, "HighBit": 13}),
        (((WIDE.astype(np.int16) - 2048) << 4), {"BitsStored": 12, "HighBit": 15, "PixelRepresentation": 1}),
        ((WIDE >> 4) << 8, {"BitsStored": 8, "HighBit": 15}),
    ],
    ids=["upper", "middle", "signed", "8 bits"],
)
def test_values_in_the_upper_bits_are_read_there(tmp_path: Path, pixels: np.ndarray, tags: dict[str, Any]) -> None:
    """The editions before 2014 let HighBit say where the values lie; pydicom takes the lower bits."""
    path = save(tmp_path / "a.dcm", pixels, **tags)
    assert np.allclose(unit(path)[0], WIDE / 4095, atol=1 / 255)
    assert f"values lie below HighBit {tags['HighBit']}" in notes(path)


@pytest.mark.parametrize("high_bit", [15, 3, 40])
def test_a_high_bit_that_does_not_fit_the_values_is_left_out(tmp_path: Path, high_bit: int) -> None:
    path = save(tmp_path / "a.dcm", WIDE, BitsStored=12, HighBit=high_bit)
    assert np.allclose(unit(path)[0], WIDE / 4095, atol=1 / 255)
    assert f"HighBit {high_bit} does not fit BitsStored 12, 11 is taken" in notes(path)


def table(data: Any, *, bits: int, kind: str = "OW") -> Dataset:
    item = Dataset()
    item.LUTDescriptor, item.ModalityLUTType = [256, 0, bits], "US"
    item.add_new("LUTData", kind, data)
    return item


@pytest.mark.parametrize("name", ["VOILUTSequence", "ModalityLUTSequence"])
def test_tables_of_bytes_are_read_and_cut_ones_left_out(tmp_path: Path, name: str) -> None:
    inverted = bytes(range(255, -1, -1))
    for item in (table(inverted, bits=8), table(list(inverted), bits=8, kind="US")):
        assert np.allclose(unit(save(tmp_path / "a.dcm", RAMP, **{name: [item]}))[0], 1 - RAMP / 255, atol=0.01)
    for item in (table(inverted, bits=16), table(bytes(100), bits=8), table([1, 2, 3], bits=16, kind="US")):
        path = save(tmp_path / "a.dcm", RAMP, **{name: [item]})
        assert np.allclose(unit(path)[0], RAMP / 255, atol=0.01)
        assert f"{name} has no whole table and is left out" in notes(path)


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
