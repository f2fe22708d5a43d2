# SPDX-License-Identifier: Apache-2.0
"""Lengths of known ellipses, and the age that a head tells."""

import math

import numpy as np
import pytest
from scipy.special import ellipe

from bundle.measures import circumference, gestational_age, lengths, reaches_edge


def ellipse(
    shape: tuple[int, int] = (400, 500),
    *,
    center: tuple[float, float] = (200, 250),
    axes: tuple[float, float] = (300, 180),
    turn: float = 0.0,
) -> np.ndarray:
    """A filled ellipse with these full axes in pixels, the first at an angle to the rows."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    y, x = rows - center[0], columns - center[1]
    along, across = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    inside: np.ndarray = (2 * along / axes[0]) ** 2 + (2 * across / axes[1]) ** 2 <= 1
    return inside


@pytest.mark.parametrize("ratio", [1.0, 0.6, 0.2])
def test_the_circumference_is_that_of_the_elliptic_integral(ratio: float) -> None:
    exact = 2 * 100 * ellipe(1 - ratio**2)  # 4 a E(m) with a = 50
    assert circumference(100, 100 * ratio) == pytest.approx(exact, rel=1e-5)


def test_nothing_has_no_circumference() -> None:
    assert circumference(0, 0) == 0


@pytest.mark.parametrize("turn", [0.0, 0.4, math.pi / 2])
def test_an_ellipse_is_measured_wherever_it_points(turn: float) -> None:
    found = lengths(ellipse(turn=turn), (0.5, 0.5))
    assert found is not None
    assert found["long_axis"] == pytest.approx(150, abs=0.2)
    assert found["short_axis"] == pytest.approx(90, abs=0.2)
    assert found["circumference"] == pytest.approx(4 * 75 * ellipe(1 - 0.36), abs=0.4)


def test_rows_and_columns_have_spacings_of_their_own() -> None:
    found = lengths(ellipse(axes=(300, 180)), (0.2, 0.1))  # 180 rows are 36 mm, 300 columns 30 mm
    assert found is not None
    assert found["long_axis"] == pytest.approx(36, abs=0.1)
    assert found["short_axis"] == pytest.approx(30, abs=0.1)
    assert found["width"] == pytest.approx(30.1, abs=0.06)  # 301 columns
    assert found["height"] == pytest.approx(36.2, abs=0.06)  # 181 rows


def test_the_largest_part_is_measured() -> None:
    mask = np.zeros((50, 60), bool)
    mask[10:20, 10:30] = True
    mask[40:44, 50:52] = True
    found = lengths(mask, (1.0, 1.0))
    assert found is not None
    assert (found["width"], found["height"]) == (20, 10)


def test_an_empty_mask_has_no_lengths() -> None:
    assert lengths(np.zeros((5, 6), bool), (1.0, 1.0)) is None


@pytest.mark.parametrize("place", [(0, 3), (4, 3), (2, 0), (2, 5)])
def test_a_mask_at_any_edge_is_cut(place: tuple[int, int]) -> None:
    mask = np.zeros((5, 6), bool)
    mask[2, 3] = True
    assert not reaches_edge(mask)
    mask[place] = True
    assert reaches_edge(mask)


def test_the_age_is_hadlocks() -> None:
    # 8.96 + 0.540 * 17.5 + 0.0003 * 17.5^3 = 20.0178; two standard deviations are 1.48 weeks between 18 and 24
    assert gestational_age(175) == pytest.approx((20.0178, 18.5378, 21.4978), abs=1e-3)
    # 8.96 + 0.540 * 30 + 0.0003 * 30^3 = 33.26; 2.98 between 30 and 36
    assert gestational_age(300) == pytest.approx((33.26, 30.28, 36.24), abs=1e-3)
    # 1.19 below 18 weeks, 2.06 between 24 and 30, 2.70 from 36 on
    assert gestational_age(120) == pytest.approx((15.9584, 14.7684, 17.1484), abs=1e-3)
    assert gestational_age(250) == pytest.approx((27.1475, 25.0875, 29.2075), abs=1e-3)
    assert gestational_age(340) == pytest.approx((39.1112, 36.4112, 41.8112), abs=1e-3)


@pytest.mark.parametrize("hc_mm", [0, 80, 370])
def test_no_age_outside_the_study(hc_mm: float) -> None:
    assert gestational_age(hc_mm) is None
