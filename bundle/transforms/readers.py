# SPDX-License-Identifier: Apache-2.0
"""Image files to upright arrays of rows and columns: Pillow's formats, 2D NIfTI and NRRD, single-frame DICOM.

MONAI's readers stop short of palettes, YBR, 1-bit, 16-bit, window and region calibration, and differ in axis order.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import nibabel
import numpy as np
import pydicom
from monai.utils import optional_import
from nibabel.filebasedimages import ImageFileError
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

try:
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, convert_color_space
except ImportError:  # pydicom 2
    from pydicom.pixel_data_handlers import apply_color_lut, apply_modality_lut, apply_voi_lut, convert_color_space

nrrd, HAS_NRRD = optional_import("nrrd")

MAX_PIXELS = 89_478_485
"""Largest image read, in pixels: the level at which Pillow warns of a decompression bomb (12 000 x 7 456)."""

UNKNOWN_SPACING = (float("nan"), float("nan"))
NIFTI_SUFFIXES = (".nii", ".nii.gz")
NRRD_SUFFIXES = (".nrrd", ".nhdr")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
PILLOW_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
IMAGE_SUFFIXES = PILLOW_SUFFIXES + NIFTI_SUFFIXES + NRRD_SUFFIXES + DICOM_SUFFIXES

CM_UNIT = 3  # PS3.3 C.8.5.5.1.15, Physical Units X/Y Direction: cm
MM_PER_UNIT = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}


LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Raw:
    """What a file holds.

    Attributes:
        pixels: upright stored values, (H, W) or (H, W, 3).
        spacing: row and column spacing in mm, nan when the file does not say.
        limits: stored values that mean 0 and 1; None when the header does not say.
        affine: study indices (x, y, z, 1) to mm, right-anterior-superior, (4, 4); a picture's pixels count as mm that
            run left and posterior, as clients take them.
        turned: the file was not upright and ``pixels`` were turned (EXIF orientation).
        notes: what was assumed where the file does not say, a sentence each.
    """

    pixels: np.ndarray
    spacing: tuple[float, float] = UNKNOWN_SPACING
    limits: tuple[float, float] | None = None
    affine: np.ndarray = field(default_factory=LPS_TO_RAS.copy)
    turned: bool = False
    notes: tuple[str, ...] = ()


def check_size(width: int, height: int) -> None:
    """Raises a ValueError when an image of this size is empty or too large to be read."""
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise ValueError(f"image must have 1 to {MAX_PIXELS} pixels, got {height}x{width}; crop or downscale it.")


def _check_planar(shape: tuple[int, ...]) -> None:
    if len(shape) < 2 or any(n != 1 for n in shape[2:]):
        raise ValueError(f"image must be two-dimensional, got shape {shape}; save one slice or frame as a file.")
    check_size(shape[0], shape[1])


def _read_pillow(file: IO[bytes], path: str, as_mask: bool) -> Raw:
    """PNG, JPEG (turned upright by its EXIF orientation), TIFF, BMP; alpha is dropped; a dpi entry is no spacing."""
    with Image.open(file) as opened:
        if (frames := getattr(opened, "n_frames", 1)) > 1:
            raise ValueError(f"image must be single-frame, got {frames} frames; save the one you need as a file.")
        check_size(*opened.size)
        turned = opened.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
        ImageOps.exif_transpose(opened, in_place=True)
        image: Image.Image = opened
        if image.mode in ("LA", "La"):
            image = image.convert("LA").getchannel(0)
        elif image.mode not in ("L", "1", "RGB", "F", "I") and not image.mode.startswith("I;16"):
            # The values of a palette mask are its indices, the colors only show them.
            image = image if as_mask and image.mode == "P" else image.convert("RGB")
        return Raw(np.array(image), turned=turned)


def _by_default(sizes: Sequence[float] | np.ndarray) -> bool:
    """Whether pixels are 1 x 1, which converters write that know no spacing, whatever unit they name."""
    return bool(np.allclose(sizes, 1.0, rtol=0, atol=1e-6))


def _read_nifti(file: IO[bytes], path: str, as_mask: bool) -> Raw:
    """2D NIfTI: (W, H), (W, H, 1), RGB data type, or RGB vectors (W, H, 1, 1, 3); indices are taken as x and y."""
    image = nibabel.load(path)
    shape = tuple(int(n) for n in image.shape)
    vectors = len(shape) == 5 and shape[2:] == (1, 1, 3)
    _check_planar(shape[:4] if vectors else shape)
    stored = np.asanyarray(image.dataobj)
    if stored.dtype.names:
        stored = np.stack([stored[name] for name in ("R", "G", "B")], axis=-1)
    colored = vectors or stored.ndim > len(shape)
    pixels = stored.reshape(*shape[:2], 3) if colored else stored.reshape(shape[:2])
    zooms = [float(z) for z in image.header.get_zooms()[:2]]
    unit = image.header.get_xyzt_units()[0]
    spacing = UNKNOWN_SPACING
    if min(zooms) > 0 and not _by_default(zooms):
        spacing = (round(zooms[1] * MM_PER_UNIT[unit], 6), round(zooms[0] * MM_PER_UNIT[unit], 6))
    return Raw(np.array(pixels.swapaxes(0, 1), order="C"), spacing, affine=np.asarray(image.affine, float))


def _read_nrrd(file: IO[bytes], path: str, as_mask: bool) -> Raw:
    """2D NRRD: grey (W, H), (W, H, 1), or colors first (3, W, H), (3, W, H, 1); indices are taken as x and y."""
    if not HAS_NRRD:
        raise ValueError("reading NRRD needs the package pynrrd, which is not installed; install it or convert to PNG.")
    stored, header = nrrd.read(path)
    first = 1 if header.get("kinds", [""])[0] in ("RGB-color", "vector", "3-color") else 0
    shape = tuple(int(n) for n in stored.shape[first:])
    _check_planar(shape)
    pixels = np.moveaxis(stored, 0, -1).reshape(*shape[:2], -1)[..., :3] if first else stored.reshape(shape[:2])
    directions = header.get("space directions")
    along = np.linalg.norm(directions, axis=1) if directions is not None else header.get("spacings", ())
    sizes = np.asarray(along[first : first + 2], float)
    spacing = UNKNOWN_SPACING
    if sizes.size and (sizes > 0).all() and not _by_default(sizes):
        spacing = (float(sizes[1]), float(sizes[0]))
    return Raw(pixels.swapaxes(0, 1), spacing, affine=_nrrd_affine(header, first))


def _nrrd_affine(header: Mapping[str, Any], first: int) -> np.ndarray:
    """Study indices to mm, right-anterior-superior; without a named space x runs left and y posterior."""
    affine = np.eye(4)
    directions = header.get("space directions")
    if directions is not None:
        axes = np.asarray(directions, float)[first:]
        affine[: axes.shape[1], : axes.shape[0]] = axes.T
        origin = np.asarray(header.get("space origin", np.zeros(axes.shape[1])), float)
        affine[: len(origin), 3] = origin
    else:
        for i, size in enumerate(header.get("spacings", ())[first : first + 3]):
            affine[i, i] = size if size > 0 else 1.0
    right_anterior = str(header.get("space", "")).lower() in ("right-anterior-superior", "ras")
    return affine if right_anterior else LPS_TO_RAS @ affine


def _dicom_spacing(ds: Any) -> tuple[float, float]:
    """Row and column spacing in mm: PixelSpacing, else the calibration in cm that all 2D regions share."""
    if ds.get("PixelSpacing"):
        row, column = (float(v) for v in ds.PixelSpacing)
        return (row, column) if row > 0 and column > 0 else UNKNOWN_SPACING
    found = {
        (abs(float(r.PhysicalDeltaY)) * 10, abs(float(r.PhysicalDeltaX)) * 10)
        for r in ds.get("SequenceOfUltrasoundRegions") or []
        if r.get("PhysicalUnitsXDirection") == CM_UNIT and r.get("PhysicalUnitsYDirection") == CM_UNIT
    }
    spacing = found.pop() if len(found) == 1 else UNKNOWN_SPACING
    return spacing if min(spacing) > 0 else UNKNOWN_SPACING


def _dicom_grey(stored: np.ndarray, ds: Any) -> tuple[np.ndarray, tuple[float, float]]:
    """Values after modality and window transformation, and the values that mean black and white."""
    _drop_void_window(ds)
    tables = ds.get("VOILUTSequence") or ds.get("ModalityLUTSequence")
    if tables:
        limits = (0.0, 2.0 ** int(tables[0].LUTDescriptor[2]) - 1)
    else:
        bits = int(ds.BitsStored)
        low = -(2.0 ** (bits - 1)) if ds.PixelRepresentation else 0.0
        slope, intercept = _rescale(ds)
        limits = (low * slope + intercept, (low + 2.0**bits - 1) * slope + intercept)
    values = apply_voi_lut(apply_modality_lut(stored, ds), ds)
    return values, limits[::-1] if ds.PhotometricInterpretation == "MONOCHROME1" else limits


def _rescale(ds: Any) -> tuple[float, float]:
    """Slope and intercept; one that is absent or empty is set to 1 or 0 where the other is given."""
    slope, intercept = (ds.get(name) for name in ("RescaleSlope", "RescaleIntercept"))
    if "RescaleSlope" in ds or "RescaleIntercept" in ds:
        ds.RescaleSlope = 1 if slope is None else slope
        ds.RescaleIntercept = 0 if intercept is None else intercept
    return float(1 if slope is None else slope), float(0 if intercept is None else intercept)


def _drop_void_window(ds: Any) -> None:
    """Removes a window that says nothing: an empty one, or one of no width."""
    center, width = ds.get("WindowCenter"), ds.get("WindowWidth")
    least = 1.0 if ds.get("VOILUTFunction", "LINEAR") in ("LINEAR", "", None) else np.nextafter(0.0, 1.0)
    if center is None or width is None or float(np.atleast_1d(width)[0]) < least:
        for name in ("WindowCenter", "WindowWidth"):
            if name in ds:
                del ds[name]


def _dicom_colors(stored: np.ndarray, ds: Any) -> Raw:
    """Colors (H, W, 3) of palette indices (H, W), 8-bit where the table holds 8-bit colors."""
    colors = apply_color_lut(stored, ds)[..., :3]
    if colors.dtype == np.uint16:
        # pydicom reads plain 16-bit tables as little endian whatever the file is.
        if not ds.file_meta.TransferSyntaxUID.is_little_endian and "RedPaletteColorLookupTableData" in ds:
            colors = colors.byteswap()
        # 8-bit colors lie in the high byte of 16-bit entries, or in the low byte by some makes of scanner.
        if colors.max() <= 255:
            colors = colors.astype(np.uint8)
        elif not (colors & 255).any():
            colors = (colors >> 8).astype(np.uint8)
    return Raw(colors, _dicom_spacing(ds), (0.0, float(np.iinfo(colors.dtype).max)))


def _dicom_pixels(ds: Any) -> np.ndarray:
    """Stored values, (H, W) or RGB (H, W, 3), of native or compressed pixel data."""
    stored = ds.pixel_array
    # pydicom 3 converts these two by itself, pydicom 2 does not.
    if pydicom.__version_info__[0] == "2" and ds.PhotometricInterpretation in ("YBR_FULL", "YBR_FULL_422"):
        stored = convert_color_space(stored, ds.PhotometricInterpretation, "RGB")
    return np.asarray(stored)


def dicom_frame(stored: np.ndarray, ds: Any) -> Raw:
    """One decoded frame, (H, W) or RGB (H, W, 3), with the palette, window and calibration of its header."""
    if ds.PhotometricInterpretation == "PALETTE COLOR":
        return _dicom_colors(stored, ds)
    if stored.ndim == 3:
        return Raw(stored, _dicom_spacing(ds), (0.0, 2.0 ** int(ds.BitsStored) - 1))
    values, limits = _dicom_grey(stored, ds)
    return Raw(values, _dicom_spacing(ds), limits)


def _read_dicom(file: IO[bytes], path: str, as_mask: bool) -> Raw:
    """Single-frame DICOM in any color model and transfer syntax that the installed decoders read."""
    ds = pydicom.dcmread(file, force=True)
    if "PixelData" not in ds:
        raise ValueError("DICOM file must hold pixel data, got none; export the image itself.")
    if (frames := int(ds.get("NumberOfFrames") or 1)) > 1:
        raise ValueError(f"DICOM file must be single-frame, got {frames} frames; save the one you need as a file.")
    check_size(int(ds.Columns), int(ds.Rows))
    try:
        stored = _dicom_pixels(ds)
        return Raw(stored, _dicom_spacing(ds)) if as_mask else dicom_frame(stored, ds)
    except (AttributeError, KeyError, RuntimeError, NotImplementedError, TypeError) as e:
        raise ValueError(f"pixel data cannot be decoded: {e}; export it uncompressed or as PNG.") from e


def _pick_reader(file: IO[bytes], path: str) -> Callable[[IO[bytes], str, bool], Raw]:
    """The reader for a file, by its first bytes where they tell, else by its suffix."""
    head = file.read(132)
    file.seek(0)
    if not head:
        raise ValueError("file must hold an image, got 0 bytes; copy it again or remove it.")
    name = path.lower()
    if head[128:] == b"DICM" or name.endswith(DICOM_SUFFIXES):
        return _read_dicom
    if name.endswith(NIFTI_SUFFIXES):
        return _read_nifti
    return _read_nrrd if head[:4] == b"NRRD" else _read_pillow


def read_file(path: str, *, as_mask: bool = False) -> Raw:
    """Reads one image or mask file.

    Args:
        path: PNG, JPEG, TIFF, BMP, 2D NIfTI, 2D NRRD (with pynrrd), or single-frame DICOM.
        as_mask: keep palette indices and stored values instead of colors and windowed values.

    Raises:
        FileNotFoundError: when there is no such file.
        IsADirectoryError: when it is a folder.
        OSError: when the file is damaged or in no known format.
        ValueError: when it is empty, a volume, multi-frame, or too large. All name the file.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: file must exist, found none; correct the path in the data list.")
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path}: must be an image file, got a folder; name the file in it.")
    try:
        with open(path, "rb") as file:
            raw = _pick_reader(file, path)(file, path, as_mask)
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from e
    except UnidentifiedImageError as e:
        raise OSError(
            f"{path}: must be a readable image of type {' '.join(IMAGE_SUFFIXES)}, got an unknown or damaged format;"
            " convert it to PNG or copy it again."
        ) from e
    except Image.DecompressionBombError as e:
        raise ValueError(f"{path}: image must have at most {MAX_PIXELS} pixels; crop or downscale it. ({e})") from e
    except (OSError, EOFError, SyntaxError, zlib.error, struct.error, ImageFileError) as e:
        raise OSError(f"{path}: cannot be decoded: {e}; copy it again or remove it from the data set.") from e
    if raw.pixels.dtype.kind == "f" and not np.isfinite(raw.pixels).all():
        raise ValueError(f"{path}: pixels must be finite, got NaN or infinite values; repair or remove the file.")
    return raw
