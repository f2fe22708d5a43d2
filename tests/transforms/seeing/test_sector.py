# SPDX-License-Identifier: Apache-2.0
"""Sectors of made-up screens with known truth, and of real frames where there are any."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bundle.data.phantom.frames import KINDS, Screen, make_screen
from bundle.transforms.loading import to_unit
from bundle.transforms.readers import read_file
from bundle.transforms.seeing.sector import find_sectors, skin_line


def image_of(screen: Screen) -> torch.Tensor:
    return torch.from_numpy(screen.pixels.copy()).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("kind", KINDS)
def test_sectors_are_found_without_what_is_beside_them(kind: str) -> None:
    for seed in range(2):
        screen = make_screen(kind, np.random.default_rng([seed, 7]))
        found = find_sectors(image_of(screen))
        assert len(found) == len(screen.sectors)
        for sector, truth in zip(found, screen.sectors, strict=True):
            assert (sector.mask & truth).sum() / (sector.mask | truth).sum() > 0.95
            top, left, bottom, right = sector.box
            assert sector.mask[top:bottom, left:right].sum() == sector.mask.sum() > 0
            assert 0.35 <= sector.confidence <= 1


def test_an_image_without_a_screen_stays_whole() -> None:
    screen = make_screen("cropped", np.random.default_rng(1))
    (sector,) = find_sectors(image_of(screen))
    assert sector.box == (0, 0, *screen.pixels.shape[:2])


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_nothing_is_found_where_there_are_no_echoes(value: float) -> None:
    assert find_sectors(torch.full((3, 120, 160), value)) == []


def test_text_alone_is_no_sector() -> None:
    screen = make_screen("linear", np.random.default_rng(2))
    screen.pixels[screen.sectors[0]] = 0
    assert find_sectors(image_of(screen)) == []


def test_a_turned_and_a_gray_frame_have_the_same_sector() -> None:
    image = image_of(make_screen("convex", np.random.default_rng(3))).mean(0, keepdim=True)
    (sector,), (mirrored,) = find_sectors(image.expand(3, -1, -1)), find_sectors(image.flip(2))
    assert (sector.mask == mirrored.mask[:, ::-1]).mean() > 0.99


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (40, 40), (700, 9)])
def test_frames_of_any_size_are_taken(size: tuple[int, int]) -> None:
    assert all(sector.mask.shape == size for sector in find_sectors(torch.rand(3, *size)))


def test_what_the_header_says_is_found_in_real_frames(real_data: Path) -> None:
    """Two regions that touch at column 336, and a region around a fan (SequenceOfUltrasoundRegions)."""
    dicom_folder = real_data / "dicom"
    left, right = find_sectors(to_unit(read_file(str(dicom_folder / "pydicomdata_gdcm-US-ALOKA-16_big.dcm"))))
    assert (left.box[3], right.box[1]) == (336, 336)
    (fan,) = find_sectors(to_unit(read_file(str(dicom_folder / "pydicomdata_OBXXXX1A.dcm"))))
    assert np.abs(np.subtract(fan.box, (60, 120, 519, 801))).max() <= 15


def test_what_lies_under_a_shadow_belongs_to_the_sector() -> None:
    """The lower part of a head, say, narrower than what is above the dark rows."""
    screen = make_screen("linear", np.random.default_rng(5))
    (truth,) = screen.sectors
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    middle, width = (rows[0] + rows[-1]) // 2, columns[-1] - columns[0]
    screen.pixels[middle : middle + 40, columns[0] : columns[-1] + 1] = 0
    screen.pixels[middle:, columns[0] : columns[0] + width // 5] = 0
    (sector,) = find_sectors(image_of(screen))
    assert sector.box[2] >= rows[-1] - 6
    assert sector.mask[middle + 60 : rows[-1] - 6, columns[0] + width // 3 : columns[-1] - 6].all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_skin_is_where_the_echoes_begin(kind: str) -> None:
    for seed in range(2):
        screen = make_screen(kind, np.random.default_rng([seed, 3]))
        whole = np.logical_or.reduce(screen.sectors)
        columns = np.flatnonzero(whole.any(0))
        inner = columns[len(columns) // 10 : -len(columns) // 10]
        error = np.abs(skin_line(screen.pixels)[inner] - whole.argmax(0)[inner])
        assert np.nanmedian(error) <= 1
        assert np.nanmax(error) <= 15
    assert np.isnan(skin_line(np.zeros((60, 80), np.uint8))).all()
