# SPDX-License-Identifier: Apache-2.0
"""The overlay of a live frame: ``bundle.sinks.overlay.draw_overlay`` with OpenCV, and the classes in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bundle.live.pictures import Result, cv2
from bundle.palette import FILL, color
from bundle.tasks import Task
from bundle.vocabulary import NOT_ULTRASOUND

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


def _bgr(index: int) -> tuple[int, int, int]:
    red, green, blue = color(index) if index else WHITE
    return blue, green, red


def draw_result(result: Result, tasks: Sequence[Task]) -> np.ndarray:
    """The frame with translucent regions, opaque contours, points, and the answers in words.

    Args:
        result: of one frame.
        tasks: the declared tasks.

    Returns:
        (H, W, 3) uint8, blue, green, red.
    """
    pixels = result.frame.picture.pixels
    drawn: np.ndarray = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR) if pixels.ndim == 2 else pixels.copy()
    width = max(1, min(pixels.shape[:2]) // 250)
    lines = [("not ultrasound", WHITE)] if result.found["notes"].startswith(NOT_ULTRASOUND) else []
    for task in tasks:
        if (found := result.answers.get(task.name)) is None:
            continue
        if (regions := task.regions(found)) is not None:
            mask = regions.numpy()
            for index in np.flatnonzero(np.bincount(mask.ravel())[1:]) + 1:
                inside = cv2.compare(mask, int(index), cv2.CMP_EQ) // 255
                _paint(drawn, inside, bgr=_bgr(int(index)), width=width)
        for _, row, column in task.points(found):
            cv2.drawMarker(drawn, (round(column), round(row)), _bgr(1), cv2.MARKER_CROSS, 8 * width, width)
        lines += [(text, _bgr(index)) for text, index in task.captions(found)]
    _write(drawn, lines)
    return drawn
