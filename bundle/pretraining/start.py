# SPDX-License-Identifier: Apache-2.0
"""What a pretraining leaves: an encoder's weights under the names of timm, and those of a decoder where it has one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def timm_encoder(encoder: nn.Module, config: Mapping[str, Any], network: nn.Module | None = None) -> dict[str, Any]:
    """Weights of an encoder as ``timm.create_model(name, num_classes=0)`` has them, and what made them.

    ``--encoder_weights`` takes the file that holds them, and so does ``checkpoint_path`` of timm, which passes over the
    decoder.

    Args:
        encoder: of :func:`bundle.networks.build_encoder`.
        config: what it says of itself.
        network: of :class:`bundle.pretraining.Pretraining`, whose objective's ``decoder`` is kept too.

    Returns:
        ``model``, ``network_config`` and, where there is one, ``decoder``: tensors by name, as the last step left them.
    """
    state, names = encoder.state_dict(), encoder.timm_names()  # type: ignore[operator]
    held = {"model": {theirs: state[name] for name, theirs in names.items()}, "network_config": dict(config)}
    objectives = [] if network is None else network.objectives.values()  # type: ignore[operator]
    decoders: list[nn.Module] = [objective.decoder for objective in objectives if hasattr(objective, "decoder")]
    return {**held, "decoder": decoders[0].state_dict()} if decoders else held
