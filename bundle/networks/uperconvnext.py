# SPDX-License-Identifier: Apache-2.0
"""UPerConvNeXt: one ConvNeXt encoder, prompts, a UPerNet decoder and one class head per label set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bundle.networks.encoder import ConvNeXtEncoder, Pooling
from bundle.networks.prompts import Conditioning, build_prompt
from bundle.networks.upernet import Norm, UPerNetDecoder
from bundle.vocabulary import encode_prompt, prompt_length


class UPerConvNeXt(nn.Module):
    """Segments ultrasound images and classifies them, told by a prompt what it looks at.

    Args:
        encoder: timm ConvNeXt name.
        decoder_channels: width of the decoder.
        structures: names of the segmentation logits; the first is the background.
        label_sets: label set -> class names; each set gets a class head.
        positions: position table of the prompt, see ``bundle.vocabulary``.
        conditioning: how the prompt acts on features: ``film``, ``additive`` (the paper's) or ``none``.
        norm: normalization of the decoder, ``group`` or ``batch`` (the paper's).
        pooling: how the class heads' feature vector comes from the last stage, see ``ConvNeXtEncoder``.
        in_channels: image channels.
        guidance_channels: channels that may follow those of the image: what a user wants and does not want
            (``bundle.guidance``); 0 for a network without clicks.
        dropout: rate before the last convolution of the decoder and before the class heads, 0 to 1.
        drop_path: stochastic depth rate of the encoder, 0 to 1.
        encoder_weights: local file of ConvNeXt weights to start from; ``None`` starts from random weights.

    Raises:
        ValueError: when a name or a size is not usable; the message says which.

    Reference:
        Chen & Zhang 2025, "UltraUPConvNet", arXiv 2509.11108.
    """

    def __init__(
        self,
        *,
        encoder: str,
        decoder_channels: int,
        structures: Sequence[str],
        label_sets: Mapping[str, Sequence[str]],
        positions: Sequence[str],
        conditioning: Conditioning = "film",
        norm: Norm = "group",
        pooling: Pooling = "avg",
        in_channels: int = 3,
        guidance_channels: int = 0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        encoder_weights: str | None = None,
    ):
        super().__init__()
        _check_tables(structures, label_sets)
        self.in_channels = in_channels
        self.guidance_channels = guidance_channels
        self.prompt_length = prompt_length(positions)
        self.neutral_prompt: Tensor
        self.register_buffer("neutral_prompt", torch.tensor([encode_prompt({}, positions)]), persistent=False)

        self.encoder = ConvNeXtEncoder(
            encoder,
            in_channels=in_channels,
            guidance_channels=guidance_channels,
            drop_path=drop_path,
            pooling=pooling,
            weights_file=encoder_weights,
        )
        channels = self.encoder.channels
        prompts = [build_prompt(conditioning, channels=c, prompt_length=self.prompt_length) for c in channels]
        self.level_prompts = nn.ModuleList(prompts)
        self.feature_prompt = build_prompt(conditioning, channels=channels[-1], prompt_length=self.prompt_length)
        self.decoder = UPerNetDecoder(
            in_channels=channels, channels=decoder_channels, out_channels=len(structures), norm=norm, dropout=dropout
        )
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleDict({f"cls_{n}": nn.Linear(channels[-1], len(k)) for n, k in label_sets.items()})
        self._config = {
            "encoder": encoder,
            "decoder_channels": decoder_channels,
            "structures": list(structures),
            "label_sets": {name: list(classes) for name, classes in label_sets.items()},
            "positions": list(positions),
            "conditioning": conditioning,
            "norm": norm,
            "pooling": pooling,
            "guidance_channels": guidance_channels,
        }

    def forward(self, image: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Segmentation logits (B, structures, H, W).

        Args:
            image: (B, in_channels, H, W), normalized, or with guidance behind it (B, in_channels + guidance_channels,
                H, W); without it nothing is wanted or unwanted. H and W are multiples of 32.
            prompt: (B, P) as ``bundle.vocabulary.encode_prompt`` gives; ``None`` is the neutral prompt.

        Raises:
            ValueError: when the shape of the image or the prompt does not fit.
        """
        levels, _ = self.encode(image, prompt)
        return self.decode(levels)

    @torch.jit.export
    def predict(self, image: Tensor, prompt: Tensor | None = None) -> dict[str, Tensor]:
        """All logits of an image that is encoded once: ``seg`` (B, structures, H, W), ``cls_<label set>`` (B, K).

        Args and Raises: those of ``forward``.
        """
        levels, feature = self.encode(image, prompt)
        logits = {"seg": self.decode(levels)}
        logits.update(self.classify(feature))
        return logits

    @torch.jit.export
    def encode(self, image: Tensor, prompt: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """Conditioned maps [1/4, 1/8, 1/16, 1/32] (B, C_i, H_i, W_i) and feature vector (B, C_4).

        Args and Raises: those of ``forward``.
        """
        self._check_image(image)
        prompt = self._full_prompt(image, prompt)
        levels, feature = self.encoder(image)
        conditioned: list[Tensor] = []
        for i, condition in enumerate(self.level_prompts):
            conditioned.append(condition(levels[i], prompt))
        return conditioned, self.feature_prompt(feature, prompt)

    @torch.jit.export
    def decode(self, levels: list[Tensor]) -> Tensor:
        """Segmentation logits (B, structures, H, W) of the conditioned maps."""
        logits: Tensor = self.decoder(levels)
        return logits

    @torch.jit.export
    def classify(self, feature: Tensor) -> dict[str, Tensor]:
        """Class logits ``cls_<label set>`` (B, K) of the conditioned feature vector (B, C_4)."""
        feature = self.dropout(feature)
        logits: dict[str, Tensor] = {}
        for name, head in self.heads.items():
            logits[name] = head(feature)
        return logits

    @torch.jit.unused
    def network_config(self) -> dict[str, Any]:
        """The plain values that decide which weights fit; checkpoints carry them."""
        return {**self._config}

    def _check_image(self, image: Tensor) -> None:
        full = self.in_channels + self.guidance_channels
        if image.dim() != 4 or (image.size(1) != self.in_channels and image.size(1) != full):
            with_guidance = f" or (batch, {full}, height, width) with guidance" if self.guidance_channels else ""
            raise ValueError(
                f"image must have shape (batch, {self.in_channels}, height, width){with_guidance}, "
                f"got {list(image.shape)}; add the batch axis or convert the channels."
            )
        h, w = image.size(2), image.size(3)
        if h % 32 != 0 or w % 32 != 0:
            raise ValueError(
                f"image height and width must be multiples of 32, got {h}x{w}; "
                f"pad to {(h + 31) // 32 * 32}x{(w + 31) // 32 * 32}."
            )

    def _full_prompt(self, image: Tensor, prompt: Tensor | None) -> Tensor:
        if prompt is None:
            return self.neutral_prompt.to(image.dtype).expand(image.size(0), -1)
        if prompt.dim() != 2 or prompt.size(0) != image.size(0) or prompt.size(1) != self.prompt_length:
            raise ValueError(
                f"prompt must have shape (batch, values) = ({image.size(0)}, {self.prompt_length}), "
                f"got {list(prompt.shape)}; build each row with bundle.vocabulary.encode_prompt."
            )
        return prompt.to(image.dtype)


def _check_tables(structures: Sequence[str], label_sets: Mapping[str, Sequence[str]]) -> None:
    if len(structures) < 2:
        raise ValueError(f"structures must name the background and at least one other, got {list(structures)}.")
    if len(set(structures)) != len(structures):
        raise ValueError(f"structures must be unique, got {list(structures)}; remove the repeated ones.")
    for name, classes in label_sets.items():
        if not name.isidentifier():
            raise ValueError(f"a label set's name must be letters, digits and underscores, got {name!r}; rename it.")
        if len(classes) < 2 or len(set(classes)) != len(classes):
            raise ValueError(f"label set {name!r} must have two or more different classes, got {list(classes)}.")
