# SPDX-License-Identifier: Apache-2.0
"""Volumes of bodies whose formula is known."""

import math

import numpy as np
import pytest

from bundle.volumes import Disks, disks, ejection_fraction, of_slices, ventricle

SHAPE = (220, 300)
SPACING = (0.6, 0.4)


def half_ellipse(length: float, radius: float, *, angle: float = 0.0) -> np.ndarray:
    """Half of an ellipse, flat at the base: an apical view of a ventricle; ``length`` and ``radius`` in mm."""
    rows, columns = np.indices(SHAPE)
    y, x = (rows - 110) * SPACING[0], (columns - 150) * SPACING[1]
    along = x * math.cos(angle) + y * math.sin(angle) + length / 2
    across = y * math.cos(angle) - x * math.sin(angle)
    return (along >= 0) & ((along / length) ** 2 + (across / radius) ** 2 <= 1)


@pytest.mark.parametrize("angle", [0.0, 0.5, math.pi / 2, math.pi])
def test_two_views_of_half_an_ellipsoid_give_its_volume(angle: float) -> None:
    length, radii = 80.0, (24.0, 19.0)
    views = [disks(half_ellipse(length, radius, angle=angle), SPACING) for radius in radii]
    assert [view.length for view in views] == pytest.approx([length, length], abs=0.8)
    truth = 2 / 3 * math.pi * length * radii[0] * radii[1] / 1000
    assert ventricle(*views) == pytest.approx(truth, rel=0.01)
    alone = 2 / 3 * math.pi * length * radii[0] ** 2 / 1000
    assert ventricle(views[0]) == pytest.approx(alone, rel=0.01)


def test_a_rectangle_is_cut_into_equal_disks_and_a_stray_part_does_not_count() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[20:40, 50:250] = True  # 12 mm by 80 mm
    mask[100:105, 10:15] = True
    cut = disks(mask, SPACING)
    assert cut.length == pytest.approx(80.0)
    assert np.allclose(cut.diameters, 12.0)
    assert ventricle(cut) == pytest.approx(math.pi / 4 * 12**2 * 80 / 1000)


def test_the_longer_axis_of_two_views_counts() -> None:
    one, other = Disks(80.0, np.full(20, 30.0)), Disks(60.0, np.full(20, 30.0))
    assert ventricle(one, other) == pytest.approx(math.pi / 4 * 900 * 80 / 1000)
    assert ventricle(other, one) == ventricle(one, other)


def test_slices_of_a_ball_give_its_volume() -> None:
    radius, distance = 15.0, 0.5
    heights = np.arange(-14.9, 15, distance)
    areas = (math.pi * (radius**2 - heights**2)).tolist()
    assert of_slices(areas, distance) == pytest.approx(4 / 3 * math.pi * radius**3 / 1000, rel=0.002)


def test_ejection_fraction_is_a_share_of_the_end_diastolic_volume() -> None:
    assert ejection_fraction(120.0, 48.0) == pytest.approx(60.0)
    with pytest.raises(ValueError, match="end-diastolic volume must be above 0 mL, got 0"):
        ejection_fraction(0.0, 0.0)


def test_an_empty_mask_has_no_axis() -> None:
    with pytest.raises(ValueError, match="mask must show the structure, got an empty one"):
        disks(np.zeros(SHAPE, bool), SPACING)
