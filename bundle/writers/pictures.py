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
        image: (H, W, 3) uint8, or (H, W, 1) when grey.
        mask: (H, W) structure indices, uint8.

    Returns:
        (H, W, 3) uint8.
    """
    drawn = np.empty((*mask.shape, 3), np.uint8)
    for channel in range(3):  # by broadcasting it takes four times as long
        drawn[..., channel] = image[..., channel % image.shape[2]]
    width = max(1, min(mask.shape) // 250)  # of a contour
    box = tuple(_extent(np.any(mask, axis=axis), margin=width) for axis in (1, 0))
    drawn[box] = _tint(drawn[box], mask[box], width)
    return drawn


def _extent(hit: np.ndarray, *, margin: int) -> slice:
    """From the first True of (N,) to the last, with a margin; empty where there is none."""
    places = np.flatnonzero(hit)
    return slice(max(0, places[0] - margin), places[-1] + 1 + margin) if len(places) else slice(0)


def _tint(image: np.ndarray, mask: np.ndarray, width: int) -> np.ndarray:
    """Image (H, W, 3) with the structures of the mask (H, W), their contours ``width`` pixels wide."""
    count = int(mask.max(initial=0)) + 1
    colors = np.array([(0, 0, 0), *(color(index) for index in range(1, count))], np.float32)
    shades = np.arange(256, dtype=np.float32)[:, None]
    tinted = np.stack([shades + (index > 0) * FILL * (colors[index] - shades) for index in range(count)])
    table = np.concatenate([tinted, np.broadcast_to(colors[:, None], tinted.shape)]).round().astype(np.uint8)
    row = mask.astype(np.uint16)  # of the table: tinted structures, then opaque ones
    row[(mask > 0) & ~_inside(mask, width)] += count
    row <<= 8
    return np.stack([np.take(table[..., c], row | image[..., c], mode="clip") for c in range(3)], axis=-1)


def _inside(mask: np.ndarray, width: int) -> np.ndarray:
    """Pixels of (H, W) further than ``width`` steps, up, down, left or right, from one with another index.

    scipy's ``binary_erosion`` takes ten times as long, and a pass for each index.
    """
    inside = np.ones(mask.shape, bool)
    level, upright = mask[1:] == mask[:-1], mask[:, 1:] == mask[:, :-1]
    inside[1:] &= level
    inside[:-1] &= level
    inside[:, 1:] &= upright
    inside[:, :-1] &= upright
    for _ in range(width - 1):
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
