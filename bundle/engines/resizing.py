# SPDX-License-Identifier: Apache-2.0
"""Smaller images in the first part of a training, for speed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events

from bundle.tasks import Task


class ProgressiveResizing:
    """Shrinks the training batches of the first iterations, whose cost goes with the number of pixels.

    Progressive learning (Tan and Le 2021, "EfficientNetV2", section 4.2) in two steps: small images, then the size of
    inference. Simulated users wait for the second step, as a click's disk has a fixed size in pixels. Batches are
    shrunken after loading: loaders, caches and resumed runs need not know. MONAI has no such handler.

    Args:
        tasks: the declared tasks, whose targets follow the images.
        side: H and W of the small images, in pixels; a multiple of 32. Batches that are no larger stay as they are.
        share: of all iterations that see small images, the first ones, in [0, 1); 0: none does.

    Raises:
        ValueError: when an argument is out of its range.
    """

    def __init__(self, tasks: Sequence[Task], side: int, share: float) -> None:
        if isinstance(share, str) or not 0 <= share < 1:
            raise ValueError(f"small_share must be a share of the iterations in [0, 1), got {share!r}; correct it.")
        if not isinstance(side, int) or side < 32 or side % 32:
            raise ValueError(f"small_side must be a multiple of 32 pixels, got {side!r}; correct it.")
        self.tasks, self.side, self.share = list(tasks), side, share

    def attach(self, engine: Engine) -> None:
        """Registers the handler with a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Shrinks ``image`` (B, C, H, W) and the targets of a batch and sends its users home."""
        state = engine.state
        total = (state.max_epochs or 0) * (state.epoch_length or 0)
        if state.iteration > self.share * total or max(state.batch["image"].shape[2:]) <= self.side:
            return
        batch = dict(state.batch)
        size = (self.side, self.side)
        batch["image"] = F.interpolate(batch["image"], size, mode="bilinear", antialias=True, align_corners=False)
        factor = self.side / max(state.batch["image"].shape[2:])
        batch["targets"] = {
            task.name: task.shrink(state.batch["targets"][task.name], factor, size) for task in self.tasks
        }
        batch["interaction"] = torch.zeros_like(batch["interaction"])
        state.batch = batch
