# SPDX-License-Identifier: Apache-2.0
"""The distance of a DICOM image's pixels: PixelSpacing, and the calibration of the regions of an ultrasound image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bundle.geometry import UNKNOWN_SPACING, Zone
from bundle.transforms.readers.dicom_header import entry, numbers, sequence, whole
from bundle.transforms.readers.raw import believed, by_default

CM_UNIT = 3.0  # PS3.3 C.8.5.5.1.15, Physical Units X/Y Direction: cm
SAME_SPACING = 1e-3  # of two calibrations, relative: an error of 0.2 % of an area
MOST = 0.5
"""Share of the image, or of what is not background in it, that calibrated regions must hold to speak for all of it."""

PIXEL_SPACING, REGIONS = "PixelSpacing", "SequenceOfUltrasoundRegions"

EDGES = ("MinY0", "MaxY1", "MinX0", "MaxX1")

Spacing = tuple[float, float]


def find_spacing(ds: Any, stored: np.ndarray) -> tuple[Spacing, str, list[str], tuple[Zone, ...]]:
    """Row and column spacing in mm, nan where it is not known, the attribute that tells it, notes, and zones.

    PixelSpacing, or the calibration in cm that all 2D regions share, which goes first where the two differ. Regions
    speak for the image when they hold most of it, or of what is not background in it; else each for itself, as a zone.

    Args:
        ds: the file's entries.
        stored: values of a frame, (H, W) or (H, W, 3).
    """
    given, notes = _pixel_spacing(ds)
    found, places, more = _regions(ds)
    notes += more
    if given is not None and all(_same(given, other) for other in found):
        return given, PIXEL_SPACING, notes, ()
    if not found:
        return UNKNOWN_SPACING, "", notes, ()
    zones = tuple(map(Zone, places, found))
    if not all(_same(found[0], other) for other in found):
        note = "regions of the image have different scales, and only what lies in one of them is measured in mm: "
        return UNKNOWN_SPACING, REGIONS, [*notes, note + "; ".join(map(_told, zones))], zones
    if not _hold_most(places, stored):
        note = "a small part of the image is calibrated, and only what lies there is measured in mm: "
        return UNKNOWN_SPACING, REGIONS, [*notes, note + "; ".join(map(_told, zones))], zones
    if given is not None:
        taken, left = (f"{row:.4g} x {column:.4g} mm" for row, column in (found[0], given))
        notes.append(f"PixelSpacing says {left} and the image's region {taken}, which is taken")
    return found[0], REGIONS, notes, ()


def _told(zone: Zone) -> str:
    (rows, columns), (row, column) = zone.place, zone.spacing
    where = f"rows {rows.start} to {rows.stop - 1}, columns {columns.start} to {columns.stop - 1}"
    return f"{row:.4g} x {column:.4g} mm in {where}"


def _pixel_spacing(ds: Any) -> tuple[Spacing | None, list[str]]:
    """PixelSpacing where it says something, and notes."""
    if entry(ds, PIXEL_SPACING) is None:
        return None, []
    given = numbers(ds, PIXEL_SPACING) or []
    if len(given) != 2 or min(given) <= 0:
        return None, ["PixelSpacing is not two numbers above 0 and is left out"]
    if by_default(given):
        return None, ["PixelSpacing of 1 x 1 mm is what is written when it is not known, and is left out"]
    spacing, notes = believed(*given)
    return (None if notes else spacing), list(notes)


def _regions(ds: Any) -> tuple[list[Spacing], list[tuple[slice, slice]], list[str]]:
    """Spacing in mm and place (rows, columns) of each region with scales in cm, and notes."""
    found, places, notes = [], [], []
    for region in sequence(ds, REGIONS):
        if any(numbers(region, f"PhysicalUnits{axis}Direction") != [CM_UNIT] for axis in "XY"):
            continue
        row, column = (abs((numbers(region, f"PhysicalDelta{axis}") or [0.0])[0]) * 10 for axis in "YX")
        if not (row and column):
            notes.append("a region without PhysicalDelta is left out")
            continue
        spacing, more = believed(row, column)
        notes += more
        if not more:
            found.append(spacing)
            shape = (whole(ds, "Rows"), whole(ds, "Columns"))
            places.append(region_place(region, shape) or (slice(0, shape[0]), slice(0, shape[1])))
    return found, places, notes


def region_place(region: Any, shape: tuple[int, int]) -> tuple[slice, slice] | None:
    """Rows and columns of a region in an image (H, W); None where it does not say, or lies outside."""
    edges = [numbers(region, f"RegionLocation{edge}") for edge in EDGES]
    if any(edge is None for edge in edges):
        return None
    top, bottom, left, right = (int(edge[0]) for edge in edges if edge is not None)
    if bottom <= top or right <= left:
        return None
    place = _within(top, bottom + 1, shape[0]), _within(left, right + 1, shape[1])
    return place if all(part.start < part.stop for part in place) else None


def _within(first: int, end: int, size: int) -> slice:
    return slice(min(max(first, 0), size), min(max(end, 0), size))


def _hold_most(places: Sequence[tuple[slice, slice]], stored: np.ndarray) -> bool:
    """Whether regions hold most of the image, or of what has another value than its corner."""
    held = np.zeros(stored.shape[:2], bool)
    for place in places:
        held[place] = True
    if held.mean() >= MOST:
        return True
    shown = stored != stored[0, 0]
    shown = shown.any(axis=-1) if shown.ndim == 3 else shown
    return bool(shown.any() and held[shown].mean() >= MOST)


def _same(one: Spacing, other: Spacing) -> bool:
    return all(math.isclose(a, b, rel_tol=SAME_SPACING) for a, b in zip(one, other, strict=True))
