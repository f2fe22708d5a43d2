# SPDX-License-Identifier: Apache-2.0
"""One result for each clip, of those of its frames."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bundle.sinks.sink import Findings, Run, Sink, Study, in_order
from bundle.sinks.tables import flat
from bundle.tables import csv_table

_TABLE = "clips.csv"
_HEAD = ("file", "frames", "failed", "not_ultrasound", "key_frame")


class Clips(Sink):
    """Writes ``clips.csv``, a line for each clip, where the run has frames of clips.

    ``frames`` that count, ``failed`` ones and those that do not look like ultrasound; ``key_frame``, that with the
    largest area of all structures, the first of equals. All else is of the frames that count: the mean of numbers, and
    of words the most frequent one (of equals the first), which is the clip's vote.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def files(self, run: Run) -> Sequence[str]:
        """The table, in the first process."""
        return () if run.rank else (_TABLE,)

    def start(self, run: Run) -> None:
        """Begins the lists."""
        self.run = run
        self.frames: list[tuple[int, tuple[str, int, bool, dict[str, Any] | None]]] = []

    def image(self, study: Study, findings: Findings) -> None:
        """Keeps the values of a clip's frame."""
        frame = study.item.get("frame")
        if frame is None:
            return
        odd = bool(study.item.get("withheld")) and not study.error
        empty = self.run.answers.empty(study.item)
        result = None if study.error or odd else flat({key: findings.result.get(key) for key in empty})
        with self.lock:
            self.frames.append((int(study.item["place"]), (study.item["file"], int(frame), odd, result)))

    def finish(self) -> Sequence[Path]:
        """Writes the table, where there are clips."""
        clips: dict[str, list[tuple[int, bool, dict[str, Any] | None]]] = {}
        for file, number, odd, result in in_order(self.frames):
            clips.setdefault(file, []).append((number, odd, result))
        if self.run.rank:
            return []
        if not clips:
            self.run.folder.remove(_TABLE)  # an earlier run's would be taken for this one's
            return []
        names = [name for name in flat(self.run.answers.complete) if name != "notes"]
        rows = [_row(file, frames, names) for file, frames in clips.items()]
        return [self.run.folder.write(_TABLE, csv_table(rows, [*_HEAD, *names]))]


def _row(file: str, frames: Sequence[tuple[int, bool, dict[str, Any] | None]], names: Sequence[str]) -> dict[str, Any]:
    counted = [(number, result) for number, _, result in frames if result is not None]
    odd = sum(one[1] for one in frames)
    key_frame = max(counted, key=lambda one: _area(one[1]))[0] if counted else None
    head = (file, len(counted), len(frames) - len(counted) - odd, odd, key_frame)
    joined = {name: _joined([v for _, result in counted if (v := result.get(name)) is not None]) for name in names}
    return {**dict(zip(_HEAD, head, strict=True)), **joined}


def _area(result: Mapping[str, Any]) -> float:
    return sum(value or 0 for name, value in result.items() if name.startswith("areas.") and name.endswith(".pixels"))


def _joined(values: Sequence[Any]) -> Any:
    """The mean of numbers, the most frequent of words; None of nothing."""
    if not values:
        return None
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return round(sum(values) / len(values), 6)
    return Counter(values).most_common(1)[0][0]
