# SPDX-License-Identifier: Apache-2.0
"""Prompts into the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import RandomizableTransform

from bundle.vocabulary import PROMPTS, TASKS, UNKNOWN, encode_prompt


class EncodePromptd(RandomizableTransform):
    """Adds ``prompt``, the concatenated one-hot codes of an item's four prompts: float tensor (P,).

    It goes into the image's meta too: all that MONAI Label hands to an inferer is the image.

    In training the task is drawn among those that the item has labels for, and prompts are dropped (made neutral) at
    random: all four together with probability ``drop_prob``, then each alone with the same probability, so that the
    network also learns to work without them.

    Args:
        positions: the position table.
        drop_prob: probability in [0, 1]; 0 keeps every prompt.
        tasks: the declared tasks, of whose groups one is drawn that the item has labels for; none keeps the item's own
            ``task``.

    Raises:
        ValueError: in the call, when a prompt's value is in no table; names the file.
    """

    def __init__(self, positions: Sequence[str], drop_prob: float = 0.0, tasks: Sequence[Any] = ()) -> None:
        super().__init__(prob=1.0)
        self.positions, self.drop_prob, self.tasks = tuple(positions), drop_prob, list(tasks)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with its ``prompt``."""
        item = dict(data)
        prompt = {name: item.get(name, UNKNOWN) for name in PROMPTS}
        if self.tasks:
            groups = dict.fromkeys(task.group for task in self.tasks if task.group in TASKS and task.has(item))
            prompt["task"] = str(self.R.choice(list(groups))) if groups else UNKNOWN
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
