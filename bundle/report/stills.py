# SPDX-License-Identifier: Apache-2.0
"""A few still frames against the whole clip: sensitivity, specificity, and whether they differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from bundle.metrics.bootstrap import Estimate, mean_estimate
from bundle.tables import read_table

WHOLE, KEY = "all frames", "key frame"


@dataclass(frozen=True)
class Clip:
    """A clip with its truth.

    Attributes:
        file: as in the results.
        patient: drawn as one for intervals.
        positive: the truth.
        scores: (frames,) probability of the positive classes, of the frames that count, in order.
        key: place among them of the frame with the largest area of all structures, the first of equals.
    """

    file: str
    patient: str
    positive: bool
    scores: np.ndarray
    key: int

    def score(self, frames: str | int) -> float:
        """Mean probability over all frames, of the key frame, or over so many evenly spaced ones."""
        if frames == WHOLE:
            return float(self.scores.mean())
        if frames == KEY:
            return float(self.scores[self.key])
        count = len(self.scores)
        places = ((np.arange(int(frames)) + 0.5) * count / int(frames)).astype(int)
        return float(self.scores[np.unique(places)].mean())


def read_clips(
    results: Path, truth: Path, *, label_set: str, positive: Sequence[str]
) -> tuple[list[Clip], list[str], list[str]]:
    """The clips of an inference that the table names; those of the table without a frame that counts; others.

    Args:
        results: folder of an inference.
        truth: CSV with the columns ``file``, ``class`` and, if there is one, ``patient``.
        label_set: whose classes they are.
        positive: classes that are a finding.

    Raises:
        ValueError: when either is no such thing, or no clip is in both.
    """
    told = _truth(truth)
    frames: dict[str, list[tuple[int, float, float]]] = {}
    path = results / "predictions.json"
    try:
        for one in json.loads(path.read_text(encoding="utf-8"))["images"]:
            if one["frame"] is not None:
                frames.setdefault(one["file"], [])
                if not one["error"] and (found := one.get("classes", {}).get(label_set, {}).get("probabilities")):
                    frames[one["file"]] += _frame(one, found, positive)
    except (OSError, TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: results of clips with the classes {', '.join(positive)} of {label_set} expected, got {error!r};"
            " run inference on clips, or correct --label_set and --positive."
        ) from error
    clips = []
    for file, (kind, patient) in told.items():
        if seen := sorted(frames.get(file, [])):
            scores, areas = (np.array([one[place] for one in seen]) for place in (1, 2))
            clips.append(Clip(file, patient, kind in positive, scores, int(areas.argmax())))
    if not clips:
        raise ValueError(f"{truth}: files of the results expected, got none of them; names are those of clips.csv.")
    with_frames = {clip.file for clip in clips}
    return clips, [file for file in told if file not in with_frames], [file for file in frames if file not in told]


def _frame(one: Mapping[str, Any], found: Mapping[str, float | None], positive: Sequence[str]) -> list[Any]:
    """Number, probability of the positive classes and area of a frame; nothing of one without an answer."""
    values = [found[name] for name in positive]
    if any(value is None for value in values):
        return []
    area = sum(size["pixels"] or 0 for size in one.get("areas", {}).values())
    return [(one["frame"], sum(value for value in values if value is not None), area)]


def _truth(path: Path) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for number, row in enumerate(read_table(path), start=2):
        if not row.get("file") or not row.get("class"):
            raise ValueError(f"{path}, line {number}: columns file and class expected, got {row}; correct the table.")
        if row["file"] in found:
            raise ValueError(f"{path}, line {number}: {row['file']} once expected, got it twice; correct the table.")
        found[row["file"]] = (row["class"], row.get("patient") or row["file"])
    return found


def compare(clips: Sequence[Clip], frames: str | int, *, threshold: float, resamples: int, seed: int) -> dict[str, Any]:
    """Sensitivity and specificity with intervals by patient, and McNemar's exact test against all frames.

    For both: ``share`` of the clips that are right; ``worse`` and ``better``: clips that are right with all frames
    alone, and with these alone; ``p``: of the two-sided binomial test of these counts, 1 where none differ.

    Args:
        clips: with their truth.
        frames: see :meth:`Clip.score`.
        threshold: mean probability from which a clip is positive.
        resamples, seed: of the intervals.

    Reference: Q. McNemar, Psychometrika 12, 1947, 153-157; the exact form.
    """
    found: dict[str, Any] = {}
    for name, kind in (("sensitivity", True), ("specificity", False)):
        own = [clip for clip in clips if clip.positive is kind]
        right, whole = (
            np.array([(clip.score(which) >= threshold) is kind for clip in own], bool) for which in (frames, WHOLE)
        )
        groups = [clip.patient for clip in own]
        empty = Estimate(value=None, low=None, high=None)
        worse, better = int((whole & ~right).sum()), int((right & ~whole).sum())
        found[name] = {
            "clips": len(own),
            "share": mean_estimate(right.tolist(), groups, resamples=resamples, seed=seed) if own else empty,
            "worse": worse,
            "better": better,
            "p": float(binomtest(worse, worse + better).pvalue) if worse + better else 1.0,
        }
    return found
