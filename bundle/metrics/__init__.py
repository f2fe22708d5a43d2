# SPDX-License-Identifier: Apache-2.0
"""Scores per image, and their means with intervals."""

from bundle.metrics.bootstrap import Estimate, mean_estimate
from bundle.metrics.classification import auroc, classification_rows, summarize_classification
from bundle.metrics.points import point_tables, summarize_points
from bundle.metrics.segmentation import (
    Row,
    Tolerance,
    item_name,
    item_origin,
    mean_dice,
    segmentation_rows,
    summarize_segmentation,
)
from bundle.metrics.tables import class_tables, number, segmentation_tables, table

__all__ = [
    "Estimate",
    "Row",
    "Tolerance",
    "auroc",
    "class_tables",
    "classification_rows",
    "item_name",
    "item_origin",
    "mean_dice",
    "mean_estimate",
    "number",
    "point_tables",
    "segmentation_rows",
    "segmentation_tables",
    "summarize_classification",
    "summarize_points",
    "summarize_segmentation",
    "table",
]
