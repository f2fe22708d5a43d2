# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest

from bundle.live import LiveReport, Result, as_text, blank
from bundle.live.report import Histogram


def test_percentiles_of_hundred_known_durations() -> None:
    histogram = Histogram()
    for n in range(100, 0, -1):
        histogram.add(n / 1000)
    found = histogram.milliseconds()
    assert found == {"p50": pytest.approx(50, rel=0.006), "p95": pytest.approx(95, rel=0.006),
                     "p99": pytest.approx(99, rel=0.006), "max": 100.0}  # fmt: skip


def test_percentiles_of_random_durations_are_numpys_and_the_memory_is_fixed() -> None:
    histogram, values = Histogram(), np.random.default_rng(0).lognormal(-4, 1, 20_000)
    size = histogram.counts.nbytes
    for value in values:
        histogram.add(value)
    for percent in (50, 95, 99):
        assert histogram.percentile(percent) == pytest.approx(np.percentile(values, percent), rel=0.011)
    assert histogram.counts.nbytes == size < 20_000


def test_durations_outside_the_bins_and_none_at_all() -> None:
    histogram = Histogram()
    assert histogram.milliseconds() == {"p50": None, "p95": None, "p99": None, "max": None}
    for seconds in (0.0, 5000.0):
        histogram.add(seconds)
    assert histogram.counts.sum() == 2
    assert histogram.largest == 5000


def test_other_notes_do_not_count_as_no_ultrasound() -> None:
    report, frame = LiveReport(), blank(8, 8)
    for notes in ("does not look like ultrasound (photograph)", "position is breast, but the image looks like lung"):
        report.add(Result(frame, {}, {"notes": notes}, work=0.01, latency=0.02))
    assert report.withheld == 1


def test_summary_is_plain_and_text_names_the_figures() -> None:
    report, frame = LiveReport(), blank(8, 8)
    for _ in range(3):
        report.add(Result(frame, {}, {}, work=0.01, latency=0.02))
    summary = report.summary(source="video", dropped=4, skipped=1, ended="end of the source", settings={"window": 5})
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert (summary["frames"], summary["dropped"], summary["skipped"]) == (3, 4, 1)
    assert summary["latency_ms"]["p99"] == pytest.approx(20, rel=0.006)
    assert summary["work_ms"]["p50"] == pytest.approx(10, rel=0.006)
    text = as_text(summary)
    assert "3 frames of a video, 4 dropped to keep up, 1 unreadable" in text
    assert "latency, capture to result: p50" in text


def test_a_run_without_frames_has_a_report() -> None:
    summary = LiveReport().summary(source="camera", dropped=0, skipped=0, ended="camera lost", settings={})
    assert summary["frames_per_second"] is None
    assert "frames per second: not known" in as_text(summary)
