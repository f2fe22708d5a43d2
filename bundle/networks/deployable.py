# SPDX-License-Identifier: Apache-2.0
"""The network rewritten for inference: the same outputs from fewer and larger operations."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm, LayerNorm2d, Mlp
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from bundle.networks.encoder import GuidedStem
from bundle.networks.folding import (
    after_affine,
    as_convolution,
    folded,
    guided_stem,
    prompt_projections,
    scale_outputs,
    split_inputs,
    stack_outputs,
)
from bundle.networks.uperconvnext import UPerConvNeXt
from bundle.networks.upernet import PyramidPooling, UPerNetDecoder, adaptive_mean


class DeployableNetwork(nn.Module):
    """What ``UPerConvNeXt.predict`` gives, as a tuple of tensors, for scripting and export; built by ``deployable``.

    Attributes:
        input_names: names of the arguments of ``forward``, in order.
        output_names: names of the outputs, in order: ``seg`` if it is computed, then ``cls_<label set>``.
    """

    def __init__(self, network: UPerConvNeXt, *, heads: Sequence[str], segmentation: bool, guidance: bool):
        super().__init__()
        backbone = network.encoder.backbone
        self.stem = nn.Sequential(*(_rewritten(m, guidance) for n, m in backbone.items() if n.startswith("stem")))
        self.stages = nn.ModuleList(_stage(m) for n, m in backbone.items() if n.startswith("stages"))
        conditioned = [*network.level_prompts] * segmentation + [network.feature_prompt] * bool(heads)
        self.prompts = DeployablePrompts(conditioned)
        self.decoder = DeployableDecoder(network.decoder) if segmentation else None
        self.pool = copy.deepcopy(network.encoder.pool)
        self.feature_norm = copy.deepcopy(network.encoder.norm)
        layers = [cast(nn.Linear, network.heads[f"cls_{name}"]) for name in heads]
        self.heads = stack_outputs(layers) if layers else None
        self.head_sizes = [layer.out_features for layer in layers]
        self.input_names = ["image", "prompt"]
        self.output_names = ["seg"] * segmentation + [f"cls_{name}" for name in heads]

    def forward(self, image: Tensor, prompt: Tensor) -> tuple[Tensor, ...]:
        """Logits in the order of ``output_names``: (B, structures, H, W), then (B, K) of each head.

        Args:
            image: (B, C, H, W), normalized; C counts the guidance channels if they were kept. H, W: multiples of 32.
            prompt: (B, P) as ``bundle.vocabulary.encode_prompt`` gives.
        """
        x = self.stem(image)
        features: list[Tensor] = []  # [1/4, 1/8, 1/16, 1/32], then the feature vector, as far as they are needed
        for stage in self.stages:
            x = stage(x)
            if self.decoder is not None:
                features.append(x)
        if self.heads is not None:
            features.append(self.feature_norm(self.pool(x)))
        features = self.prompts(features, prompt)
        outputs: list[Tensor] = []
        if self.decoder is not None:
            outputs.append(self.decoder(features[:4]))
        if self.heads is not None:
            outputs.extend(torch.split(self.heads(features[-1]), self.head_sizes, dim=1))
        return tuple(outputs)


class ChannelNorm(nn.Module):
    """Layer normalization over the channels of a map (B, C, H, W), without moving them to the end."""

    def __init__(self, norm: nn.LayerNorm, *, affine: bool):
        super().__init__()
        self.eps = norm.eps
        self.weight = nn.Parameter(norm.weight.detach().clone()) if affine else None
        self.bias = nn.Parameter(norm.bias.detach().clone()) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalized map of a map, both (B, C, H, W)."""
        centered = x - x.mean(1, keepdim=True)
        x = centered / torch.sqrt((centered * centered).mean(1, keepdim=True) + self.eps)
        if self.weight is not None and self.bias is not None:
            x = x * self.weight[:, None, None] + self.bias[:, None, None]
        return x


class DeployableBlock(nn.Module):
    """A ConvNeXt block on (B, C, H, W) throughout; norm's and layer scale's weights are those of the convolutions."""

    def __init__(self, block: ConvNeXtBlock):
        super().__init__()
        self.depthwise = copy.deepcopy(block.conv_dw)
        self.norm = ChannelNorm(block.norm, affine=False)
        self.expand = after_affine(as_convolution(block.mlp.fc1), block.norm)
        self.act = copy.deepcopy(block.mlp.act)
        self.reduce = as_convolution(block.mlp.fc2)
        if block.gamma is not None:
            scale_outputs(self.reduce, block.gamma)

    def forward(self, x: Tensor) -> Tensor:
        """Map of a map, both (B, C, H, W)."""
        out: Tensor = x + self.reduce(self.act(self.expand(self.norm(self.depthwise(x)))))
        return out


class DeployablePrompts(nn.Module):
    """All conditioning modules of a network, their projections of the prompt in one product."""

    def __init__(self, prompts: Sequence[nn.Module]):
        super().__init__()
        layers = [layer for prompt in prompts for layer in prompt_projections(prompt)]
        self.linear = stack_outputs(layers) if layers else None
        self.sizes = [layer.out_features for layer in layers]
        self.scaled = len(layers) > len(prompts)

    def forward(self, features: list[Tensor], prompt: Tensor) -> list[Tensor]:
        """Maps (B, C, H, W) and vectors (B, C) as the prompt (B, P) changes them."""
        if self.linear is None:
            return features
        values = torch.split(self.linear(prompt), self.sizes, dim=1)
        if not self.scaled:
            return [f + _like(shift, f) for f, shift in zip(features, values, strict=True)]
        pairs = zip(values[::2], values[1::2], strict=True)
        return [f * _like(scale, f) + _like(shift, f) for f, (scale, shift) in zip(features, pairs, strict=True)]


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
        self.classifier = copy.deepcopy(decoder.classifier)
        self.enlarge = FourfoldUpsampling(decoder.classifier.out_channels)
        self.refine = copy.deepcopy(decoder.refine)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Logits (B, out_channels, 4 H_1, 4 W_1) of the maps [1/4, 1/8, 1/16, 1/32] (B, C_i, H_i, W_i)."""
        top = self.ppm(levels[3])
        maps: list[Tensor] = [top]
        for lateral, smooth, level in zip(self.laterals, self.smooths, levels[2::-1], strict=True):
            side = lateral(level)
            top = side + F.interpolate(top, size=side.shape[-2:], mode="bilinear", align_corners=False)
            maps.append(smooth(top))
        x = self.parts[0](maps[3])
        for part, coarse in zip(self.parts[1:], maps[2::-1], strict=True):
            x = x + F.interpolate(part(coarse), size=x.shape[-2:], mode="bilinear", align_corners=False)
        logits = self.classifier(self.block(self.after_fusion(x)))  # (B, out_channels, H_1, W_1)
        out: Tensor = self.refine(self.enlarge(logits))
        return out


class FourfoldUpsampling(nn.Module):
    """Bilinear upsampling by four of a map with few channels, as one convolution.

    Runtimes spread an upsampling over the channels; where there are two or five, most of the processor idles.
    """

    def __init__(self, channels: int):
        super().__init__()
        # Four values between each one and its neighbors, at -3/8, -1/8, 1/8 and 3/8 of the way to the next.
        line = torch.tensor([[3.0, 5.0, 0.0], [1.0, 7.0, 0.0], [0.0, 7.0, 1.0], [0.0, 5.0, 3.0]]) / 8
        plane = torch.einsum("yi,xj->yxij", line, line).reshape(16, 1, 3, 3)
        self.conv = nn.Conv2d(channels, 16 * channels, kernel_size=3, bias=False)
        self.conv.weight.zero_()
        for channel in range(channels):
            self.conv.weight[16 * channel : 16 * channel + 16, channel : channel + 1] = plane

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, 4 H, 4 W) of a map (B, C, H, W)."""
        return F.pixel_shuffle(self.conv(F.pad(x, (1, 1, 1, 1), mode="replicate")), 4)


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


@torch.no_grad()
def deployable(
    network: UPerConvNeXt, *, heads: Sequence[str] | None = None, segmentation: bool = True, guidance: bool = True
) -> DeployableNetwork:
    """A copy of a network for inference alone, whose outputs equal ``predict`` up to float32 rounding.

    Args:
        network: stays as it is.
        heads: label sets to classify; ``None`` for all of the network, an empty list for none.
        segmentation: whether to compute the segmentation logits.
        guidance: whether the image carries the network's guidance channels; without effect on a network without them.

    Raises:
        ValueError: when a head is not one of the network's, or nothing is asked for.
    """
    known = [name.removeprefix("cls_") for name in network.heads]
    chosen = known if heads is None else list(heads)
    if unknown := [name for name in chosen if name not in known]:
        raise ValueError(f"heads must be among {known}, got {unknown}; name label sets of this network.")
    if not chosen and not segmentation:
        raise ValueError("at least one output must be asked for, got no heads and segmentation=False; add one.")
    rewritten = DeployableNetwork(network, heads=chosen, segmentation=segmentation, guidance=guidance)
    return rewritten.eval().requires_grad_(False)


def _stage(stage: nn.Module) -> nn.Sequential:
    before = list(stage.downsample) if isinstance(stage.downsample, nn.Sequential) else []
    if [type(module) for module in before] == [LayerNorm2d, nn.Conv2d]:
        norm, conv = cast(LayerNorm2d, before[0]), cast(nn.Conv2d, before[1])
        if conv.padding == (0, 0):
            before = [ChannelNorm(norm, affine=False), after_affine(conv, norm)]
    blocks = [_rewritten(block) for block in cast(nn.Sequential, stage.blocks)]
    return nn.Sequential(*copy.deepcopy(before), *blocks)


def _rewritten(module: nn.Module, guidance: bool = True) -> nn.Module:
    """What stands for a module of the encoder; a copy of those kinds that have no better form."""
    if isinstance(module, GuidedStem):
        return guided_stem(module, guidance)
    if isinstance(module, LayerNorm2d):
        return ChannelNorm(module, affine=True)
    if _is_plain_block(module):
        return DeployableBlock(module)
    return copy.deepcopy(module)


def _is_plain_block(module: nn.Module) -> bool:
    return (
        isinstance(module, ConvNeXtBlock)
        and isinstance(module.norm, LayerNorm | LayerNorm2d)
        and type(module.mlp) is Mlp
        and isinstance(module.mlp.norm, nn.Identity)
        and isinstance(module.shortcut, nn.Identity)
    )


def _like(values: Tensor, x: Tensor) -> Tensor:
    return values[:, :, None, None] if x.dim() == 4 else values
