# SPDX-License-Identifier: Apache-2.0
"""Pillow's formats: PNG, JPEG, TIFF, BMP, GIF, WebP, JPEG 2000."""

from __future__ import annotations

import io
import re
import struct
import sys
import zlib
from collections.abc import Iterator
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from bundle.transforms.readers.dicom_bounds import check_jpeg
from bundle.transforms.readers.dicom_stream import JPEG_START
from bundle.transforms.readers.raw import Raw, check_size

PNG_START = b"\x89PNG\r\n\x1a\n"
ANCILLARY = 0x20  # bit of a chunk's first letter: the picture is complete without it
FULL = re.compile(r"(RGB|RGBA|RGBX|LA);16[BLN]")
"""Pillow's names of layouts of 16 bits that become 8."""
SEEN = ("tRNS", "eXIf")  # ancillary, but of opacity and orientation
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by the kind of colors
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row of each pass of an interlaced PNG, and its steps."""


def _chunks(content: bytes) -> Iterator[tuple[str, int, int]]:
    """Name, start and stop of each chunk of a PNG up to the end chunk.

    Raises:
        OSError: when the file is cut.
    """
    name, start = "", len(PNG_START)
    while name != "IEND":
        if start + 12 > len(content):
            raise OSError(f"the PNG is cut, it ends after {len(content)} bytes without its end chunk IEND")
        length, kind = struct.unpack_from(">I4s", content, start)
        name, stop = kind.decode("ascii", "backslashreplace"), start + 12 + length
        if stop > len(content):
            raise OSError(f"the PNG is cut, chunk {name} must have {length} bytes, got {len(content) - start - 8}")
        yield name, start, stop
        start = stop


def check_png(content: bytes) -> tuple[bytes, list[str]]:
    """The PNG without damaged chunks that the picture does not need, such as a resolution, and notes on them.

    Pillow leaves out the checksums of the pixels, takes a file that ends behind them, and refuses one for any other.

    Raises:
        OSError: when a chunk that the picture needs is damaged, or the file is cut.
    """
    view, kept, notes = memoryview(content), [memoryview(PNG_START)], []
    for name, start, stop in _chunks(content):
        given, found = struct.unpack_from(">I", content, stop - 4)[0], zlib.crc32(view[start + 4 : stop - 4])
        if given == found:
            kept.append(view[start:stop])
        elif content[start + 4] & ANCILLARY and name not in SEEN:
            notes.append(f"chunk {name} of the PNG is damaged (checksum) and left out")
        else:
            raise OSError(f"the PNG is damaged, chunk {name} must have checksum {given:08x}, got {found:08x}")
    return b"".join(kept) if notes else content, notes


def check_rows(content: bytes) -> None:
    """Checks that a PNG's pixels unpack to all of its rows: Pillow leaves those black that are missing.

    Raises:
        OSError: when they do not.
    """
    width, height, depth, kind, interlaced = struct.unpack_from(">IIBB2xB", content, len(PNG_START) + 8)
    expected = 0
    for x, y, across, down in ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-max(width - x, 0) // across), -(-max(height - y, 0) // down)
        expected += rows * (1 + -(-columns * depth * SAMPLES[kind] // 8)) if columns else 0
    packed = b"".join(content[start + 8 : stop - 4] for name, start, stop in _chunks(content) if name == "IDAT")
    unpacker, found = zlib.decompressobj(), 0
    try:
        while found < expected and (block := unpacker.decompress(packed, 1 << 20)):
            found, packed = found + len(block), unpacker.unconsumed_tail
    except zlib.error:
        return  # Pillow says so
    if found < expected:
        raise OSError(f"the PNG is cut, its pixels must unpack to {expected} bytes, got {found}")


def _alpha(image: Image.Image) -> np.ndarray | None:
    """Opacity (H, W) uint8, None where the format has none."""
    if image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ("LA", "PA", "RGBA"):
        return np.asarray(image.getchannel("A"))
    if "transparency" not in image.info:
        return None
    if image.mode.startswith("I"):
        return np.asarray(np.where(np.asarray(image) == image.info["transparency"], 0, 255), np.uint8)
    return np.asarray(image.convert("RGBA").getchannel("A"))


def _indices(image: Image.Image) -> np.ndarray:
    """What a palette mask stores: its indices, which the colors only show. GIF has no grey but grey palettes.

    A GIF of black and white is 1-bit, one of greys has them as values.
    """
    indices = np.array(image) if image.mode == "P" else np.array(image.getchannel(0))
    if image.format != "GIF":
        return indices
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    if (palette != palette[:, :1]).any():
        return indices
    levels: np.ndarray = palette[indices, 0]
    return levels > 0 if set(np.unique(levels)) <= {0, 255} else levels


def _stored(image: Image.Image, as_mask: bool) -> np.ndarray:
    """Pixels (H, W) or (H, W, 3) without their opacity."""
    if as_mask and image.mode in ("P", "PA"):
        return _indices(image)
    if image.mode in ("LA", "La"):
        image = image.convert("LA").getchannel(0)
    elif image.mode == "RGBa":
        image = image.convert("RGBA").convert("RGB")
    elif image.mode not in ("L", "1", "RGB", "F", "I") and not image.mode.startswith("I;16"):
        image = image.convert("RGB")
    return np.array(image)


def _black_is_zero(image: Image.Image, pixels: np.ndarray, as_mask: bool) -> tuple[np.ndarray, list[str]]:
    """Values of a TIFF in which 0 is white, turned, which Pillow does for 8 bits and fewer; and notes.

    An image is turned within the bits that its values need, as 12 bits often stand in 16; a mask within all.

    Raises:
        ValueError: when they are fractions, which have no greatest value to turn them by.
    """
    if getattr(image, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation) != 0 or image.mode in ("1", "L"):
        return pixels, []
    if pixels.dtype != np.uint16:
        raise ValueError("TIFF of fractions must have 0 as black, got 0 as white; save it as BlackIsZero.")
    bits = 16 if as_mask else max(int(pixels.max()).bit_length(), 8)
    notes = [f"values of {bits} bits, of which 0 is white, are turned"] if bits < 16 else []
    return np.uint16((1 << bits) - 1) - pixels, notes


def _clear_mask(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """A mask whose transparent pixels are background."""
    if partial := int(((alpha > 0) & (alpha < 255)).sum()):
        raise ValueError(
            f"mask must be opaque or transparent in each pixel, got {partial} pixels in between; save it without"
            " transparency, as 8-bit grey or palette PNG."
        )
    pixels[alpha == 0] = 0
    return pixels


def _over_black(pixels: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, str]:
    """An image on black, as ultrasound has it, and what that assumes. Transparent everywhere means an unused alpha."""
    if not alpha.any():
        return pixels, "all pixels are transparent: opacity is left out"
    shown = pixels * (alpha[..., None] / 255 if pixels.ndim == 3 else alpha / 255)
    shown = shown if pixels.dtype.kind == "f" else shown.round()
    return shown.astype(pixels.dtype), "transparent pixels are shown on black"


def _check_frames(image: Image.Image) -> list[str]:
    """Notes on a phone's file of several pictures (MPO), of which the first is the photograph; others are refused."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise ValueError(f"image must be single-frame, got {frames} frames; save the one you need as a file.")
    return [f"the first of {frames} pictures in the file is read"] if frames > 1 else []


def _lower_bytes(content: bytes, as_mask: bool) -> np.ndarray | None:
    """The lower bytes (H, W), (H, W, 3) of 16 bits with colors or opacity, of which Pillow reads the upper; else None.

    Raises:
        ValueError: when they are a mask, or lie in planes, which Pillow reads wrongly.
    """
    with Image.open(io.BytesIO(content)) as image:
        forms = [tile[3] if isinstance(tile[3], str) else tile[3][0] for tile in image.tile if tile[3]]
        tags = getattr(image, "tag_v2", {})
        planes = tags.get(ExifTags.Base.PlanarConfiguration) == 2 and len(image.getbands()) > 1
        if planes and max(tags.get(ExifTags.Base.BitsPerSample, (8,))) > 8:
            raise ValueError("TIFF of 16 bits must hold the colors of a pixel together, got planes; save it again.")
        if image.mode not in ("RGB", "RGBA") or not any(FULL.fullmatch(str(form)) for form in forms):
            return None
        if as_mask:
            raise ValueError("mask must have 8 bits or be grey, got 16 bits with colors; save it as 8-bit grey.")
        for n, (tile, form) in enumerate(zip(image.tile, map(_other_byte, forms), strict=True)):
            layout = form if isinstance(tile[3], str) else (form, *tile[3][1:])
            image.tile[n] = tile._replace(args=layout) if hasattr(tile, "_replace") else (*tile[:3], layout)
        ImageOps.exif_transpose(image, in_place=True)
        lower = np.array(image)
    return lower[..., 1] if forms[0] == "LA;16B" else lower[..., :3]


def _other_byte(form: str) -> str:
    """Pillow's name of a layout of 16 bits with the bytes swapped, so that it reads the lower one as the upper."""
    if form == "LA;16B":
        return "RGBA"  # two bytes of grey, two of opacity
    return form[:-1] + ("L" if form[-1] == "B" or (form[-1] == "N" and sys.byteorder == "big") else "B")


def read_picture(file: IO[bytes], path: str, as_mask: bool) -> Raw:
    """A picture, turned upright by its EXIF orientation; transparent pixels on black; a dpi entry is no spacing."""
    content = file.read()
    notes: list[str] = []
    if content.startswith(JPEG_START):
        check_jpeg(content)
    if is_png := content[:8] == PNG_START:
        content, notes = check_png(content)
    with Image.open(io.BytesIO(content)) as image:
        notes += _check_frames(image)
        check_size(*image.size)
        if is_png:
            check_rows(content)
        lower = _lower_bytes(content, as_mask)
        turned = image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
        ImageOps.exif_transpose(image, in_place=True)
        pixels, alpha = _stored(image, as_mask), _alpha(image)
        pixels, more = _black_is_zero(image, pixels, as_mask)
    if lower is not None:
        pixels = (pixels[..., 0] if lower.ndim < pixels.ndim else pixels).astype(np.uint16) << 8 | lower
        notes.append("of 16 bits a color the greatest value is shown as white")
    if alpha is not None and (alpha < 255).any():
        if as_mask:
            pixels = _clear_mask(pixels, alpha)
        else:
            pixels, note = _over_black(pixels, alpha)
            notes.append(note)
    return Raw(pixels, turned=turned, notes=(*notes, *more))
