# SPDX-License-Identifier: Apache-2.0
"""The network rewritten for inference: the same outputs from fewer and larger operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bundle.networks.parts import deployed
from bundle.networks.uperconvnext import UPerConvNeXt


class DeployableNetwork(nn.Module):
    """What ``UPerConvNeXt.predict`` gives, as a tuple of tensors, for tracing and export; built by ``deployable``.

    Attributes:
        input_names: names of the arguments of ``forward``, in order.
        output_names: names of the outputs, in order.
    """

    def __init__(self, network: UPerConvNeXt, heads: Sequence[str]):
        super().__init__()
        self.encoder = deployed(network.encoder)
        self.prompter = deployed(network.prompter)
        self.decoder = deployed(network.decoder) if network.reads_map(list(heads)) else None
        self.heads = nn.ModuleDict({name: deployed(network.heads[name]) for name in heads})
        self.input_names = ["image", "prompt"]
        self.output_names = list(heads)

    def forward(self, image: Tensor, prompt: Tensor) -> tuple[Tensor, ...]:
        """Logits in the order of ``output_names``: masks (B, structures, H, W), classes (B, K).

        Args:
            image: (B, C, H, W), normalized, guidance channels behind it where the network has them. H, W: multiples of
                32.
            prompt: (B, P) as ``bundle.vocabulary.encode_prompt`` gives.
        """
        levels, plain = self.encoder(image)
        levels, feature = self.prompter(levels, plain, prompt)
        fine = feature if self.decoder is None else self.decoder(levels)
        return tuple(head(fine, feature, plain) for head in self.heads.values())

    def float_parts(self) -> tuple[tuple[str, ...], ...]:
        """What int8 leaves in float, by names of modules: at first what the parts ask for, then the decoder too."""
        named: dict[str, Any] = {"encoder": self.encoder, "prompter": self.prompter, "decoder": self.decoder}
        named |= {f"heads.{name}": head for name, head in self.heads.items()}
        asked = [
            f"{name}.{part}".removesuffix(".")
            for name, module in named.items()
            for part in getattr(module, "float_parts", ("",) if name.startswith("heads.") else ())
        ]
        return tuple(asked), (*(name for name in asked if not name.startswith("heads.")), "heads", "decoder")


@torch.no_grad()
def deployable(network: UPerConvNeXt, heads: Sequence[str] | None = None) -> DeployableNetwork:
    """A copy of a network for inference alone, whose outputs equal ``predict`` up to float32 rounding.

    Args:
        network: stays as it is.
        heads: names of those that are computed, in the outputs' order; ``None`` for all of the network.

    Raises:
        ValueError: when a head is not one of the network's, or none is asked for.
    """
    chosen = network.head_names if heads is None else list(heads)
    if not chosen or not set(chosen) <= set(network.head_names):
        raise ValueError(f"heads must be among {network.head_names}, got {chosen}; name heads of this network.")
    return DeployableNetwork(network, chosen).eval().requires_grad_(False)
