# SPDX-License-Identifier: Apache-2.0
"""UPerConvNeXt: an encoder, a prompter, a decoder and heads, joined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from bundle.networks.heads import CLASSES, MASKS
from bundle.networks.parts import Decoder, Encoder, Prompter, joined_config, require_part
from bundle.networks.upgrade import rename_loaded


class UPerConvNeXt(nn.Module):
    """Answers questions about ultrasound images, told by a prompt what it looks at; see ``bundle.networks.parts``.

    Args:
        encoder: image -> maps and feature vector.
        decoder: maps -> one fine map.
        prompter: conditions maps and feature vector.
        heads: name -> head; the names are those of the outputs, in this order.
        dropout: rate of all heads in place of their own, 0 to 1. MONAI Label's scoring sets it; None changes nothing.

    Attributes:
        main_head: the head that ``forward`` gives: ``seg``, or the first one where there are no masks.

    Raises:
        ValueError: when a part lacks what the network reads of it.

    Reference:
        Chen & Zhang 2025, "UltraUPConvNet", arXiv 2509.11108.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        prompter: Prompter,
        heads: Mapping[str, nn.Module],
        dropout: float | None = None,
    ):
        super().__init__()
        for role, part in {"encoder": encoder, "decoder": decoder, "prompter": prompter}.items():
            require_part(part, role)
        for head in heads.values():
            require_part(head, "head")
        if not heads:
            raise ValueError("heads must hold at least one head, got none; add one.")
        self.in_channels, self.guidance_channels = encoder.in_channels, encoder.guidance_channels
        self.prompt_length = prompter.prompt_length
        self.encoder, self.prompter, self.decoder = encoder, prompter, decoder
        self.heads = nn.ModuleDict(heads)
        self.head_names = list(heads)
        self.map_heads = [name for name, head in heads.items() if head.reads_map]
        self.main_head = MASKS if MASKS in heads else self.head_names[0]
        if dropout is not None:
            for module in self.heads.modules():
                if isinstance(module, (nn.Dropout, nn.Dropout2d)):
                    module.p = dropout
        self.register_load_state_dict_pre_hook(rename_loaded)  # type: ignore[no-untyped-call]
        self.network_config()

    def forward(self, image: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Logits of ``main_head``: of masks (B, structures, H, W).

        Args:
            image: (B, in_channels, H, W), normalized, or with guidance behind it (B, in_channels + guidance_channels,
                H, W); without it nothing is wanted or unwanted. H and W are multiples of 32.
            prompt: (B, P) as ``bundle.vocabulary.encode_prompt`` gives; ``None`` is the neutral prompt.

        Raises:
            ValueError: when the shape of the image or the prompt does not fit.
        """
        return self.predict(image, prompt, [self.main_head])[self.main_head]

    @torch.jit.export
    def predict(self, image: Tensor, prompt: Tensor | None = None, heads: list[str] | None = None) -> dict[str, Tensor]:
        """Logits of an image that is encoded once: ``seg`` (B, structures, H, W), ``cls_<label set>`` (B, K).

        Args and Raises: those of ``forward`` and ``answer``. The decoder runs where a head reads its map.
        """
        levels, feature, plain = self.encode(image, prompt)
        fine = self.decode(levels) if self.reads_map(heads) else feature
        return self.answer(fine, feature, plain, heads)

    @torch.jit.export
    def encode(self, image: Tensor, prompt: Tensor | None = None) -> tuple[list[Tensor], Tensor, Tensor]:
        """Conditioned maps [1/4, 1/8, 1/16, 1/32] (B, C_i, H_i, W_i) and vector (B, C_4), the vector before the prompt.

        Args and Raises: those of ``forward``.
        """
        self._check_image(image)
        levels, plain = self.encoder(image)
        levels, feature = self.prompter(levels, plain, self._full_prompt(image, prompt))
        return levels, feature, plain

    @torch.jit.export
    def decode(self, levels: list[Tensor]) -> Tensor:
        """The decoder's map (B, channels, H/4, W/4) of the conditioned maps."""
        fine: Tensor = self.decoder(levels)
        return fine

    @torch.jit.export
    def answer(self, fine: Tensor, feature: Tensor, plain: Tensor, heads: list[str] | None = None) -> dict[str, Tensor]:
        """Logits by head, in the network's order.

        Args:
            fine: of ``decode``; any tensor where no head reads it.
            feature: of ``encode``.
            plain: of ``encode``.
            heads: names of those that are computed; ``None``: all.

        Raises:
            ValueError: when a name is not one of the network's.
        """
        names = self.head_names if heads is None else heads
        for name in names:
            if name not in self.head_names:
                raise ValueError(f"heads must be among {', '.join(self.head_names)}, got {name}; correct the name.")
        logits: dict[str, Tensor] = {}
        for name, head in self.heads.items():
            if name in names:
                logits[name] = head(fine, feature, plain)
        return logits

    @torch.jit.export
    def reads_map(self, heads: list[str] | None = None) -> bool:
        """Whether one of these heads, or of all, reads the decoder's map."""
        for name in self.head_names if heads is None else heads:  # noqa: SIM110 (no any() of these in TorchScript)
            if name in self.map_heads:
                return True
        return False

    @torch.jit.unused
    def group_matcher(self, coarse: bool = False) -> Any:
        """Layers of the encoder, as timm's models tell them; what follows it is the last one.

        Raises:
            ValueError: when the encoder does not tell its layers.
        """
        if not hasattr(self.encoder, "group_matcher"):
            raise ValueError(
                f"layers can be told apart of an encoder with group_matcher, got {type(self.encoder).__name__}; set "
                "--layer_decay 1 and --unfreeze_share 0, or give it one (bundle/networks/parts.py)."
            )
        return self.encoder.group_matcher(coarse, prefix="encoder.")

    @torch.jit.unused
    def network_config(self) -> dict[str, Any]:
        """The plain values that decide which weights fit; checkpoints carry them."""
        parts = {"encoder": self.encoder, "decoder": self.decoder, "prompter": self.prompter}
        rows = {name: list(cast(Any, head).rows) for name, head in self.heads.items()}
        sets = {name.removeprefix(CLASSES): names for name, names in rows.items() if name.startswith(CLASSES)}
        masks = {"structures": rows[MASKS]} if MASKS in rows else {}
        shape = {"guidance_channels": self.guidance_channels, "decoder_channels": self.decoder.channels}
        return {**joined_config(parts, rows), **shape, **masks, "label_sets": sets}

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
            return self.prompter.neutral.to(image.dtype).expand(image.size(0), -1)
        if prompt.dim() != 2 or prompt.size(0) != image.size(0) or prompt.size(1) != self.prompt_length:
            raise ValueError(
                f"prompt must have shape (batch, values) = ({image.size(0)}, {self.prompt_length}), "
                f"got {list(prompt.shape)}; build each row with bundle.vocabulary.encode_prompt."
            )
        return prompt.to(image.dtype)
