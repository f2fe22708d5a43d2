# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of earlier versions in today's names and tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from bundle.vocabulary import NEUTRAL_POSITION, Organs

_NAMES = (
    (re.compile(r"^(level_prompts|feature_prompt)\."), r"prompter.\1."),
    (re.compile(r"^decoder\.(classifier|refine)\."), r"heads.seg.\1."),
    (re.compile(r"^heads\.(cls_\w+)\.(weight|bias)$"), r"heads.\1.linear.\2"),
)
"""Names of weights up to version 0.5.2 -> today's; today's match none of them."""

_PARTS = {"encoder": "ConvNeXtEncoder", "decoder": "UPerNetDecoder", "prompter": "Prompter"}

T = TypeVar("T")


def renamed(state: Mapping[str, T]) -> dict[str, T]:
    """Weights under today's names."""
    return {_today(name): value for name, value in state.items()}


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The ``network_config`` of a whole network with what files up to version 0.5.2 lack."""
    heads = {} if "heads" in config else {"seg": list(config["structures"])}
    heads |= {f"cls_{name}": list(classes) for name, classes in config.get("label_sets", {}).items()}
    parts = {role: {"class": name} for role, name in _PARTS.items()}
    return {"guidance_channels": 0, "pooling": "avg", "heads": heads, "parts": parts, **config}


def rename_loaded(module: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
    """Hook of ``load_state_dict``: MONAI's commands read checkpoints without this project's functions."""
    for name in [name for name in state_dict if name.startswith(prefix)]:
        today = prefix + _today(name.removeprefix(prefix))
        if today != name:
            state_dict[today] = state_dict.pop(name)


def _today(name: str) -> str:
    for pattern, replacement in _NAMES:
        name = pattern.sub(replacement, name)
    return name


_SHOWN = {"breast": ["lesion"], "head": ["head"], "limb": ["nerve", "vessel"]}
"""What organs showed in the configs of versions up to 0.6, whose checkpoints do not tell."""


def organs_of(config: Mapping[str, Any], *, path: str | Path) -> dict[str, Any]:
    """The table of organs of a checkpoint or an exported model; of earlier versions it is made of their tables.

    There, exported models tell what organs show, and of checkpoints the shipped config's organs are taken; what is
    none of theirs, every other organ shows. A label set is that of the organ with its name, or of one without any.

    Args:
        config: ``organs``, or ``structures``, ``label_sets`` and ``positions``.
        path: the file, for the message.

    Raises:
        ValueError: when no table of organs has these structures in their order.
    """
    if "organs" in config:
        return dict(config["organs"])
    positions, structures, label_sets = config["positions"], list(config["structures"]), dict(config["label_sets"])
    shown = {organ: [s for s in names if s in structures] for organ, names in _shown(config).items()}
    free = [s for s in structures[1:] if not any(s in names for names in shown.values())]
    table: dict[str, Any] = {}
    for position in positions:
        entry = {"structures": shown.get(position, [] if position == NEUTRAL_POSITION else free)}
        own = position if position in label_sets else None
        table[position] = entry | ({"classes": label_sets.pop(own)} if own else {})
    for position in positions:
        if label_sets and "classes" not in table[position]:
            name = next(iter(label_sets))
            table[position] |= {"classes": label_sets.pop(name), "label_set": name}
    if Organs(table).structures != structures:
        raise ValueError(
            f"{path} does not tell which organ shows which of its structures {structures[1:]}; say so with --organs, as"
            " in configs/train.yaml, organs in the order of the structures."
        )
    return table


def _shown(config: Mapping[str, Any]) -> Mapping[str, list[str]]:
    given = config.get("organ_structures")
    return {organ: list(names) for organ, names in given.items()} if given else _SHOWN
