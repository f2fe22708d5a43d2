# SPDX-License-Identifier: Apache-2.0
"""What of a frame the network sees: its sectors, each in a square of its own, without what is written into them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from bundle.transforms.items import add_note
from bundle.transforms.letterbox import WINDOWS
from bundle.transforms.seeing.sector import Box, find_sectors
from bundle.transforms.seeing.text import TextFinder, inpainted, marks, strokes
from bundle.vocabulary import switch

VIEW_OPTIONS = {
    "crop_sector": "the network sees the sector, not what is beside it",
    "split_panels": "each of two images side by side is seen by itself",
    "mask_text": "text, calipers and colored lines are painted over",
}
"""Option of :class:`Viewer` -> what it does."""


@dataclass(frozen=True)
class View:
    """What of a frame is seen.

    Attributes:
        windows: a box for each image that the network sees; none: the whole frame.
        inside: (H, W) bool, the sectors; None: all.
        written: (H, W) bool, what is painted over; None: nothing.
    """

    windows: tuple[Box, ...] = ()
    inside: np.ndarray | None = None
    written: np.ndarray | None = None

    def of(self, image: Tensor) -> Tensor:
        """The frame (C, H, W) in [0, 1], black outside of the sectors and painted over where something is written."""
        if self.written is not None:
            image = inpainted(image, self.written)
        if self.inside is None:
            return image
        inside = torch.from_numpy(self.inside)
        return (image[:1] * inside).expand_as(image) if image.stride(0) == 0 else image * inside


class Viewer:
    """Decides what of a frame is seen.

    Args:
        crop_sector: only the sector, cropped to its box; the whole frame where none is found.
        split_panels: two images side by side are seen one by one.
        mask_text: text, thin colored lines and calipers are painted over with what surrounds them.

    Raises:
        ImportError: when text is to be found and RapidOCR is not installed.
        ValueError: when an option is neither true nor false.
    """

    def __init__(
        self, *, crop_sector: bool | str = False, split_panels: bool | str = False, mask_text: bool | str = False
    ) -> None:
        self.crop = switch(crop_sector, "crop_sector")
        self.split = switch(split_panels, "split_panels")
        self.text = TextFinder() if switch(mask_text, "mask_text") else None

    @property
    def active(self) -> bool:
        """Whether anything is asked for."""
        return self.crop or self.split or self.text is not None

    def __call__(self, image: Tensor) -> View:
        """What is seen of a frame (C, H, W) in [0, 1]."""
        written = strokes(image, self.text(image)) | marks(image) if self.text else None
        sectors = find_sectors(image) if self.crop or self.split else []
        panels = sectors if self.split and len(sectors) > 1 else []
        if not sectors or not (self.crop or panels):
            return View(written=written)
        inside = np.logical_or.reduce([sector.mask for sector in sectors])
        boxes = [sector.box for sector in sectors]
        joined = (*np.min(boxes, 0)[:2].tolist(), *np.max(boxes, 0)[2:].tolist())
        return View(tuple(boxes) if panels else (joined,), inside, written)


class SelectViewd(MapTransform):
    """Images in which only what is seen is left, see :class:`Viewer`; ``Letterboxd`` then takes it into its square.

    The image keeps its size: its meta has ``windows``, (first row, first column, last row + 1, last column + 1) of each
    part that is seen, and a note says where there are several. Where a user guides, the frame is seen whole: all that
    is clicked must be in sight.

    Args:
        keys: images (3, H, W) in [0, 1], MetaTensors.
        crop_sector: see :class:`Viewer`.
        split_panels: see :class:`Viewer`.
        mask_text: see :class:`Viewer`.

    Raises:
        ImportError, ValueError: see :class:`Viewer`.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        *,
        crop_sector: bool | str = False,
        split_panels: bool | str = False,
        mask_text: bool | str = False,
    ) -> None:
        super().__init__(keys)
        self.viewer = Viewer(crop_sector=crop_sector, split_panels=split_panels, mask_text=mask_text)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with what is seen of its images."""
        item = dict(data)
        for key in self.key_iterator(item):
            if item.get("guidance") or not self.viewer.active:
                continue
            image: MetaTensor = item[key]
            plain = image.as_tensor()
            view = self.viewer(plain)
            item[key] = MetaTensor(view.of(plain)).copy_meta_from(image)
            item[key].meta[WINDOWS] = [list(box) for box in view.windows]
            if len(view.windows) > 1:
                add_note(item[key], f"{len(view.windows)} images side by side, each analyzed by itself")
        return item
