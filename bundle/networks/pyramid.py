# SPDX-License-Identifier: Apache-2.0
"""Any encoder of timm whose maps make a pyramid: EfficientNet, ResNet, Swin and many others."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import timm
import torch
from timm.layers import Conv2dSame, Format, SelectAdaptivePool2d
from timm.models import group_parameters
from torch import Tensor, nn

from bundle.described import encoders
from bundle.networks.conversion import require_fit, state_dict
from bundle.networks.encoder import ConvNeXtEncoder, Pooling
from bundle.networks.published import convnexts, matched
from bundle.networks.weights import read_file, require_encoder

logger = logging.getLogger(__name__)

STRIDES = (4, 8, 16, 32)
"""Height of the image over that of each map."""


def build_encoder(name: str, **options: Any) -> ConvNeXtEncoder | PyramidEncoder:
    """The encoder of a name of timm: :class:`ConvNeXtEncoder` for a ConvNeXt, else :class:`PyramidEncoder`.

    Args:
        name: such as ``convnext_atto``, ``tf_efficientnet_lite0``, ``resnet18``, ``swin_tiny_patch4_window7_224``.
        options: of these classes, which have the same.

    Raises:
        ValueError: when timm has no such encoder, or it cannot be one of the network's.
    """
    return ConvNeXtEncoder(name, **options) if name in convnexts() else PyramidEncoder(name, **options)


class GuidedConv(nn.Module):
    """An encoder's first convolution, and another for guidance channels behind those of the image.

    The weights of the guidance start at zero: until they are trained, guidance changes nothing.

    Args:
        image: the convolution of the image.
        guidance_channels: number of channels behind those of the image.
    """

    def __init__(self, image: nn.Conv2d, guidance_channels: int) -> None:
        super().__init__()
        self.image, self.in_channels = image, image.in_channels
        size = {"kernel_size": image.kernel_size, "stride": image.stride, "dilation": image.dilation}
        padding = {} if isinstance(image, Conv2dSame) else {"padding": image.padding}
        self.guidance = type(image)(guidance_channels, image.out_channels, bias=False, **size, **padding)  # type: ignore[arg-type]
        nn.init.zeros_(self.guidance.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map of images (B, in_channels [+ guidance_channels], H, W)."""
        out: Tensor = self.image(x[:, : self.in_channels])
        if x.size(1) > self.in_channels:
            out = out + self.guidance(x[:, self.in_channels :])
        return out


class PyramidEncoder(nn.Module):
    """Gives the maps of an encoder of timm at a quarter to a 32nd of the image, and the last one pooled and normalized.

    Args:
        name: of an encoder of timm that gives such maps; a pure vision transformer does not.
        in_channels: image channels.
        guidance_channels: channels that may follow those of the image; 0 for none.
        drop_path: stochastic depth rate, 0 to 1, where the encoder has it.
        pooling: ``avg``, or ``avgmax``, the middle between mean and maximum; as of :class:`ConvNeXtEncoder`.
        weights_file: local file of its weights under timm's names, or in timm's order; ``None`` starts from random
            weights.

    Attributes:
        channels: of the four maps.
        mean, std: normalization of the image (RGB, values in [0, 1]) that timm's published weights expect.

    Raises:
        ValueError: when timm has no such encoder, it gives other maps, an option does not fit it, or the weights are of
            another one.
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
    ) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling must be one of {', '.join(get_args(Pooling))}, got {pooling!r}.")
        self.name, self.pooling = name, pooling
        self.in_channels, self.guidance_channels = in_channels, guidance_channels
        made = _features(name, in_chans=in_channels, **({"drop_path_rate": drop_path} if drop_path else {}))
        self.backbone = made()
        info = self.backbone.feature_info
        self.picked = [max(i for i, r in enumerate(info.reduction()) if r == stride) for stride in STRIDES]
        self.channels: list[int] = [info.channels()[i] for i in self.picked]
        self.channels_last = getattr(self.backbone, "output_fmt", Format.NCHW) == Format.NHWC
        cfg = timm.get_pretrained_cfg(name.split(".")[0])
        self.mean: tuple[float, ...] = cfg.mean
        self.std: tuple[float, ...] = cfg.std
        self.pool = SelectAdaptivePool2d(pool_type=f"fast{pooling}", flatten=True)
        self.norm = nn.LayerNorm(self.channels[-1], eps=1e-6, elementwise_affine=False)
        if weights_file is not None:
            self._load(weights_file)
        if guidance_channels:
            self._guide(guidance_channels)

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Maps [1/4, 1/8, 1/16, 1/32] (B, C_i, H_i, W_i) and feature vector (B, C_4).

        Args:
            image: (B, in_channels [+ guidance_channels], H, W), the image normalized.
        """
        maps: list[Tensor] = self.backbone(image)
        levels = [maps[i].permute(0, 3, 1, 2).contiguous() if self.channels_last else maps[i] for i in self.picked]
        feature: Tensor = self.norm(self.pool(levels[3]))
        return levels, feature

    def config(self) -> dict[str, Any]:
        """The plain values that decide which weights fit."""
        return {"encoder": self.name, "pooling": self.pooling, "guidance_channels": self.guidance_channels}

    def timm_names(self) -> dict[str, str]:
        """Name of a parameter or buffer -> its name in ``timm.create_model(name)``; new ones are left out."""
        theirs = _whole(self.name, in_chans=self.in_channels).state_dict()
        found = {name: _unflattened(name, theirs) for name in self.state_dict()}
        return {name: timm_name for name, timm_name in found.items() if timm_name is not None}

    def group_matcher(self, coarse: bool = False, prefix: str = "") -> Callable[[str], float]:
        """Parameter -> its layer, as timm's model tells them; see ``ConvNeXtEncoder.group_matcher``."""
        whole = _whole(self.name, in_chans=self.in_channels)
        layers = group_parameters(whole, whole.group_matcher(coarse=coarse), reverse=True)
        numbers = {f"{prefix}{name}": layers.get(theirs) for name, theirs in self.timm_names().items()}
        return lambda name: float("inf") if numbers.get(name) is None else float(numbers[name])

    def _load(self, path: str | Path) -> None:
        content = read_file(path)
        require_encoder(content, name=self.name, path=path)
        state, names = state_dict(content, path), self.timm_names()
        if set(names.values()) - set(state):  # another project's names
            whole = timm.create_model(self.name, pretrained=False, in_chans=self.in_channels).state_dict()
            state = matched(state, whole, path=path, whose=f"encoder {self.name}; choose the --encoder they are of")
        found = {name: state[theirs] for name, theirs in names.items()}
        require_fit(found, self.state_dict(), path=path, whose=f"encoder {self.name}; choose the --encoder they are of")
        self.load_state_dict(found)
        logger.info(f"encoder {self.name} starts from {path}: {len(found)} tensors")

    def _guide(self, channels: int) -> None:
        first, stem = next(((n, m) for n, m in self.backbone.named_modules() if isinstance(m, nn.Conv2d)), ("", None))
        if stem is None or type(stem) not in (nn.Conv2d, Conv2dSame) or stem.in_channels != self.in_channels:
            raise ValueError(
                f"guidance_channels must be 0 with encoder {self.name}, which begins with no plain convolution, got "
                f"{channels}; set it to 0, which leaves clicks out, or choose another encoder."
            )
        parent, _, child = first.rpartition(".")
        setattr(self.backbone.get_submodule(parent), child, GuidedConv(stem, channels))


def _whole(name: str, **options: Any) -> Any:
    """The encoder with its classifier, as timm has it, without memory for its weights."""
    with torch.device("meta"):
        return timm.create_model(name, pretrained=False, **options)


def _features(name: str, **options: Any) -> Callable[[], Any]:
    """Makes the encoder's maps; whether it has the right ones is looked at before its weights take memory."""
    if name not in encoders():
        raise ValueError(
            f"encoder must be one of timm's names, such as convnext_atto or tf_efficientnet_lite0, got {name!r}; list "
            'them with: python -c "import timm; print(timm.list_models())".'
        )
    if getattr(timm.get_pretrained_cfg(name.split(".")[0]), "fixed_input_size", False):
        options = {**options, "strict_img_size": False}

    def make() -> Any:
        return timm.create_model(name, features_only=True, pretrained=False, **options)

    try:
        with torch.device("meta"):
            reductions = make().feature_info.reduction()
    except Exception as error:  # timm raises many kinds for encoders that give no maps, or lack an option
        raise _unfit(name, f"timm says: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from None
    if not set(STRIDES) <= set(reductions):
        raise _unfit(name, f"its maps have strides {', '.join(map(str, reductions))}")
    return make


def _unfit(name: str, why: str) -> ValueError:
    return ValueError(
        f"encoder must give maps of strides 4, 8, 16 and 32, got {name}; {why}; choose another one, such as "
        "convnext_atto, tf_efficientnet_lite0, resnet18 or swin_tiny_patch4_window7_224."
    )


def _unflattened(name: str, theirs: Mapping[str, Tensor]) -> str | None:
    """timm's name of a tensor; where it gives maps alone, it writes ``layers_0`` for ``layers.0``."""
    name = name.removeprefix("backbone.")
    for candidate in (name, re.sub(r"\.image\.(weight|bias)$", r".\1", name)):  # of a guided stem
        head, _, rest = candidate.partition(".")
        numbered = re.sub(r"_(\d+)$", r".\1", head)
        for form in (candidate, f"{numbered}.{rest}", f"{head.replace('_', '.')}.{rest}"):
            if form in theirs:
                return form
    return None
