# SPDX-License-Identifier: Apache-2.0
"""Predictions to files: a mask and an overlay per image, one JSON and one CSV for all."""

from bundle.writers.pictures import COLORS, FILL, color, draw_overlay, encode_png
from bundle.writers.predictions import PredictionWriter

__all__ = [
    "COLORS",
    "FILL",
    "PredictionWriter",
    "color",
    "draw_overlay",
    "encode_png",
]
