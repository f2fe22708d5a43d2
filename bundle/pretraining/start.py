# SPDX-License-Identifier: Apache-2.0
"""What a pretraining leaves: an encoder's weights under the names of timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def timm_encoder(encoder: nn.Module, config: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights of an encoder as ``timm.create_model(name, num_classes=0)`` has them, and what made them.

    ``--encoder_weights`` takes the file that holds them, and so does ``checkpoint_path`` of timm.

    Args:
        encoder: of :func:`bundle.networks.build_encoder`.
        config: what it says of itself.
    """
    state, names = encoder.state_dict(), encoder.timm_names()  # type: ignore[operator]
    return {theirs: state[name] for name, theirs in names.items()}, dict(config)
