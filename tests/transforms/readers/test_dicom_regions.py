# SPDX-License-Identifier: Apache-2.0
"""Regions of a DICOM image (40, 52) that show no plane are black, and the file says so."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundle.transforms.loading import to_unit
from bundle.transforms.readers import read_file
from tests.transforms.readers.test_dicom_spacing import RAMP, WHOLE, region, save

UPPER, LOWER = (0, 19, 0, 51), (30, 39, 4, 47)


def shown(path: Path, **tags: Any) -> tuple[np.ndarray, str]:
    raw = read_file(str(save(path, RAMP, **tags)))
    return to_unit(raw)[0].numpy(), "; ".join(raw.notes)


def formed(kind: int, data: int, place: tuple[int, int, int, int]) -> Any:
    found = region(0.01, 0.02, place=place)
    found.RegionSpatialFormat, found.RegionDataType = kind, data
    return found


@pytest.mark.parametrize(
    ("kind", "data", "name"),
    [(2, 1, "M-mode"), (3, 3, "spectrum"), (4, 10, "waveform"), (0, 13, "gray bar"), (0, 14, "color bar")],
)
@pytest.mark.parametrize("inverse", [False, True])
def test_what_shows_no_plane_is_black(tmp_path: Path, kind: int, data: int, name: str, inverse: bool) -> None:
    tags = {"PhotometricInterpretation": "MONOCHROME1"} if inverse else {}
    plain, _ = shown(tmp_path / "plain.dcm", **tags)
    regions = [formed(1, 1, UPPER), formed(kind, data, LOWER)]
    found, notes = shown(tmp_path / "a.dcm", SequenceOfUltrasoundRegions=regions, **tags)
    expected = plain.copy()
    expected[30:40, 4:48] = 0
    assert (plain[30:40, 4:48] > 0).any()
    assert np.array_equal(found, expected)
    assert f"regions that show no plane are left out: {name}" in notes


@pytest.mark.parametrize(
    "regions",
    [
        [formed(1, 1, UPPER), formed(1, 2, LOWER)],  # tissue and color flow
        [formed(1, 1, UPPER), formed(2, 1, WHOLE)],  # holds the plane: labeled wrong
        [formed(0, 1, LOWER)],
        [formed(3, 3, (0, 0, 0, 0))],  # does not say where
        [formed(4, 10, (60, 80, 4, 47))],  # below the image, which was cropped
    ],
)
def test_planes_stay_as_they_are(tmp_path: Path, regions: list[Any]) -> None:
    plain, _ = shown(tmp_path / "plain.dcm")
    found, notes = shown(tmp_path / "a.dcm", SequenceOfUltrasoundRegions=regions)
    assert np.array_equal(found, plain)
    assert "left out" not in notes


def test_a_place_beyond_the_image_is_cut(tmp_path: Path) -> None:
    found, _ = shown(tmp_path / "a.dcm", SequenceOfUltrasoundRegions=[formed(4, 10, (30, 900, 0, 900))])
    assert not found[30:].any()
    assert found[:30].any()


def test_masks_keep_all_values(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", RAMP, SequenceOfUltrasoundRegions=[formed(3, 3, LOWER)])
    assert np.array_equal(read_file(str(path), as_mask=True).pixels, RAMP)


def test_an_electrocardiogram_under_a_real_image_is_left_out(real_data: Path) -> None:
    raw = read_file(str(real_data / "dicom/pydicomdata_OBXXXX1A.dcm"))
    assert not raw.pixels[522:577, 176:744].any()
    assert raw.pixels[60:519, 120:].any()
