# SPDX-License-Identifier: Apache-2.0
"""CutMix for all kinds of answers: a box of an image shows another one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ignite.engine import Engine, Events
from torch import Tensor

from bundle.tasks import Task
from bundle.tasks.targets import select
from bundle.tasks.task import Target


class CutMix:
    """Puts a box of one training image into another one with the same prompts, in a share of the batches.

    Masks follow the box; of answers about the whole image, the loss of both images counts, each by its share of the
    pixels (Yun et al. 2019, "CutMix", equation 1, with a uniform share). Images with the same prompts change places, so
    that the prompts stay true; one that is alone with its prompts stays whole. Such batches have no simulated users.
    MONAI's and torchvision's transforms know neither masks and classes at once nor prompts, and timm's draws from a
    generator that a resumed run does not restore.

    Args:
        tasks: the declared tasks, whose targets follow the images.
        prob: share of the batches, in [0, 1].

    Raises:
        ValueError: when the share is out of its range.
    """

    def __init__(self, tasks: Sequence[Task], prob: float) -> None:
        if isinstance(prob, str) or not 0 <= prob <= 1:
            raise ValueError(f"cutmix_prob must be a share of the batches in [0, 1], got {prob!r}; correct it.")
        self.tasks, self.prob = list(tasks), prob

    def attach(self, engine: Engine) -> None:
        """Registers the handler with a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Mixes ``image`` (B, C, H, W) and ``targets`` of a batch; ``mixed`` says with what, and how much of it."""
        batch = dict(engine.state.batch)
        if float(torch.rand(())) >= self.prob:
            return
        image, targets = batch["image"], batch["targets"]
        order = partners(batch["prompt"])
        inside = random_box(image.shape[2:])
        batch["image"] = torch.where(inside, image[order], image)
        others = {name: select(target, order) for name, target in targets.items()}
        moved = order != torch.arange(len(order))
        batch["targets"] = {
            task.name: _where(moved, task.cut(targets[task.name], others[task.name], inside), targets[task.name])
            for task in self.tasks
        }
        whole = {task.name: others[task.name] for task in self.tasks if not task.reads_map}
        batch["mixed"] = {"targets": whole, "share": float(inside.float().mean())}
        batch["interaction"] = torch.zeros_like(batch["interaction"])
        engine.state.batch = batch


def partners(prompt: Tensor) -> Tensor:
    """The next one with the same prompts (B, P), in a circle, for each image: indices (B,)."""
    order = torch.arange(len(prompt))
    for kind in torch.unique(prompt, dim=0):
        rows = (prompt == kind).all(1).nonzero()[:, 0]
        order[rows] = rows.roll(-1)
    return order


def random_box(size: Sequence[int]) -> Tensor:
    """A box with the image's proportions, of a uniform share of its area, cut off at its border: (H, W) bool."""
    side = (1 - torch.rand(())).sqrt() / 2
    rows, columns = ((((torch.arange(n) + 0.5) / n) - torch.rand(())).abs() < side for n in size)
    return rows[:, None] & columns


def _where(rows: Tensor, one: Target, other: Target) -> Target:
    """Samples of one target where ``rows`` (B,) says so, of the other elsewhere."""
    if isinstance(one, dict):
        return {name: _where(rows, value, other[name]) for name, value in one.items()}
    return torch.where(rows.view(-1, *[1] * (one.dim() - 1)), one, other)
