# SPDX-License-Identifier: Apache-2.0
"""Findings as DICOM objects, of images that come from DICOM files."""

from __future__ import annotations

import logging
import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bundle.derived import Case, Identity, Shot, read_header
from bundle.derived.capture import capture
from bundle.derived.case import HAS_HIGHDICOM
from bundle.derived.presentation import presentation
from bundle.derived.report import report
from bundle.derived.segmentation import segmentation
from bundle.failures import one_line
from bundle.files import CLIP_SUFFIXES, sha256
from bundle.sinks.overlay import draw_findings
from bundle.sinks.sink import Findings, Run, Sink, Study, in_order, of_all_processes
from bundle.tasks import Task
from bundle.transforms.readers import quiet_reading

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Frame:
    """A frame of a clip until all are there; the mask is compressed."""

    path: str
    item: dict[str, Any]
    mask: bytes
    shape: tuple[int, int]
    result: Mapping[str, Any]

    def shot(self) -> Shot:
        mask = np.frombuffer(zlib.decompress(self.mask), np.uint8).reshape(self.shape)
        return Shot(self.item["frame"], mask, self.result)


class DicomObjects(Sink):
    """Writes one kind of DICOM object of each image that comes from a DICOM file, and one of all frames of a clip.

    None is written of other images, of what has nothing that the object could hold, and where the source's header
    allows none, which the log tells. An earlier run's object is removed then, for it would be taken for this one's.

    Args:
        identity: which is the same for all sinks of a run.

    Raises:
        ImportError: when highdicom is not installed.
    """

    def __init__(self, identity: Identity) -> None:
        if not HAS_HIGHDICOM:
            raise ImportError(
                'DICOM objects need highdicom, got none; run pip install -e ".[dicom]", or leave --dicom out.'
            )
        self.identity = identity
        self.lock = threading.Lock()

    def made(self, case: Case, study: Study | None) -> bytes | None:
        """The object; ``study`` is None for the frames of a clip."""
        raise NotImplementedError

    def names(self, item: Mapping[str, Any]) -> Sequence[str]:
        """One file for an image, and one for all frames of a clip."""
        return (f"{_clip_name(item)}{self.ending}",)

    def start(self, run: Run) -> None:
        """Agrees with the other processes on the run's secret."""
        self.run = run
        self.identity.secret = of_all_processes(self.identity.secret)[0]
        self.structures = [entry["name"] for entry in run.answers.legend.get("structures", ())]
        self.weights = sha256(run.weights)
        self.frames: list[tuple[int, _Frame]] = []

    def image(self, study: Study, findings: Findings) -> bytes | None:
        """The object of an image; None of a frame, which is kept for that of its clip."""
        path = str(study.item["image"].meta["filename_or_obj"])
        if study.item.get("frame") is None:
            shot = Shot(None, findings.mask, findings.result)
            return self._object(path, study.item, [shot], study)
        if path.lower().endswith(CLIP_SUFFIXES):  # a film's frames would be kept for nothing
            return None
        kept = {key: study.item[key] for key in ("file", "output", "frame", "place")}
        mask = zlib.compress(findings.mask.tobytes(), 1)
        with self.lock:
            self.frames.append((kept["place"], _Frame(path, kept, mask, findings.mask.shape, findings.result)))
        return None

    def finish(self) -> Sequence[Path]:
        """Writes the objects of clips, in the first process."""
        clips: dict[str, list[_Frame]] = {}
        for frame in in_order(self.frames):
            clips.setdefault(frame.item["file"], []).append(frame)
        for frames in clips.values() if not self.run.rank else ():
            first = frames[0]
            shots = [frame.shot() for frame in sorted(frames, key=lambda one: one.item["frame"])]
            content = self._object(first.path, first.item, shots, None)
            if content is not None:
                self.run.folder.write(self.names(first.item)[0], content)
        return []

    def _object(self, path: str, item: Mapping[str, Any], shots: Sequence[Shot], study: Study | None) -> bytes | None:
        content = None
        try:
            with quiet_reading(path):
                if (header := read_header(path)) is not None:
                    content = self.made(self._case(header, item, shots), study)
        except Exception as error:  # what odd headers make the libraries raise; their words may name the patient
            got = f"its header must be that of an image, got one that gives {type(error).__name__}"
            logger.warning(one_line(f"{item['file']}: no {self.ending} was written: {got}; export the file again."))
        if content is None:
            self.run.folder.remove(self.names(item)[0])
        return content

    def _case(self, header: Any, item: Mapping[str, Any], shots: Sequence[Shot]) -> Case:
        return Case(
            header=header,
            file=item["file"],
            shots=shots,
            structures=self.structures,
            weights=self.weights,
            place=int(item["place"]),
            identity=self.identity,
        )


def _clip_name(item: Mapping[str, Any]) -> str:
    """Name of the files of an image, or of the clip that a frame is of."""
    number = item.get("frame")
    return str(item["output"]) if number is None else str(item["output"]).removesuffix(f"_frame{number:05d}")


class Segmentations(DicomObjects):
    """DICOM Segmentation: ``NAME_seg.dcm``."""

    ending = "_seg.dcm"

    def made(self, case: Case, study: Study | None) -> bytes | None:
        """See :func:`bundle.derived.segmentation.segmentation`."""
        return segmentation(case)


class Reports(DicomObjects):
    """DICOM structured report of measurements: ``NAME_sr.dcm``."""

    ending = "_sr.dcm"

    def made(self, case: Case, study: Study | None) -> bytes | None:
        """See :func:`bundle.derived.report.report`."""
        return report(case)


class Presentations(DicomObjects):
    """DICOM presentation state with outlines: ``NAME_gsps.dcm``."""

    ending = "_gsps.dcm"

    def made(self, case: Case, study: Study | None) -> bytes | None:
        """See :func:`bundle.derived.presentation.presentation`."""
        return presentation(case)


class Captures(DicomObjects):
    """DICOM secondary capture of the overlay: ``NAME_sc.dcm``, of a clip one for each frame.

    Args:
        identity: which is the same for all sinks of a run.
        tasks: the declared tasks.
    """

    ending = "_sc.dcm"

    def __init__(self, identity: Identity, tasks: Sequence[Task]) -> None:
        super().__init__(identity)
        self.tasks = list(tasks)

    def names(self, item: Mapping[str, Any]) -> Sequence[str]:
        """One file for an image or a frame."""
        return (f"{item['output']}{self.ending}",)

    def image(self, study: Study, findings: Findings) -> bytes | None:
        """The object of an image or a frame."""
        path = str(study.item["image"].meta["filename_or_obj"])
        shot = Shot(study.item.get("frame"), findings.mask, findings.result)
        return self._object(path, study.item, [shot], study)

    def made(self, case: Case, study: Study | None) -> bytes | None:
        """See :func:`bundle.derived.capture.capture`."""
        return capture(case, draw_findings(study, self.tasks)) if study is not None else None
