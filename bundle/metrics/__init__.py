# SPDX-License-Identifier: Apache-2.0
"""Scores per image, their means with intervals, and the one score that validation compares."""

from bundle.metrics.bootstrap import Estimate
from bundle.metrics.classification import classification_rows, summarize_classification
from bundle.metrics.score import MultiTaskScore, merged_items
from bundle.metrics.segmentation import segmentation_rows, summarize_segmentation

__all__ = [
    "Estimate",
    "MultiTaskScore",
    "classification_rows",
    "merged_items",
    "segmentation_rows",
    "summarize_classification",
    "summarize_segmentation",
]
