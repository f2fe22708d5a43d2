# SPDX-License-Identifier: Apache-2.0
"""What a compressed frame may unpack to. Decoders allocate what its stream claims, whatever the DICOM header says."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import IO, Any

from pydicom.uid import RLELossless

from bundle.transforms.readers.dicom_header import entry, whole
from bundle.transforms.readers.dicom_stream import J2K_START, JPEG_START, SOF_MARKERS, segments
from bundle.transforms.readers.raw import MAX_PIXELS, check_size

try:
    from pydicom.encaps import generate_frames
except ImportError:  # pydicom 2
    generate_frames = None

MOST_COMPONENTS = 4
MOST_TILES = 65_535
"""Of a JPEG 2000 image, ISO/IEC 15444-1 annex B.3."""

MOST_SCANNED = 20 * MAX_PIXELS
"""Pixels that the scans of a progressive JPEG go over, all together: each scan costs time, and takes ten bytes."""

SCAN = b"\xff\xda"
_SOF = re.compile(
    rb"\xff[" + b"".join(re.escape(bytes([marker])) for marker in sorted(SOF_MARKERS)) + rb"]..(.{6})", re.S
)


def frame_streams(pixels: bytes | IO[bytes], ds: Any, frames: int) -> Iterator[bytes]:
    """The compressed streams of a file's frames, as pydicom joins them from fragments.

    Args:
        pixels: encapsulated pixel data, or a file that stands at their start.
        ds: the file's entries.
        frames: their number.
    """
    if generate_frames is None:
        from pydicom.encaps import generate_pixel_data_frame

        return iter(generate_pixel_data_frame(pixels, frames))
    tables = [entry(ds, name) for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
    extended = None if None in tables else tuple(tables)
    return iter(generate_frames(pixels, number_of_frames=frames, extended_offsets=extended))


def check_frame(stream: bytes, ds: Any) -> None:
    """Refuses the stream of a frame that unpacks to more than an image may have, or that takes far too long.

    Raises:
        ValueError: then.
    """
    if ds.file_meta.TransferSyntaxUID == RLELossless:
        size = whole(ds, "Rows") * whole(ds, "Columns") * whole(ds, "SamplesPerPixel") * whole(ds, "BitsAllocated") // 8
        if len(stream) > 2 * size + 64:  # a run of two bytes gives up to 128
            raise ValueError(f"RLE data of {size} bytes must take {2 * size} at most, got {len(stream)}; export it.")
    elif stream.startswith(JPEG_START):
        check_jpeg(stream)
    elif stream.startswith(J2K_START):
        _check_j2k(stream)
    else:
        for found in re.finditer(re.escape(J2K_START), stream):  # in boxes, as in a .jp2
            _check_j2k(stream[found.start() :])


def check_jpeg(stream: bytes) -> None:
    """Refuses a JPEG or JPEG-LS stream that claims too many pixels, components, or scans.

    Raises:
        ValueError: then.
    """
    heads = []
    for marker, content in segments(stream):
        if marker == SCAN[1]:
            break
        heads += [content] if marker in SOF_MARKERS else []
    heads = heads or [found[1] for found in _SOF.finditer(stream)]  # decoders look behind damaged segments
    for head in (head for head in heads if len(head) >= 6):
        _, height, width, components = struct.unpack_from(">BHHB", head)
        height = height or 0xFFFF  # told behind the first scan
        _check_claim(width, height, components)
        scans = stream.count(SCAN)
        if scans * width * height > MOST_SCANNED:
            raise ValueError(f"JPEG of {height}x{width} pixels must have few scans, got {scans}; export it again.")


def _check_j2k(stream: bytes) -> None:
    """Refuses what the SIZ segment claims, ISO/IEC 15444-1 annex A.5.1."""
    _, siz = next(segments(stream), (0, b""))
    if len(siz) < 36:
        return  # decoders refuse it
    right, bottom, left, top, tile_width, tile_height = struct.unpack_from(">6I", siz, 2)
    width, height, components = right - left, bottom - top, struct.unpack_from(">H", siz, 34)[0]
    _check_claim(width, height, components)
    if min(tile_width, tile_height) < 1 or -(-right // tile_width) * -(-bottom // tile_height) > MOST_TILES:
        raise ValueError(f"JPEG 2000 of {height}x{width} pixels must have at most {MOST_TILES} tiles, got more.")


def _check_claim(width: int, height: int, components: int) -> None:
    check_size(width, height)
    if components > MOST_COMPONENTS:
        raise ValueError(f"compressed image must have at most {MOST_COMPONENTS} components, got {components}.")
