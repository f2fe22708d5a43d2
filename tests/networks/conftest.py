# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from bundle.networks import UPerConvNeXt, build_uperconvnext
from bundle.networks.encoder import ConvNeXtEncoder
from bundle.vocabulary import PAPER_POSITIONS

SMALL: dict[str, Any] = {
    "encoder": "test_convnext",  # timm's smallest: 24, 32, 48 and 64 channels
    "decoder_channels": 16,
    "structures": ["background", "lesion", "head"],
    "label_sets": {"breast": ["normal", "benign", "malignant"], "lung": ["healthy", "pneumonia"]},
    "positions": list(PAPER_POSITIONS),
    "pooling": "avgmax",
}


@pytest.fixture
def make_network() -> Callable[..., UPerConvNeXt]:
    """A small network with the same random weights each time; arguments replace those of SMALL.

    ``awake`` moves the prompt parameters off their zeros, so that prompts act.
    """

    def make(*, awake: bool = False, **changes: Any) -> UPerConvNeXt:
        torch.manual_seed(0)
        network = build_uperconvnext(**{**SMALL, **changes})
        for name, parameter in network.named_parameters():
            if awake and "prompt" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        return network

    return make


@pytest.fixture
def facebook_state() -> Callable[[ConvNeXtEncoder], dict[str, torch.Tensor]]:
    """Gives an encoder's weights under facebookresearch's names and shapes, with their classification head."""

    def convert(encoder: ConvNeXtEncoder) -> dict[str, torch.Tensor]:
        state = {"head.weight": torch.zeros(1000, encoder.channels[-1]), "head.bias": torch.zeros(1000)}
        for name, value in encoder.state_dict().items():
            name = name.removeprefix("backbone.").replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
            name = name.replace("stem_", "downsample_layers.0.").replace(".blocks", "")
            name = re.sub(r"stages_(\d)\.downsample", r"downsample_layers.\1", name).replace("stages_", "stages.")
            if "grn" in name:
                value = value[None, None, None]
                name = name.replace("mlp.grn.weight", "grn.gamma").replace("mlp.grn.bias", "grn.beta")
            elif "pwconv" in name and value.ndim == 4:
                value = value[:, :, 0, 0]
            state[name] = value
        return state

    return convert
