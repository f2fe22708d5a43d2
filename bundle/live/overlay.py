# SPDX-License-Identifier: Apache-2.0
"""The overlay of a live frame: ``bundle.writers.draw_overlay`` with OpenCV, and the classes in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bundle.live.pictures import Result, cv2
from bundle.vocabulary import NOT_ULTRASOUND
from bundle.writers import FILL, color

WHITE = (255, 255, 255)


def _paint(drawn: np.ndarray, inside: np.ndarray, *, bgr: tuple[int, int, int], width: int) -> None:
    """Draws one structure (H, W) uint8 0 or 1 into an image (H, W, 3), within its bounding box."""
    x, y, w, h = cv2.boundingRect(inside)
    box = (slice(max(0, y - width), y + h + width), slice(max(0, x - width), x + w + width))
    part, inside = drawn[box], np.ascontiguousarray(inside[box])
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    contour = inside - cv2.erode(inside, cross, iterations=width)
    plain = np.empty_like(part)
    plain[:] = bgr
    cv2.copyTo(cv2.addWeighted(part, 1 - FILL, plain, FILL, 0), inside, part)
    cv2.copyTo(plain, contour, part)


def _write(drawn: np.ndarray, lines: Sequence[tuple[str, tuple[int, int, int]]]) -> None:
    scale = max(0.4, min(drawn.shape[:2]) / 1000)
    step = int(34 * scale)
    for number, (text, bgr) in enumerate(lines, start=1):
        place = (step // 3, number * step)
        cv2.putText(drawn, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1 + int(4 * scale), cv2.LINE_AA)
        cv2.putText(drawn, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, bgr, 1 + int(scale), cv2.LINE_AA)


def _captions(
    found: Mapping[str, Any], names: Mapping[int, str], colors: Mapping[int, tuple[int, int, int]]
) -> list[tuple[str, tuple[int, int, int]]]:
    lines = [("not ultrasound", WHITE)] if found["notes"].startswith(NOT_ULTRASOUND) else []
    lines += [(names[index], bgr) for index, bgr in colors.items()]
    for label_set, classes in found["classes"].items():
        best = classes["predicted"]
        lines.append((f"{label_set}: {best} {classes['probabilities'][best]:.2f}", WHITE))
    return lines


def draw_result(result: Result, structures: Sequence[str]) -> np.ndarray:
    """The frame with translucent structures, opaque contours, their names and the classes.

    Args:
        result: of one frame.
        structures: names of the mask's values, background first.

    Returns:
        (H, W, 3) uint8, blue, green, red.
    """
    pixels = result.frame.picture.pixels
    drawn: np.ndarray = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR) if pixels.ndim == 2 else pixels.copy()
    width = max(1, min(result.mask.shape) // 250)
    colors = {}
    for index, name in enumerate(structures):
        if index and result.found["areas"][name]["pixels"]:
            red, green, blue = color(index)
            colors[index] = (blue, green, red)
            inside = cv2.compare(result.mask, index, cv2.CMP_EQ) // 255
            _paint(drawn, inside, bgr=colors[index], width=width)
    _write(drawn, _captions(result.found, dict(enumerate(structures)), colors))
    return drawn
