# SPDX-License-Identifier: Apache-2.0
"""Which item is drawn when, and with which random numbers: all a function of (seed, epoch, place in the epoch)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import ignite.distributed as idist
import numpy as np
from monai.data import Dataset
from torch.utils.data import DistributedSampler


class Draw(NamedTuple):
    """One draw of the sampler: the item's place in the list and the seed of its random transforms."""

    place: int
    seed: int


class BalancedSampler(DistributedSampler[Draw]):
    """Draws items balanced by task and data set; each process takes its share of one common list.

    An item's weight is the sum, over the groups of tasks that it has labels for, of
    task weight x data-set weight / (sum of the weights of the sets with that task) / number of such items in its set;
    with ``balance_patients`` / number of such patients in its set / number of such items of its patient.
    So each task gets its share of the draws whatever the size of its sets, and each set its share of the task. Tasks
    are interleaved within every batch. Without ``task_weights`` it is a plain shuffle: each item once per epoch.
    PyTorch's weighted sampler knows neither processes nor epochs.

    Args:
        data: item dicts.
        tasks: the declared tasks, whose groups ``task_weights`` names.
        seed: the order and the transforms' seeds follow from (seed, epoch).
        num_samples: draws per epoch over all processes; None: one per item.
        task_weights: group of tasks -> weight; None switches balancing off.
        dataset_weights: data set -> weight; absent ones count 1.
        balance_patients: whether the patients of a set share its draws alike, however many images each has.
        batch_size: per-process batch size; process r takes the r-th share of each joint batch, so that P processes
            with batches of b see exactly the batches of one process with P * b. Where the number of draws does not
            divide by the processes, at most P - 1 items are drawn once more.
        num_replicas: number of processes; None: as initialized, else 1.
        rank: this process; None: as initialized, else 0.

    Raises:
        ValueError: when there is no item, weights are no mapping, or a weight names a data set that is not there.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        *,
        seed: int,
        batch_size: int,
        tasks: Sequence[Any] = (),
        num_samples: int | None = None,
        task_weights: Mapping[str, float] | None = None,
        dataset_weights: Mapping[str, float] | None = None,
        balance_patients: bool = False,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        if not len(data):
            raise ValueError("training items expected, got none; check the split and the datalist.")
        for name, given in (("task_weights", task_weights), ("dataset_weights", dataset_weights)):
            if given is not None and not isinstance(given, Mapping):  # the command line gives "null" as text
                raise ValueError(
                    f"{name} must map names to weights, or be None, got {given!r}; write --{name} '$None', or "
                    f"--{name} \"{{'name': 1.0}}\"."
                )
            if wrong := [key for key, weight in (given or {}).items() if not _is_weight(weight)]:
                raise ValueError(
                    f"{name} must map names to numbers from 0, got {wrong[0]!r}: {given[wrong[0]]!r}; correct it."  # type: ignore[index]
                )
        replicas = num_replicas or idist.get_world_size()
        self.count = len(data)
        super().__init__(
            cast(Dataset, data), num_replicas=replicas, rank=idist.get_rank() if rank is None else rank, seed=seed
        )
        self.batch_size = batch_size
        self.weights = None
        if task_weights is not None:
            self.weights = item_weights(
                data, task_weights, dataset_weights or {}, tasks=tasks, balance_patients=balance_patients
            )
        self.num_samples = -(-(num_samples or len(data)) // replicas)
        self.total_size = self.num_samples * replicas

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[Draw]:
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.weights is None:
            passes = -(-self.total_size // self.count)
            order = np.concatenate([rng.permutation(self.count) for _ in range(passes)])[: self.total_size]
        else:
            order = _systematic(self.weights, self.total_size, rng)
        seeds = rng.integers(0, 2**32, self.total_size, dtype=np.uint64)
        joint = self.batch_size * self.num_replicas
        for start in range(0, self.total_size, joint):
            share = min(joint, self.total_size - start) // self.num_replicas
            first = start + self.rank * share
            for i in range(first, first + share):
                yield Draw(int(order[i]), int(seeds[i]))


def _is_weight(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


def _systematic(weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` draws in random order, item i count * weights[i] times, rounded up or down (systematic sampling).

    Less noise than independent draws: items of equal weight (a data set) lie side by side, in random order, so that a
    set's share is exact too.
    """
    order = np.lexsort((rng.random(len(weights)), weights))
    edges = np.cumsum(weights[order])
    points = (np.arange(count) + rng.random()) / count * edges[-1]
    drawn: np.ndarray = rng.permutation(order[np.searchsorted(edges, points, side="right").clip(max=len(weights) - 1)])
    return drawn


def item_weights(
    data: Sequence[Mapping[str, Any]],
    task_weights: Mapping[str, float],
    dataset_weights: Mapping[str, float],
    *,
    tasks: Sequence[Any],
    balance_patients: bool = False,
) -> np.ndarray:
    """Sampling weight of each item, summing to one: float array (number of items,). See :class:`BalancedSampler`."""
    groups = dict.fromkeys(task.group for task in tasks)
    if unknown_groups := set(task_weights) - set(groups):
        kept = {name: weight for name, weight in task_weights.items() if name in groups}
        raise ValueError(
            f"task_weights must name tasks of {list(groups)}, got {sorted(unknown_groups)}; write --task_weights "
            f'"{kept}".'
        )
    table: dict[str, int] = {}
    sets = np.zeros(len(data), dtype=np.int64)
    labeled = {task: np.zeros(len(data), dtype=bool) for task in task_weights}
    for i, item in enumerate(data):
        sets[i] = table.setdefault(str(item.get("dataset", "unknown")), len(table))
        for task in tasks:
            if task.group in labeled and not labeled[task.group][i]:
                labeled[task.group][i] = task.has(item)
    if unknown := set(dataset_weights) - set(table):
        raise ValueError(
            f"dataset_weights must name data sets of the training split {sorted(table)}, got {sorted(unknown)}; "
            "remove or correct them."
        )
    of_set = np.array([dataset_weights.get(name, 1.0) for name in table])
    weights = np.zeros(len(data))
    for task, share in task_weights.items():
        of_item = _shares(data, sets, labeled[task], balance_patients=balance_patients)
        weights += share * of_set[sets] / (of_set[np.unique(sets[labeled[task]])].sum() or 1.0) * of_item
    if weights.sum() <= 0:
        raise ValueError(
            f"task_weights must give weight to a task that items have labels for, got {dict(task_weights)}; correct it."
        )
    normalized: np.ndarray = weights / weights.sum()
    return normalized


def _shares(
    data: Sequence[Mapping[str, Any]], sets: np.ndarray, labeled: np.ndarray, *, balance_patients: bool
) -> np.ndarray:
    """Share of each item in the draws of its set, zero without the label: float array (number of items,).

    An item that names no patient is a patient of its own.
    """
    places = np.flatnonzero(labeled).tolist()
    patients = [(int(sets[i]), (balance_patients and data[i].get("patient")) or i) for i in places]
    images, of_set = Counter(patients), Counter(name for name, _ in set(patients))
    shares = np.zeros(len(data))
    shares[places] = [1 / of_set[patient[0]] / images[patient] for patient in patients]
    return shares
