# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.transforms.made_files import GREY, RGB, load
from tests.transforms.readers.made_dicom import region
from tests.transforms.readers.made_dicom import save as save_dicom


@pytest.mark.parametrize(
    ("tags", "spacing"),
    [
        ({"PixelSpacing": [0.3, 0.4]}, (0.3, 0.4)),
        ({"SequenceOfUltrasoundRegions": [region(0.02, 0.01)]}, (0.1, 0.2)),
        ({"SequenceOfUltrasoundRegions": [region(0.02, 0.01), region(5.0, 5.0, unit_x=4, unit_y=4)]}, (0.1, 0.2)),
        ({"SequenceOfUltrasoundRegions": [region(0.02, 0.01)] * 2}, (0.1, 0.2)),
        ({"SequenceOfUltrasoundRegions": [region(0.02, 0.01), region(0.03, 0.03)]}, None),
        ({}, None),
    ],
)
def test_dicom_spacing(tmp_path: Path, tags: dict[str, Any], spacing: tuple[float, float] | None) -> None:
    found = load(save_dicom(tmp_path / "a.dcm", GREY, **tags)).meta["spacing"]
    assert found == pytest.approx(spacing) if spacing else np.isnan(found).all()


def test_dicom_grey_levels(tmp_path: Path) -> None:
    inverted = load(save_dicom(tmp_path / "a.dcm", GREY, PhotometricInterpretation="MONOCHROME1"))
    torch.testing.assert_close(inverted[0].as_tensor(), torch.from_numpy(1 - GREY / np.float32(255)))
    deep = load(save_dicom(tmp_path / "b.dcm", GREY.astype(np.uint16) * 3, BitsStored=10, HighBit=9))
    torch.testing.assert_close(deep[0].as_tensor(), torch.from_numpy(GREY * np.float32(3) / 1023))
    # PS3.3 C.11.2.1.2: values up to center - 0.5 - (width - 1) / 2 = 50 are black, from center - 0.5 + ... = 150 white
    windowed = load(save_dicom(tmp_path / "c.dcm", GREY, WindowCenter=100.5, WindowWidth=101))
    expected = np.clip((GREY.astype(np.float32) - 50) / 100, 0, 1)
    torch.testing.assert_close(windowed[0].as_tensor(), torch.from_numpy(expected))


@pytest.mark.parametrize(
    "tags",
    [
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"RescaleSlope": None, "RescaleIntercept": 0},
        {"RescaleSlope": 3, "RescaleIntercept": None},
        {"WindowCenter": 100, "WindowWidth": 0},
        {"WindowCenter": None, "WindowWidth": None},
    ],
)
def test_dicom_entries_that_say_nothing_change_nothing(tmp_path: Path, tags: dict[str, Any]) -> None:
    image = load(save_dicom(tmp_path / "a.dcm", GREY, **tags))
    torch.testing.assert_close(image[0].as_tensor(), torch.from_numpy(GREY / np.float32(255)))


def test_dicom_palette_in_either_byte(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint16)
    for shift in (0, 8):
        tags: dict[str, Any] = {}
        for color, table in (("Red", ramp), ("Green", 255 - ramp), ("Blue", ramp // 2)):
            tags[f"{color}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
            tags[f"{color}PaletteColorLookupTableData"] = (table << shift).astype("<u2").tobytes()
        image = load(save_dicom(tmp_path / f"{shift}.dcm", GREY, PhotometricInterpretation="PALETTE COLOR", **tags))
        assert torch.equal(image.as_tensor(), torch.from_numpy(RGB / np.float32(255)).permute(2, 0, 1))


DICOM = {
    "itkpocus_sonoque_anechoic-3mm-3mm": ((3, 1455, 2083), 0.0291),
    "itkpocus_sonoque_axial-lateral-resolution-2020": ((3, 1455, 2083), 0.0291),
    "pydicom_examples_jpeg2k": ((3, 480, 640), None),
    "pydicom_examples_palette": ((3, 350, 800), 0.26228787661969977),
    "pydicom_examples_rgb_color": ((3, 240, 320), None),
    "pydicomdata_JPGLosslessP14SV1_1s_1f_8b": ((3, 768, 1024), 0.25476696592378156),
    "pydicomdata_OBXXXX1A": ((3, 600, 800), 0.26228787661969977),
    "pydicomdata_OBXXXX1A_expb": ((3, 600, 800), 0.26228787661969977),
    "pydicomdata_OBXXXX1A_rle": ((3, 600, 800), 0.26228787661969977),
    "pydicomdata_US1_J2KI": ((3, 480, 640), None),
    "pydicomdata_US1_UNCI": ((3, 480, 640), None),
    "pydicomdata_US1_UNCR": ((3, 480, 640), None),
    "pydicomdata_color-pl": ((3, 120, 256), None),
    "pydicomdata_color-px": ((3, 120, 256), None),
    "pydicomdata_gdcm-US-ALOKA-16_big": ((3, 480, 640), 0.3826530650258064),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DICOM)
def test_real_dicom(real_data: Path, name: str) -> None:
    shape, spacing = DICOM[name]
    image = load(real_data / "dicom" / f"{name}.dcm")
    assert image.shape == shape
    assert 0 <= image.min() < 0.1
    assert 0.9 < image.max() <= 1
    assert image.mean() < 0.25  # ultrasound is dark: neither inverted nor raw YBR
    assert image.meta["spacing"][0] == pytest.approx(spacing) if spacing else np.isnan(image.meta["spacing"]).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("pydicomdata_OBXXXX1A", "pydicomdata_OBXXXX1A_expb"),  # big endian
        ("pydicomdata_OBXXXX1A", "pydicomdata_OBXXXX1A_rle"),
        ("pydicomdata_US1_UNCI", "pydicomdata_US1_J2KI"),
        ("pydicomdata_US1_UNCR", "pydicom_examples_jpeg2k"),
        ("pydicomdata_color-pl", "pydicomdata_color-px"),  # color by plane, color by pixel
    ],
)
def test_one_dicom_image_in_two_encodings_is_the_same(real_data: Path, one: str, other: str) -> None:
    first, second = (load(real_data / "dicom" / f"{name}.dcm").as_tensor() for name in (one, other))
    torch.testing.assert_close(first, second, rtol=0, atol=2 / 255)


@pytest.mark.filterwarnings("ignore")
def test_multi_frame_dicom_is_refused(real_data: Path) -> None:
    with pytest.raises(
        ValueError, match=r"ybr_color\.dcm: DICOM file must be single-frame, got 30 frames; save the one"
    ):
        load(real_data / "dicom" / "pydicom_examples_ybr_color.dcm")


def test_ybr_dicom_becomes_rgb(tmp_path: Path) -> None:
    ybr = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
    image = load(save_dicom(tmp_path / "a.dcm", ybr, PhotometricInterpretation="YBR_FULL"))
    expected = torch.from_numpy(RGB / np.float32(255)).permute(2, 0, 1)
    torch.testing.assert_close(image.as_tensor(), expected, rtol=0, atol=3 / 255)


def test_pixels_that_the_header_does_not_tell_of_are_noted(tmp_path: Path) -> None:
    pixels = np.tile(GREY, (8, 8))
    whole = load(save_dicom(tmp_path / "a.dcm", pixels))
    short = load(save_dicom(tmp_path / "b.dcm", pixels, Rows=len(pixels) // 2))
    assert "the rest is not read" in short.meta["notes"]
    assert "the rest is not read" not in whole.meta.get("notes", "")
    assert short.shape[1] == len(pixels) // 2
