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

from bundle.data.clip_tables import read_clip_rows
from bundle.data.names import find_name
from bundle.metrics.bootstrap import Estimate, mean_estimate

WHOLE, KEY = "all frames", "key frame"

Frame = tuple[int, Mapping[str, float], int]  # number, class -> probability, pixels of all structures


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
        truth: CSV with a clip a row, see ``bundle.data.clip_tables.COLUMNS``.
        label_set: whose classes they are.
        positive: classes that are a finding.

    Raises:
        ValueError: when either is no such thing, a class is none of the label set's, or no clip is in both.
    """
    told = read_clip_rows(truth)
    path = results / "predictions.json"
    classes, frames = _frames(path, label_set)
    wanted = {_known(name, classes, "--positive") for name in positive}
    kinds = {row.file: _known(row.label, classes, row.where) for row in told}
    clips = []
    for row in told:
        if seen := sorted(frames.get(row.file, []), key=lambda frame: frame[0]):
            scores = np.array([sum(found[name] for name in wanted) for _, found, _ in seen])
            key = int(np.argmax([area for _, _, area in seen]))
            clips.append(Clip(row.file, row.patient or row.file, kinds[row.file] in wanted, scores, key))
    if not clips:
        raise ValueError(f"{truth}: files of the results expected, got none of them; names are those of clips.csv.")
    with_frames = {clip.file for clip in clips}
    unseen = [row.file for row in told if row.file not in with_frames]
    return clips, unseen, [file for file in frames if file not in kinds]


def _frames(path: Path, label_set: str) -> tuple[list[str], dict[str, list[Frame]]]:
    """The classes of a label set in results, and clip -> its frames with an answer."""
    classes: dict[str, None] = {}
    frames: dict[str, list[Frame]] = {}
    try:
        for one in json.loads(path.read_text(encoding="utf-8"))["images"]:
            if one["frame"] is None:
                continue
            own = frames.setdefault(one["file"], [])
            found = (one.get("classes") or {}).get(label_set, {}).get("probabilities") or {}
            classes.update(dict.fromkeys(found))
            if found and not one["error"] and all(value is not None for value in found.values()):
                area = sum(size["pixels"] or 0 for size in one.get("areas", {}).values())
                own.append((one["frame"], found, area))
    except (OSError, TypeError, AttributeError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: results of clips expected, got {error!r}; run inference on clips.") from error
    if not classes:
        raise ValueError(
            f"{path}: frames of clips with the classes of {label_set} expected, got none; run inference on clips, or"
            " correct --label_set."
        )
    return list(classes), frames


def _known(name: str, classes: Sequence[str], where: str) -> str:
    """The class that a name means; case, blanks and hyphens do not count."""
    found = find_name(name, classes)
    if found is None:
        raise ValueError(f"{where}: a class of {', '.join(classes)} expected, got {name!r}; correct it.")
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
