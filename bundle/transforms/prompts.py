# SPDX-License-Identifier: Apache-2.0
"""Prompts into the network, and its several outputs out of one dictionary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Invertd, MapTransform, RandomizableTransform

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


class SplitPredictiond(MapTransform):
    """Splits the network's dictionary of logits into segmentation probabilities and class probabilities.

    ``pred`` {"seg": (C, H, W), "cls_<label set>": (K,)} becomes ``pred``: (C, H, W) in [0, 1], summing to one over the
    channels, and ``probabilities``: {label set: (K,)}. A plain tensor is taken for the segmentation logits.
    """

    def __init__(self, keys: KeysCollection = "pred") -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with ``pred`` split."""
        item = dict(data)
        for key in self.key_iterator(item):
            outputs = item[key] if isinstance(item[key], Mapping) else {"seg": item[key]}
            item["probabilities"] = {
                name.removeprefix("cls_"): logits.float().softmax(0)
                for name, logits in outputs.items()
                if name.startswith("cls_")
            }
            # MONAI's Invertd looks for the history of the image only where the prediction is a MetaTensor
            item[key] = MetaTensor(outputs["seg"].float().softmax(0))
        return item


class ToLabelMapd(Invertd):
    """Takes probabilities (C, H', W') back to the image's native grid and names the most probable structure there.

    ``pred`` becomes a MetaTensor (1, H, W) uint8 of structure indices. The inverse is MONAI's, on probabilities and
    bilinear. MONAI's ``AsDiscrete`` would do for the rest, but ``torch.argmax`` over the first axis takes several times
    as long as ``torch.max``, more than the network itself on a large image.
    """

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with the label map in place of the probabilities."""
        item: dict[str, Any] = super().__call__(data)
        for key in self.key_iterator(item):
            probabilities = item[key]
            indices = probabilities.as_tensor().max(0, keepdim=True).indices.to(torch.uint8)
            item[key] = MetaTensor(indices, meta=probabilities.meta)
        return item
