# SPDX-License-Identifier: Apache-2.0
"""Parts of others, as a user would write them: nothing in bundle/ knows of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResNetEncoder(nn.Module):
    """A small ResNet of timm, its last map averaged."""

    def __init__(self, name: str = "test_resnet") -> None:
        super().__init__()
        self.backbone = timm.create_model(name, features_only=True, out_indices=(1, 2, 3, 4), pretrained=False)
        self.name = name
        self.channels: list[int] = self.backbone.feature_info.channels()
        self.in_channels, self.guidance_channels = 3, 0

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        levels: list[Tensor] = self.backbone(image)
        return levels, levels[3].mean((2, 3))

    def config(self) -> dict[str, Any]:
        return {"encoder": self.name}


class FPN(nn.Module):
    """Feature pyramid: 1x1 convolutions, added from coarse to fine."""

    def __init__(self, in_channels: Sequence[int], channels: int = 8) -> None:
        super().__init__()
        self.channels = channels
        self.laterals = nn.ModuleList(nn.Conv2d(c, channels, kernel_size=1) for c in in_channels)

    def forward(self, levels: list[Tensor]) -> Tensor:
        maps = [lateral(levels[i]) for i, lateral in enumerate(self.laterals)]
        x = maps[3]
        for i in range(3):
            x = maps[2 - i] + F.interpolate(x, size=maps[2 - i].shape[-2:], mode="nearest")
        return torch.relu(x)


class BrightnessHead(nn.Module):
    """A number from the finest map and the vector."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.rows, self.reads_map, self.row_axes = ["brightness"], True, {"linear.weight": 1, "linear.bias": 1}
        self.linear = nn.Linear(channels + features, 1)

    def forward(self, fine: Tensor, feature: Tensor, plain: Tensor) -> Tensor:
        out: Tensor = self.linear(torch.cat([fine.mean((2, 3)), feature], dim=1))
        return out
