# SPDX-License-Identifier: Apache-2.0
"""Weights of one network as the start of another that knows other structures, classes or positions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from bundle.networks.conversion import require_fit, tensor_form
from bundle.networks.weights import complete, read_checkpoint, read_file, require_same
from bundle.vocabulary import prompt_values

logger = logging.getLogger(__name__)

TABLES = ("heads", "structures", "label_sets", "positions")
"""What may differ: rows and columns of weights belong to entries of these, and follow them by name."""

Axes = tuple[str | None, ...]
"""The table that each of a tensor's first axes belongs to: a head, ``PROMPT``, or None."""

PROMPT = "prompt values"


def load_start(network: nn.Module, path: str | Path) -> str:
    """Starts a network from a checkpoint: what both know by name is taken, what is new keeps its random start.

    Args:
        network: a ``UPerConvNeXt``; unchanged when the checkpoint is refused.
        path: file such as ``models/model.pt``, of the same encoder, decoder width, normalization and conditioning.

    Returns:
        What was taken and what is new, as a sentence.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no checkpoint of this project, or of a network that differs in more than its tables.
    """
    state, config = read_checkpoint(path)
    own: dict[str, Any] = network.network_config()  # type: ignore[operator]
    state, config = complete(state, config, network=network)
    require_same(config, own, keys=[key for key in own if key not in TABLES], path=path)
    target, axes = network.state_dict(), table_axes(network)
    there, here = _entries(config), _entries(own)
    new = tuple(f"heads.{name}." for name in own["heads"] if name not in config["heads"])
    fixed = {n: v for n, v in target.items() if n not in axes and not n.startswith(new)}
    require_fit(state, {**state, **fixed}, path=path)
    started = {}
    for name, value in target.items():
        names = [(there.get(axis, []), here[axis]) if axis else None for axis in axes.get(name, ())]
        source = None if name.startswith(new) else state.get(name)
        started[name] = state[name] if name in fixed else _by_name(source, value, names, path=f"{path}: {name}")
    network.load_state_dict(started)
    told = [_told(key, there.get(key, []), names) for key, names in here.items()]
    if gate := config.get("gate"):
        named = " ".join(map(repr, gate))
        told.append(f"gate: left out {named}, as it fits those weights alone; scripts/gate.py chooses one for the new")
    return "; ".join([f"started from {path}", *told])


class StartWeights:
    """Handler that starts a training from a checkpoint, see :func:`load_start`.

    Args:
        network: a ``UPerConvNeXt``.
        path: file such as ``models/model.pt``.
    """

    def __init__(self, network: nn.Module, path: str) -> None:
        self.network, self.path = network, path

    def attach(self, engine: Engine) -> None:
        """Registers the handler with a trainer, before the one that resumes a run."""
        engine.add_event_handler(Events.STARTED, lambda: logger.info(load_start(self.network, self.path)))


def _entries(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of what rows and columns of weights belong to: rows of each head, prompt values."""
    prompts = prompt_values(config["positions"]) if "positions" in config else {}
    return {
        **config["heads"],
        PROMPT: [f"{prompt} {value}" for prompt, values in prompts.items() for value in values],
    }


def table_axes(network: nn.Module) -> dict[str, Axes]:
    """Parameters some of whose first axes belong to a table, as the network's parts declare it."""
    heads: nn.ModuleDict = network.heads  # type: ignore[assignment]
    prompts: Mapping[str, int] = getattr(network.prompter, "prompt_axes", {})
    rows = {
        f"heads.{name}.{parameter}": (name,) * count
        for name, head in heads.items()
        for parameter, count in head.row_axes.items()  # type: ignore[operator, union-attr]
    }
    return {**rows, **{f"prompter.{name}": (*[None] * axis, PROMPT) for name, axis in prompts.items()}}


def _by_name(
    source: Tensor | None, target: Tensor, names: Sequence[tuple[list[str], list[str]] | None], *, path: str
) -> Tensor:
    """``target`` with the entries that ``source`` has too.

    Args:
        source: tensor of the file, None when it has none.
        target: tensor of the network, of the same number of axes.
        names: for each of the first axes the names in the file and in the network; None for an axis without names.
        path: where ``source`` comes from, for messages.

    Raises:
        ValueError: when ``source`` does not have the shape that its names tell.
    """
    if source is None:
        return target
    axes = [*names, *[None] * (target.dim() - len(names))]
    expected = [len(axis[0]) if axis else size for axis, size in zip(axes, target.shape, strict=True)]
    if tensor_form(source) != str(expected):
        raise ValueError(f"{path} must have shape {expected}, got {tensor_form(source)}; the file is damaged.")
    shared = [[name for name in axis[1] if name in axis[0]] if axis else [] for axis in axes]
    there, here = (
        torch.meshgrid(
            *(
                torch.tensor([axis[side].index(name) for name in known] if axis else range(size), dtype=torch.long)
                for axis, known, size in zip(axes, shared, target.shape, strict=True)
            ),
            indexing="ij",
        )
        for side in (0, 1)
    )
    started = target.clone()
    started[here] = source[there].to(target)
    return started


def _told(key: str, there: Sequence[str], here: Sequence[str]) -> str:
    """What became of one table's entries."""
    groups = {
        "taken": [name for name in here if name in there],
        "new": [name for name in here if name not in there],
        "left out": [name for name in there if name not in here],
    }
    told = ", ".join(f"{word} {' '.join(map(repr, names))}" for word, names in groups.items() if names)
    return f"{key}: {told}"


def load_decoder(decoder: nn.Module, path: str | Path) -> None:
    """Starts a decoder from the file of a pretraining, where it holds one of the same shape; says so in the log.

    Args:
        decoder: a ``UPerNetDecoder``; unchanged where the file holds no decoder or another one.
        path: local file.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no checkpoint.
    """
    held = read_file(path).get("decoder")
    if not isinstance(held, Mapping):
        return
    own, theirs = ({k: getattr(v, "shape", None) for k, v in state.items()} for state in (decoder.state_dict(), held))
    if own != theirs:
        logger.warning(f"the decoder starts at random: that of {path} has another width or normalization")
        return
    decoder.load_state_dict(held)
    logger.info(f"the decoder starts from {path}: {len(own)} tensors")
