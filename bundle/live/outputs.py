# SPDX-License-Identifier: Apache-2.0
"""Where results go: an MP4 file, a window, JSON lines. Nothing of a source's name or header is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from bundle.live.pictures import Result, cv2

_MAX_TICKS = 65535  # of MPEG-4's clock in a second, which OpenCV takes as the rate without its decimal point


class VideoFile:
    """MP4 (MPEG-4 Part 2) at the source's rate, to as many digits as the format has.

    The first picture decides the size, others are fitted into it.

    Args:
        path: file to write; an older one is replaced.
        rate: frames per second.

    Raises:
        OSError: at the first picture, when it cannot be written.
    """

    def __init__(self, path: Path, *, rate: float) -> None:
        self.path = path
        decimals = next(d for d in (3, 2, 1, 0) if rate * 10**d <= _MAX_TICKS or d == 0)
        self.rate = round(rate, decimals)
        self.writer: Any = None
        self.shape = (0, 0)

    def write(self, picture: np.ndarray) -> None:
        """Adds a picture (H, W, 3) uint8, blue, green, red."""
        if self.writer is None:
            self.shape = (picture.shape[0], picture.shape[1])
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter_fourcc(*"mp4v"), self.rate, self.shape[::-1])
            if not self.writer.isOpened():
                raise OSError(
                    f"{self.path}: expected a video that OpenCV can write, got a refusal; choose a name that ends in"
                    " .mp4 in a folder that can be written."
                )
        self.writer.write(picture if picture.shape[:2] == self.shape else _fit(picture, self.shape))

    def close(self) -> None:
        """Completes the file."""
        if self.writer is not None:
            self.writer.release()


def _fit(picture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A picture (h, w, 3) scaled into (H, W, 3), black around it."""
    scale = min(n / m for n, m in zip(shape, picture.shape, strict=False))
    height, width = (min(n, round(m * scale)) for n, m in zip(shape, picture.shape, strict=False))
    fitted = np.zeros((*shape, 3), np.uint8)
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    fitted[top : top + height, left : left + width] = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return fitted


class Window:
    """A window on the screen; q or Escape in it ends the run.

    Raises:
        RuntimeError: when this OpenCV or this machine has no windows.
    """

    title = "ultrasound"

    def __init__(self) -> None:
        try:
            cv2.namedWindow(self.title, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise RuntimeError(
                "--show needs an OpenCV with windows and a screen, got a build or a machine without; install"
                " opencv-python in place of opencv-python-headless, or write a file with --output."
            ) from error

    def show(self, picture: np.ndarray) -> bool:
        """Shows a picture (H, W, 3) uint8, blue, green, red; False when the user ends the run."""
        cv2.imshow(self.title, picture)
        return cv2.waitKey(1) & 0xFF not in (ord("q"), 27)

    def close(self) -> None:
        """Closes the window."""
        cv2.destroyWindow(self.title)


class JsonLines:
    """One JSON object per line and frame: ``frame``, ``time`` and ``latency_ms``, ``classes``, ``areas``.

    Args:
        path: file to write; an older one is replaced.

    Raises:
        OSError: when it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("w", encoding="utf-8")

    def write(self, result: Result) -> None:
        """Adds a frame's line."""
        line = {
            "frame": result.frame.index,
            "time": round(result.frame.time, 4),
            "latency_ms": round(result.latency * 1000, 2),
            "classes": result.found["classes"],
            "areas": result.found["areas"],
        }
        self.file.write(json.dumps(line, allow_nan=False) + "\n")

    def close(self) -> None:
        """Completes the file."""
        self.file.close()
