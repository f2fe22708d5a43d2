# SPDX-License-Identifier: Apache-2.0
"""NIfTI of one plane."""

from __future__ import annotations

import gzip
import math
import zlib
from typing import IO

import nibabel
import numpy as np

from bundle.failures import clause
from bundle.geometry import UNKNOWN_SPACING
from bundle.transforms.readers.raw import Raw, believed, by_default, find_plane, take_plane, told_geometry, turn_affine

MM_PER_UNIT = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}
COLORS_LAST = "the last axis, of length 3, is taken for colors"
SLACK = 1 << 20  # bytes that may stand behind the values


def read_nifti(file: IO[bytes], path: str, as_mask: bool) -> Raw:
    """NIfTI of one plane, in whatever axes, grey, of the RGB data type, or with three colors last.

    Raises:
        OSError: when compressed data are damaged or cut.
        ValueError: when it is a volume, or of complex numbers.
    """
    image = nibabel.load(path)
    if (kind := image.get_data_dtype()).kind == "c":
        raise ValueError(f"NIfTI must hold real numbers, got {kind.name}; save their magnitude.")
    shape = tuple(int(n) for n in image.shape)
    plane, colors = find_plane(shape)
    if path.lower().endswith(".gz"):
        _check_gzip(file, image.dataobj.offset + math.prod(shape) * kind.itemsize)
    stored = np.asanyarray(image.dataobj)
    if stored.dtype.names:
        stored = np.stack([stored[name] for name in ("R", "G", "B")], axis=-1)
    if stored.ndim > len(shape):  # the RGB data type
        colors = len(shape)
    notes = (COLORS_LAST,) if colors == len(shape) - 1 and len(shape) < 5 else ()  # the fifth axis is made for vectors
    spacing, more = _spacing(image, plane)
    affine = turn_affine(np.asarray(image.affine, float), plane)
    directed = bool(image.header["sform_code"] > 0 or image.header["qform_code"] > 0)
    geometry = told_geometry(affine, plane, directed=directed)
    return Raw(take_plane(stored, plane, colors), spacing, affine=affine, notes=notes + more, geometry=geometry)


def _check_gzip(file: IO[bytes], size: int) -> None:
    """Checks a compressed file up to its end, where its checksum stands: nibabel stops behind the values.

    Raises:
        OSError: when it is damaged or cut.
        ValueError: when it is far longer than ``size`` bytes.
    """
    left = size + SLACK
    try:
        with gzip.open(file) as unpacked:
            while left >= 0 and (block := unpacked.read(1 << 20)):
                left -= len(block)
    except (OSError, EOFError, zlib.error) as error:
        raise OSError(f"the NIfTI's gzip data are damaged or cut ({clause(str(error))})") from error
    if left < 0:
        raise ValueError(f"NIfTI must unpack to {size} bytes, got 1 MiB more or above; write it again.")


def _spacing(image: nibabel.Nifti1Image, plane: tuple[int, int]) -> tuple[tuple[float, float], tuple[str, ...]]:
    """Row and column spacing in mm, and notes."""
    zooms = [float(image.header.get_zooms()[axis]) for axis in plane]
    if min(zooms) <= 0 or by_default(zooms):
        return UNKNOWN_SPACING, ()
    try:
        factor = MM_PER_UNIT[image.header.get_xyzt_units()[0]]
    except KeyError:
        code = int(image.header["xyzt_units"])
        return UNKNOWN_SPACING, (f"the unit of lengths, code {code}, is not known, and so is the spacing",)
    return believed(round(zooms[1] * factor, 6), round(zooms[0] * factor, 6))
