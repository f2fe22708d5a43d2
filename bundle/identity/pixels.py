# SPDX-License-Identifier: Apache-2.0
"""Pixels without burnt-in text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from torch import Tensor

from bundle.identity.header import PALETTES

LOOKED_AT = 12
"""Frames of a clip in which text is looked for, evenly spaced; what is found in one is made black in all."""

Finder = Callable[[Tensor], np.ndarray]
"""Image (C, H, W) float32 in [0, 1] -> pixels of text, (H, W) bool."""


def text_of(pictures: Iterable[np.ndarray], finder: Finder) -> np.ndarray | None:
    """Pixels of text in any of the pictures, (H, W) bool; None where there is no picture.

    Args:
        pictures: uint8, (H, W) or (H, W, 3).
        finder: of text.
    """
    found = None
    for picture in pictures:
        planes = torch.from_numpy(np.ascontiguousarray(picture)).float() / 255
        here = finder(planes[None] if planes.ndim == 2 else planes.permute(2, 0, 1))
        found = here if found is None else found | here
    return found


def looked_at(count: int) -> set[int]:
    """Numbers of the frames in which text is looked for."""
    return set(np.linspace(0, count - 1, min(count, LOOKED_AT)).round().astype(int).tolist())


def held_in_stream(ds: Dataset, words: Collection[str]) -> bool:
    """Whether compressed pixel data hold a word, as comments of JPEG may; words of three letters are there by chance.

    Args:
        ds: with pixel data.
        words: without case.
    """
    if not ds.file_meta.TransferSyntaxUID.is_compressed:
        return False
    stream = bytes(ds.PixelData).decode("latin-1").casefold()
    return any(word in stream for word in words if len(word) > 3)


def blank(ds: Dataset, text: np.ndarray | None) -> None:
    """Makes pixels black in all frames; they are neither compressed nor big endian then.

    Args:
        ds: with pixel data.
        text: (H, W) bool; None: no pixel.
    """
    if ds.file_meta.TransferSyntaxUID.is_compressed:
        ds.decompress(as_rgb=True)
    pixels = np.array(ds.pixel_array)
    black = _black(ds, pixels)
    if not ds.file_meta.TransferSyntaxUID.is_little_endian:
        for name in PALETTES:
            if name in ds:
                setattr(ds, name, np.frombuffer(ds[name].value, ">u2").astype("<u2").tobytes())
    frames: Any = pixels if int(ds.get("NumberOfFrames") or 1) > 1 else pixels[None]
    if text is not None:
        frames[:, text] = black
    if ds.get("PlanarConfiguration") == 1:
        ds.PlanarConfiguration = 0
    ds.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    ds["PixelData"].VR = "OW" if ds.BitsAllocated > 8 else "OB"
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if len(ds.PixelData) % 2:
        ds.PixelData += b"\0"


def _black(ds: Dataset, pixels: np.ndarray) -> int | Sequence[int]:
    """The value that is shown black."""
    colors = str(ds.PhotometricInterpretation)
    if colors == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        used = np.unique(pixels)
        return int(used[apply_color_lut(used, ds).sum(-1, dtype=int).argmin()])
    if colors.startswith("YBR"):
        return (0, 128, 128)
    if colors == "MONOCHROME1" or str(ds.get("PresentationLUTShape", "")) == "INVERSE":
        return int(pixels.max())
    return 0 if colors == "RGB" else int(pixels.min())
