# SPDX-License-Identifier: Apache-2.0
"""Masks over images, and PNG files of both."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from monai.utils import optional_import

isal_zlib, has_isal = optional_import("isal.isal_zlib")
deflate = isal_zlib.compress if has_isal else zlib.compress  # files of the same size in a quarter of the time

COLORS = ((230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180), (70, 240, 240))
"""RGB of structures 1, 2 ...; they repeat when there are more structures."""

FILL = 0.25  # opacity of a structure's inside; its contour is opaque


def color(structure: int) -> tuple[int, int, int]:
    """RGB of a structure's index, 1 or more."""
    return COLORS[(structure - 1) % len(COLORS)]


def draw_overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Image with translucent structures and opaque contours.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) structure indices.

    Returns:
        (H, W, 3) uint8.
    """
    drawn: np.ndarray = image.copy()
    width = max(1, min(mask.shape) // 250)
    for index in range(1, int(mask.max()) + 1):
        structure = mask == index
        if not structure.any():
            continue
        box = _bounding_box(structure)
        inside, part = structure[box], drawn[box]
        tinted = (1 - FILL) * np.arange(256, dtype=np.float32)[:, None] + FILL * np.array(color(index), np.float32)
        table = tinted.round().astype(np.uint8)
        for channel in range(3):  # three times as fast as all at once
            np.copyto(part[..., channel], table[:, channel].take(part[..., channel]), where=inside)
        part[inside & ~_eroded(inside, width)] = color(index)
    return drawn


def _bounding_box(inside: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns that hold all of ``inside`` (H, W) and, within the image, the pixels next to it."""
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    return slice(max(0, rows[0] - 1), rows[-1] + 2), slice(max(0, columns[0] - 1), columns[-1] + 2)


def _eroded(inside: np.ndarray, width: int) -> np.ndarray:
    """Pixels of (H, W) further than ``width`` steps from the outside, up, down, left or right.

    The border of the array counts as inside. scipy's ``binary_erosion`` takes ten times as long.
    """
    for _ in range(width):
        kept = inside.copy()
        kept[1:] &= inside[:-1]
        kept[:-1] &= inside[1:]
        kept[:, 1:] &= inside[:, :-1]
        kept[:, :-1] &= inside[:, 1:]
        inside = kept
    return inside


def encode_png(pixels: np.ndarray) -> bytes:
    """A PNG file of (H, W) or (H, W, 3) uint8.

    Each row is stored as the difference to the row above. Pillow tries five ways for each row, which takes longer than
    the compression.

    Reference: PNG Specification, third edition, W3C 2025, sections 5, 9.2 and 11.2.1.
    """
    rows = pixels.reshape(len(pixels), -1)
    filtered = np.empty((rows.shape[0], 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 2  # the filter's number
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    color_type = 2 if pixels.ndim == 3 else 0
    header = struct.pack(">2I5B", pixels.shape[1], pixels.shape[0], 8, color_type, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", header), (b"IDAT", deflate(filtered.data, 1)), (b"IEND", b"")):
        file += struct.pack(">I", len(content)) + kind + content
        file += struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
    return file
