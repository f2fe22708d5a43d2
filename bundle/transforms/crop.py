# SPDX-License-Identifier: Apache-2.0
"""Crop round a labeled structure: the ``local`` prompt type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import InvertibleTransform, MapTransform, RandomizableTransform, SpatialCrop
from monai.utils import TraceKeys


class RandCropToStructured(RandomizableTransform, MapTransform, InvertibleTransform):
    """Crops a box round one structure of the mask, with a random margin on each side, and sets ``type`` to "local".

    The structure is drawn among those in the mask; items with an empty mask stay whole. MONAI's crops either use a
    fixed size or a fixed margin. The crop itself is MONAI's ``SpatialCrop``, so it is invertible.

    Args:
        keys: images (C, H, W) to crop alike.
        label_key: mask (1, H, W) of structure indices.
        prob: probability of a crop.
        margin: range of each side's margin, as a fraction of the structure's height or width; at least ``min_margin``.
        min_margin: least margin in pixels, so that a tiny structure keeps its surroundings.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str = "label",
        prob: float = 0.5,
        margin: Sequence[float] = (0.1, 1.0),
        min_margin: int = 8,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.label_key = label_key
        self.margin = tuple(margin)
        self.min_margin = min_margin

    def _box(self, mask: torch.Tensor) -> tuple[list[int], list[int]]:
        """First and past-the-last row and column of a structure (H, W) bool, with its random margins."""
        start, end = [], []
        for axis in (0, 1):
            hit = mask.any(1 - axis).nonzero()
            low, high = int(hit[0]), int(hit[-1]) + 1
            before, after = (max(self.min_margin, (high - low) * self.R.uniform(*self.margin)) for _ in range(2))
            start.append(max(0, low - round(before)))
            end.append(min(mask.shape[axis], high + round(after)))
        return start, end

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item, cropped or whole."""
        item = dict(data)
        self.randomize(None)
        mask = torch.as_tensor(item[self.label_key])[0]
        present = [int(v) for v in torch.unique(mask) if v > 0] if self._do_transform else []
        if not present:
            return item
        start, end = self._box(mask == int(self.R.choice(present)))
        crop = SpatialCrop(roi_start=start, roi_end=end)
        for key in self.key_iterator(item):
            item[key] = crop(item[key])
        item["type"] = "local"
        return item

    def inverse(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with zeros where the crop took something away; what was not cropped is as it was."""
        item = dict(data)
        for key in self.key_iterator(item):
            history = item[key].applied_operations
            if history and history[-1][TraceKeys.CLASS_NAME] == SpatialCrop.__name__:
                history[-1][TraceKeys.ID] = TraceKeys.NONE  # cropped by another object of the class
                item[key] = SpatialCrop(roi_start=[0, 0], roi_end=[1, 1]).inverse(item[key])
        return item
