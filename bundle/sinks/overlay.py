# SPDX-License-Identifier: Apache-2.0
"""Masks over images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bundle.palette import FILL, color
from bundle.sinks.png import encode_png
from bundle.sinks.sink import Findings, Sink, Study
from bundle.tasks import Task


class Overlays(Sink):
    """The image with translucent structures, opaque contours, and points as crosses: ``NAME_overlay.png``, RGB.

    Args:
        tasks: the declared tasks.
    """

    ending = "_overlay.png"

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = list(tasks)

    def image(self, study: Study, findings: Findings) -> bytes:
        """The file's content; ``study.item`` has ``picture``, see :class:`bundle.transforms.pictures.KeepPictured`."""
        return encode_png(draw_findings(study, self.tasks))


def draw_findings(study: Study, tasks: Sequence[Task]) -> np.ndarray:
    """The picture of a study with what was found over it, (H, W, 3) uint8."""
    found = [(task, study.item["found"].get(task.name)) for task in tasks]
    answers = [(task, answer) for task, answer in found if answer is not None]
    picture = study.item["picture"]
    regions = (task.regions(answer) for task, answer in answers)
    mask = next((region.numpy() for region in regions if region is not None), np.zeros(picture.shape[:2], np.uint8))
    drawn = draw_overlay(picture, mask)
    for task, answer in answers:
        draw_points(drawn, [(row, column) for _, row, column in task.points(answer)])
    return drawn


def draw_points(image: np.ndarray, points: Sequence[tuple[float, float]]) -> None:
    """Draws crosses at points (row, column) into an image (H, W, 3) uint8."""
    arm = max(3, min(image.shape[:2]) // 60)
    for row, column in points:
        y, x = round(row), round(column)
        for rows, columns in (
            (slice(max(0, y - arm), max(0, y + arm + 1)), slice(max(0, x), max(0, x + 1))),
            (slice(max(0, y), max(0, y + 1)), slice(max(0, x - arm), max(0, x + arm + 1))),
        ):
            image[rows, columns] = color(1)


def draw_overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Image with translucent structures and opaque contours.

    Args:
        image: (H, W, 3) uint8, or (H, W, 1) when grey.
        mask: (H, W) structure indices, uint8.

    Returns:
        (H, W, 3) uint8.
    """
    drawn = np.empty((*mask.shape, 3), np.uint8)
    for channel in range(3):  # by broadcasting it takes four times as long
        drawn[..., channel] = image[..., channel % image.shape[2]]
    width = max(1, min(mask.shape) // 250)  # of a contour
    box = tuple(_extent(np.any(mask, axis=axis), margin=width) for axis in (1, 0))
    drawn[box] = _tint(drawn[box], mask[box], width)
    return drawn


def _extent(hit: np.ndarray, *, margin: int) -> slice:
    """From the first True of (N,) to the last, with a margin; empty where there is none."""
    places = np.flatnonzero(hit)
    return slice(max(0, places[0] - margin), places[-1] + 1 + margin) if len(places) else slice(0)


def _tint(image: np.ndarray, mask: np.ndarray, width: int) -> np.ndarray:
    """Image (H, W, 3) with the structures of the mask (H, W), their contours ``width`` pixels wide."""
    count = int(mask.max(initial=0)) + 1
    colors = np.array([(0, 0, 0), *(color(index) for index in range(1, count))], np.float32)
    shades = np.arange(256, dtype=np.float32)[:, None]
    tinted = np.stack([shades + (index > 0) * FILL * (colors[index] - shades) for index in range(count)])
    table = np.concatenate([tinted, np.broadcast_to(colors[:, None], tinted.shape)]).round().astype(np.uint8)
    row = mask.astype(np.uint16)  # of the table: tinted structures, then opaque ones
    row[(mask > 0) & ~_inside(mask, width)] += count
    row <<= 8
    return np.stack([np.take(table[..., c], row | image[..., c], mode="clip") for c in range(3)], axis=-1)


def _inside(mask: np.ndarray, width: int) -> np.ndarray:
    """Pixels of (H, W) further than ``width`` steps, up, down, left or right, from one with another index.

    scipy's ``binary_erosion`` takes ten times as long, and a pass for each index.
    """
    inside = np.ones(mask.shape, bool)
    level, upright = mask[1:] == mask[:-1], mask[:, 1:] == mask[:, :-1]
    inside[1:] &= level
    inside[:-1] &= level
    inside[:, 1:] &= upright
    inside[:, :-1] &= upright
    for _ in range(width - 1):
        kept = inside.copy()
        kept[1:] &= inside[:-1]
        kept[:-1] &= inside[1:]
        kept[:, 1:] &= inside[:, :-1]
        kept[:, :-1] &= inside[:, 1:]
        inside = kept
    return inside
