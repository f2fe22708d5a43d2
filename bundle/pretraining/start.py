# SPDX-License-Identifier: Apache-2.0
"""What a pretraining leaves: an encoder's weights under the names of timm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def timm_encoder(encoder: nn.Module, config: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights of an encoder as ``timm.create_model(name, num_classes=0)`` has them, and what made them.

    ``--encoder_weights`` takes the file that holds them, and so does ``checkpoint_path`` of timm.

    Args:
        encoder: a :class:`bundle.networks.ConvNeXtEncoder`.
        config: what it says of itself.
    """
    return {_timm_name(name): value for name, value in encoder.state_dict().items()}, dict(config)


def _timm_name(name: str) -> str:
    if name.startswith("norm."):
        return f"head.{name}"
    return re.sub(r"^(stem|stages)_(\d+)\.", r"\1.\2.", name.removeprefix("backbone."))
