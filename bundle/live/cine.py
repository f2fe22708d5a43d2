# SPDX-License-Identifier: Apache-2.0
"""DICOM cine frame by frame, with the intensity and color rules of single images."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import pydicom
from monai.utils import optional_import

from bundle.dicom import PREAMBLE, BoundedFile, read_entries, starts_as_dicom
from bundle.files import DICOM_SUFFIXES
from bundle.live.pictures import Picture, shortfall
from bundle.transforms.loading import to_unit
from bundle.transforms.readers import (
    HEAD,
    Raw,
    check_frame,
    complete_header,
    dicom_frame,
    frame_streams,
    is_understood,
    is_ybr,
    lies_high,
    parse_dicom,
    quiet_reading,
    settle_syntax,
    spare_bits,
    to_rgb,
)

iter_pixels, HAS_ITER_PIXELS = optional_import("pydicom.pixels", name="iter_pixels")

_ITEM, _ITEMS_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"

UNDEFINED_LENGTH = b"\xff\xff\xff\xff"


def is_dicom(path: Path) -> bool:
    """Whether a plain file is DICOM, by its first bytes or its suffix; a pipe would be waited for."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return starts_as_dicom(file.read(PREAMBLE)) or path.name.lower().endswith(DICOM_SUFFIXES)


def cine_rate(header: Any) -> float | None:
    """Frames per second: from FrameTime or the mean of FrameTimeVector (ms), else CineRate, else the display rate."""
    vector = [float(t) for t in header.get("FrameTimeVector") or []][1:]  # the first entry is no interval
    for milliseconds in (header.get("FrameTime"), np.mean(vector) if vector else None):
        if milliseconds and float(milliseconds) > 0:
            return 1000 / float(milliseconds)
    for name in ("CineRate", "RecommendedDisplayFrameRate"):
        if header.get(name) and float(header[name].value) > 0:
            return float(header[name].value)
    return None


def to_picture(raw: Raw) -> Picture:
    """What a file holds, in 8 bits: the level that single images get in [0, 1], times 255; colors in OpenCV's order."""
    pixels = raw.pixels
    if pixels.dtype != np.uint8 or raw.limits not in (None, (0.0, 255.0)):
        unit = to_unit(raw)
        unit = unit[0] if pixels.ndim == 2 else unit.permute(1, 2, 0)
        pixels = (unit * 255).round().byte().numpy()
    pixels = np.ascontiguousarray(pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    return Picture(pixels, raw.spacing, raw.source, raw.zones, tuple(raw.notes))


class CutError(ValueError):
    """A file ends before its last frame."""


def _open_cine(path: Path) -> tuple[Any, Any, bytes, int, list[str]]:
    """A file's entries, what to decode frames from, the start of its pixel data if they are compressed, where, notes.

    Frames are decoded from the file, one at a time; from memory where its header does not fit what it holds.
    """
    try:
        with BoundedFile(path) as file:
            ds = read_entries(file, stop_before_pixels=True)
            place = file.tell()
            head = file.read(HEAD)  # from the element's tag on
        syntax, implicit = ds.file_meta.TransferSyntaxUID, head[4:6] not in (b"OB", b"OW")
        at = 4 if implicit else 8
        undefined = head[at : at + 4] == UNDEFINED_LENGTH
        fits = syntax.is_implicit_VR == implicit and is_understood(ds, undefined=undefined, start=head[at + 4 : at + 8])
        if head and fits:
            label = ds.PhotometricInterpretation
            notes = complete_header(ds)
            if ds.PhotometricInterpretation == label and not notes:  # else the decoder would read what it lacks
                return ds, path, head if syntax.is_encapsulated else b"", place + at + 4, []
    except Exception:  # whatever damaged data make pydicom raise: the other way says what is wrong
        pass
    with BoundedFile(path) as file:
        ds = parse_dicom(file)
    notes = complete_header(ds)
    head = ds.PixelData[:HEAD] if ds["PixelData"].is_undefined_length else b""
    return ds, ds, head, 0, notes + settle_syntax(ds, head)


def _streams(ds: Any, source: Any, head: bytes, place: int, length: int) -> Iterator[bytes]:
    """The compressed streams of the frames; nothing where they are not compressed."""
    if not head:
        return
    file: IO[bytes] = BoundedFile(source) if isinstance(source, Path) else io.BytesIO(ds.PixelData)
    with file:
        file.seek(place)
        yield from frame_streams(file, ds, length)


def _held(ds: Any, source: Any, head: bytes, place: int) -> int | None:
    """Frames that a file holds at most where it is cut; None where it is whole."""
    with BoundedFile(source) if isinstance(source, Path) else io.BytesIO(ds.PixelData) as file:
        size = file.seek(0, 2) - place
        if not head:
            bits = ds.Rows * ds.Columns * ds.SamplesPerPixel * ds.BitsAllocated
            bits = bits * 2 // 3 if ds.PhotometricInterpretation == "YBR_FULL_422" else bits
            return size * 8 // bits if size * 8 < bits * int(ds.NumberOfFrames) else None
        fragments, at = -1, 0  # the first item is the table of offsets
        while at + 8 <= size:
            file.seek(place + at)
            start = file.read(8)
            if start[:4] != _ITEM:
                return None  # the end, or damage of another kind
            at += 8 + int.from_bytes(start[4:], "little")
            fragments += at <= size
        return None if source is ds and at == size else max(fragments, 0)


def cine_pictures(path: Path, length: int) -> Iterator[Picture | Exception]:
    """The frames of a DICOM file, decoded one at a time; the reason in the place of one that cannot be decoded.

    Of a file that is cut, the reason of those that it lacks is a ``CutError``.

    Raises:
        ValueError: when pydicom is too old to decode frame by frame, or the frames are too large.
    """
    if not HAS_ITER_PIXELS:
        raise ValueError(
            f'{path}: DICOM cine needs pydicom 3, got {pydicom.__version__}; run pip install "pydicom>=3".'
        )
    with BoundedFile(path) as file:
        yield from _pictures(file, path, length)


def _pictures(file: BoundedFile, path: Path, length: int) -> Iterator[Picture | Exception]:
    with quiet_reading(str(path)):
        ds, source, head, place, notes = _open_cine(path)
        streams = _streams(ds, source, head, place, length)
        source = file if source is path else source
        ybr = is_ybr(ds.PhotometricInterpretation, head)
        shift = spare_bits(ds)
        bits = ds.BitsStored + shift
        if shift and not any(lies_high(stored, ds) for stored in iter_pixels(source, raw=True, bits_stored=bits)):
            shift, bits = 0, ds.BitsStored
    held = cache(lambda: _held(ds, path if source is file else ds, head, place))
    number = 0
    while number < length:
        try:
            # closed before the file is: pydicom's generator seeks in it at its end
            with closing(iter_pixels(source, indices=range(number, length), raw=True, bits_stored=bits)) as frames:
                while number < length:
                    with quiet_reading(str(path)):
                        if head:
                            check_frame(next(streams), ds)
                        stored = next(frames, None)
                        if stored is None:
                            return
                        raw = dicom_frame(to_rgb(stored >> shift if shift else stored, ybr), ds)
                        picture = to_picture(replace(raw, notes=(*notes, *raw.notes)))
                    number += 1
                    yield picture
        except Exception as error:  # what damaged data make pydicom and the decoders raise
            if (count := held()) is not None and (head or count <= number):
                yield from [CutError(f"{shortfall(length, number)}: it is cut") for _ in range(number, length)]
                return
            number += 1
            stopped = isinstance(error, StopIteration)
            yield ValueError("the file's fragments do not make this frame") if stopped else error
