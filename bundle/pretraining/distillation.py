# SPDX-License-Identifier: Apache-2.0
"""Feature distillation: an encoder learns to tell what frozen teachers see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from bundle.networks.pyramid import STRIDES
from bundle.pretraining.teachers import Teacher

Encode = Callable[[Tensor], tuple[list[Tensor], Tensor]]


class Distillation(nn.Module):
    """Mean squared error between teachers' maps and what a linear layer makes of the student's, both of one image.

    Each channel of a teacher's map is standardized over the batch, so that the loss is the share of the teacher's
    variance that the student does not explain: 1 for a student that tells the mean. Maps are compared where student and
    teacher have the same stride, and the last maps also pooled. A teacher that stays is the idea of FitNets (Romero et
    al. 2015, arXiv 1412.6550) and US-JEPA's static one; that both see the same augmented image is Beyer et al. 2022,
    arXiv 2106.05237.

    Args:
        teachers: frozen encoders.
        channels: of the student's maps, strides 4 to 32.
    """

    def __init__(self, teachers: Sequence[Teacher], channels: Sequence[int]) -> None:
        super().__init__()
        self.teachers = nn.ModuleList(teachers)
        self.pairs = [_pairs(teacher) for teacher in teachers]
        width = {stride: number for stride, number in zip(STRIDES, channels, strict=True)}
        self.projections = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(nn.GroupNorm(1, width[stride]), nn.Conv2d(width[stride], teacher.channels[index], 1))
                for index, stride in pairs
            )
            for teacher, pairs in zip(teachers, self.pairs, strict=True)
        )
        self.pooled = nn.ModuleList(nn.Linear(channels[-1], teacher.channels[-1]) for teacher in teachers)

    def config(self) -> dict[str, Any]:
        """The teachers' names."""
        return {"teachers": [teacher.name for teacher in self.teachers]}

    def forward(self, image: Tensor, encode: Encode) -> Tensor:
        """Scalar loss.

        Args:
            image: (B, 3, H, W) in [0, 1].
            encode: images -> maps [1/4, 1/8, 1/16, 1/32] and feature vector (B, C_4), of the student.
        """
        levels, feature = encode(image)
        of_stride = dict(zip(STRIDES, levels, strict=True))
        losses = []
        for teacher, pairs, projections, pooled in zip(
            self.teachers, self.pairs, self.projections, self.pooled, strict=True
        ):
            maps = teacher(image)
            for (index, stride), projection in zip(pairs, projections, strict=True):  # type: ignore[call-overload]
                losses.append(unexplained(projection(of_stride[stride]), maps[index]))
            losses.append(unexplained(pooled(feature), maps[-1].mean((2, 3))))
        return sum(losses[1:], losses[0]) / len(losses)


def unexplained(told: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error of channels (B, C, ...) to the standardized truth, in float32: a scalar."""
    truth = truth.float()
    dims = [0, *range(2, truth.dim())]
    centered = truth - truth.mean(dims, keepdim=True)
    deviation = centered.square().mean(dims, keepdim=True).sqrt().clamp_min(1e-4)
    return F.mse_loss(told.float(), centered / deviation)


def _pairs(teacher: Teacher) -> list[tuple[int, int]]:
    """(Index of the teacher's map, its stride) of the last map of each stride that the student has."""
    last = {reduction: index for index, reduction in enumerate(teacher.reductions)}
    return [(last[stride], stride) for stride in STRIDES if stride in last]
