# SPDX-License-Identifier: Apache-2.0
"""The loss of all tasks together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from torch import Tensor, nn

from bundle.tasks.targets import mapped, select
from bundle.tasks.task import Task


class MultiTaskLoss(nn.Module):
    """Sum over the groups of tasks of their mean losses, each task with its weight.

    A group's mean runs over the labels of its tasks, over all processes: with several processes the average of the
    processes' gradients equals the gradient of one process with the joined batch. Samples with a simulated user come
    on top: they add to the sum and do not count, so that what the others weigh does not depend on them. Where images
    are mixed (``bundle.engines.CutMix``), both answers about the whole image count, each by its share.

    Args:
        tasks: the declared tasks.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.tasks = list(tasks)
        self.groups = list(dict.fromkeys(task.group for task in self.tasks))

    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Any]) -> Tensor:
        """Scalar loss of a batch.

        Args:
            pred: task -> logits of all B samples, or, of a task whose head reads the decoder's map, of the samples
                that need it (``bundle.tasks.targets.mapped``), in order.
            target: ``targets``, task -> what the samples are trained on; optionally ``guided`` (B,) bool, samples with
                a simulated user; optionally ``mixed``, the ``targets`` of the images that take a ``share`` of these.
        """
        targets = target["targets"]
        size = len(self.tasks[0].labeled(targets[self.tasks[0].name]))
        rows = mapped(self.tasks, targets, size)
        counted = ~target["guided"] if "guided" in target else torch.ones_like(rows)
        sums: dict[str, Tensor] = {}
        counts = {group: torch.zeros((), device=rows.device) for group in self.groups}
        for task in self.tasks:
            for answers, share in _answers(task.name, target):
                mine = task.labeled(answers)
                logits = pred[task.name][mine[rows] if task.reads_map else mine]
                loss = task.weight * share * task.loss(logits, select(answers, mine))
                sums[task.group] = sums[task.group] + loss if task.group in sums else loss
                counts[task.group] = counts[task.group] + share * (mine & counted).sum()
        total = torch.stack(list(counts.values())).to(torch.float32)
        if idist.get_world_size() > 1:
            total = idist.all_reduce(total) / idist.get_world_size()
        total = total.clamp(min=1.0 / idist.get_world_size())
        means = [sums[group] / total[place] for place, group in enumerate(self.groups)]
        joined: Tensor = torch.stack(means).sum()
        return joined


def _answers(name: str, target: Mapping[str, Any]) -> list[tuple[Any, float]]:
    """What a task's samples are trained on, each with its share in them."""
    own, mixed = target["targets"][name], target.get("mixed")
    if mixed is None or name not in mixed["targets"]:
        return [(own, 1.0)]
    return [(own, 1 - mixed["share"]), (mixed["targets"][name], mixed["share"])]
