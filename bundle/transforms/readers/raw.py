# SPDX-License-Identifier: Apache-2.0
"""What every reader gives, and what it checks."""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bundle.geometry import UNKNOWN_SPACING, Zone

MAX_PIXELS = 89_478_485
"""Largest image read, in pixels: the level at which Pillow warns of a decompression bomb (12 000 x 7 456)."""

MAX_DIGITS = 32
"""Bytes that a value written as text takes at most."""

SPACING_RANGE = (1e-3, 100.0)
"""Least and largest distance of pixels in mm that is believed; ultrasound has 0.005 to 1."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

SIZES, PLACE = "sizes", "place"
"""What a file tells of its geometry: only how large its pixels are, or also how its axes run."""


@dataclass(frozen=True)
class Raw:
    """What a file holds.

    Attributes:
        pixels: upright stored values, (H, W) or (H, W, 3).
        spacing: row and column spacing in mm, nan when the file does not say.
        source: where in the file the spacing is from.
        limits: stored values that mean 0 and 1; None when the header does not say.
        affine: study indices (x, y, z, 1) to mm, right-anterior-superior, (4, 4); a picture's pixels count as mm that
            run left and posterior, as clients take them.
        turned: the file was not upright and ``pixels`` were turned (EXIF orientation).
        notes: what was assumed where the file does not say, a sentence each.
        zones: parts with a spacing of their own, where the file tells none for the whole image.
        geometry: what the file itself tells of the affine: ``PLACE``, ``SIZES``, or "" for nothing.
    """

    pixels: np.ndarray
    spacing: tuple[float, float] = UNKNOWN_SPACING
    limits: tuple[float, float] | None = None
    affine: np.ndarray = field(default_factory=LPS_TO_RAS.copy)
    turned: bool = False
    notes: tuple[str, ...] = ()
    source: str = "header"
    geometry: str = ""
    zones: tuple[Zone, ...] = ()


def by_default(sizes: Sequence[float] | np.ndarray) -> bool:
    """Whether pixels are 1 x 1, which converters write that know no spacing, whatever unit they name."""
    return bool(np.allclose(sizes, 1.0, rtol=0, atol=1e-6))


def told_geometry(affine: np.ndarray, plane: tuple[int, int], *, directed: bool) -> str:
    """What a file tells of its geometry; nothing where it is the default, pixels of 1 x 1 at 0.

    Args:
        affine: of :func:`turn_affine`.
        plane: axes x and y of the array.
        directed: whether the header tells how the axes run.
    """
    axes, flat = np.abs(affine[:3, :2]), by_default(np.linalg.norm(affine[:3, :2], axis=0))
    if max(plane) > 2 or not np.isfinite(affine).all() or not axes.any(axis=0).all():
        return ""
    if flat and (not directed or (np.allclose(axes, np.eye(3, 2)) and not affine[:3, 3].any())):
        return ""
    return PLACE if directed else SIZES


def believed(row: float, column: float) -> tuple[tuple[float, float], tuple[str, ...]]:
    """A spacing in mm, or an unknown one and a note where it cannot be that of an image."""
    least, most = SPACING_RANGE
    if least <= row <= most and least <= column <= most:
        return (row, column), ()
    return UNKNOWN_SPACING, (f"a spacing of {row:.3g} x {column:.3g} mm cannot be right and is left out",)


def values_beside(path: str, name: str, kind: str) -> Path:
    """The file of values that a header names, which must lie beside it.

    Args:
        path: of the header.
        name: in the header.
        kind: of the file, for messages.

    Raises:
        ValueError: when it names another place, several files, or what is no plain file, such as a device.
        FileNotFoundError: when there is none.
    """
    if not name or Path(name).name != name or name.split()[0] == "LIST" or "%" in name:
        raise ValueError(f"{kind} must hold its values or name one file beside it, got {name!r}; save it as one file.")
    beside = Path(path).with_name(name)
    if beside.exists() and not beside.is_file():
        raise ValueError(f"{kind} must name a plain file, got {name!r}, which is none; save it as one file.")
    if not beside.exists():
        raise FileNotFoundError(f"the {kind} names {name!r} for its values, which is not there")
    return beside


def unpacked(content: bytes, size: int, *, kind: str, bzip2: bool = False) -> bytes:
    """What compressed values hold: ``size`` bytes at most, however many a small file could give.

    Args:
        content: of zlib or gzip, or of bzip2.
        size: that the header tells.
        kind: of the file, for messages.

    Raises:
        ValueError: when there are more, or they cannot be unpacked.
        OSError: when their end, where the checksum stands, is missing.
    """
    unpacker = bz2.BZ2Decompressor() if bzip2 else zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        values = unpacker.decompress(content, size + 1)
    except (OSError, zlib.error) as error:
        raise ValueError(f"{kind} must hold compressed values, got damaged ones ({error}); copy it again.") from error
    if len(values) > size:
        raise ValueError(f"{kind} must unpack to {size} bytes of values, got more; correct its sizes.")
    if not unpacker.eof:
        raise OSError(f"the {kind} is cut: its compressed values end after {len(values)} of {size} bytes")
    return values


def from_text(text: bytes, kind: np.dtype, *, name: str) -> bytes:
    """Values of numbers that are written as text.

    Args:
        text: numbers with spaces or lines between them.
        kind: of the values.
        name: of the file's format, for messages.

    Raises:
        ValueError: when it holds what is no such number.
    """
    try:
        return np.array([kind.type(word) for word in text.split()], kind).tobytes()
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name} of text must hold {kind.name} numbers, got others; convert it.") from error


def check_size(width: int, height: int) -> None:
    """Raises a ValueError when an image of this size is empty or too large to be read."""
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise ValueError(f"image must have 1 to {MAX_PIXELS} pixels, got {height}x{width}; crop or downscale it.")


def find_plane(shape: Sequence[int]) -> tuple[tuple[int, int], int | None]:
    """The axes x and y of an array, all others having length 1, and a last axis of three colors if there is one.

    Raises:
        ValueError: when it is a volume, empty, or too large.
    """
    axes = list(range(len(shape)))
    colors = axes.pop() if len(shape) == 5 and shape[4] == 3 else None  # NIfTI's axis of vectors
    for axis in reversed(range(len(axes))):
        if len(axes) > 2 and shape[axis] == 1:
            axes.remove(axis)
    if len(axes) == 3 and colors is None and shape[axes[2]] == 3:
        colors = axes.pop()
    if len(axes) != 2:
        raise ValueError(f"image must be two-dimensional, got shape {tuple(shape)}; save one slice or frame as a file.")
    check_size(shape[axes[0]], shape[axes[1]])
    return (axes[0], axes[1]), colors


def take_plane(stored: np.ndarray, plane: tuple[int, int], colors: int | None) -> np.ndarray:
    """Pixels (H, W) or (H, W, 3) of an array whose axes :func:`find_plane` named."""
    kept = [plane[1], plane[0]] + ([] if colors is None else [colors])
    rest = [axis for axis in range(stored.ndim) if axis not in kept]
    upright = stored.transpose(kept + rest)
    return np.ascontiguousarray(upright.reshape(upright.shape[: len(kept)]))


def turn_affine(affine: np.ndarray, plane: tuple[int, int]) -> np.ndarray:
    """The affine of (x, y, z) where x and y are the axes of the plane; (4, 4), of the array's first three axes."""
    if max(plane) > 2:
        return affine
    third = next(axis for axis in range(3) if axis not in plane)
    turned: np.ndarray = affine[:, [*plane, third, 3]]
    return turned
