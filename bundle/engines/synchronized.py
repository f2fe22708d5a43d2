# SPDX-License-Identifier: Apache-2.0
"""Batch normalization over the joint batch of several processes, on CPUs too, and where a process has no sample."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization with the mean and variance of all processes' samples.

    All processes must call it equally often in training, a process without samples with an empty batch. Where the joint
    batch has a single value per channel, or none, the running statistics are taken. PyTorch's ``SyncBatchNorm`` takes
    no tensors on CPUs.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalized map of a map, both (B, C, H, W); B may be 0."""
        if not self.training:
            return super().forward(x)
        values = x.float()
        own = torch.cat([values.sum((0, 2, 3)), values.new_tensor([values.size(0) * values.size(2) * values.size(3)])])
        sums = all_reduce(own, group=_group())  # type: ignore[no-untyped-call]
        count = float(sums[-1])
        if count < 2:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        mean = sums[:-1] / count
        centered = values - mean[:, None, None]
        variance = all_reduce(centered.square().sum((0, 2, 3)), group=_group()) / count  # type: ignore[no-untyped-call]
        self._note(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        normalized: Tensor = (centered * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)
        return normalized

    def _note(self, mean: Tensor, variance: Tensor) -> None:
        """Takes the statistics of a joint batch into the running ones."""
        assert self.running_mean is not None  # for the type checker: all our layers track them
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class SynchronizedBatchNormAct2d(SynchronizedBatchNorm2d):
    """The same with the dropout and activation behind it that timm's ``BatchNormAct2d`` holds."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """As ``SynchronizedBatchNorm2d``."""
        activated: Tensor = self.act(self.drop(super().forward(x)))
        return activated


def synchronize(module: nn.Module) -> nn.Module:
    """The module, each ``nn.BatchNorm2d`` in it replaced by a synchronized one that shares its parameters.

    Those that are frozen and in evaluation, as in a teacher, stay.

    Raises:
        ValueError: when it holds a kind of batch normalization that there is no synchronized one of.
    """
    for name, child in module.named_children():
        setattr(module, name, synchronize(child))
    still = not module.training and not any(parameter.requires_grad for parameter in module.parameters())
    if not isinstance(module, nn.BatchNorm2d) or isinstance(module, SynchronizedBatchNorm2d) or still:
        return module
    activated = isinstance(module, BatchNormAct2d)
    if hasattr(module, "act") and not activated:
        raise ValueError(
            f"batch normalization of several processes must be PyTorch's or timm's BatchNormAct2d, got "
            f"{type(module).__name__}; choose another encoder, or a single process."
        )
    kind = SynchronizedBatchNormAct2d if activated else SynchronizedBatchNorm2d
    layer = kind(module.num_features, eps=module.eps, momentum=module.momentum)
    if activated:
        layer.drop, layer.act = module.drop, module.act
    layer.weight, layer.bias = module.weight, module.bias
    layer.running_mean, layer.running_var = module.running_mean, module.running_var
    layer.num_batches_tracked = module.num_batches_tracked
    return layer.train(module.training)


@functools.cache
def _group() -> Any:
    """A group of all processes of its own: gradients are averaged in the default one at the same time, in any order."""
    return dist.new_group()
