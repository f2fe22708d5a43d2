# SPDX-License-Identifier: Apache-2.0
"""What travels through a live run: frames, the network's view of them, results."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from monai.utils import optional_import

from bundle.geometry import UNKNOWN_SPACING, Zone

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2, HAS_CV2 = optional_import(
    "cv2",
    descriptor='live images need OpenCV, got none ({}); in the folder of the bundle: pip install -e ".[live]"',
)
if HAS_CV2:  # FFmpeg and it tell of damage without the file's name, which our messages have
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@dataclass(frozen=True)
class Picture:
    """One picture of a source.

    Attributes:
        pixels: uint8, (H, W) grey or (H, W, 3) colors in OpenCV's order blue, green, red.
        spacing: row and column spacing in mm, nan when the source does not say.
        source: where the spacing is from.
        zones: parts with a spacing of their own, where there is none for the whole picture.
        notes: what was assumed of the file.
    """

    pixels: np.ndarray
    spacing: tuple[float, float] = UNKNOWN_SPACING
    source: str = ""
    zones: tuple[Zone, ...] = ()
    notes: tuple[str, ...] = ()


def shortfall(length: int, count: int) -> str:
    """What a file is said to lack that ends before its last frame."""
    return f"file should hold {length} frames, {count} could be read"


@dataclass(frozen=True)
class Frame:
    """A picture with its place in the stream.

    Attributes:
        index: place in the stream, from 0; a clip that is played again counts on.
        time: seconds since the stream's first frame.
        captured: when the frame was there, in seconds of ``time.perf_counter``.
    """

    index: int
    time: float
    captured: float
    picture: Picture


@dataclass(frozen=True)
class Result:
    """A frame's result.

    Attributes:
        answers: task -> what was found, on the frame's own grid.
        found: the same as plain values, see ``bundle.tasks.Records``.
        work: seconds from pixels to result.
        latency: seconds from capture to result; beside the work the wait in the queue.
    """

    frame: Frame
    answers: Mapping[str, Any]
    found: Mapping[str, Any]
    work: float
    latency: float
