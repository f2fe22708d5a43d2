# SPDX-License-Identifier: Apache-2.0
"""ConvNeXt encoders of timm: an image becomes four feature maps and one feature vector."""

from __future__ import annotations

import copy
import re
from typing import Any, Literal, cast, get_args

import timm
import torch
import torch.nn.functional as F
from timm.layers import LayerNorm, LayerNorm2d, Mlp, SelectAdaptivePool2d
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from bundle.networks import weights
from bundle.networks.folding import after_affine, as_convolution, conv_like, scale_outputs
from bundle.networks.published import convnexts

Pooling = Literal["avg", "avgmax"]

RANDOM_LAYER_SCALE = 0.1
"""Start of the residual branches' scale where the encoder starts from random weights.

ConvNeXt's 1e-6 suits trainings of hundreds of epochs on ImageNet; in a training of minutes it keeps the blocks switched
off for the first steps.
"""


class GuidedStem(nn.Conv2d):
    """The encoder's first convolution, which also takes guidance channels behind those of the image.

    The weights of the guidance start at zero and have no bias: until they are trained, guidance changes nothing, and an
    image without guidance channels gives the same result to the bit as one whose guidance is zero.

    Args:
        image: the convolution that it replaces; its weights are taken over.
        guidance_channels: number of channels behind those of the image.
    """

    def __init__(self, image: nn.Conv2d, guidance_channels: int) -> None:
        size = {"kernel_size": image.kernel_size, "stride": image.stride, "padding": image.padding}
        super().__init__(image.in_channels, image.out_channels, bias=image.bias is not None, **size)  # type: ignore[arg-type]
        self.load_state_dict(image.state_dict())
        self.guidance = nn.Conv2d(guidance_channels, image.out_channels, bias=False, **size)  # type: ignore[arg-type]
        nn.init.zeros_(self.guidance.weight)

    def forward(self, image: Tensor) -> Tensor:
        """Stem output (B, C_0, H_0, W_0) of images (B, in_channels [+ guidance_channels], H, W)."""
        stem: Tensor = self._conv_forward(image[:, : self.in_channels], self.weight, self.bias)
        if image.size(1) > self.in_channels:
            stem = stem + self.guidance(image[:, self.in_channels :])
        return stem


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution that trains in float32 on the CPU, also under autocast.

    Its weights' gradient is the slowest operation of a training step with bfloat16 and takes half as long in float32;
    the residual stream that it reads is in float32 anyway.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.training and input.device.type == "cpu":
            x = input.to(weight.dtype)  # torch.convolution, unlike conv2d, is left alone by autocast
            padding = self.padding
            assert not isinstance(padding, str)  # for the type checker: timm pads by numbers
            return torch.convolution(x, weight, bias, self.stride, padding, self.dilation, False, [0, 0], self.groups)
        return F.conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class ConvNeXtEncoder(nn.Module):
    """Gives the four raw stage outputs of a timm ConvNeXt and the last one pooled and normalized.

    Args:
        name: one of timm's ConvNeXt names, such as ``convnext_atto``.
        in_channels: image channels.
        guidance_channels: channels that may follow those of the image, see ``GuidedStem``; 0 for none.
        drop_path: stochastic depth rate of the last block, 0 to 1.
        pooling: what the feature vector keeps of the last stage: its mean (``avg``, the paper's) or the middle between
            mean and maximum (``avgmax``), which a small lesion moves more.
        weights_file: local file of ConvNeXt weights (``.pt``, ``.pth``, ``.safetensors``) to start from; ``None``
            starts from random weights.

    Attributes:
        channels: channels C_i of the four stages.
        mean, std: normalization of the image (RGB, values in [0, 1]) that published weights of this encoder expect.

    Raises:
        ValueError: when timm has no ConvNeXt of that name, the pooling is not one of those named, or the weights are
            not those of that encoder.

    Reference:
        Liu et al. 2022, "A ConvNet for the 2020s", arXiv 2201.03545.
    """

    def __init__(
        self,
        name: str,
        *,
        in_channels: int = 3,
        guidance_channels: int = 0,
        drop_path: float = 0.0,
        pooling: Pooling = "avg",
        weights_file: str | None = None,
    ):
        super().__init__()
        self.name, self.pooling = name, pooling
        self.in_channels, self.guidance_channels = in_channels, guidance_channels
        _require_convnext(name)
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling must be one of {', '.join(get_args(Pooling))}, got {pooling!r}.")
        self.backbone = timm.create_model(
            name,
            features_only=True,
            out_indices=(0, 1, 2, 3),
            pretrained=False,
            in_chans=in_channels,
            drop_path_rate=drop_path,
        )
        _take_depthwise(self.backbone)
        if guidance_channels:
            self.backbone["stem_0"] = GuidedStem(self.backbone["stem_0"], guidance_channels)
        self.channels: list[int] = self.backbone.feature_info.channels()
        self.mean: tuple[float, ...] = self.backbone.pretrained_cfg["mean"]
        self.std: tuple[float, ...] = self.backbone.pretrained_cfg["std"]
        self.pool = SelectAdaptivePool2d(pool_type=f"fast{pooling}", flatten=True)
        self.norm = nn.LayerNorm(self.channels[-1], eps=1e-6)
        if weights_file is not None:
            weights.load_encoder(self, name=name, path=weights_file)
        else:
            _widen_layer_scale(self.backbone)

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Stage outputs [1/4, 1/8, 1/16, 1/32] (B, C_i, H_i, W_i) and feature vector (B, C_4).

        Args:
            image: (B, in_channels [+ guidance_channels], H, W), the image normalized by ``mean`` and ``std``.
        """
        levels: list[Tensor] = self.backbone(image)
        feature: Tensor = self.norm(self.pool(levels[3]))
        return levels, feature

    def group_matcher(self, coarse: bool = False, prefix: str = "") -> dict[str, Any]:
        """Layers from the image on, as timm's models tell them: the stem, then the blocks, or the stages if coarse.

        What published weights do not hold, the guidance and the norm of the feature vector, is in none of them.

        Args:
            coarse: whether a stage is one layer.
            prefix: of the parameters' names, where the encoder is a part of a network.
        """
        names = re.escape(prefix) + r"backbone\."
        stage = names + r"stages_(\d+)\."
        blocks = [(stage + "downsample", (0,)), (stage + r"blocks\.(\d+)", None)]
        return {"stem": names + r"stem_\d+\.(?!guidance)", "blocks": stage if coarse else blocks}

    def config(self) -> dict[str, Any]:
        """The plain values that decide which weights fit."""
        return {"encoder": self.name, "pooling": self.pooling, "guidance_channels": self.guidance_channels}

    def timm_names(self) -> dict[str, str]:
        """Name of a parameter -> its name in ``timm.create_model(name)``; new ones are left out."""
        with torch.device("meta"):
            theirs = timm.create_model(self.name, pretrained=False, in_chans=self.in_channels).state_dict()
        names = {name: name.removeprefix("backbone.") for name in self.state_dict()}
        found = {
            name: f"head.{plain}" if plain.startswith("norm.") else re.sub(r"^(stem|stages)_(\d+)\.", r"\1.\2.", plain)
            for name, plain in names.items()
        }
        return {name: timm_name for name, timm_name in found.items() if timm_name in theirs}

    def deployed(self) -> nn.Module:
        """The same with fewer and larger operations on channel-first maps; it takes the guidance always."""
        return DeployableEncoder(self)


class DeployableEncoder(nn.Module):
    """``ConvNeXtEncoder`` for inference; the image brings all guidance channels."""

    float_parts = ("stem",)

    def __init__(self, encoder: ConvNeXtEncoder):
        super().__init__()
        backbone = encoder.backbone
        self.stem = nn.Sequential(*(_rewritten(m) for n, m in backbone.items() if n.startswith("stem")))
        self.stages = nn.ModuleList(_stage(m) for n, m in backbone.items() if n.startswith("stages"))
        self.pool = copy.deepcopy(encoder.pool)
        self.norm = copy.deepcopy(encoder.norm)

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """As ``ConvNeXtEncoder``."""
        x = self.stem(image)
        levels: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        feature: Tensor = self.norm(self.pool(x))
        return levels, feature


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


def _take_depthwise(backbone: nn.Module) -> None:
    for block in [module for module in backbone.modules() if isinstance(module, ConvNeXtBlock)]:
        conv = block.conv_dw
        size = {name: getattr(conv, name) for name in ("kernel_size", "stride", "padding", "dilation", "groups")}
        block.conv_dw = nn.utils.skip_init(  # type: ignore[no-untyped-call]  # it draws no random numbers
            DepthwiseConv2d, conv.in_channels, conv.out_channels, bias=conv.bias is not None, **size
        )
        block.conv_dw.load_state_dict(conv.state_dict())


@torch.no_grad()
def _widen_layer_scale(backbone: nn.Module) -> None:
    for name, parameter in backbone.named_parameters():
        if name.endswith(".gamma"):
            parameter.fill_(RANDOM_LAYER_SCALE)


def _require_convnext(name: str) -> None:
    if name not in convnexts():
        raise ValueError(
            f"encoder must be one of timm's ConvNeXt names, such as convnext_atto or convnext_tiny, got {name!r}; "
            "list them with: python -c \"import timm; print(timm.list_models(module='convnext'))\"."
        )


def _stage(stage: nn.Module) -> nn.Sequential:
    before = list(stage.downsample) if isinstance(stage.downsample, nn.Sequential) else []
    if [type(module) for module in before] == [LayerNorm2d, nn.Conv2d]:
        norm, conv = cast(LayerNorm2d, before[0]), cast(nn.Conv2d, before[1])
        if conv.padding == (0, 0):
            before = [ChannelNorm(norm, affine=False), after_affine(conv, norm)]
    blocks = [_rewritten(block) for block in cast(nn.Sequential, stage.blocks)]
    return nn.Sequential(*copy.deepcopy(before), *blocks)


def _rewritten(module: nn.Module) -> nn.Module:
    """What stands for a module of the encoder; a copy of those kinds that have no better form."""
    if isinstance(module, GuidedStem):
        return conv_like(module, torch.cat([module.weight, module.guidance.weight], dim=1), module.bias)
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
