# SPDX-License-Identifier: Apache-2.0
"""From a batch of images to one loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def prepare_images(
    batchdata: Mapping[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """The images (B, 3, H, W) of a batch, as the network's input and as what its losses compare with."""
    image = batchdata["image"].to(device=device, non_blocking=non_blocking, **kwargs)
    return image, image


class TotalLoss:
    """The objectives' weighted sum.

    Args:
        weights: objective -> weight; absent ones count 1.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self.weights = dict(weights or {})

    def __call__(self, losses: Mapping[str, Tensor], image: Tensor) -> Tensor:
        """Scalar, of the objectives' losses."""
        parts = [self.weights.get(name, 1.0) * loss for name, loss in losses.items()]
        return sum(parts[1:], parts[0])
