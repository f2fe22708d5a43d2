# SPDX-License-Identifier: Apache-2.0
"""Reconstructions beside their originals, for people to look at."""

from __future__ import annotations

from pathlib import Path

import torch
from ignite.engine import Engine, Events
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid

from bundle.pretraining.network import Pretraining
from bundle.pretraining.reconstruction import MaskedReconstruction


class Reconstructions:
    """Writes images into TensorBoard at the end of each epoch: original, what was shown of it, and what was filled in.

    Of each objective that reconstructs; where there is none, it writes nothing. MONAI's image handler shows outputs as
    they are, on a scale of their own.

    Args:
        network: with its objectives.
        log_dir: folder of TensorBoard.
        images: of the epoch's last batch, at most.
    """

    def __init__(self, network: Pretraining, log_dir: str | Path, images: int = 4) -> None:
        self.network, self.log_dir, self.images = network, log_dir, images
        named = network.objectives.items()
        self.objectives = {name: part for name, part in named if isinstance(part, MaskedReconstruction)}

    def attach(self, engine: Engine) -> None:
        """Registers the handler with a trainer."""
        if self.objectives:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        """Writes the images; random numbers and the state of the training stay as they are."""
        image = engine.state.output["image"][: self.images].float()
        training = self.network.training
        self.network.eval()
        try:
            with torch.random.fork_rng(), SummaryWriter(str(self.log_dir)) as writer:
                for name, objective in self.objectives.items():
                    shown, _, _ = objective.masked(image)
                    told = objective.reconstruct(shown, self.network.encode).float()
                    columns = [_gray(picture, image) for picture in (image, shown)] + [_seen(told)]
                    grid = make_grid(torch.stack(columns, dim=1).flatten(0, 1), nrow=3)
                    writer.add_image(f"{name}: original, shown, filled in", grid, engine.state.epoch)
        finally:
            self.network.train(training)


def _gray(picture: Tensor, original: Tensor) -> Tensor:
    """Images (B, 3, H, W) on the gray scale of the originals' mean and deviation: (B, 1, H, W) in [0, 1]."""
    gray, truth = picture.mean(1, keepdim=True), original.mean(1, keepdim=True)
    deviation = truth.std((1, 2, 3), keepdim=True).clamp_min(1e-3)
    return _seen((gray - truth.mean((1, 2, 3), keepdim=True)) / deviation)


def _seen(unit: Tensor) -> Tensor:
    """Images of mean 0 and deviation 1 as gray from black, two deviations below, to white, three above."""
    return ((unit + 2) / 5).clamp(0, 1)
