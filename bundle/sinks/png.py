# SPDX-License-Identifier: Apache-2.0
"""PNG files."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from monai.utils import optional_import

isal_zlib, has_isal = optional_import("isal.isal_zlib")
deflate = isal_zlib.compress if has_isal else zlib.compress  # files of the same size in a quarter of the time


def encode_png(pixels: np.ndarray, *, comment: str = "") -> bytes:
    """A PNG file of (H, W) or (H, W, 3) uint8, with a comment in ASCII where there is one.

    Each row is stored as the difference to the row above. Pillow tries five ways for each row, which takes longer than
    the compression.

    Reference: PNG Specification, third edition, W3C 2025, sections 5, 9.2, 11.2.1 and 11.3.3.2.
    """
    rows = pixels.reshape(len(pixels), -1)
    filtered = np.empty((rows.shape[0], 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 2  # the filter's number
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    color_type = 2 if pixels.ndim == 3 else 0
    header = struct.pack(">2I5B", pixels.shape[1], pixels.shape[0], 8, color_type, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n"
    text = [(b"tEXt", b"Comment\0" + comment.encode("ascii"))] if comment else []
    for kind, content in ((b"IHDR", header), *text, (b"IDAT", deflate(filtered.data, 1)), (b"IEND", b"")):
        file += struct.pack(">I", len(content)) + kind + content
        file += struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
    return file
