# SPDX-License-Identifier: Apache-2.0
"""The tasks that a config declares, and the heads of a network for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from bundle.networks.parts import Decoder, Encoder
from bundle.tasks.task import Task, Widths


def declare(
    tasks: Mapping[str, Task | Sequence[Task] | None], *, held: Mapping[str, Sequence[str]] | None = None
) -> list[Task]:
    """The tasks of a config's blocks, in order.

    Args:
        tasks: name of a block -> a task, or several; None for a block that is disabled.
        held: output of the weights -> names of its logits; tasks without an output are left out. None: all are there.

    Raises:
        ValueError: when a block is no task, two tasks have one name, there is none, or two take clicks.
    """
    if not isinstance(tasks, Mapping):
        raise ValueError(
            f"tasks must be a table of names and tasks, got {tasks!r}; switch one off with --tasks#NAME '$None'."
        )
    blocks = [_block(name, block) for name, block in tasks.items()]
    found = [task for block in blocks for task in block if held is None or task.name in held]
    for task in found:
        task.keep((held or {}).get(task.name, ()))
    if len({task.name for task in found}) < len(found) or sum(task.guided for task in found) > 1:
        raise ValueError(
            f"tasks must have names of their own, and one of them at most may take clicks, got "
            f"{[task.name for task in found]}; rename them in the config."
        )
    if not found:
        raise ValueError(
            f"tasks must hold one that the weights answer, got {list(tasks)} for weights of {sorted(held or ())}; use"
            " other weights, or add the task's block to the config (for weights that restore: --task restore in"
            " inference, configs/restore.yaml in evaluation)."
        )
    return found


def _block(name: str, block: Any) -> list[Task]:
    found = [block] if isinstance(block, Task) or not isinstance(block, Sequence) else list(block)
    if block is not None and not all(isinstance(task, Task) for task in found):
        raise ValueError(
            f"tasks#{name} must be a task, such as bundle.tasks.Masks, or a list of them, got {block!r}; correct it, or"
            f" switch it off with --tasks#{name} '$None'."
        )
    return [] if block is None else found


def build_heads(tasks: Sequence[Task], *, encoder: Encoder, decoder: Decoder) -> nn.ModuleDict:
    """The heads of a network: task -> module, on the decoder's map and the encoder's feature vector."""
    widths = Widths(fine=decoder.channels, feature=encoder.channels[-1])
    return nn.ModuleDict({task.name: task.build(widths) for task in tasks})
