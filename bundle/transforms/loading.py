# SPDX-License-Identifier: Apache-2.0
"""Files to tensors: images in [0, 1] and masks of structure indices, upright, at their native size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy.ndimage import binary_fill_holes
from skimage.morphology import convex_hull_image

from bundle.geometry import UNKNOWN_SPACING, known_spacing
from bundle.transforms.mask_geometry import on_image, same_proportions, scaled
from bundle.transforms.readers import LPS_TO_RAS, Raw, read_file


def _float_limits(pixels: np.ndarray) -> tuple[float, float]:
    """The values that become 0 and 1 when the header does not say."""
    low, high = float(pixels.min()), float(pixels.max())
    integers = pixels.dtype.kind in "iu" or bool((pixels == np.round(pixels)).all())
    if pixels.dtype.kind == "f" and low >= 0 and high <= 1:
        return 0.0, 1.0
    if integers and low >= 0 and high <= 255:
        return 0.0, 255.0
    return (min(low, 0.0) if pixels.dtype.kind in "iu" else low), high


def to_unit(raw: Raw) -> torch.Tensor:
    """Pixels (H, W) or (H, W, 3) as float32 (3, H, W) in [0, 1]; where they are grey, one channel shown three times.

    8 bit: divided by 255. Where the header gives the range (DICOM): that range. Other integers: divided by 255 when
    none exceeds it, else by the maximum. Floats: as they are within 0..1, divided by 255 when they are integers
    within 0..255, else from their minimum and maximum.
    """
    pixels = raw.pixels
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
        low, high = 0.0, 1.0
    elif pixels.dtype == np.uint8:
        low, high = raw.limits or (0.0, 255.0)
    else:
        low, high = raw.limits or _float_limits(pixels)
        pixels = pixels.astype(np.float32)
    image = torch.from_numpy(_planes(pixels)).to(torch.float32)
    span = (high - low) or 1.0  # a constant image becomes black
    image = image.div_(span) if low == 0 else image.sub_(low).div_(span)
    image = image if raw.pixels.dtype in (bool, np.uint8) else image.clamp_(0, 1)
    return image.expand(3, -1, -1)


def _planes(pixels: np.ndarray) -> np.ndarray:
    """Pixels (H, W) or (H, W, 3) as (1, H, W), or as (3, H, W) where the channels differ."""
    if pixels.ndim == 2:
        return np.ascontiguousarray(pixels[None])
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return planes[:1] if all(np.array_equal(planes[0], plane) for plane in planes[1:]) else planes


def _meta(path: str, shape: Sequence[int], spacing: Sequence[float], source: str, raw: Raw | None) -> dict[str, Any]:
    return {
        "filename_or_obj": path,
        "spatial_shape": (int(shape[0]), int(shape[1])),
        "spacing": (float(spacing[0]), float(spacing[1])),
        "study_affine": torch.as_tensor(raw.affine if raw else LPS_TO_RAS),
        "zones": raw.zones if raw else (),
        "spacing_source": source if known_spacing(spacing) or (raw and raw.zones) else "",
        "geometry": raw.geometry if raw else "",
        "turned": raw is not None and raw.turned,
        "notes": "; ".join(raw.notes) if raw else "",
    }


class LoadUltrasoundd(MapTransform):
    """Reads an image file: MetaTensor (3, H, W) float32 in [0, 1], upright, grey as one channel shown three times.

    Meta: ``filename_or_obj``, ``spatial_shape`` (H, W), ``spacing`` (row, column in mm, nan when unknown) and
    ``spacing_source`` (attribute of the file, "data list" or what the item says, or "" when unknown), and for writing
    back ``study_affine``, ``geometry`` and ``turned``, with ``zones``, as in ``readers.Raw``; ``notes``, what was
    assumed of the file.
    ``item["spacing"]`` becomes the spacing in meta. The spacing that the item gives goes before that of the file. A
    tensor instead of a path is taken as read and only gets its meta.

    See ``bundle.transforms.readers`` for formats, and ``to_unit`` for the intensity rule.

    Raises:
        OSError, ValueError: in the call, see ``bundle.transforms.readers.read_file``; the file is named.
    """

    def __init__(self, keys: KeysCollection = "image") -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with the image in place of its path."""
        item = dict(data)
        for key in self.key_iterator(item):
            given, giver = item.get("spacing"), item.pop("spacing_source", "data list")
            if isinstance(item[key], torch.Tensor):
                image, path = item[key], str(getattr(item[key], "meta", {}).get("filename_or_obj", ""))
                spacing, source, raw = UNKNOWN_SPACING, "", None
                told = getattr(item[key], "meta", {}).get("spacing_source") or giver
            else:
                path = str(item[key])
                raw = read_file(path)
                image, spacing, source, told = to_unit(raw), raw.spacing, raw.source, giver
            if given is not None and known_spacing(given):
                spacing, source = (float(given[0]), float(given[1])), told
            meta = _meta(path, image.shape[1:], spacing, source, raw)
            if raw is None:  # what its reader told
                meta["notes"] = getattr(image, "meta", {}).get("notes", "")
                if zones := getattr(image, "meta", {}).get("zones"):
                    meta |= {"zones": zones, "spacing_source": meta["spacing_source"] or told}
            item[key] = MetaTensor(torch.as_tensor(image), meta=meta)
            item["spacing"] = list(item[key].meta["spacing"])
        return item


def _stored_mask(raw: Raw, path: str, table: Mapping[int, int]) -> np.ndarray:
    """Stored values (H, W) of a mask file, as integers."""
    pixels: np.ndarray = raw.pixels
    if pixels.ndim == 3:
        if (pixels != pixels[..., :1]).any():
            raise ValueError(
                f"{path}: mask must hold one value a pixel, got colors; save it as 8-bit grey or palette PNG."
            )
        pixels = pixels[..., 0]
    if pixels.dtype == bool:  # 1-bit files have no say in whether white is 1 or 255
        white = 255 if 255 in table and 1 not in table else 1
        pixels = np.where(pixels, np.uint8(white), np.uint8(0))
    if pixels.dtype.kind == "f":
        if (pixels != np.round(pixels)).any():
            raise ValueError(f"{path}: mask values must be integers, got fractions; save the mask without resampling.")
        pixels = pixels.astype(np.int64)
    return pixels


class MaskValueError(ValueError):
    """Values of a mask that are not in its table.

    Attributes:
        fault: the message without what to do, for those who have no data list yet.
        values: in ascending order.
    """

    def __init__(self, message: str, *, fault: str = "", values: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.fault, self.values = fault, list(values)


def _map_values(stored: np.ndarray, path: str, table: Mapping[int, int]) -> np.ndarray:
    """Structure indices (H, W) uint8 of stored values; every value must be in the table."""
    low, high = int(stored.min()), int(stored.max())
    if low >= 0 and high <= 65535:
        lookup = np.full(65536 if high > 255 else 256, -1, np.int16)
        for value, index in table.items():
            if 0 <= value < len(lookup):
                lookup[value] = index
        mapped: np.ndarray = lookup[stored]
        if int(mapped.min()) >= 0:
            return mapped.astype(np.uint8)
    wrong = sorted({int(v) for v in np.unique(stored)} - set(table))
    fault = f"{path}: mask values must be in the table {dict(table)} (value: structure index), got {wrong[:10]}"
    raise MaskValueError(f"{fault}; correct mask_values in the data list, or the mask.", fault=fault, values=wrong)


def _fill_outline(mask: np.ndarray) -> np.ndarray:
    """Fills each structure's closed outline (H, W); its convex hull where the image border cuts the outline open."""
    filled = np.zeros_like(mask)
    for index in (int(v) for v in np.unique(mask) if v > 0):
        outline = mask == index
        inside = binary_fill_holes(outline)
        if inside.sum() <= 2 * outline.sum() and outline.sum() > 2:
            inside = convex_hull_image(outline, offset_coordinates=False) | outline
        filled[inside] = index
    return filled


class LoadMaskd(MapTransform):
    """Reads the mask files of an item: MetaTensor (1, H, W) uint8 of structure indices at the image's native size.

    Several files are merged, the greater index on top. No file ([] or "") gives background only.
    ``item["mask_values"]`` maps stored values to indices ({} = they are indices); ``item["mask_kind"]`` "outline" is
    filled. A tensor instead of paths is left as it is. Where the files of image and mask (NIfTI, NRRD, MetaImage) both
    tell how they lie, the mask is flipped and transposed to the axes of the image. With ``item["mask_scaled"]`` a mask
    of another size but the image's proportions is scaled to it (nearest neighbor). With ``item["mask_threshold"]``
    above 0, that value and all above are the one structure of the table, all below background. 1-bit white is 255 when
    the table has 255 and not 1, else 1.

    Args:
        keys: keys of a path or of a list of paths.
        num_structures: number of structures, background included; at most 255.
        image_key: the image, loaded before, whose native size the masks must have.

    Raises:
        OSError: in the call, when a file cannot be read.
        ValueError: in the call, when a value is outside the table, or sizes or places differ; files are named.
    """

    def __init__(self, keys: KeysCollection = "label", *, num_structures: int, image_key: str = "image") -> None:
        super().__init__(keys)
        self.num_structures = num_structures
        self.image_key = image_key

    def _table(self, item: Mapping[str, Any]) -> dict[int, int]:
        table = {int(value): int(index) for value, index in (item.get("mask_values") or {}).items()}
        if wrong := {v: i for v, i in table.items() if not 0 <= i < self.num_structures}:
            raise ValueError(
                f"{item.get('item', item[self.image_key])}: mask_values must map to structure indices 0 to"
                f" {self.num_structures - 1}, got {wrong}; correct the data list."
            )
        return table or {i: i for i in range(self.num_structures)}

    def _load(self, item: Mapping[str, Any], paths: Sequence[str]) -> MetaTensor:
        image = item[self.image_key]
        if not isinstance(image, MetaTensor):
            image = LoadUltrasoundd(self.image_key)(item)[self.image_key]
        shape = tuple(int(n) for n in image.meta["spatial_shape"])
        table = self._table(item) if paths else {}
        merged = np.zeros(shape, np.uint8)
        for path in paths:
            raw = read_file(path, as_mask=True)
            stored = on_image(_stored_mask(raw, path, table), raw, path, image.meta)
            if threshold := int(item.get("mask_threshold", 0)):
                structure = max(value for value, index in table.items() if index)
                stored = np.where(stored >= threshold, structure, 0)
            if item.get("mask_scaled") and same_proportions(stored.shape, shape):
                stored = scaled(stored, shape)
            if stored.shape != shape:
                raise ValueError(
                    f"{path}: mask must have the size of its image {image.meta['filename_or_obj']},"
                    f" {shape[0]}x{shape[1]} (rows x columns), got {stored.shape[0]}x{stored.shape[1]};"
                    " pair the right files or resample."
                )
            mask = _map_values(stored, path, table)
            np.maximum(merged, _fill_outline(mask) if item.get("mask_kind") == "outline" else mask, out=merged)
        meta = {**image.meta, "filename_or_obj": paths[0] if paths else image.meta["filename_or_obj"]}
        return MetaTensor(torch.from_numpy(merged)[None], meta=meta)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with the merged mask in place of its paths."""
        item = dict(data)
        for key in self.key_iterator(item):
            if not isinstance(item[key], torch.Tensor):
                given = item[key] or []
                item[key] = self._load(item, [given] if isinstance(given, str) else [str(p) for p in given])
        return item
