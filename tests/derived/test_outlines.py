# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from matplotlib.path import Path as Polygon

from bundle.derived.outlines import MOST_POINTS, outlines
from tests.derived.conftest import blobs


def filled(lines: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose middles lie within an odd number of polygons."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    middles = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], 1)
    inside = sum(Polygon(line).contains_points(middles).astype(int) for line in lines)
    return np.asarray(inside % 2 == 1).reshape(shape)


def test_a_rectangle_has_an_outline_half_a_pixel_around_its_middles() -> None:
    mask = np.zeros((7, 9), bool)
    mask[2:5, 1:6] = True
    (line,) = outlines(mask)
    assert np.array_equal(line[0], line[-1])
    assert line.min(0).tolist() == [1.0, 2.0]  # column and row of its upper left edge
    assert line.max(0).tolist() == [6.0, 5.0]
    assert len(line) == 9  # a corner is cut between the middles of two edges


def test_outlines_hold_the_pixels_of_the_mask_and_no_others() -> None:
    mask = blobs() == 1
    lines = outlines(mask)
    assert len(lines) == 3  # two parts and a hole
    assert np.array_equal(filled(lines, mask.shape), mask)
    assert lines[0].min(0).tolist() == [8.0, 10.0]  # the larger part comes first


@pytest.mark.parametrize("seed", range(3))
def test_ragged_masks_too(seed: int) -> None:
    mask = np.random.default_rng(seed).random((23, 31)) < 0.6
    assert np.array_equal(filled(outlines(mask), mask.shape), mask)


def test_masks_at_the_edge_stay_within_the_image() -> None:
    (line,) = outlines(np.ones((4, 6), bool))
    assert line.min() == 0.0
    assert line.max(0).tolist() == [6.0, 4.0]


def test_an_outline_fits_in_an_element() -> None:
    mask = np.zeros((1000, 3000), bool)
    mask[::2, 1:] = True  # a comb
    mask[:, 0] = True
    mask[::2, 1::2] ^= np.random.default_rng(0).random((500, 1500)) < 0.3
    assert max(map(len, outlines(mask))) <= MOST_POINTS


def test_nothing_has_no_outline() -> None:
    assert outlines(np.zeros((4, 6), bool)) == []
