# SPDX-License-Identifier: Apache-2.0
"""Regions of a DICOM image that show no plane of the body: M-mode, spectra, waveforms and bars of grays and colors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bundle.transforms.readers.dicom_header import numbers, sequence, whole
from bundle.transforms.readers.dicom_spacing import REGIONS, region_place
from bundle.transforms.readers.raw import Raw

PLANE = 1.0
"""RegionSpatialFormat of a 2D image, PS3.3 C.8.5.5.1.1."""

FORMATS = {2.0: "M-mode", 3.0: "spectrum", 4.0: "waveform"}
"""RegionSpatialFormat of what has time on an axis."""

BARS = {13.0: "gray bar", 14.0: "color bar"}
"""RegionDataType of scales of the display, PS3.3 C.8.5.5.1.2."""


def without_other_regions(raw: Raw, ds: Any) -> Raw:
    """The image with what shows no plane made black, and a note.

    A region that holds one of a plane stays: it is labeled wrong.

    Args:
        raw: a frame.
        ds: the file's entries.
    """
    shape = (whole(ds, "Rows"), whole(ds, "Columns"))
    planes, others = [], []
    for region in sequence(ds, REGIONS):
        kind, data = (_number(region, name) for name in ("RegionSpatialFormat", "RegionDataType"))
        place = region_place(region, shape)
        name = BARS.get(data) or FORMATS.get(kind)
        if place is not None and name is not None:
            others.append((name, place))
        elif place is not None and kind == PLANE:
            planes.append(place)
    left_out = [(name, place) for name, place in others if not any(_holds(place, plane) for plane in planes)]
    if not left_out:
        return raw
    pixels = raw.pixels.copy()
    for _, (rows, columns) in left_out:
        pixels[rows, columns] = raw.limits[0] if raw.limits else 0
    names = ", ".join(dict.fromkeys(name for name, _ in left_out))
    return replace(raw, pixels=pixels, notes=(*raw.notes, f"regions that show no plane are left out: {names}"))


def _number(region: Any, name: str) -> float:
    return (numbers(region, name) or [0.0])[0]


def _holds(place: tuple[slice, slice], other: tuple[slice, slice]) -> bool:
    return all(one.start <= two.start and two.stop <= one.stop for one, two in zip(place, other, strict=True))
