# SPDX-License-Identifier: Apache-2.0
"""What the compressed pixel data of a DICOM file say of themselves: the color model, and the compression."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pydicom.uid import (
    JPEG2000,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSNearLossless,
)

HEAD = 1 << 18
"""Bytes of pixel data that hold the header of the first frame."""

JPEG_START, J2K_START = b"\xff\xd8\xff", b"\xff\x4f\xff\x51"
END_MARK = b"\xff\xd9"  # of both
ITEM = b"\xfe\xff\x00\xe0"
RGB_IDS = (b"RGB", b"rgb")

SOF_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # frame headers; 0xF7 is JPEG-LS
LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF, 0xF7}
SYNTAXES = {0xC0: JPEGBaseline8Bit, 0xC1: JPEGExtended12Bit, 0xC3: JPEGLosslessSV1, 0xF7: JPEGLSNearLossless}


def _first_stream(head: bytes) -> bytes:
    """The first frame's stream as far as it is there, from its start marker on; b"" for other compressions."""
    table = head.find(ITEM)
    if table < 0 or table + 8 > len(head):
        return b""
    start = table + 16 + int(struct.unpack_from("<I", head, table + 4)[0])  # behind the offset table and an item's head
    stream = head[start:]
    if stream.startswith(JPEG_START):
        return stream
    boxes = stream.find(J2K_START, 0, 4096)  # JPEG 2000 may come in boxes, as in a .jp2
    return stream[boxes:] if boxes >= 0 else b""


def segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of each segment of a header, as far as it is there."""
    at = 2
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        if stream[at + 1] == 0xFF:  # fill byte
            at += 1
            continue
        length = struct.unpack_from(">H", stream, at + 2)[0]
        yield stream[at + 1], stream[at + 4 : at + 2 + length]
        at += 2 + length


def _jpeg_is_rgb(stream: bytes) -> bool | None:
    """Whether three components of a JPEG or JPEG-LS stream are RGB; None when it does not tell."""
    jfif = False
    for marker, content in segments(stream):
        if marker == 0xEE and content[:5] == b"Adobe" and len(content) >= 12:
            return content[11] == 0
        jfif = jfif or (marker == 0xE0 and content[:4] == b"JFIF")
        if marker in SOF_MARKERS:
            ids, sampling = content[6::3][:3], content[7::3][:3]
            if len(sampling) < 3:
                return None
            if ids in RGB_IDS:
                return True
            # JPEG's convention: 1, 2, 3 are YCbCr, and chroma alone is subsampled. Lossless ones are mostly RGB.
            lossy = marker not in LOSSLESS
            return False if jfif or (lossy and ids == b"\1\2\3") or len(set(sampling)) > 1 else None
    return None


def _j2k_is_rgb(stream: bytes) -> bool | None:
    """Whether a JPEG 2000 stream has its own color transform, which decoders undo; None when it has not."""
    for marker, content in segments(stream):
        if marker == 0x52:  # COD: style, progression, layers (2), component transform
            return True if len(content) > 4 and content[4] else None
    return None


def is_ybr(label: str, head: bytes) -> bool:
    """Whether decoded samples are YCbCr. The stream decides, and the label where the stream does not tell.

    Args:
        label: PhotometricInterpretation.
        head: start of the encapsulated pixel data, from before its first item on; b"" for what is not compressed.
    """
    stream = _first_stream(head)
    rgb = _j2k_is_rgb(stream) if stream.startswith(J2K_START) else _jpeg_is_rgb(stream)
    return label in ("YBR_FULL", "YBR_FULL_422") if rgb is None else not rgb


def has_end_mark(head: bytes) -> bool:
    """Whether encapsulated pixel data that start like this must end with ``END_MARK``."""
    return bool(_first_stream(head))


def guess_syntax(head: bytes) -> str | None:
    """Transfer syntax of encapsulated pixel data; None when they are neither JPEG, JPEG-LS nor JPEG 2000."""
    stream = _first_stream(head)
    if stream.startswith(J2K_START):
        return str(JPEG2000)
    found = (marker for marker, _ in segments(stream) if marker in SOF_MARKERS)
    syntax = SYNTAXES.get(next(found, 0))
    return None if syntax is None else str(syntax)
