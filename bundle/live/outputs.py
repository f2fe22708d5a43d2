# SPDX-License-Identifier: Apache-2.0
"""Where results go: an MP4 file, a window, JSON lines. Nothing of a source's name or header is written."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bundle.files import OutputFolder, writable_folder
from bundle.live.pictures import Result, cv2

_SAME_FOR_ALL = ("prompts", "spacing_mm", "prediction")  # frames of a stream; the last one is for MONAI Label's clients
_MAX_TICKS = 65535  # of MPEG-4's clock in a second, which OpenCV takes as the rate without its decimal point


def check_outputs(paths: Mapping[str, Path | None], *, sources: Iterable[str | Path]) -> None:
    """Refuses files that would replace one that no earlier run wrote, or each other, before any is opened.

    Args:
        paths: option -> file to write, or None.
        sources: files that the run reads.

    Raises:
        FileExistsError: when a file is not an earlier run's, or is read.
        OSError: when a folder cannot be written to.
        ValueError: when two are the same.
    """
    options: dict[str, str] = {}
    for option, path in paths.items():
        if path is not None:
            other = options.setdefault(os.path.realpath(path), option)
            if other != option:
                raise ValueError(f"{other} and {option} must be two files, got {path} for both; rename one of them.")
            if option != "--jsonl" or not _is_stream(path):
                OutputFolder(path.parent, option=option, sources=sources).check([path.name])
    for name, option in options.items():  # once all is well, as it makes folders
        if not _is_stream(Path(name)):
            writable_folder(os.path.dirname(name), options=option)


def _is_stream(path: Path) -> bool:
    """Whether a path is a pipe or a device such as /dev/stdout, which holds nothing that could be lost."""
    return path.is_fifo() or path.is_char_device()


class VideoFile:
    """MP4 (MPEG-4 Part 2) at the source's rate, to as many digits as the format has.

    The first picture decides the size, others are fitted into it. Both sides are even in this format: an odd picture's
    last row or column is written twice, where OpenCV would leave it out. The file has its name once it is complete.

    Args:
        path: file to write; only an earlier run's is replaced.
        rate: frames per second.
        sources: files that the run reads.

    Raises:
        FileExistsError: when ``path`` is a file that no earlier run wrote.
        OSError: at the first picture, when it cannot be written.
    """

    def __init__(self, path: Path, *, rate: float, sources: Iterable[str | Path] = ()) -> None:
        self.path = path
        self.folder = OutputFolder(path.parent, option="--output", sources=sources)
        self.folder.check([path.name])
        decimals = next(d for d in (3, 2, 1, 0) if rate * 10**d <= _MAX_TICKS or d == 0)
        self.rate = round(rate, decimals)
        self.writer: Any = None
        self.shape = (0, 0)

    def write(self, picture: np.ndarray) -> None:
        """Adds a picture (H, W, 3) uint8, blue, green, red."""
        if self.writer is None:
            self._open((picture.shape[0], picture.shape[1]))
        fitted = picture if picture.shape[:2] == self.shape else _fit(picture, self.shape)
        odd = (n % 2 for n in self.shape)
        self.writer.write(cv2.copyMakeBorder(fitted, 0, next(odd), 0, next(odd), cv2.BORDER_REPLICATE))

    def _open(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.aside = Path(tempfile.mkdtemp(dir=self.path.parent, prefix=".video-"))
        size = tuple(n + n % 2 for n in shape[::-1])
        name = str(self.aside / self.path.name)
        self.writer = cv2.VideoWriter(name, cv2.VideoWriter_fourcc(*"mp4v"), self.rate, size)
        if not self.writer.isOpened():
            self.writer = None
            shutil.rmtree(self.aside)
            raise OSError(
                f"{self.path}: expected a video that OpenCV can write, got a refusal; choose a name that ends in"
                " .mp4 in a folder that can be written."
            )

    def close(self) -> None:
        """Completes the file."""
        if self.writer is not None:
            self.writer.release()
            self.folder.write(self.path.name, functools.partial(os.replace, self.aside / self.path.name))
            self.aside.rmdir()


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
        OSError: when this OpenCV or this machine has no windows.
    """

    title = "ultrasound"

    def __init__(self) -> None:
        try:
            cv2.namedWindow(self.title, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise OSError(
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
    """One JSON object per line and frame: ``frame``, ``time``, ``latency_ms``, the tasks' records and ``notes``.

    Args:
        path: file to write, only an earlier run's is replaced; or a pipe.
        sources: files that the run reads.

    Raises:
        FileExistsError: when it is a file that no earlier run wrote.
        OSError: when it cannot be written.
    """

    def __init__(self, path: Path, *, sources: Iterable[str | Path] = ()) -> None:
        self.folder = OutputFolder(path.parent, option="--jsonl", sources=sources)
        self.pipe = path.open("ab") if _is_stream(path) else None
        self.name = path.name
        self.waiting = bytearray()
        if self.pipe is None:
            self.folder.grow(self.name)

    def write(self, result: Result) -> None:
        """Adds a frame's line."""
        line = {
            "frame": result.frame.index,
            "time": round(result.frame.time, 4),
            "latency_ms": round(result.latency * 1000, 2),
            **{key: value for key, value in result.found.items() if key not in _SAME_FOR_ALL},
        }
        self.waiting += json.dumps(line, allow_nan=False).encode() + b"\n"
        if len(self.waiting) >= io.DEFAULT_BUFFER_SIZE:
            self._pass_on()

    def close(self) -> None:
        """Completes the file."""
        self._pass_on()
        if self.pipe is None:
            self.folder.finish(self.name)
        else:
            self.pipe.close()

    def _pass_on(self) -> None:
        content, self.waiting = bytes(self.waiting), bytearray()
        if self.pipe is None:
            self.folder.append(self.name, content)
        else:
            self.pipe.write(content)
            self.pipe.flush()
