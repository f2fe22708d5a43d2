# SPDX-License-Identifier: Apache-2.0
"""The temporal vote: the mean of the network's answers over the latest frames."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


class Mean:
    """Mean of the latest arrays of one shape; the memory is that of ``window + 1`` of them.

    The sum is kept by adding the newest and taking off the oldest, and made anew once per window, so that rounding
    errors do not gather.

    Args:
        window: how many, at least 1.
        shape: of each array.
    """

    def __init__(self, window: int, shape: tuple[int, ...]) -> None:
        self.latest = np.zeros((window, *shape), np.float32)
        self.sum = np.zeros(shape, np.float32)
        self.count = 0

    def add(self, values: np.ndarray) -> np.ndarray:
        """The mean with one more array, as a new array; over those that there are while the window fills."""
        window = len(self.latest)
        place = self.count % window
        self.sum -= self.latest[place]
        self.latest[place] = values
        self.sum += values
        self.count += 1
        if place == window - 1:
            self.latest.sum(axis=0, out=self.sum)
        mean: np.ndarray = self.sum / np.float32(min(self.count, window))
        return mean


class TemporalVote:
    """Averages the tasks' values, such as probabilities, over the latest frames that the network saw.

    What is decoded is then the mean, such as its most probable structure. A frame of another size starts anew.

    Args:
        window: frames, at least 1; 1 is no vote.

    Raises:
        ValueError: when the window is smaller than 1.
    """

    def __init__(self, window: int) -> None:
        if window < 1:
            raise ValueError(f"window must be 1 frame or more, got {window}; use 1 for no vote.")
        self.window = window
        self.shape: tuple[int, ...] = ()
        self.means: dict[str, Mean] = {}

    def add(self, values: Mapping[str, Tensor], shape: tuple[int, ...]) -> dict[str, Tensor]:
        """The mean with one more frame.

        Args:
            values: task -> values of the frame.
            shape: (H, W) of the frame, and of the parts of it that are seen.
        """
        if self.window == 1:
            return dict(values)
        if shape != self.shape:
            self.shape = shape
            self.means = {name: Mean(self.window, tuple(value.shape)) for name, value in values.items()}
        return {name: torch.from_numpy(self.means[name].add(value.numpy())) for name, value in values.items()}
