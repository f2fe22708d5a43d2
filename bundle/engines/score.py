# SPDX-License-Identifier: Apache-2.0
"""The score that validation compares and evaluation reports: one pass over the images, every image once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine
from ignite.metrics import Metric

from bundle.metrics import Row, item_name
from bundle.tasks import Task


def identity(output: Any) -> Any:
    """The output as it is."""
    return output


def merged_items(engine: Engine) -> list[dict[str, Any]]:
    """The images of the evaluator's last iteration: what was loaded, updated by what was predicted.

    MONAI's evaluators leave loaded keys in ``state.batch`` and put predicted ones into ``state.output``.

    Raises:
        TypeError: when the output is not a list of dictionaries (``decollate=False``).
    """
    batch, output = engine.state.batch, engine.state.output
    if not isinstance(output, list) or not all(isinstance(item, Mapping) for item in output):
        raise TypeError(
            f"evaluator output must be a list of dictionaries, one per image, got {type(output).__name__}; "
            "leave decollate=True in the evaluator."
        )
    loaded = batch if isinstance(batch, list) and len(batch) == len(output) else [{}] * len(output)
    return [{**before, **after} for before, after in zip(loaded, output, strict=True)]


def unreadable_row(item: Mapping[str, Any]) -> Row:
    """Path of an image that could not be read, and the reason without that path."""
    name = item_name(item)
    return {"image": name, "error": item["error"].removeprefix(f"{name}: ").replace(name, Path(name).name)}


class MultiTaskScore(Metric):
    """Mean of the tasks' headline metrics, such as Dice and AUROC, each in [0, 1].

    A headline metric is the mean over its parts, such as data sets and structures, or label sets; what is not defined
    is left out. Without any scored image the score is 0, with a warning.

    Beside its own name it writes into ``engine.state.metrics``: ``val_<metric>`` for each headline metric and
    ``val_<metric>_<part>`` for all, as far as they are defined. Under torch.distributed the rows of all processes are
    joined, in the order in which one process would have seen the images if they were dealt out one by one, and an image
    that several saw counts once.

    Args:
        tasks: the declared tasks.
        output_transform: applied to the list of items.

    Attributes:
        rows: task -> its rows, once the epoch is complete.
        unreadable: path and reason of each image that could not be read, likewise.
    """

    def __init__(self, tasks: Sequence[Task], *, output_transform: Callable[[Any], Any] = identity) -> None:
        self.tasks = list(tasks)
        self.parts: dict[str, float] = {}
        super().__init__(output_transform=output_transform)

    def reset(self) -> None:
        """Forget all images."""
        self.rows: dict[str, list[Row]] = {task.name: [] for task in self.tasks}
        self.unreadable: list[Row] = []
        self.images: list[str] = []  # all that came by, in order

    def iteration_completed(self, engine: Engine) -> None:
        """Take the images of this iteration."""
        self.update(self._output_transform(merged_items(engine)))

    def update(self, output: Sequence[Mapping[str, Any]]) -> None:
        """Score images.

        Args:
            output: one mapping per image: ``found`` of ``bundle.tasks.Decoded``, the labels that the tasks' ``rows``
                read, and ``error``: why the image could not be read, else "".
        """
        for item in output:
            self.images.append(item_name(item))
            if item.get("error"):
                self.unreadable.append(unreadable_row(item))
                continue
            for task in self.tasks:
                if task.name in item["found"]:
                    self.rows[task.name] += task.rows(item["found"][task.name], item)

    def compute(self) -> float:
        """The score in [0, 1]; ``parts`` then holds what it was made of."""
        place = {name: n for n, name in enumerate(dealt_names(self.images))}

        def joined(rows: list[Row], keys: Sequence[str]) -> list[Row]:
            return sorted(gather_rows(rows, keys=("image", *keys)), key=lambda row: place[row["image"]])

        self.rows = {task.name: joined(self.rows[task.name], task.keys) for task in self.tasks}
        self.unreadable = joined(self.unreadable, ("error",))
        scores: dict[str, dict[str, float]] = {}
        for task in self.tasks:
            for metric, values in task.scores(self.rows[task.name]).items():
                scores.setdefault(metric, {}).update(values)
        headline = [metric for task in self.tasks for metric in task.headline if scores.get(metric)]
        means = {f"val_{metric}": sum(scores[metric].values()) / len(scores[metric]) for metric in headline}
        parts = {f"val_{metric}_{part}": v for metric, values in scores.items() for part, v in values.items()}
        self.parts = {**means, **parts}
        if not means:
            warnings.warn("no image with a structure or with all classes was scored; the score is 0.", stacklevel=2)
            return 0.0
        return sum(means.values()) / len(means)

    def completed(self, engine: Engine, name: str) -> None:
        """Write the score and its parts into the engine's metrics."""
        super().completed(engine, name)
        engine.state.metrics.update(self.parts)


def _shares(values: list[Any]) -> list[list[Any]]:
    """The values of each process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [values]
    shares: list[list[Any]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(shares, values)
    return shares


def dealt_names(names: list[str]) -> list[str]:
    """The names that all processes saw: the first of each, then the second of each, and so on; each name once."""
    shares = _shares(names)
    longest = max(len(share) for share in shares)
    return list(dict.fromkeys(share[n] for n in range(longest) for share in shares if n < len(share)))


def gather_rows(rows: list[Row], *, keys: tuple[str, ...]) -> list[Row]:
    """The rows of all processes, in the same order on each, equal keys once.

    Samplers repeat images to give every process as many; a repeated image must not count twice.
    """
    return list({tuple(row[k] for k in keys): row for share in _shares(rows) for row in share}.values())
