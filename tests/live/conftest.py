# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest


def picture(index: int, shape: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A grey ramp whose level names the frame: 20 + 10 * (index % 20), and a dark square."""
    pixels = np.full((*shape, 3), 20 + 10 * (index % 20), np.uint8)
    pixels[8:16, 8:16] = 0
    return pixels


@pytest.fixture
def write_clip(tmp_path: Path) -> Callable[..., Path]:
    """Writes a clip of frames that tell their place."""

    def write(name: str = "clip.avi", *, frames: int = 6, rate: float = 20.0) -> Path:
        codec = "MJPG" if name.endswith(".avi") else "mp4v"
        path = tmp_path / name
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, (64, 48))
        for index in range(frames):
            writer.write(picture(index))
        writer.release()
        return path

    return write
