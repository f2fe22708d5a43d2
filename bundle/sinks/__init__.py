# SPDX-License-Identifier: Apache-2.0
"""Findings to files: each sink writes one kind of file, and the writer knows none of them by name."""

from bundle.sinks.clips import Clips
from bundle.sinks.masks import Masks
from bundle.sinks.overlay import Overlays
from bundle.sinks.probabilities import Probabilities
from bundle.sinks.restored import Restored
from bundle.sinks.sink import Answers, Findings, Run, Sink, Study
from bundle.sinks.tables import Tables
from bundle.sinks.writer import PredictionWriter

__all__ = [
    "Answers",
    "Clips",
    "Findings",
    "Masks",
    "Overlays",
    "PredictionWriter",
    "Probabilities",
    "Restored",
    "Run",
    "Sink",
    "Study",
    "Tables",
]
