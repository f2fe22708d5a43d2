# SPDX-License-Identifier: Apache-2.0
"""What the network answers: one kind of answer, one file."""

from bundle.tasks.classes import Classes, class_tasks
from bundle.tasks.declared import build_heads, declare
from bundle.tasks.decoding import Decoded, Records
from bundle.tasks.loss import MultiTaskLoss
from bundle.tasks.masks import Masks
from bundle.tasks.organ import Organ
from bundle.tasks.points import Points
from bundle.tasks.presence import Presence
from bundle.tasks.restoration import Restoration
from bundle.tasks.targets import Targetsd, select
from bundle.tasks.task import Asked, Target, Task, Widths

__all__ = [
    "Asked",
    "Classes",
    "Decoded",
    "Masks",
    "MultiTaskLoss",
    "Organ",
    "Points",
    "Presence",
    "Records",
    "Restoration",
    "Target",
    "Targetsd",
    "Task",
    "Widths",
    "build_heads",
    "class_tasks",
    "declare",
    "select",
]
