# SPDX-License-Identifier: Apache-2.0
"""The part of a network that its training taught: what was not taught would answer at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bundle.networks.heads import CLASSES, MASKS
from bundle.networks.start import table_axes


def taught_part(
    network: nn.Module, config: Mapping[str, Any], taught: Mapping[str, Sequence[str]] | None
) -> dict[str, Any]:
    """Weights and ``network_config`` of a network without the outputs, and rows of outputs, that were not taught.

    Args:
        network: a ``UPerConvNeXt``.
        config: what it says of itself.
        taught: output -> names of its logits, empty for all of them; None for all outputs. Names that the network does
            not have count for nothing.

    Returns:
        ``model``, tensors by name, and ``network_config`` of the network that they fit.
    """
    state: dict[str, Tensor] = network.state_dict()
    if taught is None:
        return {"model": state, "network_config": dict(config)}
    rows = {
        name: [row for row in taught[name] if row in names] or names
        for name, names in config["heads"].items()
        if name in taught
    }
    axes = table_axes(network)
    kept = {}
    for name, value in state.items():
        head = name.split(".")[1] if name.startswith("heads.") else None
        if head is not None and head not in rows:
            continue
        for axis, table in enumerate(axes.get(name, ())):
            if table in rows:
                own = config["heads"][table]
                value = value.index_select(axis, torch.tensor([own.index(row) for row in rows[table]]).to(value.device))
        kept[name] = value
    sets = {label_set: names for label_set, names in config["label_sets"].items() if CLASSES + label_set in rows}
    left = {key: value for key, value in config.items() if key != "structures" or MASKS in rows}
    return {"model": kept, "network_config": {**left, "heads": rows, "label_sets": sets}}
