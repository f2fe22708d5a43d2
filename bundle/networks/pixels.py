# SPDX-License-Identifier: Apache-2.0
"""A head whose answer is an image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PixelHead(nn.Module):
    """What is to be added to the gray image, pixel by pixel; nothing, before it is trained.

    Args:
        channels: of the decoder's map, at a quarter of the image's size.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rows = ["gray"]
        self.reads_map = True
        self.row_axes: dict[str, int] = {}
        self.classifier = nn.Conv2d(channels, 16, kernel_size=1)  # sixteen pixels of each place (Shi et al. 2016)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def forward(self, fine: Tensor, feature: Tensor, plain: Tensor) -> Tensor:
        """Corrections (B, 1, 4 H_1, 4 W_1) of the decoder's map (B, channels, H_1, W_1)."""
        return F.pixel_shuffle(self.classifier(fine), 4)
