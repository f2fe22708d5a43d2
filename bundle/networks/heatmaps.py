# SPDX-License-Identifier: Apache-2.0
"""A head of key points."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from bundle.networks.upernet import conv_norm_relu


class PointHead(nn.Module):
    """One logit per point and place of the decoder's map, four pixels of the image apart.

    Args:
        channels: of the decoder's map.
        rows: names of the points.
        width: channels of the layer in between.
        dropout: rate of the channel dropout before the classifier, 0 to 1.
    """

    def __init__(self, channels: int, rows: Sequence[str], *, width: int = 32, dropout: float = 0.0):
        super().__init__()
        self.rows = list(rows)
        self.reads_map = True
        self.row_axes = {"classifier.weight": 1, "classifier.bias": 1}
        self.block = conv_norm_relu(channels, width, kernel_size=3, norm="group")
        self.dropout: nn.Module = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, len(rows), kernel_size=1)

    def forward(self, fine: Tensor, feature: Tensor, plain: Tensor) -> Tensor:
        """Logits (B, rows, H_1, W_1) of the decoder's map (B, channels, H_1, W_1); the vectors are not read."""
        logits: Tensor = self.classifier(self.dropout(self.block(fine)))
        return logits

    def deployed(self) -> nn.Module:
        """The same without dropout."""
        head = copy.deepcopy(self)
        head.dropout = nn.Identity()
        return head
