# SPDX-License-Identifier: Apache-2.0
"""What a batch is trained on: the targets of all tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.transforms import Transform
from torch import Tensor

from bundle.tasks.task import Target, Task


def each(target: Target, change: Callable[[Tensor], Tensor]) -> Target:
    """The target with every tensor changed."""
    return {name: change(value) for name, value in target.items()} if isinstance(target, dict) else change(target)


def select(target: Target, rows: Tensor) -> Target:
    """The samples ``rows`` (bool or indices) of a target."""
    return each(target, lambda value: value[rows])


def join(one: Target, other: Target) -> Target:
    """Samples of two targets, one after the other."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: torch.cat([value, other[name]]) for name, value in one.items()}
    return torch.cat([one, other])


def mapped(tasks: Sequence[Task], targets: Mapping[str, Target], size: int) -> Tensor:
    """Samples that need the decoder's map, (B,) bool: those labeled for a task whose head reads it."""
    rows = torch.zeros(size, dtype=torch.bool)
    for task in tasks:
        if task.reads_map:
            rows = rows.to((labeled := task.labeled(targets[task.name])).device) | labeled
    return rows


class Targetsd(Transform):
    """Adds ``targets``, task -> what the sample is trained on.

    Args:
        tasks: the declared tasks.
        masks: false leaves out the task that takes clicks, whose masks stay where they are: an evaluation reads them
            on the image's own grid.
    """

    def __init__(self, tasks: Sequence[Task], *, masks: bool = True) -> None:
        self.tasks = [task for task in tasks if masks or not task.guided]

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with its ``targets``, plain tensors."""
        item = dict(data)
        item["targets"] = {task.name: each(task.target(item), torch.as_tensor) for task in self.tasks}
        return item
