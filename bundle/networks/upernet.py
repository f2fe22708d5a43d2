# SPDX-License-Identifier: Apache-2.0
"""UPerNet decoder: four feature maps become one of the size of the finest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bundle.networks.folding import folded, split_inputs

Norm = Literal["batch", "group"]

POOLING_BINS = (1, 2, 3, 6)


class UPerNetDecoder(nn.Module):
    """Pyramid pooling on the coarsest map, top-down fusion of the others.

    Args:
        in_channels: channels of the four maps, fine to coarse.
        channels: decoder width.
        norm: ``batch`` or ``group`` normalization after each convolution.
        weights_file: local file of a pretraining, whose decoder of the same shape it starts from; others say nothing of
            a decoder. None: random.

    Reference:
        Xiao et al. 2018, "Unified Perceptual Parsing for Scene Understanding", arXiv 1807.10221.
    """

    def __init__(self, *, in_channels: Sequence[int], channels: int, norm: Norm, weights_file: str | None = None):
        super().__init__()
        self.channels, self.norm = channels, norm
        coarse_to_fine = in_channels[-2::-1]  # [1/16, 1/8, 1/4]
        self.ppm = PyramidPooling(in_channels[-1], channels, norm=norm)
        self.laterals = nn.ModuleList(conv_norm_relu(c, channels, kernel_size=1, norm=norm) for c in coarse_to_fine)
        self.smooths = nn.ModuleList(
            conv_norm_relu(channels, channels, kernel_size=3, norm=norm) for _ in coarse_to_fine
        )
        self.fusion = conv_norm_relu(len(in_channels) * channels, channels, kernel_size=1, norm=norm)
        self.block = conv_norm_relu(channels, channels, kernel_size=1, norm=norm)
        if weights_file is not None:
            from bundle.networks.start import load_decoder  # which reads checkpoints of whole networks

            load_decoder(self, weights_file)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Map (B, channels, H_1, W_1) of the maps [1/4, 1/8, 1/16, 1/32] (B, C_i, H_i, W_i)."""
        top = self.ppm(levels[3])
        maps: list[Tensor] = [top]
        for i, (lateral, smooth) in enumerate(zip(self.laterals, self.smooths)):  # noqa: B905 (not in TorchScript)
            side = lateral(levels[2 - i])
            top = side + _resize(top, side)
            maps.append(smooth(top))
        out: Tensor = self.block(self._fuse(maps))
        return out

    def config(self) -> dict[str, Any]:
        """The plain values that decide which weights fit."""
        return {"decoder_channels": self.channels, "norm": self.norm}

    def deployed(self) -> nn.Module:
        """The same with the convolutions before the upsamplings that they commute with."""
        return DeployableDecoder(self)

    def _fuse(self, maps: list[Tensor]) -> Tensor:
        # A 1x1 convolution and an upsampling commute: each map goes through its columns of the fusion at its own size,
        # fine to coarse.
        columns = torch.chunk(self.fusion[0].weight, len(maps), dim=1)  # type: ignore[arg-type]
        x = F.conv2d(maps[3], columns[0])
        for i in range(3):
            x = x + _resize(F.conv2d(maps[i], columns[3 - i]), x)
        out: Tensor = self.fusion[2](self.fusion[1](x))  # ReLU of the norm
        return out


class PyramidPooling(nn.Module):
    """Joins a map with its means over grids of 1, 4, 9 and 36 bins.

    Reference:
        Zhao et al. 2017, "Pyramid Scene Parsing Network", arXiv 1612.01105.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: Norm):
        super().__init__()
        width = in_channels // len(POOLING_BINS)
        self.bins = list(POOLING_BINS)
        self.branches = nn.ModuleList(
            conv_norm_relu(in_channels, width, kernel_size=1, norm=norm) for _ in POOLING_BINS
        )
        joined = in_channels + len(POOLING_BINS) * width
        self.fusion = conv_norm_relu(joined, out_channels, kernel_size=1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, out_channels, H, W) of a map (B, in_channels, H, W)."""
        maps: list[Tensor] = [x]
        for i, branch in enumerate(self.branches):
            pooled = branch(adaptive_mean(x, self.bins[i]))
            maps.append(F.interpolate(pooled, size=x.shape[-2:], mode="bilinear", align_corners=True))
        out: Tensor = self.fusion(torch.cat(maps, dim=1))
        return out


class DeployableDecoder(nn.Module):
    """``UPerNetDecoder`` with the convolutions before the upsamplings that they commute with."""

    def __init__(self, decoder: UPerNetDecoder):
        super().__init__()
        self.ppm = DeployablePooling(decoder.ppm)
        self.laterals = nn.ModuleList(folded(cast(nn.Sequential, m)) for m in decoder.laterals)
        self.smooths = nn.ModuleList(folded(cast(nn.Sequential, m)) for m in decoder.smooths)
        fusion = folded(decoder.fusion)
        joined = cast(nn.Conv2d, fusion[0])
        self.parts = split_inputs(joined, [joined.in_channels // 4] * 4)
        self.after_fusion = fusion[1:]
        self.block = folded(decoder.block)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """As ``UPerNetDecoder``."""
        top = self.ppm(levels[3])
        maps: list[Tensor] = [top]
        for lateral, smooth, level in zip(self.laterals, self.smooths, levels[2::-1], strict=True):
            side = lateral(level)
            top = side + F.interpolate(top, size=side.shape[-2:], mode="bilinear", align_corners=False)
            maps.append(smooth(top))
        x = self.parts[0](maps[3])
        for part, coarse in zip(self.parts[1:], maps[2::-1], strict=True):
            x = x + F.interpolate(part(coarse), size=x.shape[-2:], mode="bilinear", align_corners=False)
        out: Tensor = self.block(self.after_fusion(x))
        return out


class DeployablePooling(nn.Module):
    """``PyramidPooling`` whose joining convolution acts on each grid before it is upsampled."""

    def __init__(self, ppm: PyramidPooling):
        super().__init__()
        self.bins = list(ppm.bins)
        self.branches = nn.ModuleList(folded(cast(nn.Sequential, m)) for m in ppm.branches)
        fusion = folded(ppm.fusion)
        joined = cast(nn.Conv2d, fusion[0])
        widths = [cast(nn.Conv2d, cast(nn.Sequential, branch)[0]).out_channels for branch in ppm.branches]
        self.parts = split_inputs(joined, [joined.in_channels - sum(widths), *widths])
        self.after_fusion = fusion[1:]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, out_channels, H, W) of a map (B, in_channels, H, W)."""
        size = x.shape[-2:]
        joined = self.parts[0](x)
        for bins, branch, part in zip(self.bins, self.branches, self.parts[1:], strict=True):
            grid = part(branch(adaptive_mean(x, bins)))
            if bins > 1:  # a single value is the same everywhere
                grid = F.interpolate(grid, size=size, mode="bilinear", align_corners=True)
            joined = joined + grid
        out: Tensor = self.after_fusion(joined)
        return out


class SafeBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization that takes its running statistics where a batch has a single value per channel.

    One image pooled to 1x1 has no variance, and ``nn.BatchNorm2d`` raises in train mode.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalized map of a map, both (B, C, H, W)."""
        batch_statistics = self.training and x.size(0) * x.size(2) * x.size(3) > 1
        if batch_statistics:
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            batch_statistics,
            self.momentum,  # type: ignore[arg-type]
            self.eps,
        )


def conv_norm_relu(in_channels: int, out_channels: int, *, kernel_size: int, norm: Norm) -> nn.Sequential:
    """Convolution that keeps the size, normalization and ReLU.

    Raises:
        ValueError: when ``norm`` is not batch or group.
    """
    if norm not in ("batch", "group"):
        raise ValueError(f"norm must be batch or group, got {norm!r}; correct it in the config.")
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    layer = SafeBatchNorm2d(out_channels) if norm == "batch" else _group_norm(out_channels)
    return nn.Sequential(OrderedDict(conv=conv, norm=layer, act=nn.ReLU()))


def adaptive_mean(x: Tensor, bins: int) -> Tensor:
    """What ``nn.AdaptiveAvgPool2d(bins)`` gives, (B, C, bins, bins), as matrix products.

    The pooling layer exports to ONNX neither at sizes that the bins do not divide nor at variable sizes.
    """
    rows = _membership(x.size(2), bins, x)
    columns = _membership(x.size(3), bins, x)
    area = rows.sum(1)[:, None] * columns.sum(1)[None, :]
    # Sums before the division: ones and zeros stay exact in bfloat16, fractions do not.
    return torch.matmul(torch.matmul(rows, x), columns.t()) / area


def _membership(size: int, bins: int, like: Tensor) -> Tensor:
    """Matrix (bins, size): 1 where a position lies in a bin; bins overlap when they do not divide the size."""
    index = torch.arange(bins, device=like.device)[:, None]
    position = torch.arange(size, device=like.device)[None, :]
    start = torch.div(index * size, bins, rounding_mode="floor")
    end = torch.div((index + 1) * size + bins - 1, bins, rounding_mode="floor")
    return ((position >= start) & (position < end)).to(like.dtype)


def _group_norm(channels: int) -> nn.GroupNorm:
    # At least eight channels per group: on a map pooled to 1x1 a group of one would always be zero.
    groups = next(g for g in range(max(channels // 8, 1), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
