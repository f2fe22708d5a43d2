# SPDX-License-Identifier: Apache-2.0
"""Reads the files of an item as training does, and tells what is wrong with them, or the image's fingerprint."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.data import MetaTensor
from PIL import Image

from bundle.data.duplicates import Fingerprint, fingerprint
from bundle.data.known_sets import option
from bundle.transforms import LoadMaskd
from bundle.transforms.loading import MaskValueError, to_unit
from bundle.transforms.readers import Raw, read_file
from bundle.vocabulary import BACKGROUND

_FEW = 8  # gray values of a mask

STRUCTURES_NAMED = 3
"""Values that a message offers to name, at most."""


@dataclass(frozen=True)
class Examined:
    """What is wrong with the files of an item, "" for nothing; if nothing, the rest.

    ``mark`` is the image's fingerprint, ``scaled`` tells that a mask has another size than the image, ``shown`` are the
    structures in the masks, ``full`` tells that every pixel of them is of one, ``drawn`` that the image of a class
    looks like a mask.
    """

    fault: str = ""
    mark: Fingerprint | None = None
    scaled: bool = False
    shown: frozenset[str] = frozenset()
    full: bool = False
    drawn: bool = False


def examine(task: tuple[Mapping[str, Any], Mapping[str, Any]]) -> Examined:
    """Read an image and its masks.

    Args:
        task: an item of the manifest with absolute paths, and the entry of its data set.
    """
    item, entry = task
    try:
        raw = read_file(item["image"])
        seen = _read_masks(item, entry, raw=raw)
        picture = cast(Path, _as_file(raw))  # Pillow, which opens it, takes either
        return replace(seen, mark=fingerprint(picture), drawn="class" in item and _is_drawn(raw))
    except Exception as error:  # whatever a file does to a decoder must not cost the others
        return Examined(fault=str(error) or f"{item['image']}: cannot be read, {type(error).__name__}")


def labels_of(item: Mapping[str, Any]) -> list[str]:
    """The masks of an item of the manifest."""
    label = item.get("label", [])
    return [label] if isinstance(label, str) else list(label)


def _read_masks(item: Mapping[str, Any], entry: Mapping[str, Any], *, raw: Raw) -> Examined:
    """What the masks show, and whether one has to be scaled to the image's size.

    Raises:
        OSError, ValueError: as ``LoadMaskd``; of values outside the table it says which option helps.
    """
    if not (paths := labels_of(item)):
        return Examined()
    structures = sorted(set(entry["mask_values"].values()) - {BACKGROUND})
    table = {int(v): 1 + structures.index(s) if s != BACKGROUND else 0 for v, s in entry["mask_values"].items()}
    meta = {
        "spatial_shape": raw.pixels.shape[:2],
        "filename_or_obj": item["image"],
        "study_affine": raw.affine,
        "geometry": raw.geometry,
    }
    loaded = {
        "image": MetaTensor(torch.zeros(1), meta=meta),
        "label": paths,
        "mask_values": table,
        "mask_threshold": entry.get("mask_threshold", 0),
    }
    for scaled in (False, True):
        mask, error = _load({**loaded, "mask_scaled": scaled})
        if mask is not None:
            shown = frozenset(structures[int(index) - 1] for index in np.unique(mask.numpy()) if index)
            return Examined(scaled=scaled, shown=shown, full=bool(mask.all()))
    if isinstance(error, MaskValueError):
        error = ValueError(f"{error.fault}; {_remedy(error, loaded, dataset=item['dataset'])}, or correct the mask.")
    raise error or ValueError(f"{paths}: expected masks, got none")


def _is_drawn(raw: Raw) -> bool:
    """Whether an image has as few gray values as a mask: up to eight, or after JPEG two heaps far apart."""
    gray = np.asarray(raw.pixels if raw.pixels.ndim == 2 else raw.pixels[..., 0])
    values = np.bincount(gray.ravel()) if gray.dtype == np.uint8 else np.unique(gray, return_counts=True)[1]
    if np.count_nonzero(values) > _FEW:
        shares = np.histogram(gray, 8)[0] / gray.size
        heaps = np.flatnonzero(shares > 0.002)
        return len(heaps) == 2 and bool(heaps[1] - heaps[0] > 4)
    return True


def _remedy(error: MaskValueError, loaded: Mapping[str, Any], *, dataset: str) -> str:
    """The options that make a mask readable whose values are not in the table."""
    remedies = []
    threshold = (max(loaded["mask_values"]) + 1) // 2
    if len(set(loaded["mask_values"].values()) - {0}) == 1 and not loaded["mask_threshold"]:
        mask, _ = _load({**loaded, "mask_scaled": True, "mask_threshold": threshold})
        if mask is not None and mask.any():
            told = option("mask-threshold", dataset, str(threshold))
            remedies.append(f"where compression or resampling blurred it, add {told} (it and all above count)")
    if not remedies or len(error.values) <= STRUCTURES_NAMED:
        told = " ".join(option("structure", dataset, f"{value}:NAME") for value in error.values[:STRUCTURES_NAMED])
        remedies.append(f"where they are structures, add {told}")
    return ", ".join(remedies)


def _load(loaded: Mapping[str, Any]) -> tuple[torch.Tensor | None, Exception | None]:
    """The mask of an item as the training's reader gives it, or what it says against it."""
    try:
        return LoadMaskd(num_structures=1 + max(loaded["mask_values"].values()))(loaded)["label"], None
    except (OSError, ValueError) as error:
        return None, error


def _as_file(raw: Raw) -> io.BytesIO:
    """Pixels as an uncompressed picture in memory, from which ``fingerprint`` gives what it gives for the file."""
    pixels = raw.pixels
    if pixels.dtype != np.uint8 and (pixels.ndim == 3 or pixels.dtype.itemsize > 4):
        pixels = (to_unit(raw) * 255).to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "TIFF")
    file.seek(0)
    return file
