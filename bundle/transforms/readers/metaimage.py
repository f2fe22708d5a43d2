# SPDX-License-Identifier: Apache-2.0
"""MetaImage (.mha, .mhd) of one plane. ITK and SimpleITK read it too, and are 50 MB for a header of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from bundle.geometry import UNKNOWN_SPACING
from bundle.transforms.readers.raw import (
    LPS_TO_RAS,
    MAX_DIGITS,
    Raw,
    believed,
    by_default,
    find_plane,
    from_text,
    take_plane,
    told_geometry,
    turn_affine,
    unpacked,
    values_beside,
)

MAX_HEADER = 65536
DATA = "ElementDataFile"  # the header's last entry
TYPES = {
    "MET_UCHAR": "u1", "MET_CHAR": "i1", "MET_USHORT": "u2", "MET_SHORT": "i2", "MET_UINT": "u4", "MET_INT": "i4",
    "MET_ULONG_LONG": "u8", "MET_LONG_LONG": "i8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip


def is_metaimage(head: bytes) -> bool:
    """Whether a file starts like a MetaImage header."""
    return head.lstrip()[:11] in (b"ObjectType ", b"ObjectType=") or head.lstrip()[:5] in (b"NDims",)


def _read_header(file: IO[bytes]) -> dict[str, str]:
    """Entries of the header; the file stands behind it."""
    header: dict[str, str] = {}
    while DATA not in header:
        line = file.readline(MAX_HEADER)
        name, mark, value = line.decode("latin-1").partition("=")
        if not mark or file.tell() > MAX_HEADER:
            raise ValueError(f"MetaImage header must have lines of name = value up to {DATA}; write it again, as .mha.")
        header[name.strip()] = value.strip()
    return header


def _numbers(header: Mapping[str, str], *names: str) -> list[float]:
    """The numbers of the first of these entries that is there; empty without one."""
    text = next((header[name] for name in names if name in header), "")
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError as e:
        raise ValueError(f"MetaImage entry {names[0]} must hold numbers, got {text!r}; correct it.") from e
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"MetaImage entry {names[0]} must hold finite numbers, got {text!r}; correct it.")
    return numbers


def _is_true(header: Mapping[str, str], *names: str) -> bool:
    return any(header.get(name, "")[:1] in ("T", "t", "1") for name in names)  # as ITK reads it


def _values_file(header: Mapping[str, str], path: str) -> Path | None:
    return None if header[DATA].upper() == "LOCAL" else values_beside(path, header[DATA], "MetaImage")


def metaimage_values(file: IO[bytes], path: str) -> Path | None:
    """The file that holds the values of a MetaImage; None where it is the file itself.

    Raises:
        ValueError: when the header is not understood, or names what is no plain file beside it.
        FileNotFoundError: when there is none.
    """
    return _values_file(_read_header(file), path)


def _read_values(header: Mapping[str, str], file: IO[bytes], path: str, *, size: int) -> bytes:
    """The content behind the header, or of the file beside it that the header names; unpacked, ``size`` at most."""
    beside = _values_file(header, path)
    content = beside.read_bytes() if beside else file.read()
    return unpacked(content, size, kind="MetaImage") if _is_true(header, "CompressedData") else content


def _read_array(header: Mapping[str, str], file: IO[bytes], path: str, *, sizes: Sequence[int]) -> np.ndarray:
    """Stored values, axes x, y, ... and the channels where there are several."""
    if (kind := header.get("ElementType", "")) not in TYPES:
        raise ValueError(f"MetaImage entry ElementType must be one of {list(TYPES)}, got {kind!r}; convert it.")
    big = _is_true(header, "BinaryDataByteOrderMSB", "ElementByteOrderMSB")
    dtype = np.dtype((">" if big else "<") + TYPES[kind])
    channels = int((_numbers(header, "ElementNumberOfChannels") or [1])[0])
    if channels not in (1, 3, 4):
        raise ValueError(f"MetaImage must have 1, 3 or 4 channels, got {channels}; save one as a file.")
    expected = math.prod(sizes) * channels * dtype.itemsize
    skipped = int((_numbers(header, "HeaderSize") or [0])[0])
    if "BinaryData" not in header or _is_true(header, "BinaryData"):
        content = _read_values(header, file, path, size=expected + max(skipped, 0))
        content = content[len(content) - expected if skipped < 0 else skipped :]
    else:
        text = _read_values(header, file, path, size=math.prod(sizes) * channels * MAX_DIGITS)
        content = from_text(text, dtype, name="MetaImage")
    if len(content) < expected:
        raise OSError(f"the MetaImage is cut, it must have {expected} bytes of values, got {len(content)}")
    values = np.frombuffer(content, dtype, expected // dtype.itemsize).astype(dtype.newbyteorder("="))
    array: np.ndarray = values.reshape(*sizes[::-1], channels)
    turned: np.ndarray = array[..., 0].T if channels == 1 else np.moveaxis(array, -1, 0).T
    return turned


DIRECTIONS = ("TransformMatrix", "Rotation", "Orientation")


def _geometry(header: Mapping[str, str], count: int) -> tuple[list[float], np.ndarray]:
    """Spacing of each axis, and study indices to mm, right-anterior-superior; files run left and posterior."""
    spacing = _numbers(header, "ElementSpacing", "ElementSize")
    rows = _numbers(header, *DIRECTIONS)
    directions = np.reshape(rows, (count, count)) if len(rows) == count**2 else np.eye(count)
    origin = _numbers(header, "Offset", "Position", "Origin")
    affine, used = np.eye(4), min(count, 3)
    scale = np.asarray(spacing if len(spacing) == count else [1.0] * count)
    affine[:used, :used] = (directions * scale[:, None]).T[:used, :used]
    if len(origin) == count:
        affine[:used, 3] = origin[:used]
    return spacing, LPS_TO_RAS @ affine


def read_metaimage(file: IO[bytes], path: str, as_mask: bool) -> Raw:
    """MetaImage of one plane, grey or of three or four channels; spacing in mm, where it is not left at 1.

    Raises:
        ValueError: when it is a volume, or an entry of the header is not understood.
        OSError: when it is cut or its file of values is missing.
    """
    header = _read_header(file)
    sizes = [int(n) for n in _numbers(header, "DimSize")]
    if len(sizes) < 2 or len(sizes) != int((_numbers(header, "NDims") or [len(sizes)])[0]):
        raise ValueError(f"MetaImage entry DimSize must name the size of each axis, got {sizes}; correct it.")
    plane, colors = find_plane(sizes)
    stored = _read_array(header, file, path, sizes=sizes)
    if stored.ndim > len(sizes):
        if colors is not None:
            raise ValueError(f"MetaImage must have one axis of colors, got {colors} and channels; save it as RGB.")
        stored, colors = stored[..., :3], len(sizes)
    sizes_mm, affine = _geometry(header, len(sizes))
    across = [sizes_mm[axis] for axis in plane] if len(sizes_mm) == len(sizes) else []
    known = len(across) == 2 and min(across) > 0 and not by_default(across)
    spacing, notes = believed(across[1], across[0]) if known else (UNKNOWN_SPACING, ())
    affine = turn_affine(affine, plane)
    geometry = told_geometry(affine, plane, directed=any(name in header for name in DIRECTIONS))
    return Raw(take_plane(stored, plane, colors), spacing, affine=affine, notes=notes, geometry=geometry)
