# SPDX-License-Identifier: Apache-2.0
"""Layers joined, folded and split into others that compute the same; for inference alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def conv_like(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A convolution of the same geometry with other weights (O, I, h, w) and bias (O) or None."""
    made = nn.Conv2d(
        weight.shape[1] * conv.groups,
        weight.shape[0],
        conv.kernel_size,  # type: ignore[arg-type]
        stride=conv.stride,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        groups=conv.groups,
        bias=bias is not None,
    )
    made.weight.copy_(weight)
    if made.bias is not None and bias is not None:
        made.bias.copy_(bias)
    return made


def as_convolution(layer: nn.Module) -> nn.Conv2d:
    """A 1x1 convolution that does to each pixel of a map what a linear layer does to a vector."""
    if isinstance(layer, nn.Conv2d):
        return copy.deepcopy(layer)
    linear = cast(nn.Linear, layer)
    conv = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=True)
    conv.weight.copy_(linear.weight[:, :, None, None])
    conv.bias.copy_(linear.bias)  # type: ignore[union-attr]
    return conv


def after_affine(conv: nn.Conv2d, norm: nn.LayerNorm) -> nn.Conv2d:
    """The convolution (no padding) of a map that a norm scales and shifts, for the map without that."""
    shift = torch.einsum("oihw,i->o", conv.weight.double(), norm.bias.double())
    bias = shift if conv.bias is None else conv.bias.double() + shift
    return conv_like(conv, conv.weight * norm.weight[:, None, None], bias)


def scale_outputs(conv: nn.Conv2d, scale: Tensor) -> None:
    """Makes a scale (O) of its outputs part of a convolution, which changes."""
    conv.weight.mul_(scale[:, None, None, None])
    if conv.bias is not None:
        conv.bias.mul_(scale)


def folded(layers: nn.Sequential) -> nn.Sequential:
    """Convolution, normalization and activation, batch normalization becoming part of the convolution."""
    conv, norm, act = copy.deepcopy(layers)
    if not isinstance(norm, nn.BatchNorm2d):
        return nn.Sequential(conv, norm, act)
    return nn.Sequential(fuse_conv_bn_eval(cast(nn.Conv2d, conv).eval(), norm.eval()), act)


def split_inputs(conv: nn.Conv2d, widths: Sequence[int]) -> nn.ModuleList:
    """1x1 convolutions whose sum is that of the concatenated maps; the first one has the bias."""
    weights = torch.split(conv.weight, list(widths), dim=1)
    biases = [conv.bias, *[None] * (len(weights) - 1)]
    return nn.ModuleList(conv_like(conv, w, b) for w, b in zip(weights, biases, strict=True))


def stack_outputs(layers: Sequence[nn.Linear]) -> nn.Linear:
    """One linear layer that gives the outputs of several of the same input, one after the other."""
    stacked = nn.Linear(layers[0].in_features, sum(layer.out_features for layer in layers))
    stacked.weight.copy_(torch.cat([layer.weight for layer in layers]))
    stacked.bias.copy_(torch.cat([layer.bias for layer in layers]))
    return stacked


def halves(layer: nn.Linear) -> tuple[nn.Linear, nn.Linear]:
    """Two linear layers that give the first and the second half of the outputs of one."""
    made = (
        nn.Linear(layer.in_features, layer.out_features // 2),
        nn.Linear(layer.in_features, layer.out_features // 2),
    )
    for half, weight, bias in zip(made, layer.weight.chunk(2), layer.bias.chunk(2), strict=True):
        half.weight.copy_(weight)
        half.bias.copy_(bias)
    return made
