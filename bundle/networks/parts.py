# SPDX-License-Identifier: Apache-2.0
"""What the network asks of its parts: any encoder, decoder, prompter and head that keeps to it fits.

A part is an ``nn.Module``. Beside what its protocol lists it may have:

- ``config() -> dict``: plain values that decide which weights fit; checkpoints hold them.
- ``deployed() -> nn.Module``: a module for inference, of the same ``forward``, that computes the same faster.
- ``float_parts``, on what ``deployed()`` gives: names of its modules that int8 leaves in float; "" is all of it.
- ``group_matcher(coarse, prefix)``, on an encoder: its layers as timm's models tell them, for ``layer_decay``.
- ``prompt_axes``, on a prompter: parameter -> its axis that follows the prompt's values.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from bundle.described import NETWORK


class Encoder(Protocol):
    """An image becomes four maps and a feature vector.

    Attributes:
        channels: channels C_i of the four maps, fine to coarse; the feature vector has the last one's.
        in_channels: image channels.
        guidance_channels: channels that may follow those of the image; 0 for none.
    """

    channels: list[int]
    in_channels: int
    guidance_channels: int

    def __call__(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Maps [1/4, 1/8, 1/16, 1/32] (B, C_i, H_i, W_i) and feature vector (B, C_4) of images (B, C, H, W)."""


class Prompter(Protocol):
    """A prompt changes the maps and the feature vector.

    Attributes:
        prompt_length: values of a prompt.
        neutral: the prompt (1, P) that tells nothing.
    """

    prompt_length: int
    neutral: Tensor

    def __call__(self, levels: list[Tensor], feature: Tensor, prompt: Tensor) -> tuple[list[Tensor], Tensor]:
        """Maps and feature vector, of the same shapes, as a prompt (B, P) changes them."""


class Decoder(Protocol):
    """Four maps become one.

    Attributes:
        channels: of that map.
    """

    channels: int

    def __call__(self, levels: list[Tensor]) -> Tensor:
        """Map (B, channels, H/4, W/4) of the maps [1/4, 1/8, 1/16, 1/32]."""


class Head(Protocol):
    """Logits of one question.

    Attributes:
        rows: names of the logits, which weights follow into a network with more of them.
        reads_map: whether the decoder's map is needed.
        row_axes: parameter -> how many of its leading axes follow ``rows``.
    """

    rows: list[str]
    reads_map: bool
    row_axes: dict[str, int]

    def __call__(self, fine: Tensor, feature: Tensor, plain: Tensor) -> Tensor:
        """Logits (B, len(rows), ...).

        Args:
            fine: decoder's map (B, channels, H/4, W/4); any tensor for a head that does not read it.
            feature: feature vector (B, C_4), conditioned by the prompt.
            plain: the same before the prompt (B, C_4).
        """


_NEEDED = {
    "encoder": ("channels", "in_channels", "guidance_channels"),
    "prompter": ("prompt_length", "neutral"),
    "decoder": ("channels",),
    "head": ("rows", "reads_map", "row_axes"),
}


def require_part(part: Any, role: str) -> None:
    """Raises a ValueError where a part lacks what the network reads of it."""
    if missing := [name for name in _NEEDED[role] if not hasattr(part, name)]:
        raise ValueError(
            f"{role} must have {', '.join(_NEEDED[role])}, got {type(part).__name__} without {', '.join(missing)}; "
            "see bundle/networks/parts.py."
        )


def deployed(part: Any) -> nn.Module:
    """A copy of a part for inference: its own ``deployed()`` or the same once more."""
    made: nn.Module = part.deployed() if hasattr(part, "deployed") else copy.deepcopy(part)
    return made


def joined_config(parts: Mapping[str, Any], rows: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The plain values of all parts: known keys of ``bundle.described`` as they are, all else under its part.

    Args:
        parts: role -> encoder, prompter or decoder.
        rows: head -> its rows.

    Raises:
        ValueError: when a part gives other than plain values, or a head other names.
    """
    config: dict[str, Any] = {}
    told: dict[str, dict[str, Any]] = {}
    for role, part in parts.items():
        values = part.config() if hasattr(part, "config") else {}
        known = {key: value for key, value in values.items() if key in NETWORK and NETWORK[key][0](value)}
        if not hasattr(part, "timm_names"):  # another project's encoder, whatever it calls itself
            known.pop("encoder", None)
        config |= known
        told[role] = {"class": type(part).__name__, **{k: v for k, v in values.items() if k not in known}}
    joined = {**config, "heads": {name: list(names) for name, names in rows.items()}, "parts": told}
    for key in ("heads", "parts"):
        check, expected = NETWORK[key]
        if not check(joined[key]):
            raise ValueError(f"{key} of a network must be {expected}, got {joined[key]}; correct rows or config().")
    return joined
