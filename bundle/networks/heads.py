# SPDX-License-Identifier: Apache-2.0
"""Heads: the decoder's map or the feature vector become the logits of one question."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bundle.networks.parts import Decoder, Encoder

MASKS = "seg"
"""Head of the structures' masks."""

CLASSES = "cls_"
"""What the name of a label set's head begins with."""


class MaskHead(nn.Module):
    """One logit per structure for each pixel of the image.

    Args:
        channels: of the decoder's map.
        rows: names of the structures, background first.
        dropout: rate of the channel dropout before the classifier, 0 to 1.
    """

    def __init__(self, channels: int, rows: Sequence[str], *, dropout: float = 0.0):
        super().__init__()
        self.rows = list(rows)
        self.reads_map = True
        self.row_axes = {"classifier.weight": 1, "classifier.bias": 1, "refine.weight": 2, "refine.bias": 1}
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, len(rows), kernel_size=1)
        self.refine = nn.Conv2d(len(rows), len(rows), kernel_size=3, padding=1)
        # A random mixture of the logits would hide them from the first gradients: start as the identity.
        nn.init.dirac_(self.refine.weight)
        nn.init.zeros_(self.refine.bias)  # type: ignore[arg-type]

    def forward(self, fine: Tensor, feature: Tensor, plain: Tensor) -> Tensor:
        """Logits (B, rows, 4 H_1, 4 W_1) of the decoder's map (B, channels, H_1, W_1); the vectors are not read."""
        logits = self.classifier(self.dropout(fine))  # (B, rows, H_1, W_1)
        logits = F.interpolate(logits, scale_factor=4.0, mode="bilinear", align_corners=False)
        out: Tensor = self.refine(logits)
        return out

    def deployed(self) -> nn.Module:
        """The same with the upsampling as one convolution."""
        return DeployableMaskHead(self)


class VectorHead(nn.Module):
    """One logit per row for the whole image.

    Args:
        channels: of the feature vector.
        rows: names of the logits.
        dropout: rate before the linear layer, 0 to 1.
        plain: whether it reads the vector before the prompt: what a prompt tells must not answer the question.
    """

    def __init__(self, channels: int, rows: Sequence[str], *, dropout: float = 0.0, plain: bool = False):
        super().__init__()
        self.rows = list(rows)
        self.reads_map = False
        self.row_axes = {"linear.weight": 1, "linear.bias": 1}
        self.plain = plain
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(channels, len(rows))

    def forward(self, fine: Tensor, feature: Tensor, plain: Tensor) -> Tensor:
        """Logits (B, rows) of the vector (B, channels) after or before the prompt; the map is not read."""
        logits: Tensor = self.linear(self.dropout(plain if self.plain else feature))
        return logits


class DeployableMaskHead(nn.Module):
    """``MaskHead`` for inference."""

    float_parts = ("classifier", "refine")

    def __init__(self, head: MaskHead):
        super().__init__()
        self.classifier = copy.deepcopy(head.classifier)
        self.enlarge = FourfoldUpsampling(head.classifier.out_channels)
        self.refine = copy.deepcopy(head.refine)

    def forward(self, fine: Tensor, feature: Tensor, plain: Tensor) -> Tensor:
        """As ``MaskHead``."""
        out: Tensor = self.refine(self.enlarge(self.classifier(fine)))
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
        weight = torch.zeros_like(self.conv.weight)
        for channel in range(channels):
            weight[16 * channel : 16 * channel + 16, channel : channel + 1] = plane
        self.conv.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, 4 H, 4 W) of a map (B, C, H, W)."""
        return F.pixel_shuffle(self.conv(F.pad(x, (1, 1, 1, 1), mode="replicate")), 4)


def build_heads(
    *,
    structures: Sequence[str],
    label_sets: Mapping[str, Sequence[str]],
    encoder: Encoder,
    decoder: Decoder,
    dropout: float = 0.0,
) -> dict[str, nn.Module]:
    """Heads of the masks (``seg``) and of each label set (``cls_<label set>``).

    Args:
        structures: names of the segmentation logits; the first is the background.
        label_sets: label set -> class names.
        encoder: whose feature vector is classified.
        decoder: whose map is segmented.
        dropout: rate before the last layers, 0 to 1.

    Raises:
        ValueError: when a name is not usable; the message says which.
    """
    _check_tables(structures, label_sets)
    heads: dict[str, nn.Module] = {MASKS: MaskHead(decoder.channels, structures, dropout=dropout)}
    for name, classes in label_sets.items():
        heads[CLASSES + name] = VectorHead(encoder.channels[-1], classes, dropout=dropout)
    return heads


def _check_tables(structures: Sequence[str], label_sets: Mapping[str, Sequence[str]]) -> None:
    if len(structures) < 2:
        raise ValueError(f"structures must name the background and at least one other, got {list(structures)}.")
    if len(set(structures)) != len(structures):
        raise ValueError(f"structures must be unique, got {list(structures)}; remove the repeated ones.")
    for name, classes in label_sets.items():
        if not name.isidentifier():
            raise ValueError(f"a label set's name must be letters, digits and underscores, got {name!r}; rename it.")
        if len(classes) < 2 or len(set(classes)) != len(classes):
            raise ValueError(f"label set {name!r} must have two or more different classes, got {list(classes)}.")
