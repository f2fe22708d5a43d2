# SPDX-License-Identifier: Apache-2.0
"""From a batch of images to one loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def prepare_images(
    batchdata: Mapping[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, Tensor, tuple[()], dict[str, Any]]:
    """The images (B, 3, H, W) of a batch, as the network's input and as what losses compare with, and their organs."""
    image = batchdata["image"].to(device=device, non_blocking=non_blocking, **kwargs)
    return image, image, (), {"organs": batchdata["organ"]}


class TotalLoss:
    """The objectives' weighted sum.

    Args:
        weights: objective -> weight, 0 or more; absent ones count 1.

    Raises:
        ValueError: when it is no such table.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        given = weights or {}
        if not isinstance(given, Mapping) or not all(_is_weight(value) for value in given.values()):
            raise ValueError(
                f"objective_weights must map objectives to numbers from 0, got {weights!r}; write "
                "--objective_weights \"{'distillation': 1.0}\"."
            )
        self.weights = dict(given)

    def __call__(self, outputs: Mapping[str, Any], image: Tensor) -> Tensor:
        """Scalar, of what :class:`bundle.pretraining.Pretraining` gives.

        Raises:
            ValueError: when a weight names no objective.
        """
        losses = outputs["losses"]
        if unknown := sorted(set(self.weights) - set(losses)):
            raise ValueError(
                f"objective_weights must name some of {list(losses)}, got {unknown}; correct --objective_weights."
            )
        if not any(self.weights.get(name, 1.0) for name in losses):
            raise ValueError(
                "objective_weights must be above 0 for one objective at least; correct --objective_weights."
            )
        parts: list[Tensor] = [self.weights.get(name, 1.0) * loss for name, loss in losses.items()]
        return sum(parts[1:], parts[0])


def _is_weight(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf
