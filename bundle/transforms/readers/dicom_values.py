# SPDX-License-Identifier: Apache-2.0
"""Stored values of a DICOM frame to what a viewer shows: palette, modality table, window, inversion."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom.dataelem import DataElement

from bundle.transforms.readers.dicom_header import entry, numbers, remove, sequence, text, whole
from bundle.transforms.readers.dicom_regions import without_other_regions
from bundle.transforms.readers.dicom_spacing import find_spacing
from bundle.transforms.readers.raw import Raw

try:
    from pydicom.pixels import (
        apply_color_lut,
        apply_modality_lut,
        apply_presentation_lut,
        apply_voi_lut,
        convert_color_space,
    )
except ImportError:  # pydicom 2, which has no presentation tables
    from pydicom.pixel_data_handlers import apply_color_lut, apply_modality_lut, apply_voi_lut, convert_color_space

    apply_presentation_lut = None

FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


def _clean_rescale(ds: Any) -> tuple[float, float, list[str]]:
    """Slope, intercept and notes; both entries are made to say them, or neither is there."""
    found = [numbers(ds, name) for name in ("RescaleSlope", "RescaleIntercept")]
    given = [entry(ds, name) is not None for name in ("RescaleSlope", "RescaleIntercept")]
    slope, intercept = (1.0 if found[0] is None else found[0][0]), (0.0 if found[1] is None else found[1][0])
    wrong = slope == 0 or any(there and value is None for there, value in zip(given, found, strict=True))
    if wrong or not any(given):
        remove(ds, "RescaleSlope", "RescaleIntercept")
        return 1.0, 0.0, ["RescaleSlope and RescaleIntercept are no valid numbers and are left out"] if wrong else []
    ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
    return slope, intercept, []


def _clean_window(ds: Any) -> list[str]:
    """Keeps the first window that says something, and no other; gives notes."""
    notes = []
    function = text(ds, "VOILUTFunction")
    if function not in ("", *FUNCTIONS):
        notes.append(f"VOILUTFunction {function} is not known, LINEAR is taken")
    remove(ds, "VOILUTFunction")
    if function in FUNCTIONS:
        ds.VOILUTFunction = function
    centers, widths = (numbers(ds, name) or [] for name in ("WindowCenter", "WindowWidth"))
    least = np.nextafter(0.0, 1.0) if function in FUNCTIONS[1:] else 1.0
    good = [(center, width) for center, width in zip(centers, widths, strict=False) if width >= least]
    given = all(entry(ds, name) is not None for name in ("WindowCenter", "WindowWidth"))
    if given and not (centers and widths):
        notes.append("WindowCenter and WindowWidth are no numbers and are left out")
    remove(ds, "WindowCenter", "WindowWidth")
    if good:
        ds.WindowCenter, ds.WindowWidth = good[0]
    return notes


def _whole_table(item: Any) -> bool:
    """Whether a lookup table has all its entries. Those of a byte each become numbers: pydicom does not unpack them."""
    descriptor, data = numbers(item, "LUTDescriptor") or [], entry(item, "LUTData")
    if len(descriptor) != 3 or data is None:
        return False
    length = int(descriptor[0]) or 1 << 16
    if not isinstance(data, bytes):
        return len(numbers(item, "LUTData") or []) >= length
    if descriptor[2] <= 8 and length <= len(data) < 2 * length:
        item["LUTData"] = DataElement("LUTData", "US", list(data[:length]))
        return True
    return len(data) >= 2 * length


def _clean_tables(ds: Any) -> list[str]:
    """Removes lookup tables that are not whole; gives notes."""
    notes = []
    for name in ("ModalityLUTSequence", "VOILUTSequence", "PresentationLUTSequence"):
        items = sequence(ds, name)
        if name in ds and not (items and _whole_table(items[0])):
            remove(ds, name)
            if items:
                notes.append(f"{name} has no whole table and is left out")
    return notes


def _table_range(ds: Any, name: str) -> tuple[float, float]:
    """Lowest and highest value that a lookup table can give."""
    return 0.0, 2.0 ** int(numbers(sequence(ds, name)[0], "LUTDescriptor")[2]) - 1  # type: ignore[index]


def _own_range(stored: np.ndarray, low: float, high: float) -> tuple[float, float, list[str]]:
    """The range of the pixels instead of the stored bits where they leave half of it unused, with a note."""
    least, most = float(stored.min()), float(stored.max())
    bottom = least if low < 0 else low
    if high <= 255 or most - bottom >= (high - low) / 2:
        return low, high, []
    top = max(most, bottom + 255)
    return bottom, top, [f"no window, and pixels in a part of the stored range: {bottom:g} is black, {top:g} white"]


def _stored_range(ds: Any) -> tuple[float, float]:
    bits = whole(ds, "BitsStored")
    low = -(2.0 ** (bits - 1)) if whole(ds, "PixelRepresentation", 0) else 0.0
    return low, low + 2.0**bits - 1


def _grey(stored: np.ndarray, ds: Any) -> tuple[np.ndarray, tuple[float, float], list[str]]:
    """Values after modality, window and presentation, the values that mean black and white, and notes."""
    notes = _clean_tables(ds) + _clean_window(ds)
    slope, intercept, more = _clean_rescale(ds)
    low, high = _stored_range(ds)
    if "VOILUTSequence" in ds:
        limits = _table_range(ds, "VOILUTSequence")
    elif "ModalityLUTSequence" in ds:
        limits = _table_range(ds, "ModalityLUTSequence")
    elif "WindowWidth" in ds:  # pydicom gives what lies below the window the lowest stored value
        limits = (low * slope + intercept, high * slope + intercept)
    else:
        low, high, found = _own_range(stored, low, high)
        more = more + found
        limits = (min(low * slope, high * slope) + intercept, max(low * slope, high * slope) + intercept)
    values = np.asarray(apply_voi_lut(apply_modality_lut(stored, ds), ds))
    if "PresentationLUTSequence" in ds and values.max() > values.min():
        if apply_presentation_lut is None:
            more = [*more, "the presentation table is left out, which pydicom 2 does not apply"]
        else:
            values, limits = apply_presentation_lut(values, ds), _table_range(ds, "PresentationLUTSequence")
    # PS3.3 C.11.6.1.2, C.8.11.3.1.2: INVERSE is how MONOCHROME1 is said once more
    inverse = text(ds, "PhotometricInterpretation") == "MONOCHROME1" or text(ds, "PresentationLUTShape") == "INVERSE"
    return values, limits[::-1] if inverse else limits, notes + more


def _palette(stored: np.ndarray, ds: Any) -> np.ndarray:
    """Colors (H, W, 3) of palette indices (H, W), 8-bit where the table holds 8-bit colors."""
    for name in ("Red", "Green", "Blue"):
        table = f"{name}PaletteColorLookupTable"
        data = entry(ds, f"{table}Data") or entry(ds, f"Segmented{table}Data")
        if len(numbers(ds, f"{table}Descriptor") or []) != 3 or not data:
            raise ValueError(f"PALETTE COLOR must come with its tables, got none for {name.lower()}; export it as RGB.")
    colors: np.ndarray = apply_color_lut(stored, ds)[..., :3]
    if colors.dtype == np.uint16:
        # pydicom reads plain 16-bit tables as little endian whatever the file is.
        if not ds.file_meta.TransferSyntaxUID.is_little_endian and "RedPaletteColorLookupTableData" in ds:
            colors = colors.byteswap()
        # 8-bit colors lie in the high byte of 16-bit entries, or in the low byte by some makes of scanner.
        if colors.max() <= 255:
            colors = colors.astype(np.uint8)
        elif not (colors & 255).any():
            colors = (colors >> 8).astype(np.uint8)
    return colors


def to_rgb(stored: np.ndarray, ybr: bool) -> np.ndarray:
    """Decoded samples (H, W, 3) as RGB; grey ones (H, W) as they are."""
    return np.asarray(convert_color_space(stored, "YBR_FULL", "RGB")) if ybr and stored.ndim == 3 else stored


def dicom_frame(stored: np.ndarray, ds: Any) -> Raw:
    """One decoded frame, (H, W) or RGB (H, W, 3), with the palette, window and calibration of its header.

    Regions that show no plane are black. Entries of ``ds`` that say nothing are removed.
    """
    spacing, source, notes, zones = find_spacing(ds, stored)
    more: list[str] = []
    if text(ds, "PhotometricInterpretation") == "PALETTE COLOR":
        values = _palette(stored, ds)
        limits = (0.0, float(np.iinfo(values.dtype).max))
    elif stored.ndim == 3:
        low, high, more = _own_range(stored, *_stored_range(ds))
        values, limits = stored, (low, high)
    else:
        values, limits, more = _grey(stored, ds)
    return without_other_regions(
        Raw(values, spacing, limits, notes=tuple(notes + more), source=source, zones=zones), ds
    )
