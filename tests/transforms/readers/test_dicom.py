# SPDX-License-Identifier: Apache-2.0
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from bundle.transforms.readers import read_file
from tests.transforms.readers.made_dicom import COLORS, RAMP, notes, region, save, unit


def put_text(path: Path, tag: tuple[int, int], value: str) -> Path:
    """Replaces a number's text by anything of the same length, as pydicom would not write it."""
    content, head = path.read_bytes(), struct.pack("<HH", *tag)
    at = content.index(head + b"DS") + 8
    length = struct.unpack_from("<H", content, at - 2)[0]
    path.write_bytes(content[:at] + value.encode().ljust(length)[:length] + content[at + length :])
    return path


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


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "rows": ({"Rows": 0}, r"must have 1 to \d+ pixels, got 0x52"),
    "rows absent": ({"Rows": None}, "DICOM entry Rows must be a whole number, got None"),
    "bits absent": ({"BitsAllocated": None}, "DICOM entry BitsAllocated must be a whole number, got None"),
    "huge": ({"Rows": 60000, "Columns": 60000}, r"must have 1 to \d+ pixels, got 60000x60000"),
    "too many rows": ({"Rows": 400}, "is cut: expected 20800 bytes of pixel data, got 2080; copy the file again"),
    "samples": ({"SamplesPerPixel": 4}, "must have 1 or 3 samples a pixel, got 4"),
    "palette": ({"PhotometricInterpretation": "PALETTE COLOR"}, "must come with its tables, got none for red"),
    "label": (
        {"PhotometricInterpretation": "FOO"},
        "entry PhotometricInterpretation must be one of MONOCHROME1, .*, got 'FOO'; export the image again, or as PNG",
    ),
    "label of another standard": ({"PhotometricInterpretation": "MONOCHROME"}, "must be one of .*, got 'MONOCHROME'"),
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


@pytest.mark.parametrize("label", ["monochrome2", "Monochrome2", "monochrome1"])
def test_color_models_are_known_in_small_letters(tmp_path: Path, label: str) -> None:
    path = save(tmp_path / "a.dcm", RAMP, PhotometricInterpretation=label)
    expected = RAMP / 255 if "2" in label else 1 - RAMP / 255
    np.testing.assert_allclose(unit(path)[0], expected, atol=5e-3)
    assert notes(path) == f"PhotometricInterpretation {label} is taken for {label.upper()}"
    colors = read_file(str(save(tmp_path / "b.dcm", COLORS, PhotometricInterpretation="rgb")))
    assert np.array_equal(colors.pixels, COLORS)


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
