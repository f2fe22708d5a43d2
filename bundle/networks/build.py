# SPDX-License-Identifier: Apache-2.0
"""The network of the shipped parts, built from the plain values that checkpoints hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bundle.networks.encoder import Pooling
from bundle.networks.heads import build_heads
from bundle.networks.prompts import Conditioning, Prompter
from bundle.networks.pyramid import build_encoder
from bundle.networks.uperconvnext import UPerConvNeXt
from bundle.networks.upernet import Norm, UPerNetDecoder


def build_uperconvnext(
    *,
    encoder: str,
    decoder_channels: int,
    structures: Sequence[str],
    label_sets: Mapping[str, Sequence[str]],
    positions: Sequence[str],
    conditioning: Conditioning = "film",
    norm: Norm = "group",
    pooling: Pooling = "avg",
    guidance_channels: int = 0,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    encoder_weights: str | None = None,
) -> UPerConvNeXt:
    """The network of an encoder of timm, prompts, UPerNet decoder, masks and classes, as the configs build it.

    Args:
        encoder, guidance_channels, drop_path, pooling, encoder_weights: see ``build_encoder``.
        decoder_channels, norm: see ``UPerNetDecoder``.
        positions, conditioning: see ``Prompter``.
        structures, label_sets, dropout: see ``build_heads``.

    Raises:
        ValueError: when a name or a size is not usable; the message says which.
    """
    image = build_encoder(
        encoder,
        guidance_channels=guidance_channels,
        drop_path=drop_path,
        pooling=pooling,
        weights_file=encoder_weights,
    )
    decoder = UPerNetDecoder(in_channels=image.channels, channels=decoder_channels, norm=norm)
    prompter = Prompter(positions, channels=image.channels, conditioning=conditioning)
    heads = build_heads(structures=structures, label_sets=label_sets, encoder=image, decoder=decoder, dropout=dropout)
    return UPerConvNeXt(image, decoder, prompter, heads)
