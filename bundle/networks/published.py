# SPDX-License-Identifier: Apache-2.0
"""Published weights of a network under its own names, and whether a file can hold those of an encoder."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from torch import Tensor

from bundle.networks.conversion import require_fit


def matched(
    state: Mapping[str, Tensor], target: Mapping[str, Tensor], *, path: str | Path, whose: str = "the network"
) -> dict[str, Tensor]:
    """Weights under the names of a network: by name, else in order where each tensor has the shape of its place.

    A published file may have another project's names; what the network has not, such as a second head, is left out.

    Args:
        state: names and tensors of a file.
        target: state dict of the network.
        path: the file, for messages.
        whose: the network, for messages.

    Raises:
        ValueError: when they are of another network, or not finite.
    """
    counted = {name: value for name, value in target.items() if name.endswith(".num_batches_tracked")}
    if set(target) - set(state) <= set(counted):  # PyTorch before 0.4.1 wrote no counts
        state = {**counted, **state}
    if not set(target) - set(state):
        state = {name: state[name] for name in target}
    if len(state) != len(target):
        raise ValueError(f"{path} must hold the {len(target)} tensors of {whose}, got {len(state)}.")
    found = dict(zip(target, state.values(), strict=True))
    require_fit(found, target, path=path, whose=whose)
    return found


def require_size(state: Mapping[str, Tensor], name: str, *, path: str | Path) -> None:
    """Refuses a file that names an encoder of many more numbers than it holds, before that takes memory.

    Args:
        state: names and tensors of the file.
        name: the encoder that it says it is of, one of timm's.
        path: the file, for the message.

    Raises:
        ValueError: when the encoder has four times as many.
    """
    needed, held = _parameters(name), sum(value.numel() for value in state.values())
    if needed > 4 * held + 10**7:
        raise ValueError(
            f"{path}: expected the {needed} numbers of the encoder {name}, got {held} in all; use a file that a"
            " training of this project wrote."
        )


@functools.cache
def _parameters(name: str) -> int:
    """How many parameters an encoder of timm has."""
    with torch.device("meta"):
        return sum(value.numel() for value in timm.create_model(name, pretrained=False, num_classes=0).parameters())


@functools.cache
def convnexts() -> frozenset[str]:
    """timm's ConvNeXt names, those of its published weights too; none names a place to load from."""
    names = set(timm.list_models(module="convnext"))
    return frozenset(names | {name for name in timm.list_pretrained() if name.split(".")[0] in names})
