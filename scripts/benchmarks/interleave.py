# SPDX-License-Identifier: Apache-2.0
"""Times of several ways to do the same work, taken in turns, so that a noisy machine disturbs all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Options:
    """What all parts share.

    Attributes:
        quick: fewer rounds and smaller sizes; the whole benchmark then takes five minutes.
        datalist: manifest with the images to load; made by scripts/prepare_data.py, or the phantom's.
        ultrasound: folder of public images, DICOM and cine, or None.
        weights: checkpoint of the compact network.
        seed: of everything random.
    """

    quick: bool
    datalist: Path
    ultrasound: Path | None
    weights: Path
    seed: int = 0


@dataclass
class Part:
    """One part's result: a table, and whatever else goes into the JSON.

    Attributes:
        title: heading.
        note: what was measured, in one or two sentences.
        rows: equal-keyed rows of plain values; the keys are the table's columns.
        extra: plain values that the table does not show.
    """

    title: str
    note: str
    rows: list[dict[str, Any]]
    extra: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Timing:
    """Seconds per call of one way: median and quartiles over the rounds."""

    median: float
    low: float
    high: float
    rounds: int


def interleave(ways: Mapping[str, Callable[[], Any]], *, rounds: int, warmup: int = 1) -> dict[str, Timing]:
    """Wall-clock times of the ways, called A B C A B C ...

    Args:
        ways: name -> one unit of work.
        rounds: timed calls of each way.
        warmup: calls of each way before, not timed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-warmup, rounds):
        for name, work in ways.items():
            start = time.perf_counter()
            work()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    result = {}
    for name, times in seconds.items():
        low, median, high = (float(q) for q in np.quantile(times, [0.25, 0.5, 0.75]))
        result[name] = Timing(median, low, high, rounds)
    return result
