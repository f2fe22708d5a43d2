# SPDX-License-Identifier: Apache-2.0
"""Single-frame DICOM, also where its header leaves out what decoding needs. pydicom 2 and 3."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import IO, Any

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from bundle.dicom import PREAMBLE, check_inflated, class_name, is_image_class, starts_as_dicom
from bundle.transforms.readers.dicom_bounds import check_frame, frame_streams
from bundle.transforms.readers.dicom_header import entry, quiet_reading, text, whole
from bundle.transforms.readers.dicom_spacing import find_spacing
from bundle.transforms.readers.dicom_stream import END_MARK, HEAD, ITEM, guess_syntax, has_end_mark, is_ybr
from bundle.transforms.readers.dicom_values import dicom_frame, to_rgb
from bundle.transforms.readers.raw import Raw, check_size

try:
    from pydicom.pixels import pixel_array
    from pydicom.pixels.utils import get_expected_length
except ImportError:  # pydicom 2
    from pydicom.pixel_data_handlers.util import get_expected_length

    pixel_array = None

CUT = "copy the file again"
LABELS = (
    "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT",
    "YBR_PARTIAL_420", "YBR_PARTIAL_422", "HSV", "ARGB", "CMYK",
)  # fmt: skip
"""Values of PhotometricInterpretation in PS3.3 C.7.6.3.1.2, with the retired ones."""
PADDING = 4096
"""Bytes of zeros that may stand behind compressed pixel data."""


def _missing_pixels(ds: Any, size: int) -> ValueError:
    """Why there is nothing to show: the file is cut, or the object is no image."""
    name = class_name(ds, ds.file_meta)
    if fractions := [key for key in ("FloatPixelData", "DoubleFloatPixelData") if key in ds]:
        return ValueError(f"pixel data must be whole numbers, got {fractions[0]}; export the image as 8 or 16 bits.")
    if is_image_class(name) or "Rows" in ds:
        return ValueError(f"DICOM file is cut, or has no pixel data: it ends after {size} bytes; {CUT}.")
    kind = f"a {name} object" if name else "none of its entries"
    return ValueError(f"DICOM file must hold pixel data, got {kind}; give an image, or remove the file.")


def complete_header(ds: Any) -> list[str]:
    """Fills in entries that decoding needs and that follow from others; gives notes.

    Raises:
        ValueError: when the size or the bits of the pixels are not given, or the color model has no known name.
    """
    check_size(whole(ds, "Columns"), whole(ds, "Rows"))
    samples = whole(ds, "SamplesPerPixel", 3 if "YBR" in text(ds, "PhotometricInterpretation") else 1)
    if samples not in (1, 3):
        raise ValueError(f"DICOM image must have 1 or 3 samples a pixel, got {samples}; export it as RGB or grey.")
    bits = whole(ds, "BitsAllocated")
    defaults = {
        "SamplesPerPixel": samples,
        "PhotometricInterpretation": "RGB" if samples == 3 else "MONOCHROME2",
        "BitsStored": bits,
        "PixelRepresentation": 0,
    }
    if samples == 3:
        defaults["PlanarConfiguration"] = 0
    absent = {name: value for name, value in defaults.items() if entry(ds, name) is None}
    notes = [f"{name} is missing, {value} is taken" for name, value in absent.items()]
    if "PhotometricInterpretation" not in absent:
        notes += _name_colors(ds)
    if "BitsStored" not in absent and not 1 <= (stored := whole(ds, "BitsStored")) <= bits:
        notes.append(f"BitsStored {stored} does not fit in BitsAllocated {bits}, {bits} is taken")
        absent["BitsStored"] = bits
    for name, value in absent.items():
        setattr(ds, name, value)
    if "BitsStored" in absent or entry(ds, "HighBit") is None:
        ds.HighBit = whole(ds, "BitsStored") - 1
    return notes


def _name_colors(ds: Any) -> list[str]:
    """Writes the name of the color model as the standard does, which decoders ask for; gives notes."""
    label, stored = text(ds, "PhotometricInterpretation"), str(entry(ds, "PhotometricInterpretation"))
    if label not in LABELS:
        raise ValueError(
            f"DICOM entry PhotometricInterpretation must be one of {', '.join(LABELS[:6])}, got {stored!r}; export the"
            " image again, or as PNG."
        )
    if label == stored.strip(" \0"):
        return []
    ds.PhotometricInterpretation = label
    return [f"PhotometricInterpretation {stored} is taken for {label}"]


def is_understood(ds: Any, *, undefined: bool, start: bytes) -> bool:
    """Whether the file names a transfer syntax that can be that of its pixel data.

    Args:
        ds: the file's entries.
        undefined: whether the length of the pixel data is undefined.
        start: their first four bytes.
    """
    try:
        return (undefined or start == ITEM) if ds.file_meta.TransferSyntaxUID.is_encapsulated else not undefined
    except (AttributeError, ValueError):  # absent, or none of the standard
        return False


def settle_syntax(ds: Any, head: bytes) -> list[str]:
    """Names the transfer syntax where the file does not, from how it is written; gives notes."""
    undefined = ds["PixelData"].is_undefined_length
    if is_understood(ds, undefined=undefined, start=ds.PixelData[:4]):
        return []
    implicit, little = getattr(ds, "original_encoding", None) or (ds.is_implicit_VR, ds.is_little_endian)
    native = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    syntax = guess_syntax(head) if undefined else str(native)
    if syntax is None:
        raise ValueError("DICOM file must name the transfer syntax of its pixels, got none; export it uncompressed.")
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    return [f"transfer syntax is missing or wrong, {UID(syntax).name} is taken"]


def _check_length(ds: Any, head: bytes) -> list[str]:
    """Refuses pixel data that are cut, and a label for uncompressed ones that nothing here converts; gives notes."""
    if ds.file_meta.TransferSyntaxUID.is_encapsulated:
        if has_end_mark(head) and END_MARK not in ds.PixelData[-PADDING:].rstrip(b"\0")[-32:]:
            raise ValueError(f"DICOM file is cut: its {len(ds.PixelData)} bytes of pixel data have no end mark; {CUT}.")
        return []
    label = text(ds, "PhotometricInterpretation")
    if label == "YBR_FULL_422" and len(ds.PixelData) >= get_expected_length(ds) * 3 // 2:
        ds.PhotometricInterpretation = label = "YBR_FULL"  # nothing was left out
    if label.startswith("YBR_PARTIAL"):
        raise ValueError(f"PhotometricInterpretation must be RGB, YBR_FULL or grey, got {label}; export it as RGB.")
    expected, got = get_expected_length(ds), len(ds.PixelData)
    if got < expected:
        raise ValueError(f"DICOM file is cut: expected {expected} bytes of pixel data, got {got}; {CUT}.")
    return (
        [f"pixel data have {got} bytes, {expected} by its header: the rest is not read"] if got > expected + 64 else []
    )


def _first_frame(ds: Any) -> bytes:
    """The compressed stream of the frame.

    Raises:
        ValueError: when the fragments do not give it.
    """
    try:
        return next(frame_streams(ds.PixelData, ds, 1))
    except Exception as e:  # see _decode
        raise ValueError(f"DICOM file's fragments of pixel data do not make a frame; {CUT}.") from e


def spare_bits(ds: Any) -> int:
    """Bits by which stored samples may lie too high, as HighBit has it; 0 where they cannot.

    The standard has asked for HighBit = BitsStored - 1 since 2014. pydicom takes it for granted, and compressed streams
    have no spare bits.
    """
    bits, high = whole(ds, "BitsStored"), whole(ds, "HighBit")
    if ds.file_meta.TransferSyntaxUID.is_encapsulated or high >= whole(ds, "BitsAllocated"):
        return 0
    return max(high + 1 - bits, 0)


def lies_high(stored: np.ndarray, ds: Any) -> bool:
    """Whether samples that were decoded with the spare bits need more than BitsStored bits."""
    bits, signed = whole(ds, "BitsStored"), whole(ds, "PixelRepresentation", 0)
    return bool(stored.max() >= 1 << (bits - signed) or stored.min() < -(1 << (bits - 1)))


def _aligned(ds: Any) -> tuple[np.ndarray, list[str]]:
    """Stored samples as the lowest bits, where an older file keeps them in higher ones, and notes."""
    bits, high = whole(ds, "BitsStored"), whole(ds, "HighBit")
    if shift := spare_bits(ds):
        ds.BitsStored = high + 1
        stored = _decode(ds)
        ds.BitsStored = bits
        if lies_high(stored, ds):
            return stored >> shift, [f"values lie below HighBit {high}, {bits} bits are taken from there"]
    if high == bits - 1 or ds.file_meta.TransferSyntaxUID.is_encapsulated:
        return _decode(ds), []
    return _decode(ds), [f"HighBit {high} does not fit BitsStored {bits}, {bits - 1} is taken"]


def _decode(ds: Any) -> np.ndarray:
    """Stored samples, (H, W) or (H, W, 3), in the color model of the stream.

    Raises:
        ValueError: when they cannot be decoded.
    """
    syntax = ds.file_meta.TransferSyntaxUID
    try:
        if pixel_array is not None:
            return np.asarray(pixel_array(ds, raw=True, index=0))
        if syntax.is_encapsulated and "JPEG" in syntax.name and "2000" not in syntax.name:
            if whole(ds, "SamplesPerPixel") == 3:
                ds.PhotometricInterpretation = "YBR_FULL"  # the decoder leaves the samples as they are
            ds.convert_pixel_data("pylibjpeg")  # the one that pydicom 3 takes
        return np.asarray(ds.pixel_array)
    except Exception as e:  # pydicom and the decoders raise whatever damaged data make them
        raise ValueError(
            f"pixel data in {syntax.name} cannot be decoded: they are damaged, or their decoder is not installed (pip"
            " install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg); copy the file again, or export it uncompressed."
        ) from e


def parse_dicom(file: IO[bytes]) -> Any:
    """The file's entries, read as it is written where not as it is labeled.

    Raises:
        ValueError: when it is no DICOM file, or a deflated one that unpacks to too much.
    """
    check_inflated(file)
    failure: Exception | None = None
    try:
        ds: Any = pydicom.dcmread(file, force=True)
        if entry(ds, "PixelData") is not None:
            return ds
    except Exception as e:  # see _decode
        failure = e
    file.seek(0)
    if starts_as_dicom(file.read(PREAMBLE)):
        try:
            read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 > 2)
            unlabeled: Any = pydicom.dcmread(io.BytesIO(file.read()), force=True)
            if entry(unlabeled, "PixelData") is not None:
                unlabeled.file_meta = FileMetaDataset()
                return unlabeled
        except Exception as e:  # see _decode
            failure = failure or e
    if failure is not None:
        raise ValueError(
            f"must be a DICOM file, got a damaged or different one; {CUT}, or export it as PNG."
        ) from failure
    return ds


def _read(file: IO[bytes], as_mask: bool) -> Raw:
    ds = parse_dicom(file)
    if entry(ds, "PixelData") is None:
        raise _missing_pixels(ds, file.seek(0, 2))
    if (frames := whole(ds, "NumberOfFrames", 1)) > 1:
        raise ValueError(f"DICOM file must be single-frame, got {frames} frames; save the one you need as a file.")
    notes = complete_header(ds)
    head = ds.PixelData[:HEAD] if ds["PixelData"].is_undefined_length else b""
    notes += settle_syntax(ds, head)
    notes += _check_length(ds, head)
    if ds.file_meta.TransferSyntaxUID.is_encapsulated:
        check_frame(_first_frame(ds), ds)
    ybr = is_ybr(text(ds, "PhotometricInterpretation"), head)
    (stored, more), shape = _aligned(ds), (whole(ds, "Rows"), whole(ds, "Columns"))
    if stored.shape not in (shape, (*shape, 3)):
        raise ValueError(f"DICOM pixel data must have the size {shape} of the header, got {stored.shape}; {CUT}.")
    stored = to_rgb(stored, ybr)
    if as_mask:
        return Raw(stored, find_spacing(ds, stored)[0])
    raw = dicom_frame(stored, ds)
    return replace(raw, notes=(*notes, *more, *raw.notes))


def read_dicom(file: IO[bytes], path: str, as_mask: bool) -> Raw:
    """Single-frame DICOM in any color model and transfer syntax that the installed decoders read."""
    with quiet_reading(path):
        return _read(file, as_mask)
