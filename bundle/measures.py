# SPDX-License-Identifier: Apache-2.0
"""Lengths of structures in millimeters, and the age that a fetal head tells."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from skimage.measure import label, regionprops

LENGTHS = ("long_axis", "short_axis", "circumference", "width", "height")
"""Of the largest connected part of a structure, in mm."""

HADLOCK = (8.96, 0.540, 0.0003)
"""Weeks of gestation from a head circumference of x cm: a + b x + c x^3 (Hadlock et al., Radiology 1984; 152:497)."""

HADLOCK_RANGE = (14.0, 42.0)
"""Weeks that the study covers."""

HADLOCK_SPREAD = ((18.0, 1.19), (24.0, 1.48), (30.0, 2.06), (36.0, 2.98), (math.inf, 2.70))
"""Weeks below which two standard deviations are so many weeks (same source, table of variability)."""


def circumference(long_axis: float, short_axis: float) -> float:
    """Of an ellipse with these axes (full lengths), to 1e-4 of it at ratios of axes up to 10.

    Reference: S. Ramanujan, Modular equations and approximations to pi, Q. J. Math. 45, 1914, second approximation.
    """
    total = (long_axis + short_axis) / 2
    if total <= 0:
        return 0.0
    share = 3 * ((long_axis - short_axis) / 2 / total) ** 2
    return math.pi * total * (1 + share / (10 + math.sqrt(4 - share)))


def box_of(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a mask (H, W) bool that is not empty."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def lengths(mask: np.ndarray, spacing: Sequence[float]) -> dict[str, float] | None:
    """The ``LENGTHS`` of the largest connected part of a mask in the unit of the spacing; None for an empty one.

    Args:
        mask: (H, W) bool.
        spacing: of rows and columns.
    """
    if not mask.any():
        return None
    shown = mask[box_of(mask)]
    parts = regionprops(label(shown, connectivity=2), spacing=tuple(spacing))
    part = max(parts, key=lambda one: float(one.num_pixels))
    top, left, bottom, right = part.bbox
    axes = float(part.axis_major_length), float(part.axis_minor_length)
    extent = (right - left) * spacing[1], (bottom - top) * spacing[0]
    return dict(zip(LENGTHS, (*axes, circumference(*axes), *extent), strict=True))


def depth(mask: np.ndarray, skin: np.ndarray, row_spacing: float) -> float | None:
    """From the skin straight down to the nearest pixel of a mask, in the unit of the spacing; None beside the sector.

    Args:
        mask: (H, W) bool.
        skin: (W,) row in which the sector begins in each column; nan where it is not.
        row_spacing: of rows.
    """
    columns = mask.any(0) & np.isfinite(skin)
    if not columns.any():
        return None
    rows = np.maximum(mask.argmax(0)[columns] - skin[columns], 0)
    return float(rows.min()) * row_spacing


def compared(pred: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | None) -> dict[str, float | None]:
    """Lengths in mm of a prediction and of the mask that it is held against: ``circumference_mm``, ``true_...`` etc.

    Args:
        pred, truth: (H, W) bool.
        spacing: of rows and columns in mm; None, where it is not known, gives no figure.
    """
    found: dict[str, float | None] = {}
    for prefix, mask in (("", pred), ("true_", truth)):
        values = (lengths(mask, spacing) if spacing is not None else None) or {}
        found |= {f"{prefix}{name}_mm": round(values[name], 3) if values else None for name in LENGTHS}
    return found


def reaches_edge(mask: np.ndarray) -> bool:
    """Whether any pixel of a mask (H, W) lies on an edge of the image."""
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def gestational_age(hc_mm: float) -> tuple[float, float, float] | None:
    """Weeks of gestation from a head circumference, and the ends of their interval of two standard deviations.

    None outside the 14 to 42 weeks of the study. Reference: F. P. Hadlock, R. L. Deter, R. B. Harrist, S. K. Park,
    Estimating fetal age: computer-assisted analysis of multiple fetal growth parameters, Radiology 152, 1984, 497-501.
    """
    a, b, c = HADLOCK
    weeks = a + b * hc_mm / 10 + c * (hc_mm / 10) ** 3
    if not HADLOCK_RANGE[0] <= weeks <= HADLOCK_RANGE[1]:
        return None
    spread = next(spread for below, spread in HADLOCK_SPREAD if weeks < below)
    return weeks, weeks - spread, weeks + spread
