# SPDX-License-Identifier: Apache-2.0
"""The image as a person sees it, kept beside what the network sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from bundle.transforms.letterbox import is_gray


class KeepPictured(MapTransform):
    """Adds ``picture``: the image at its native size, so that an overlay need not read the file again.

    An array (H, W, 1) uint8 where all channels are equal, else (H, W, 3).

    Args:
        keys: key of the image, (3, H, W) in [0, 1].
    """

    def __init__(self, keys: KeysCollection = "image") -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with its ``picture``."""
        item = dict(data)
        for key in self.key_iterator(item):
            image = torch.as_tensor(item[key]).as_subclass(torch.Tensor)
            shown = image[:1] if is_gray(image) else image
            item["picture"] = shown.mul(255).round_().to(torch.uint8).permute(1, 2, 0).numpy()
        return item
