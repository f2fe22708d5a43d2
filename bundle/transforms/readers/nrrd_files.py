# SPDX-License-Identifier: Apache-2.0
"""NRRD of one plane. pynrrd reads headers; values are read here, as it takes them from any file, of any length."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from monai.utils import optional_import

from bundle.failures import clause
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
from bundle.transforms.readers.volumes import COLORS_LAST

nrrd, HAS_NRRD = optional_import("nrrd")

MAX_HEADER = 1 << 20
MAX_SKIP = 1 << 20  # bytes or lines before the values, the header of another format
COLOR_KINDS = ("RGB-color", "RGBA-color", "vector", "3-color", "4-color")
RAW, GZIP, BZIP2, TEXT = ("raw",), ("gzip", "gz"), ("bzip2", "bz2"), ("ascii", "text", "txt")
MM_PER_UNIT = {
    "": 1.0,
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 10.0),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
    **dict.fromkeys(("um", "\u00b5m", "\u03bcm", "micron", "microns", "micrometer", "micrometers"), 0.001),
}


def read_nrrd(file: IO[bytes], path: str, as_mask: bool) -> Raw:
    """NRRD of one plane, grey, or with three or four colors first, or three last; indices are taken as x and y.

    Raises:
        ValueError: when it is a volume, an entry of the header is not understood, or pynrrd is not installed.
        OSError: when it is cut or its file of values is missing.
    """
    if not HAS_NRRD:
        raise ValueError("reading NRRD needs the package pynrrd, which is not installed; install it or convert to PNG.")
    header = _read_header(file)
    shape = tuple(int(n) for n in header["sizes"])
    first = 1 if header.get("kinds", [""])[0] in COLOR_KINDS else 0
    if first and shape[0] not in (3, 4):
        raise ValueError(f"NRRD must have 3 or 4 colors, got {shape[0]} of them; save one as a file.")
    plane, colors = find_plane(shape[first:])
    stored = _read_array(header, file, path)
    notes: tuple[str, ...] = () if colors is None else (COLORS_LAST,)
    if first:
        stored = np.moveaxis(stored, 0, -1)[..., :3]
        colors, notes = stored.ndim - 1, ()
    spacing, more = _spacing(header, [first + axis for axis in plane])
    affine = turn_affine(_affine(header, first), plane)
    geometry = told_geometry(affine, plane, directed=header.get("space directions") is not None)
    return Raw(take_plane(stored, plane, colors), spacing, affine=affine, notes=notes + more, geometry=geometry)


def _read_header(file: IO[bytes]) -> dict[str, Any]:
    """Entries of the header; the file stands behind it."""
    lines: list[str] = []
    while (line := file.readline(MAX_HEADER)).strip():
        lines.append(line.decode("utf-8", "replace"))
        if file.tell() > MAX_HEADER or (len(lines) > 1 and not lines[-1].startswith("#") and ":" not in lines[-1]):
            raise ValueError(
                f"NRRD header must have lines of name: value and end in an empty one, got {lines[-1].strip()[:40]!r};"
                " write it again."
            )
    try:
        header = dict(nrrd.read_header(lines))
        sizes = [int(n) for n in header["sizes"]]
        wrong = [name for name in ("type", "encoding", "dimension") if name not in header]
    except Exception as error:  # whatever stands in the file makes the library raise
        reason = clause(f"no entry {error}" if isinstance(error, KeyError) else str(error)) or type(error).__name__
        raise ValueError(f"NRRD header must follow its format, got another ({reason}); write it again.") from error
    if wrong:
        raise ValueError(f"NRRD header must have the entry {wrong[0]}, got none; write it again.")
    if len(sizes) != header["dimension"] or min(sizes, default=0) < 1:
        raise ValueError(
            f"NRRD entry sizes must hold {header['dimension']} numbers above 0, one for each axis, got {sizes};"
            " correct it."
        )
    for name in ("spacings", "space directions", "units", "kinds"):
        if header.get(name) is not None and len(header[name]) != len(sizes):
            raise ValueError(
                f"NRRD entry {name} must have a value for each of {len(sizes)} axes, got {len(header[name])}; correct"
                " it."
            )
    return header


def _kind(header: Mapping[str, Any]) -> np.dtype:
    """The type of the stored values."""
    one = {"type": header["type"], "encoding": "raw", "dimension": 1, "sizes": np.array([1])}
    one |= {"endian": header["endian"]} if "endian" in header else {}
    one |= {"endian": "little"} if str(header["encoding"]).lower() in TEXT else {}
    try:
        kind: np.dtype = nrrd.read_data(one, io.BytesIO(bytes(8))).dtype
        if kind.kind == "V":
            raise ValueError("blocks of bytes")
    except KeyError as error:
        raise ValueError(f"NRRD entry type must be one of numbers, got {header['type']!r}; convert it.") from error
    except Exception as error:
        raise ValueError(
            f"NRRD must hold numbers of a known type and byte order, got {header['type']!r} ({clause(str(error))});"
            " convert it."
        ) from error
    return kind


def _values_file(header: Mapping[str, Any], path: str) -> Path | None:
    name = header.get("datafile", header.get("data file"))
    return None if name is None else values_beside(path, name, "NRRD")


def nrrd_values(file: IO[bytes], path: str) -> Path | None:
    """The file that holds the values of an NRRD; None where it is the file itself.

    Raises:
        ValueError: when the header is not understood, or names what is no plain file beside it.
        FileNotFoundError: when there is none.
    """
    return _values_file(_read_header(file), path)


def _read_array(header: Mapping[str, Any], file: IO[bytes], path: str) -> np.ndarray:
    """Stored values, axes x, y, ..., fastest first."""
    kind, encoding = _kind(header), str(header["encoding"]).lower()
    if encoding not in RAW + GZIP + BZIP2 + TEXT:
        raise ValueError(f"NRRD entry encoding must be raw, gzip, bzip2 or ascii, got {encoding!r}; convert it.")
    sizes = [int(n) for n in header["sizes"]]
    size = math.prod(sizes) * kind.itemsize
    with contextlib.ExitStack() as opened:
        if beside := _values_file(header, path):
            file = opened.enter_context(beside.open("rb"))
        skipped = _skip_lines(header, file)
        if encoding in TEXT:
            _skip_bytes(file, skipped, size)
            content = from_text(file.read(math.prod(sizes) * MAX_DIGITS), kind, name="NRRD")
        elif encoding in RAW:
            _skip_bytes(file, skipped, size)
            content = file.read(size + 1)
        else:
            most = size + max(skipped, 0)
            content = unpacked(file.read(), most, kind="NRRD", bzip2=encoding in BZIP2)[max(skipped, 0) :]
    if len(content) != size:
        got = f"{len(content)}" if len(content) < size else "more"
        raise OSError(f"the NRRD must have {size} bytes of values as its sizes say, got {got}")
    values = np.frombuffer(content, kind).astype(kind.newbyteorder("="))
    across: np.ndarray = values.reshape(sizes[::-1]).T
    return across


def _skip_lines(header: Mapping[str, Any], file: IO[bytes]) -> int:
    """Passes over the lines before the values, and gives the number of bytes to pass over; -1: all but the values."""
    lines, skipped = (header.get(f"{kind}skip", header.get(f"{kind} skip", 0)) for kind in ("line", "byte"))
    if not 0 <= lines <= MAX_SKIP or not -1 <= skipped <= MAX_SKIP:
        raise ValueError(
            f"NRRD entries line skip and byte skip must be 0 to {MAX_SKIP}, or -1 byte, got {lines} and {skipped};"
            " save it as one file."
        )
    for _ in range(lines):
        if not file.readline(MAX_HEADER):
            break
    return int(skipped)


def _skip_bytes(file: IO[bytes], skipped: int, size: int) -> None:
    if skipped < 0:
        file.seek(max(file.seek(0, os.SEEK_END) - size, 0))
    else:
        file.seek(skipped, os.SEEK_CUR)


def _mm_per_unit(units: Iterable[Any] | None, count: int) -> np.ndarray:
    """Of each axis; nan where the unit is not known."""
    named = [re.sub(r"\s", "", str(unit)).lower() for unit in units or ()]
    return np.array([MM_PER_UNIT.get(unit, math.nan) for unit in named] if named else [1.0] * count)


def _directions_mm(header: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The space directions in mm, nan where their unit is not known, and the factors of each axis of the space."""
    directions = np.asarray(header["space directions"], float)
    factors = _mm_per_unit(header.get("space units"), directions.shape[1])
    if len(factors) != directions.shape[1]:
        raise ValueError(
            f"NRRD entry space units must have a value for each of {directions.shape[1]} axes of the space, got"
            f" {len(factors)}; correct it."
        )
    return np.where(directions == 0, 0.0, directions * factors), factors


def _spacing(header: Mapping[str, Any], axes: list[int]) -> tuple[tuple[float, float], tuple[str, ...]]:
    """Row and column spacing in mm along the axes x and y, and notes."""
    if header.get("space directions") is not None:
        stored = np.linalg.norm(np.asarray(header["space directions"], float), axis=1)
        along, units = np.linalg.norm(_directions_mm(header)[0], axis=1), header.get("space units")
    elif "spacings" in header:
        stored, units = np.asarray(header["spacings"], float), header.get("units")
        along = stored * _mm_per_unit(units, len(stored))
    else:
        return UNKNOWN_SPACING, ()
    if not (stored[axes] > 0).all() or by_default(stored[axes]):
        return UNKNOWN_SPACING, ()
    if np.isnan(along[axes]).any():
        return UNKNOWN_SPACING, (f"the units {' '.join(map(repr, units or ()))} are not known, and so is the spacing",)
    return believed(float(along[axes[1]]), float(along[axes[0]]))


def _affine(header: Mapping[str, Any], first: int) -> np.ndarray:
    """Study indices to mm, right-anterior-superior; without a named space x runs left and y posterior."""
    affine = np.eye(4)
    if header.get("space directions") is not None:
        directions, factors = _directions_mm(header)
        if np.isnan(factors).any():  # as if they were mm
            directions, factors = np.asarray(header["space directions"], float), np.ones(len(factors))
        axes = directions[first:][:3]
        affine[: axes.shape[1], : axes.shape[0]] = axes.T
        origin = np.asarray(header.get("space origin", np.zeros(axes.shape[1])), float) * factors
        affine[: len(origin), 3] = origin
    else:
        sizes = np.asarray(header.get("spacings", ()), float)
        factors = np.nan_to_num(_mm_per_unit(header.get("units"), len(sizes)), nan=1.0)
        for i, size in enumerate((sizes * factors[: len(sizes)])[first : first + 3]):
            affine[i, i] = size if size > 0 else 1.0
    right_anterior = str(header.get("space", "")).lower() in ("right-anterior-superior", "ras")
    return affine if right_anterior else LPS_TO_RAS @ affine
