# SPDX-License-Identifier: Apache-2.0
"""Conditioning: a prompt vector changes a feature map or a feature vector. All kinds are the identity at the start."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Conditioning = Literal["film", "additive", "none"]


class AdditivePrompt(nn.Module):
    """Adds a gated projection of the prompt: ``x + gate * Linear(prompt)``, the gate starting at 0.

    Reference:
        Chen & Zhang 2025, arXiv 2509.11108.
    """

    def __init__(self, channels: int, prompt_length: int):
        super().__init__()
        self.linear = nn.Linear(prompt_length, channels)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        """``x`` (B, C, H, W) or (B, C), conditioned by a prompt (B, P)."""
        return x + _like(self.gate * self.linear(prompt), x)


class FiLMPrompt(nn.Module):
    """Scales and shifts each channel: ``x * (1 + gamma(prompt)) + beta(prompt)``, both starting at 0.

    Reference:
        Perez et al. 2018, "FiLM: Visual Reasoning with a General Conditioning Layer", arXiv 1709.07871.
    """

    def __init__(self, channels: int, prompt_length: int):
        super().__init__()
        self.linear = nn.Linear(prompt_length, 2 * channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        """``x`` (B, C, H, W) or (B, C), conditioned by a prompt (B, P)."""
        gamma, beta = torch.chunk(self.linear(prompt), 2, dim=1)
        return x * (1 + _like(gamma, x)) + _like(beta, x)


class NoPrompt(nn.Module):
    """Leaves its input as it is."""

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        """``x`` (B, C, H, W) or (B, C), whatever the prompt (B, P)."""
        return x


def build_prompt(kind: Conditioning, *, channels: int, prompt_length: int) -> nn.Module:
    """The conditioning module of one feature map or vector.

    Raises:
        ValueError: when the kind is not film, additive or none.
    """
    if kind == "none":
        return NoPrompt()
    kinds: dict[str, type[AdditivePrompt] | type[FiLMPrompt]] = {"additive": AdditivePrompt, "film": FiLMPrompt}
    if kind not in kinds:
        raise ValueError(f"conditioning must be film, additive or none, got {kind!r}; correct it in the config.")
    return kinds[kind](channels, prompt_length)


def _like(values: Tensor, x: Tensor) -> Tensor:
    return values[:, :, None, None] if x.dim() == 4 else values
