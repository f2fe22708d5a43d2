# SPDX-License-Identifier: Apache-2.0
"""How a live run went: frames, rate, latency, memory. Its own memory does not grow."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from monai.utils import optional_import

from bundle.live.pictures import Result
from bundle.vocabulary import NOT_ULTRASOUND

psutil, HAS_PSUTIL = optional_import("psutil")

PERCENTILES = (50, 95, 99)
WARMUP = 100
"""Frames after which memory counts as settled."""


class Histogram:
    """Durations in bins that grow by 1 %, from 0.01 ms to 1000 s: percentiles are exact to half a percent."""

    LOWEST, HIGHEST, GROWTH = 1e-5, 1e3, 1.01

    def __init__(self) -> None:
        self.counts = np.zeros(1 + math.ceil(math.log(self.HIGHEST / self.LOWEST, self.GROWTH)), np.int64)
        self.largest = 0.0

    def add(self, seconds: float) -> None:
        """Counts one duration; those outside the range count as its ends."""
        inside = min(max(seconds, self.LOWEST), self.HIGHEST)
        self.counts[int(math.log(inside / self.LOWEST, self.GROWTH))] += 1
        self.largest = max(self.largest, seconds)

    def percentile(self, percent: float) -> float:
        """Seconds that ``percent`` of the durations do not exceed; nan when there are none."""
        total = int(self.counts.sum())
        if not total:
            return math.nan
        index = int(np.searchsorted(self.counts.cumsum(), max(1, math.ceil(total * percent / 100))))
        return min(float(self.LOWEST * self.GROWTH ** (index + 0.5)), self.largest)

    def milliseconds(self) -> dict[str, float | None]:
        """p50, p95, p99 and the largest, in ms; None when there are none."""
        values = {f"p{percent}": self.percentile(percent) for percent in PERCENTILES}
        values["max"] = self.largest if self.counts.any() else math.nan
        return {name: None if math.isnan(v) else round(v * 1000, 2) for name, v in values.items()}


def resident_mb() -> float | None:
    """Memory of this process in MB (2^20 bytes); None without psutil."""
    return round(psutil.Process().memory_info().rss / 2**20, 1) if HAS_PSUTIL else None


class LiveReport:
    """Counts results and makes the report. Make it when the run begins: the clock starts at the first result."""

    def __init__(self) -> None:
        self.latency, self.work = Histogram(), Histogram()
        self.frames = self.withheld = 0
        self.first = self.last = 0.0
        self.memory = {"start": resident_mb(), "warm": None, "end": None, "peak": None}

    def add(self, result: Result) -> None:
        """Counts one result."""
        self.frames += 1
        self.withheld += str(result.found.get("notes", "")).startswith(NOT_ULTRASOUND)
        self.last = time.perf_counter()
        if self.frames == 1:
            self.first = self.last
        self.latency.add(result.latency)
        self.work.add(result.work)
        if self.frames == WARMUP:
            self.memory["warm"] = resident_mb()
        if self.frames % WARMUP == 0:
            self.memory["peak"] = max(self.memory["peak"] or 0.0, resident_mb() or 0.0) or None

    def summary(
        self, *, source: str, dropped: int, skipped: int, ended: str, settings: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Plain values for JSON.

        ``latency_ms`` is from capture to result, ``work_ms`` from pixels to result without the wait in the queue;
        ``frames_per_second`` is that of the whole run, output included, from the first result to the last.

        Args:
            source: camera, video, dicom or folder; no name, for that may be a patient's.
            dropped: frames left out to keep up.
            skipped: frames that could not be read.
            ended: why it ended.
            settings: what the user chose.
        """
        self.memory["end"] = resident_mb()
        elapsed = self.last - self.first
        return {
            "source": source,
            "ended": ended,
            "frames": self.frames,
            "dropped": dropped,
            "skipped": skipped,
            "not_ultrasound": self.withheld,
            "frames_per_second": round((self.frames - 1) / elapsed, 2) if elapsed > 0 else None,
            "latency_ms": self.latency.milliseconds(),
            "work_ms": self.work.milliseconds(),
            "memory_mb": dict(self.memory),
            "settings": dict(settings),
        }


def as_text(summary: Mapping[str, Any]) -> str:
    """The report for people."""

    def row(values: Mapping[str, Any], unit: str) -> str:
        known = {name: v for name, v in values.items() if v is not None}
        return ", ".join(f"{name} {v:g}" for name, v in known.items()) + f" {unit}" if known else "not known"

    return "\n".join(
        [
            f"{summary['frames']} frames of a {summary['source']}, {summary['dropped']} dropped to keep up,"
            f" {summary['skipped']} unreadable, {summary['not_ultrasound']} not ultrasound; ended: {summary['ended']}",
            f"frames per second: {summary['frames_per_second'] or 'not known'}",
            f"latency, capture to result: {row(summary['latency_ms'], 'ms')}",
            f"work, pixels to result: {row(summary['work_ms'], 'ms')}",
            f"memory: {row(summary['memory_mb'], 'MB')}",
        ]
    )
