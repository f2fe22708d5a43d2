# SPDX-License-Identifier: Apache-2.0
"""DICOM files of any header, and JPEG streams with any markers, as tests of the reader make them."""

import io
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    UltrasoundImageStorage,
)

from bundle.transforms.loading import to_unit
from bundle.transforms.readers import read_file

RAMP = np.repeat(np.arange(0, 256, 5, dtype=np.uint8)[None], 40, axis=0)  # (40, 52), dark left, 255 right
COLORS = np.zeros((64, 96, 3), np.uint8)
COLORS[:, :32], COLORS[:32, 32:64], COLORS[32:, 32:64] = (200, 40, 30), (30, 180, 60), (20, 50, 220)


def save(path: Path, pixels: np.ndarray | bytes, *, shape: tuple[int, ...] = (), **tags: Any) -> Path:
    """A DICOM file of native pixels, or of one compressed stream; tags that are None are left out."""
    shape = shape or np.shape(pixels)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = tags.pop("syntax", ExplicitVRLittleEndian)
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UltrasoundImageStorage, "1.2.3"
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    bits = 8 if isinstance(pixels, bytes) else pixels.dtype.itemsize * 8
    values: dict[str, Any] = {
        "SOPClassUID": UltrasoundImageStorage, "Rows": shape[0], "Columns": shape[1],
        "SamplesPerPixel": 3 if len(shape) == 3 else 1,
        "PhotometricInterpretation": "RGB" if len(shape) == 3 else "MONOCHROME2",
        "PlanarConfiguration": 0 if len(shape) == 3 else None,
        "BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": 0,
    } | tags  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, value in values.items():
            if value is not None:
                setattr(ds, name, value)
    if isinstance(pixels, bytes):
        ds.PixelData = encapsulate([pixels])
        ds["PixelData"].is_undefined_length = True
    else:
        ds.PixelData = pixels.tobytes() + bytes(pixels.nbytes % 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.save_as(str(path))
    return path


def unit(path: Path) -> np.ndarray:
    return to_unit(read_file(str(path))).numpy()


def notes(path: Path) -> str:
    return "; ".join(read_file(str(path)).notes)


def jpeg(pixels: np.ndarray, *, subsampling: int = 0, jfif: bool = True, ids: bytes = b"", adobe: int = -1) -> bytes:
    """A JPEG stream of YCbCr, with its markers changed."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=subsampling)
    content = buffer.getvalue()
    if not jfif:
        content = content[:2] + content[4 + struct.unpack_from(">H", content, 4)[0] :]
    if adobe >= 0:
        content = content[:2] + b"\xff\xee\x00\x0eAdobe\0d\0\0\0\0" + bytes([adobe]) + content[2:]
    if ids:
        frame, scan = content.index(b"\xff\xc0") + 10, content.index(b"\xff\xda") + 5
        for n, name in enumerate(ids):
            for at in (frame + 3 * n, scan + 2 * n):
                content = content[:at] + bytes([name]) + content[at + 1 :]
    return content


def region(
    delta_x: Any, delta_y: Any, unit_x: int = 3, unit_y: int = 3, place: tuple[int, int, int, int] | None = None
) -> Dataset:
    """A calibrated region; its place is (top, bottom, left, right), the last of them within."""
    r = Dataset()
    for name, value in zip(("MinY0", "MaxY1", "MinX0", "MaxX1"), place or (), strict=False):
        setattr(r, f"RegionLocation{name}", value)
    r.PhysicalUnitsXDirection, r.PhysicalUnitsYDirection = unit_x, unit_y
    for name, value in (("PhysicalDeltaX", delta_x), ("PhysicalDeltaY", delta_y)):
        if value is not None:
            setattr(r, name, value)
    return r


def cut_file(path: Path, left: int) -> Path:
    path.write_bytes(path.read_bytes()[:-left])
    return path
