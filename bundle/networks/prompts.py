# SPDX-License-Identifier: Apache-2.0
"""Conditioning: a prompt vector changes a feature map or a feature vector. All kinds are the identity at the start."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bundle.networks.folding import halves, stack_outputs
from bundle.vocabulary import encode_prompt, prompt_length

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


class Prompter(nn.Module):
    """Conditions the maps and the feature vector, each by a module of its own.

    Args:
        positions: position table of the prompt, see ``bundle.vocabulary``.
        channels: of the maps, fine to coarse; the feature vector has the last one's.
        conditioning: ``film``, ``additive`` (the paper's) or ``none``.

    Attributes:
        prompt_length: values of a prompt.
        neutral: the prompt (1, P) that tells nothing.
        prompt_axes: parameter -> its axis that follows the prompt's values.
    """

    def __init__(self, positions: Sequence[str], *, channels: Sequence[int], conditioning: Conditioning):
        super().__init__()
        self.positions, self.conditioning = list(positions), conditioning
        self.prompt_length = prompt_length(positions)
        self.neutral: Tensor
        self.register_buffer("neutral", torch.tensor([encode_prompt({}, positions)]), persistent=False)
        prompts = [build_prompt(conditioning, channels=c, prompt_length=self.prompt_length) for c in channels]
        self.level_prompts = nn.ModuleList(prompts)
        self.feature_prompt = build_prompt(conditioning, channels=channels[-1], prompt_length=self.prompt_length)
        self.prompt_axes = {name: 1 for name, _ in self.named_parameters() if name.endswith("linear.weight")}

    def forward(self, levels: list[Tensor], feature: Tensor, prompt: Tensor) -> tuple[list[Tensor], Tensor]:
        """Maps (B, C_i, H_i, W_i) and vector (B, C_4), conditioned by a prompt (B, P)."""
        conditioned: list[Tensor] = []
        for i, condition in enumerate(self.level_prompts):
            conditioned.append(condition(levels[i], prompt))
        return conditioned, self.feature_prompt(feature, prompt)

    def config(self) -> dict[str, Any]:
        """The plain values that decide which weights fit."""
        return {"positions": self.positions, "conditioning": self.conditioning}

    def deployed(self) -> nn.Module:
        """The same with all projections of the prompt in one product."""
        return DeployablePrompts(self)


class DeployablePrompts(nn.Module):
    """``Prompter`` for inference."""

    float_parts = ("",)

    def __init__(self, prompter: Prompter):
        super().__init__()
        prompts = [*prompter.level_prompts, prompter.feature_prompt]
        layers = [layer for prompt in prompts for layer in _projections(prompt)]
        self.linear = stack_outputs(layers) if layers else None
        self.sizes = [layer.out_features for layer in layers]
        self.scaled = len(layers) > len(prompts)

    def forward(self, levels: list[Tensor], feature: Tensor, prompt: Tensor) -> tuple[list[Tensor], Tensor]:
        """As ``Prompter``."""
        if self.linear is None:
            return levels, feature
        features = [*levels, feature]
        values = torch.split(self.linear(prompt), self.sizes, dim=1)
        if self.scaled:
            pairs = zip(values[::2], values[1::2], strict=True)
            made = [f * _like(scale, f) + _like(shift, f) for f, (scale, shift) in zip(features, pairs, strict=True)]
        else:
            made = [f + _like(shift, f) for f, shift in zip(features, values, strict=True)]
        return made[:-1], made[-1]


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


def _projections(prompt: nn.Module) -> list[nn.Linear]:
    """Linear layers of a prompt: that of the shift, or those of the scale and the shift; none for no conditioning."""
    if isinstance(prompt, AdditivePrompt):
        shift = copy.deepcopy(prompt.linear)
        shift.weight.mul_(prompt.gate)
        shift.bias.mul_(prompt.gate)
        return [shift]
    if isinstance(prompt, FiLMPrompt):
        scale, shift = halves(prompt.linear)
        scale.bias.add_(1)
        return [scale, shift]
    return []


def _like(values: Tensor, x: Tensor) -> Tensor:
    return values[:, :, None, None] if x.dim() == 4 else values
