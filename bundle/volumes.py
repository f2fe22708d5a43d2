# SPDX-License-Identifier: Apache-2.0
"""Volumes from outlines: of parallel slices, and of a ventricle seen from its apex."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from skimage.measure import label

DISKS = 20
"""Into which a ventricle is cut along its long axis."""

AXES_AGREE = 0.10
"""Share by which the long axes of two views may differ: beyond, one of them is foreshortened (Lang et al. 2015)."""

FINE = 3
"""Points along each side of a pixel by which it is shared between disks."""


def of_slices(areas_mm2: Sequence[float], distance_mm: float) -> float:
    """Volume in mL of a body of which parallel slices at equal distances show these areas: their sum by the distance.

    Without bias where the first slice lies at random; the ends may be cut (Cavalieri's principle, as in H. J. G.
    Gundersen, E. B. Jensen, J. Microscopy 147, 1987, 229-263).

    Args:
        areas_mm2: of all slices that show it, in mm2.
        distance_mm: between neighbors, in mm.
    """
    return sum(areas_mm2) * distance_mm / 1000


@dataclass(frozen=True)
class Disks:
    """An outline cut across its long axis.

    Attributes:
        length: of the axis in mm, from end to end of the outline.
        diameters: of ``DISKS`` slabs of equal height, in mm: the area of each over its height; those of the broader
            end, which is a ventricle's base, come last.
    """

    length: float
    diameters: np.ndarray


def disks(mask: np.ndarray, spacing: Sequence[float], count: int = DISKS) -> Disks:
    """The largest connected part of a mask, cut across the long axis of its second moments.

    Args:
        mask: (H, W) bool.
        spacing: of rows and columns in mm.
        count: number of slabs.

    Raises:
        ValueError: when the mask is empty.
    """
    parts = label(mask, connectivity=2)
    if not parts.any():
        raise ValueError("mask must show the structure, got an empty one; choose an image in which it is found.")
    pixels = np.argwhere(parts == 1 + np.argmax(np.bincount(parts.ravel())[1:]))
    shares = (np.arange(FINE) + 0.5) / FINE - 0.5
    inner = np.stack(np.meshgrid(shares, shares), -1).reshape(-1, 2)
    points = ((pixels[:, None] + inner).reshape(-1, 2) - pixels.mean(0)) * np.asarray(spacing, float)
    _, axes = np.linalg.eigh(np.cov(points.T, bias=True))
    along = points @ axes[:, -1]
    # The outermost points lie half a step inside of the outline.
    step = float(np.abs(axes[:, -1]) @ np.asarray(spacing, float)) / FINE
    length = float(np.ptp(along)) + step
    areas, _ = np.histogram(along, bins=count, range=(along.min() - step / 2, along.max() + step / 2))
    diameters = areas * (spacing[0] * spacing[1] / FINE**2) / (length / count)
    half = count // 2
    return Disks(length, diameters if diameters[:half].sum() <= diameters[-half:].sum() else diameters[::-1])


def ventricle(four_chamber: Disks, two_chamber: Disks | None = None) -> float:
    """Volume in mL of a ventricle by the method of disks: of two apical views, or of one, whose disks are circles.

    Reference: R. M. Lang et al., Recommendations for cardiac chamber quantification by echocardiography in adults,
    J. Am. Soc. Echocardiogr. 28, 2015, 1-39: the biplane method, with the longer of the two axes.
    """
    other = two_chamber or four_chamber
    height = max(four_chamber.length, other.length) / len(four_chamber.diameters)
    return float(math.pi / 4 * height * (four_chamber.diameters * other.diameters).sum() / 1000)


def ejection_fraction(diastolic_ml: float, systolic_ml: float) -> float:
    """Share of the end-diastolic volume that is ejected, in percent.

    Raises:
        ValueError: when the end-diastolic volume is not above 0.
    """
    if not diastolic_ml > 0:
        raise ValueError(f"end-diastolic volume must be above 0 mL, got {diastolic_ml:g}; choose another frame.")
    return 100 * (diastolic_ml - systolic_ml) / diastolic_ml
