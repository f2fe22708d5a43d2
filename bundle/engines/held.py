# SPDX-License-Identifier: Apache-2.0
"""What weights say of themselves, so that inference repeats nothing of the training's config."""

from __future__ import annotations

import copy
import functools
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from monai.bundle import ConfigParser
from torch import nn

from bundle.engines.running import label_request
from bundle.networks.upgrade import organs_of
from bundle.networks.weights import read_checkpoint
from bundle.tasks import Points, Task
from bundle.vocabulary import Organs

logger = logging.getLogger(__name__)

OPTIONS = (
    "encoder",
    "decoder_channels",
    "conditioning",
    "norm",
    "pooling",
    "guidance_channels",
    "image_size",
    "image_mean",
    "image_std",
    "click_radius",
    "gate",
    "organ_points",
    "point_pairs",
)
"""Ids of the config that checkpoints and exported models tell."""


def describe(weights: str | Path, *, otherwise: str | Path, exported: nn.Module | None = None) -> dict[str, Any]:
    """``organs``, ``heads`` (output -> names of its logits) and the values of ``OPTIONS``, of the weights that run.

    Reads a file again only once it has changed: MONAI Label asks in every request.

    Args:
        weights: a checkpoint. Where there is no such file, ``heads`` is None and all else is of ``otherwise``, so that
            the network can be built before there are weights.
        otherwise: config of the training; what files of earlier versions do not tell is taken from there.
        exported: an exported model, in place of the checkpoint.

    Raises:
        ValueError: when the file is no checkpoint of this project, or its tables cannot be told; it is named.
    """
    config = _config(str(otherwise), _stamp(otherwise))
    told: dict[str, Any] = {key: copy.deepcopy(config[key]) for key in ("organs", *OPTIONS)}
    told["heads"] = None
    if exported is not None:
        metadata: dict[str, Any] = exported.metadata  # type: ignore[assignment]
        network = metadata.get("network", {})
        rows = {name: network.get("heads", {}).get(name, []) for name in metadata["outputs"]}
        found = {**network, **metadata, "heads": rows}
        weights = exported.path  # type: ignore[assignment]
    elif Path(weights).is_file():
        found = copy.deepcopy(_checkpoint(str(weights), _stamp(weights)))
    else:
        return told
    _check_gate(found, path=weights)
    organs = organs_of(found, path=weights)
    try:
        Points(Organs(organs), found.get("organ_points") or {}, pairs=found.get("point_pairs") or [])
    except ValueError as error:
        raise ValueError(f"{weights}: organs that a network can have expected, got others: {error}") from None
    return {**told, **{key: found[key] for key in told if key in found}, "organs": organs}


def _check_gate(found: Mapping[str, Any], *, path: str | Path) -> None:
    if "structures" not in found:
        return
    known = found["structures"][1:]
    if others := set(found.get("gate") or {}) - set(known):
        raise ValueError(
            f"{path}: gate must name some of its {len(known)} structures, got {len(others)} others; write the gate"
            " anew (scripts/gate.py), or use a file that you made."
        )


def told_organs(held: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """The table of organs that the weights tell.

    Args:
        held: of ``describe``.
        given: organs that a run names beside, ``--organs#NAME``, which weights cannot take.

    Raises:
        ValueError: when there are such organs.
    """
    if given:
        raise ValueError(
            f"organs must be those of the weights, got --organs#{next(iter(given))} beside them; weights learn an "
            "organ in a training with that option (configs/train.yaml) and tell it to all else."
        )
    table: dict[str, Any] = held["organs"]
    return table


def told_gate(held: Mapping[str, Any], **given: float) -> dict[str, float] | None:
    """The gate that the weights tell, with the entries that a run gives: structure -> probability; None for no gate.

    Args:
        held: of ``describe``.
        given: entries that a run names, ``--gate#NAME 0.9``; ``bundle.tasks.Presence`` checks them.
    """
    gate: dict[str, float] | None = held["gate"]
    return {**(gate or {}), **given} if given else gate


def told_by(tasks: Sequence[Task], **values: Any) -> dict[str, Any]:
    """What the checkpoints of a training say beside the network's own shape.

    Args:
        tasks: the declared tasks, each of which tells its own (``Task.told``).
        values: id of the config -> plain value.
    """
    return {**values, **{key: value for task in tasks for key, value in task.told().items()}}


def kept_heads(weights: str | Path) -> dict[str, list[str]] | None:
    """Outputs that a training for a MONAI Label client keeps, with the names of their logits: the served weights'.

    Saved labels would leave other heads as random as they start. None, for all that are declared: in other trainings,
    and where no weights are served.

    Args:
        weights: checkpoint that is served, and that the training starts from.

    Raises:
        ValueError: as ``describe``.
    """
    return _rows(weights) if label_request() and Path(weights).is_file() else None


def taught_heads(
    tasks: Sequence[Task],
    items: Sequence[Mapping[str, Any]] | None,
    *,
    start: str | Path | None = None,
    served: str | Path | None = None,
) -> dict[str, list[str]] | None:
    """Outputs that a training teaches, with the names of their logits: those that its items, or its start, know.

    The others would answer at random, and one of organs decides what is reported; the log names them, and the
    structures of masks that nothing teaches.

    Args:
        tasks: the declared tasks.
        items: of the training split; None for a server's labels, whose training keeps the outputs of the served
            weights, or all where none are served.
        start: checkpoint that the training starts from, if any.
        served: checkpoint that is served, if any.

    Raises:
        ValueError: when no item is labeled for any of the tasks; and as ``describe``.
    """
    if items is None:
        return _rows(served) if served and Path(served).is_file() else None
    known = _rows(start) if start else {}
    taught = {task.name: task.taught(items, known.get(task.name, ())) for task in tasks}
    missing = [name for name, rows in taught.items() if rows is None]
    if len(missing) == len(taught):
        raise ValueError(
            f"training items must be labeled for one of {', '.join(taught)}, got {len(items)} items without a label; "
            "add masks, classes or points to the data list (docs/data.md)."
        )
    if missing and idist.get_rank() == 0:
        logger.info(f"no training item is labeled for {', '.join(missing)}: the weights will hold no such outputs")
    kept = [task for task in tasks if task.name not in missing]
    left = {task.name: names for task in kept if (names := task.untaught(items, known.get(task.name, ())))}
    if left and idist.get_rank() == 0:
        named = "; ".join(f"{', '.join(names)} of {name}" for name, names in left.items())
        logger.warning(f"no training item is labeled for {named}: do not rely on what the weights answer there")
    return {name: list(rows) for name, rows in taught.items() if rows is not None}


def _rows(weights: str | Path) -> dict[str, list[str]]:
    heads: Mapping[str, Sequence[str]] = _checkpoint(str(weights), _stamp(weights))["heads"]
    return {name: list(rows) for name, rows in heads.items()}


def _stamp(path: str | Path) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=4)
def _config(path: str, stamp: tuple[int, int, int]) -> dict[str, Any]:
    config: dict[str, Any] = ConfigParser.load_config_file(path)
    return config


@functools.lru_cache(maxsize=4)
def _checkpoint(path: str, stamp: tuple[int, int, int]) -> dict[str, Any]:
    return read_checkpoint(path)[1]
