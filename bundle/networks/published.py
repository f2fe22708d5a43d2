# SPDX-License-Identifier: Apache-2.0
"""Published weights of a network under its own names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from bundle.networks.conversion import require_fit


def matched(
    state: Mapping[str, Tensor], target: Mapping[str, Tensor], *, path: str | Path, whose: str
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
    if not set(target) - set(state):
        state = {name: state[name] for name in target}
    if len(state) != len(target):
        raise ValueError(f"{path} must hold the {len(target)} tensors of {whose}, got {len(state)}.")
    found = dict(zip(target, state.values(), strict=True))
    require_fit(found, target, path=path, whose=whose)
    return found
