# SPDX-License-Identifier: Apache-2.0
"""Outlines of masks as polygons in DICOM's image coordinates."""

from __future__ import annotations

import numpy as np
from skimage.measure import approximate_polygon, find_contours

MOST_POINTS = 8000
"""Of an outline: two values of four bytes each must fit in an element of 65534 bytes (PS3.5, section 7.1.2)."""

_STRAIGHT = 1e-3  # pixels by which points on a line may lie beside it


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Closed polygons (N, 2), column and row, between the pixels of a mask and the others, the largest first.

    The corner of the first pixel is (0, 0), its middle (0.5, 0.5) (PS3.3 C.10.5.1.2). The pixels whose middles lie
    within are those of the mask; only outlines of more than ``MOST_POINTS`` points are made simpler. Holes have
    outlines of their own.

    Args:
        mask: (H, W) bool.
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return []
    shown = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    corner = np.array([rows[0], columns[0]], float) - 1 + 0.5
    found = [_simple(contour) + corner for contour in find_contours(shown.astype(np.uint8), 0.5)]
    return sorted((contour[:, ::-1] for contour in found), key=_area, reverse=True)


def _simple(contour: np.ndarray) -> np.ndarray:
    tolerance = _STRAIGHT
    simple: np.ndarray = approximate_polygon(contour, tolerance)
    while len(simple) > MOST_POINTS:
        tolerance = max(0.25, 2 * tolerance)
        simple = approximate_polygon(contour, tolerance)
    return simple


def _area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return abs(float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]))) / 2
