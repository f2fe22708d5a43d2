# SPDX-License-Identifier: Apache-2.0
"""Formats of volumes that hold one plane: NIfTI and NRRD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

import nibabel
import numpy as np
from monai.utils import optional_import

from bundle.geometry import UNKNOWN_SPACING
from bundle.transforms.readers.raw import (
    LPS_TO_RAS,
    Raw,
    by_default,
    find_plane,
    take_plane,
    turn_affine,
)

nrrd, HAS_NRRD = optional_import("nrrd")

MM_PER_UNIT = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}
COLOR_KINDS = ("RGB-color", "RGBA-color", "vector", "3-color", "4-color")
COLORS_LAST = "the last axis, of length 3, is taken for colors"


def read_nifti(file: IO[bytes], path: str, as_mask: bool) -> Raw:
    """NIfTI of one plane, in whatever axes, grey, of the RGB data type, or with three colors last."""
    image = nibabel.load(path)
    shape = tuple(int(n) for n in image.shape)
    plane, colors = find_plane(shape)
    stored = np.asanyarray(image.dataobj)
    if stored.dtype.names:
        stored = np.stack([stored[name] for name in ("R", "G", "B")], axis=-1)
    if stored.ndim > len(shape):  # the RGB data type
        colors = len(shape)
    zooms = [float(image.header.get_zooms()[axis]) for axis in plane]
    unit = image.header.get_xyzt_units()[0]
    spacing = UNKNOWN_SPACING
    if min(zooms) > 0 and not by_default(zooms):
        spacing = (round(zooms[1] * MM_PER_UNIT[unit], 6), round(zooms[0] * MM_PER_UNIT[unit], 6))
    notes = (COLORS_LAST,) if colors == len(shape) - 1 and len(shape) < 5 else ()  # the fifth axis is made for vectors
    affine = turn_affine(np.asarray(image.affine, float), plane)
    return Raw(take_plane(stored, plane, colors), spacing, affine=affine, notes=notes)


def read_nrrd(file: IO[bytes], path: str, as_mask: bool) -> Raw:
    """NRRD of one plane, grey, or with three or four colors first, or three last; indices are taken as x and y."""
    if not HAS_NRRD:
        raise ValueError("reading NRRD needs the package pynrrd, which is not installed; install it or convert to PNG.")
    header = nrrd.read_header(file)
    shape = tuple(int(n) for n in header["sizes"])
    first = 1 if header.get("kinds", [""])[0] in COLOR_KINDS else 0
    plane, colors = find_plane(shape[first:])
    stored, header = nrrd.read(path)
    notes = () if colors is None else (COLORS_LAST,)
    if first:
        stored = np.moveaxis(stored, 0, -1)[..., :3]
        colors, notes = stored.ndim - 1, ()
    directions = header.get("space directions")
    along = np.linalg.norm(directions, axis=1) if directions is not None else header.get("spacings", ())
    sizes = np.asarray([along[first + axis] for axis in plane] if len(along) else (), float)
    spacing = UNKNOWN_SPACING
    if sizes.size and (sizes > 0).all() and not by_default(sizes):
        spacing = (float(sizes[1]), float(sizes[0]))
    affine = turn_affine(_nrrd_affine(header, first), plane)
    return Raw(take_plane(stored, plane, colors), spacing, affine=affine, notes=notes)


def _nrrd_affine(header: Mapping[str, Any], first: int) -> np.ndarray:
    """Study indices to mm, right-anterior-superior; without a named space x runs left and y posterior."""
    affine = np.eye(4)
    directions = header.get("space directions")
    if directions is not None:
        axes = np.asarray(directions, float)[first:][:3]
        affine[: axes.shape[1], : axes.shape[0]] = axes.T
        origin = np.asarray(header.get("space origin", np.zeros(axes.shape[1])), float)
        affine[: len(origin), 3] = origin
    else:
        for i, size in enumerate(header.get("spacings", ())[first : first + 3]):
            affine[i, i] = size if size > 0 else 1.0
    right_anterior = str(header.get("space", "")).lower() in ("right-anterior-superior", "ras")
    return affine if right_anterior else LPS_TO_RAS @ affine
