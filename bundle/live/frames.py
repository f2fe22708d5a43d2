# SPDX-License-Identifier: Apache-2.0
"""Clips among the images of a folder: an item for each frame, and what reads the frame."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.data import MetaTensor

from bundle.data.listing import list_images
from bundle.dicomweb import is_address, retrieve
from bundle.files import CLIP_SUFFIXES
from bundle.live.cine import is_dicom
from bundle.live.pictures import Picture, cv2, shortfall
from bundle.live.sources import DicomSource, open_source

logger = logging.getLogger(__name__)

MOST_FRAMES = 100_000
"""Of a clip; more are an error in its header, or a film that is better cut."""

MOST_PIXELS = 10**11
"""Of all frames of a clip: 100 000 frames of 1000 x 1000."""

KEPT = 64
"""Frames of a clip that stay in memory, for items that come out of order: several lanes read at once."""

KEPT_BYTES = 1 << 28
"""That they take at most; 64 frames of 1024 x 1024 in color take 192 MiB."""


def list_frames(dataset_dir: str | Path, *, every: int = 1) -> list[dict[str, Any]]:
    """The images below a folder as :func:`bundle.data.listing.list_images` lists them, clips frame by frame.

    Clips are video files and DICOM files of several frames. Their items have ``frame`` too, its number from 0. One that
    cannot be opened keeps an item, of which the reader then says why.

    Of a server's address the instances come first into a private folder. Their items have ``file``, the UIDs of study,
    series and instance; one that did not come has an item with the reason in ``refused``.

    Args:
        dataset_dir: folder, a file, or the address of a DICOMweb server, a study or a series.
        every: every n-th frame of a clip; 0 leaves video files out and DICOM files of several frames unread.

    Raises:
        FileNotFoundError, ValueError: see ``list_images``; and when ``every`` is no whole number of 0 or more.
        ImportError, OSError: see :func:`bundle.dicomweb.retrieval.retrieve`.
    """
    if not isinstance(every, int) or isinstance(every, bool) or every < 0:
        raise ValueError(f"frames must be a whole number, 0 or more, got {every!r}; correct --frames.")
    listed = _of_server(str(dataset_dir)) if is_address(dataset_dir) else list_images(dataset_dir, clips=every > 0)
    items: list[dict[str, Any]] = []
    clips = frames = 0
    for item in listed:
        length = _frames(item["image"]) if every and "refused" not in item else None
        if length is None:
            items.append(item)
            continue
        told = {**item, "clip_note": length.note} if length.note else item
        found = [{**told, "frame": number} for number in range(0, length.frames, every)] or [{**told, "frame": 0}]
        items += found
        clips, frames = clips + 1, frames + len(found)
    if clips:
        logger.info(f"{frames} frames of {clips} clips{f', every {every}th' if every > 1 else ''}.")
    return items


def _of_server(address: str) -> list[dict[str, str]]:
    """The images of a server, and what did not come."""
    came = retrieve(address)
    top = came.folder
    refused = [{"image": str(top / name), "file": name, "refused": why} for name, why in came.refused.items()]
    try:
        listed = list_images(top)
    except FileNotFoundError as error:  # none came, or none that is an image
        if not refused:
            raise FileNotFoundError(str(error).replace(str(top), address)) from error
        listed = []
    found = [{**item, "file": Path(item["image"]).relative_to(top).as_posix()} for item in listed]
    return sorted(found + refused, key=lambda item: item["file"])


class _Length(NamedTuple):
    """Frames of a clip, 0 for one that cannot be opened, and what it lacks."""

    frames: int
    note: str = ""


def _frames(path: str) -> _Length | None:
    """The length of a clip; None for what is none."""
    if not os.path.isfile(path):
        return None  # the reader says what it is
    video = path.lower().endswith(CLIP_SUFFIXES)
    try:
        if not video:
            if not is_dicom(Path(path)):
                return None
            source = DicomSource(Path(path))
            length = source.length or 1
            most = min(_most(*source.size), os.path.getsize(path) // 8 + 1)  # a frame has some bytes
            if length > most:
                logger.warning(f"{path}: expected {most} frames at most, header tells {length}; the first one is read.")
                return _Length(0)
            return _Length(length) if length > 1 else None
        return _grabbed(path)
    except (OSError, ValueError, ImportError):
        return _Length(0) if video else None
    except Exception:  # what damaged headers make pydicom raise; the reader says what is wrong
        return None


def _most(height: float, width: float) -> int:
    """Frames of this size that are read at most."""
    return int(min(MOST_FRAMES, MOST_PIXELS // max(height * width, 1)))


def _grabbed(path: str) -> _Length:
    """Frames of a video file, counted: what its header says is often one more or less."""
    capture = cv2.VideoCapture(path)
    try:
        most = _most(capture.get(cv2.CAP_PROP_FRAME_HEIGHT), capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        claimed, count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0
        while count <= most and capture.grab():
            count += 1
    finally:
        capture.release()
    if count > most:
        logger.warning(f"{path}: expected {most} frames at most, got more; the rest is left out, cut the film.")
        return _Length(most)
    note = shortfall(claimed, count) if 0 < count < claimed - 1 else ""
    if note:
        logger.warning(f"{path}: {note}; if it is cut, copy it again.")
    return _Length(count, note)


class _Clip:
    """Frames of an open clip, read in order; the last ones stay."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.reset()

    def reset(self) -> None:
        source = open_source(self.path)
        if not isinstance(source, DicomSource) and not self.path.lower().endswith(CLIP_SUFFIXES):
            raise ValueError(f"{self.path}: expected a clip, got another file; leave --frames out.")
        self.source, self.pictures, self.next = source, source.pictures(), 0
        self.kept: deque[tuple[int, Picture | str]] = deque(maxlen=KEPT)

    def frame(self, number: int) -> Picture | str:
        """A frame, or the reason why there is none."""
        if self.kept and number < self.kept[0][0]:
            self.reset()
        while self.next <= number:
            try:
                picture = next(self.pictures)
            except StopIteration:
                return "the clip ends before it; convert the clip, or export the frame as PNG"
            remedy = "copy it again" if self.source.lost else "convert the clip, or export the frame as PNG"
            self.kept.append((self.next, f"{self.source.reason}; {remedy}" if picture is None else picture))
            self.next += 1
            while len(self.kept) > 1 and self._size() > KEPT_BYTES:
                self.kept.popleft()
        return next(picture for place, picture in self.kept if place == number)

    def _size(self) -> int:
        return sum(picture.pixels.nbytes for _, picture in self.kept if not isinstance(picture, str))


class FrameReader:
    """Puts a frame of a clip into an item in place of the clip's path; items without ``frame`` stay as they are.

    What did not come from a server is refused with the reason.

    The frame is read as the live view reads it, with 8 bits. Two clips at most are open in a process.
    """

    def __init__(self) -> None:
        self.clips: OrderedDict[str, _Clip] = OrderedDict()
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # loader processes open their own

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """The item with ``image`` (3, H, W) float32 in [0, 1] and its ``spacing``.

        Raises:
            ImportError, OSError, ValueError: when the clip cannot be opened, the frame not be read, or the file did not
                come; it is named.
        """
        if item.get("refused"):
            raise ValueError(f"{item['image']}: {item['refused']}")
        if item.get("frame") is None:
            return dict(item)
        path, number = str(item["image"]), int(item["frame"])
        with self.lock:
            picture = self._clip(path).frame(number)
        if isinstance(picture, str):
            raise ValueError(f"{path}: frame {number} cannot be read: {picture}.")
        image = torch.from_numpy(picture.pixels.copy()).to(torch.float32) / 255
        planes = image.expand(3, -1, -1) if image.dim() == 2 else image.permute(2, 0, 1).flip(0)
        notes = "; ".join((*([item["clip_note"]] if item.get("clip_note") else []), *picture.notes))
        meta = {"filename_or_obj": path, "spacing_source": picture.source, "zones": picture.zones, "notes": notes}
        return {**item, "image": MetaTensor(planes.contiguous(), meta=meta), "spacing": list(picture.spacing)}

    def _clip(self, path: str) -> _Clip:
        if path not in self.clips:
            self.clips[path] = _Clip(path)
        self.clips.move_to_end(path)
        while len(self.clips) > 2:
            self.clips.popitem(last=False)
        return self.clips[path]
