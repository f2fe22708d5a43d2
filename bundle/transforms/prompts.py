# SPDX-License-Identifier: Apache-2.0
"""Prompts into the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import RandomizableTransform

from bundle.vocabulary import PROMPTS, UNKNOWN, encode_prompt


class EncodePromptd(RandomizableTransform):
    """Adds ``prompt``, the concatenated one-hot codes of an item's four prompts: float tensor (P,).

    It goes into the image's meta too: all that MONAI Label hands to an inferer is the image.

    In training the task is drawn among those that the item has labels for, and prompts are dropped (made neutral) at
    random: all four together with probability ``drop_prob``, then each alone with the same probability, so that the
    network also learns to work without them.

    Args:
        positions: the position table.
        drop_prob: probability in [0, 1]; 0 keeps every prompt.
        sample_task: draw the task from the labels; False keeps the item's own ``task``.

    Raises:
        ValueError: in the call, when a prompt's value is in no table; names the file.
    """

    def __init__(self, positions: Sequence[str], drop_prob: float = 0.0, sample_task: bool = False) -> None:
        super().__init__(prob=1.0)
        self.positions = tuple(positions)
        self.drop_prob = drop_prob
        self.sample_task = sample_task

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with its ``prompt``."""
        item = dict(data)
        prompt = {name: item.get(name, UNKNOWN) for name in PROMPTS}
        if self.sample_task:
            tasks = ["segmentation"] * any(item["labeled"]) + ["classification"] * any(c >= 0 for c in item["cls"])
            prompt["task"] = str(self.R.choice(tasks)) if tasks else UNKNOWN
        if self.drop_prob > 0:
            drop_all = self.R.rand() < self.drop_prob
            for name in PROMPTS:
                if self.R.rand() < self.drop_prob or drop_all:
                    prompt[name] = UNKNOWN
        try:
            item["prompt"] = torch.tensor(encode_prompt(prompt, self.positions))
        except ValueError as e:
            raise ValueError(f"{item['item']}: {e}") from e
        if isinstance(item.get("image"), MetaTensor):
            item["image"].meta["prompt"] = item["prompt"]
        return item
