# SPDX-License-Identifier: Apache-2.0
"""An encoder and what it learns before there are labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bundle.engines import autocast_dtype


class Pretraining(nn.Module):
    """An encoder with its objectives: images become one loss each.

    Args:
        encoder: of :func:`bundle.networks.build_encoder`, whose weights are what the training is for.
        objectives: name -> module of ``forward(image, encode)`` that gives a scalar, and of ``config()``, plain values;
            ``encode`` gives the maps and the feature vector of images (B, 3, H, W) in [0, 1], once for each of them.
            One with a true ``reads_organs`` takes the images' organs too.
        mean, std: of the images that the encoder reads, values in [0, 1].
        device: where it trains; decides the precision of ``amp``.
        amp: autocast to bfloat16 where the hardware computes in it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        objectives: Mapping[str, nn.Module],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str = "cpu",
        amp: bool | str = False,
    ) -> None:
        super().__init__()
        self.encoder, self.objectives = encoder, nn.ModuleDict(objectives)
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32)[:, None, None])
        self.device_type, self.dtype = torch.device(device).type, autocast_dtype(amp, device)
        self.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: Tensor, organs: Sequence[str] = ()) -> dict[str, Any]:
        """``losses``, objective -> scalar, and ``feature`` (B, C_4), detached, of images (B, 3, H, W) in [0, 1].

        The feature is of the first images that an objective asks for. ``organs`` are theirs, "" where not known.
        """
        image = image.contiguous(memory_format=torch.channels_last)
        seen: list[tuple[Tensor, tuple[list[Tensor], Tensor]]] = []

        def encode(shown: Tensor) -> tuple[list[Tensor], Tensor]:
            found = next((features for other, features in seen if other is shown), None) or self.encode(shown)
            seen.append((shown, found))
            return found

        with torch.autocast(self.device_type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            losses = {
                name: objective(image, encode, *([organs] if getattr(objective, "reads_organs", False) else []))
                for name, objective in self.objectives.items()
            }
        return {"losses": losses, "feature": seen[0][1][1].detach()}

    def encode(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """The encoder's maps and feature vector of images (B, 3, H, W) in [0, 1]."""
        levels, feature = self.encoder((image - self.mean) / self.std)
        return levels, feature

    def objective_config(self) -> dict[str, Any]:
        """Objective -> its class and what it was made with, as plain values: a resumed run has the same."""
        return {
            name: {"class": type(objective).__name__, **objective.config()}  # type: ignore[operator]
            for name, objective in self.objectives.items()
        }

    def network_config(self) -> dict[str, Any]:
        """What the encoder was built with, as plain values."""
        config: dict[str, Any] = self.encoder.config()  # type: ignore[operator]
        return config
