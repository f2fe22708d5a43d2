# SPDX-License-Identifier: Apache-2.0
"""Masked latent prediction: an encoder learns to tell what a teacher sees where the image is hidden."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bundle.networks.pyramid import STRIDES
from bundle.pretraining.distillation import Encode
from bundle.pretraining.masking import hidden_patches, with_noise
from bundle.pretraining.teachers import Teacher

PREDICTED = (16, 32)
"""Strides of the maps that are predicted."""


class MaskedLatents(nn.Module):
    """Squared error at hidden patches between a teacher's maps of the whole image and what the student predicts.

    The student sees noise in the patches, the teacher sees all. Each channel of a teacher's map is standardized over
    the batch: 1 is the error of the mean. The teacher is frozen (US-JEPA, SALT), or a moving average of the student
    (as in I-JEPA). The masks become harder during the training: more patches, and rather those that the student tells
    worst from the whole image (OpenUS).

    Args:
        channels: of the student's maps, strides 4 to 32.
        teacher: a frozen one; None makes an average of ``encoder``.
        encoder: the student, where the teacher is its average.
        momentum: of that average, in [0, 1): after each step the teacher is ``momentum`` of itself and the rest of the
            student.
        mean, std: of the images that the student reads, values in [0, 1].
        patch: side of a patch, in pixels; a multiple of 32.
        patch_ratio: share of the hidden patches at the start and at the end of the training.
        hardness: weight of the student's error against chance in the choice of the patches at the end, 0 to 1.
        steps: of the training.

    Raises:
        ValueError: when there is neither teacher nor encoder, or an argument is out of its range.

    Reference:
        Assran et al. 2023, "Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture",
        arXiv 2301.08243.
    """

    mean: Tensor
    std: Tensor
    step: Tensor

    def __init__(
        self,
        channels: Sequence[int],
        *,
        teacher: Teacher | None = None,
        encoder: nn.Module | None = None,
        momentum: float | None = None,
        mean: Sequence[float],
        std: Sequence[float],
        patch: int = 32,
        patch_ratio: Sequence[float] = (0.3, 0.6),
        hardness: float = 0.5,
        steps: int,
    ) -> None:
        super().__init__()
        _check(patch=patch, patch_ratio=patch_ratio, hardness=hardness, steps=steps)
        self.patch, self.patch_ratio, self.hardness, self.steps = patch, tuple(patch_ratio), hardness, steps
        self.momentum = None if teacher is not None else momentum
        self.teacher: nn.Module
        if teacher is not None:
            self.teacher, reductions, widths = teacher, teacher.reductions, teacher.channels
        elif encoder is not None and momentum is not None and 0 <= momentum < 1:
            self.teacher, reductions, widths = (
                copy.deepcopy(encoder).requires_grad_(False),
                list(STRIDES),
                list(channels),
            )
            self.student = [encoder]  # a list: it is no part of this module
        else:
            raise ValueError(
                f"latents need a teacher, or an encoder and a momentum in [0, 1), got {momentum}; set --momentum."
            )
        last = {stride: index for index, stride in enumerate(reductions)}
        self.pairs = [(last[stride], STRIDES.index(stride)) for stride in PREDICTED if stride in last]
        self.predictors = nn.ModuleList(_predictor(channels[own], widths[theirs]) for theirs, own in self.pairs)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32)[:, None, None])

    def config(self) -> dict[str, Any]:
        """The teacher, and how patches are hidden."""
        teacher = self.teacher.name if self.momentum is None else "average"
        names = ("momentum", "patch", "patch_ratio", "hardness", "steps")
        return {"teacher": teacher, **{name: getattr(self, name) for name in names}}

    def forward(self, image: Tensor, encode: Encode) -> Tensor:
        """Scalar loss.

        Args:
            image: (B, 3, H, W) in [0, 1].
            encode: images -> maps and feature vector, of the student.
        """
        if self.training:
            self._advance()
        truth = self.targets(image)
        hidden = self.hidden(image, truth, encode)
        errors = self._errors(encode(with_noise(image, hidden))[0], truth)
        losses = []
        for error in errors:
            place = F.interpolate(hidden.float(), error.shape[2:], mode="nearest-exact")
            losses.append((error * place).sum() / place.sum().clamp_min(1))
        return sum(losses[1:], losses[0]) / len(losses)

    @torch.no_grad()
    def targets(self, image: Tensor) -> list[Tensor]:
        """The teacher's maps (B, C_i, H / s, W / s) of whole images, each channel standardized over the batch."""
        self.teacher.eval()
        maps = self.teacher(image) if self.momentum is None else self.teacher((image - self.mean) / self.std)[0]
        return [_standardized(maps[theirs].float()) for theirs, _ in self.pairs]

    def progress(self) -> float:
        """Share of the training that is done, 0 to 1."""
        return min(1.0, int(self.step) / self.steps)

    @torch.no_grad()
    def hidden(self, image: Tensor, truth: Sequence[Tensor], encode: Encode) -> Tensor:
        """Pixels to hide (B, 1, H, W) bool: by chance at first, more and more where the student errs."""
        done, (first, last) = self.progress(), self.patch_ratio
        rows, columns = image.shape[2] // self.patch, image.shape[3] // self.patch
        scores = torch.rand(len(image), rows, columns, device=image.device)
        if weight := done * self.hardness:
            errors = self._errors(encode(image.clone())[0], truth)  # a clone: other objectives need gradients
            error = torch.stack([F.adaptive_avg_pool2d(e, (rows, columns))[:, 0] for e in errors]).mean(0)
            rank = error.flatten(1).argsort(1).argsort(1).view_as(error) / max(1, rows * columns - 1)
            scores = (1 - weight) * scores + weight * rank
        return hidden_patches(scores, patch=self.patch, ratio=first + done * (last - first))

    def _errors(self, levels: Sequence[Tensor], truth: Sequence[Tensor]) -> list[Tensor]:
        """Mean over the channels of the squared errors: (B, 1, H / s, W / s) each."""
        told = [predictor(levels[own]) for (_, own), predictor in zip(self.pairs, self.predictors, strict=True)]
        return [(a.float() - b).square().mean(1, keepdim=True) for a, b in zip(told, truth, strict=True)]

    @torch.no_grad()
    def _advance(self) -> None:
        """One step on; before the first one, the average is the student itself."""
        if self.momentum is not None:
            weight = 1 - self.momentum if int(self.step) else 1.0
            for mine, theirs in zip(self.teacher.parameters(), self.student[0].parameters(), strict=True):
                mine.lerp_(theirs, weight)
            for kept, now in zip(self.teacher.buffers(), self.student[0].buffers(), strict=True):
                kept.copy_(now)
        self.step += 1


def _predictor(channels: int, told: int) -> nn.Sequential:
    """What a hidden place shows follows from its neighbors: two layers, the first one of 3 x 3."""
    return nn.Sequential(
        nn.GroupNorm(1, channels), nn.Conv2d(channels, told, 3, padding=1), nn.GELU(), nn.Conv2d(told, told, 1)
    )


def _standardized(truth: Tensor) -> Tensor:
    dims = [0, 2, 3]
    centered = truth - truth.mean(dims, keepdim=True)
    unit: Tensor = centered / centered.square().mean(dims, keepdim=True).sqrt().clamp_min(1e-4)
    return unit


def _check(*, patch: int, patch_ratio: Sequence[float], hardness: float, steps: int) -> None:
    if not isinstance(patch, int) or patch < 32 or patch % 32:
        raise ValueError(f"patch must be a multiple of 32 pixels, got {patch!r}; correct it.")
    if len(patch_ratio) != 2 or not all(0 < ratio < 1 for ratio in patch_ratio):
        raise ValueError(f"patch_ratio must be two shares between 0 and 1, got {patch_ratio!r}; correct it.")
    if not 0 <= hardness <= 1:
        raise ValueError(f"hardness must be from 0 to 1, got {hardness!r}; correct it.")
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, got {steps}.")
