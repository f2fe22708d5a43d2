# SPDX-License-Identifier: Apache-2.0
"""Where frames come from: video files, cameras, DICOM cine, folders of images. One picture at a time is in memory."""

from __future__ import annotations

import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bundle.data.listing import list_images
from bundle.dicom import read_entries
from bundle.dicomweb import is_address, retrieve
from bundle.failures import clause
from bundle.live.cine import CutError, cine_pictures, cine_rate, is_dicom, to_picture
from bundle.live.pictures import Frame, Picture, cv2, shortfall
from bundle.transforms.readers import quiet_reading, read_file

logger = logging.getLogger(__name__)

DEFAULT_RATE = 25.0
"""Frames per second of a source that does not say."""


class Source(ABC):
    """A stream of pictures.

    Attributes:
        kind: camera, video, dicom or folder.
        rate: frames per second, None when the source does not say.
        length: frames of one pass, None when it is not known.
        skipped: how many frames could not be read.
        reason: why the last of them could not.
        lost: why the stream ended before its end, None when it did not.
        files: that it reads, which no output may replace.
    """

    kind: str
    files: Sequence[str] = ()

    def __init__(self, *, rate: float | None, length: int | None) -> None:
        self.rate, self.length = rate, length
        self.skipped, self.reason = 0, ""
        self.lost: str | None = None

    @abstractmethod
    def pictures(self) -> Iterator[Picture | None]:
        """One pass over the pictures; None in the place of one that could not be read."""

    def skip(self, name: str, reason: object) -> None:
        """Counts and names a picture that could not be read."""
        self.skipped += 1
        self.reason = clause(next(iter(str(reason).splitlines()), "no reason told").rstrip(":"))
        logger.warning(f"{name}: skipped: {self.reason}")


class CaptureSource(Source):
    """A video file or a camera through OpenCV.

    Args:
        device: path of a file, or index of a camera.
        camera: what it is; a camera has no end, so that one that stops giving frames is lost.

    Raises:
        OSError: when OpenCV cannot open it.
    """

    def __init__(self, device: str | int, *, camera: bool) -> None:
        self.device, self.kind = device, "camera" if camera else "video"
        self.files = [] if camera else [str(device)]
        self.capture = self._open()
        rate, length = self.capture.get(cv2.CAP_PROP_FPS), int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT))
        super().__init__(rate=rate if 0 < rate < 1000 else None, length=length if length > 0 and not camera else None)

    def _open(self) -> Any:
        capture = cv2.VideoCapture(self.device)
        if not capture.isOpened():
            remedy = (
                "plug it in, close the program that uses it, or give another index"
                if self.kind == "camera"
                else "convert it to MP4, or correct the path"
            )
            raise OSError(
                f"{self.device}: expected a {self.kind} that OpenCV can open, got none or an unknown format; {remedy}."
            )
        return capture

    def pictures(self) -> Iterator[Picture]:
        """One pass over the frames."""
        capture = self.capture if self.capture.isOpened() else self._open()
        count = 0
        try:
            while True:
                given, pixels = capture.read()
                if not given:
                    break
                count += 1
                yield Picture(pixels)
        finally:
            capture.release()
        if self.kind == "camera":
            self.lost = f"camera stopped giving frames after {count}"
        elif self.length and count < self.length - 1:  # some containers count one too many
            self.lost = shortfall(self.length, count)


class DicomSource(Source):
    """A DICOM file of one or several frames; colors, window and calibration as in ``bundle.transforms.readers``.

    Attributes:
        size: rows and columns of a frame.

    Raises:
        ValueError: when it holds no picture.
        OSError: when it cannot be read.
    """

    kind = "dicom"

    def __init__(self, path: Path) -> None:
        self.path, self.files = path, [str(path)]
        with quiet_reading(str(path)):
            header = read_entries(path, stop_before_pixels=True)
            if not header.get("Rows") or not header.get("Columns"):
                raise ValueError(f"{path}: DICOM file must hold pixel data, got none; export the images themselves.")
            super().__init__(rate=cine_rate(header), length=int(header.get("NumberOfFrames") or 1))
            self.size = float(header.Rows), float(header.Columns)

    def pictures(self) -> Iterator[Picture | None]:
        """One pass over the frames; None for one that could not be decoded."""
        for number, picture in enumerate(cine_pictures(self.path, self.length or 1)):
            if isinstance(picture, Picture):
                yield picture
            elif isinstance(picture, CutError):
                self.lost = self.reason = str(picture)
                self.skipped += 1
                yield None
            else:
                self.skip(f"{Path(self.path).name}: frame {number}", picture)
                yield None


def natural(name: str) -> list[tuple[int, str]]:
    """Key that sorts ``frame2`` before ``frame10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in re.split(r"(\d+)", name)]


class FolderSource(Source):
    """A folder of images, searched in depth, in natural order of their names; all formats of folder inference.

    Raises:
        FileNotFoundError: when it holds no image.
    """

    kind = "folder"

    def __init__(self, folder: Path) -> None:
        self.files = sorted((item["image"] for item in list_images(folder)), key=natural)
        super().__init__(rate=None, length=len(self.files))

    def pictures(self) -> Iterator[Picture | None]:
        """One pass over the files; None for one that cannot be read, which is named."""
        for path in self.files:
            try:
                picture = to_picture(read_file(path))
            except (OSError, ValueError) as error:
                self.skip(Path(path).name, str(error).removeprefix(f"{path}: "))
                yield None
            else:
                yield picture


def _of_server(address: str) -> Source:
    """What a DICOMweb server sends: an instance, or a folder of them; what does not come is skipped by name."""
    came = retrieve(address)
    files = [path for path in came.folder.rglob("*") if path.is_file()]
    if not files:
        raise OSError(f"{address}: expected instances, got none: {next(iter(came.refused.values()))}.")
    source = DicomSource(files[0]) if len(files) == 1 else FolderSource(came.folder)
    for name, reason in came.refused.items():
        source.skip(name, reason)
    return source


def open_source(name: str) -> Source:
    """The source that a path, an address or a camera's index names.

    Args:
        name: video file, DICOM file, folder of images, address of a DICOMweb server, a study, a series or an instance,
            or digits: index of a camera.

    Raises:
        FileNotFoundError: when there is no such file or folder, or no image in the folder.
        OSError: when the file or the camera cannot be opened.
        ValueError: when a DICOM file holds no picture.
    """
    if is_address(name):
        return _of_server(name)
    path = Path(name)
    if name and path.is_dir():
        return FolderSource(path)
    if path.is_file():
        return DicomSource(path) if is_dicom(path) else CaptureSource(str(path), camera=False)
    if name.isdecimal():
        return CaptureSource(int(name), camera=True)
    raise FileNotFoundError(
        f"{name or repr(name)}: expected a video file, a DICOM file, a folder of images or the index of a camera, got"
        " no such file; correct the path."
    )


def play(source: Source, *, rate: float, realtime: bool, loops: int = 1) -> Iterator[Frame]:
    """The frames of a source, with their times.

    Args:
        source: a camera is read as it comes, its times are those of the clock; all others run at ``rate``.
        rate: frames per second.
        realtime: wait until a frame is due.
        loops: passes over a source that has an end.
    """
    begin, index = time.perf_counter(), 0
    for _ in range(1 if source.kind == "camera" else loops):
        for picture in source.pictures():
            due = index / rate
            if realtime and source.kind != "camera":
                time.sleep(max(0.0, begin + due - time.perf_counter()))
            now = time.perf_counter()
            if picture is not None:
                yield Frame(index, now - begin if source.kind == "camera" else due, now, picture)
            index += 1


def spread_frames(name: str, most: int) -> Iterator[np.ndarray]:
    """Evenly spaced frames of a clip or DICOM file, RGB or grey, uint8; all of them where they are few.

    Args:
        name: as of :func:`open_source`.
        most: number of frames; of a source that does not say its length, its first ones.

    Raises:
        OSError, ValueError: as :func:`open_source`; and when no frame can be read.
    """
    source = open_source(name)
    length = source.length or most
    wanted = set(np.linspace(0, length - 1, min(most, length)).round().astype(int).tolist())
    given = 0
    for index, picture in enumerate(source.pictures()):
        if index in wanted and picture is not None:
            given += 1
            yield picture.pixels if picture.pixels.ndim == 2 else np.ascontiguousarray(picture.pixels[..., ::-1])
        if index >= max(wanted):
            break
    if not given:
        raise ValueError(f"{name}: expected frames, got none that can be read; convert the file, or leave it out.")
    if source.lost:
        logger.warning(f"{name}: {source.lost}, of which {given} are taken; copy the file again, or cut it there.")


def blank(height: int, width: int) -> Frame:
    """A frame for trials: a dark disk in bright speckle, uint8 (height, width, 3)."""
    rows, columns = np.ogrid[:height, :width]
    speckle = np.random.default_rng(0).integers(100, 181, (height, width, 1), np.uint8)
    pixels = np.repeat(speckle, 3, axis=2)
    pixels[(rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (min(height, width) / 5) ** 2] = 30
    return Frame(0, 0.0, time.perf_counter(), Picture(pixels))
