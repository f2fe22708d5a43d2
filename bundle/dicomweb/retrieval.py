# SPDX-License-Identifier: Apache-2.0
"""The instances of a server, a study or a series as files of a private folder, which is removed at the end."""

from __future__ import annotations

import io
import logging
import os
import shutil
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from bundle.dicom import identity
from bundle.dicomweb.address import Address, parse_address
from bundle.dicomweb.server import Server
from bundle.dicomweb.session import UnansweredError
from bundle.failures import clause, one_line

logger = logging.getLogger(__name__)

T = TypeVar("T")

MODALITIES = ("US", "IVUS", "OT", "")
"""Of series that are retrieved from a study or a server: ultrasound, scans of its screen, and what does not say."""

MOST = 100_000
"""Instances of a run."""

IN_A_ROW = 3
"""Requests without an answer after which a server is not asked any more."""

FREE = 1 << 30
"""Bytes that stay free on the disk."""


@dataclass
class Retrieved:
    """What came of a server.

    Attributes:
        folder: of the files, ``STUDY/SERIES/INSTANCE.dcm`` by their UIDs.
        refused: name -> why it did not come: of such a file, or of a study or series of which no list could be had.
    """

    folder: Path
    refused: dict[str, str] = field(default_factory=dict)


def retrieve(address: str) -> Retrieved:
    """The instances that an address names, as files of a folder that only this user reads, until the process ends.

    Args:
        address: see :func:`bundle.dicomweb.address.parse_address`.

    Raises:
        OSError: when nothing could be listed.
        ValueError: when the address is none, names nothing, or more than ``MOST`` instances; or several processes run.
    """
    wanted = parse_address(address)
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise ValueError("dataset_dir must be a folder where several processes run, got an address; run one process.")
    run = _Run(Server(wanted))
    names = list(run.listed(wanted))
    if not names:
        reason = next(iter(run.refused.values()), "the server lists no instances of ultrasound")
        raise OSError(f"dataset_dir {address}: expected instances, got none: {reason}. Correct the address.")
    retrieved = Retrieved(_private_folder(), run.refused)
    came = sum(run.save(name, retrieved.folder) for name in tqdm(names, desc="Retrieving", disable=None))
    logger.info(f"{came} of {len(names)} instances came from {wanted.host}.")
    return retrieved


class _Run:
    """The questions to a server, until it has not answered ``IN_A_ROW`` times, and what they did not bring."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.refused: dict[str, str] = {}
        self.unanswered = 0

    def listed(self, wanted: Address) -> Iterator[str]:
        """Names ``STUDY/SERIES/INSTANCE`` of what is wanted.

        Raises:
            ValueError: when there are too many.
        """
        if wanted.instance:
            yield f"{wanted.study}/{wanted.series}/{wanted.instance}"
            return
        count = 0
        for study, series in self._series(wanted):
            for instance in self._asked(f"{study}/{series}", self.server.instances, study, series) or ():
                yield f"{study}/{series}/{instance}"
                count += 1
                if count > MOST:
                    raise ValueError(f"dataset_dir must name {MOST} instances at most, got more; name a study.")

    def _series(self, wanted: Address) -> Iterator[tuple[str, str]]:
        """UIDs of study and series."""
        if wanted.series:
            yield wanted.study, wanted.series
            return
        others: Counter[str] = Counter()
        studies = [wanted.study] if wanted.study else self._asked("studies", self.server.studies) or []
        for study in studies:
            for series, modality in self._asked(study, self.server.series, study) or ():
                if modality in MODALITIES:
                    yield study, series
                else:
                    others[one_line(modality[:16])] += 1
        if others:
            kinds = ", ".join(f"{name} ({count})" for name, count in others.items())
            logger.info(f"{others.total()} series of other modalities are passed over: {kinds}.")

    def _asked(self, name: str, question: Callable[..., Iterable[T]], *keys: str) -> list[T] | None:
        """The answer; None where there is none, for which the reason is kept under ``name``."""
        if self.unanswered >= IN_A_ROW:
            self.refused[name] = f"not asked for: the server did not answer {IN_A_ROW} times in a row"
            return None
        try:
            answer = list(question(*keys))
        except UnansweredError as error:
            self.unanswered += 1
            self.refused[name] = clause(str(error))
            return None
        except Exception as error:  # what a server's text makes parsers raise
            self.unanswered = 0
            self.refused[name] = clause(one_line(str(error))) or type(error).__name__
            return None
        self.unanswered = 0
        return answer

    def save(self, name: str, folder: Path) -> bool:
        """Whether an instance came and is in the folder."""
        file = f"{name}.dcm"
        came = self._asked(file, self._content, name, str(folder))
        if came is None:
            return False
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(came[0])
        return True

    def _content(self, name: str, folder: str) -> list[bytes]:
        """The instance, once it is known to be the one that was asked for.

        Raises:
            ValueError: when it is another one, or the disk is full.
        """
        if shutil.disk_usage(folder).free < FREE:
            raise ValueError(f"the disk of {tempfile.gettempdir()} is full; set TMPDIR to a larger one")
        content = self.server.file(*name.split("/"))
        if content[128:132] != b"DICM":
            raise ValueError(f"the server must send a DICOM file, sends {one_line(repr(content[:20]))}")
        if (got := identity(io.BytesIO(content))) != tuple(name.split("/")):
            raise ValueError(f"the server sends another instance, {one_line('/'.join(got)[:200])}")
        return [content]


_folders: list[tempfile.TemporaryDirectory[str]] = []
"""They are removed when the process ends."""


def _private_folder() -> Path:
    """A new folder of mode 700, which does not outlive the process, also where that is told to end (SIGTERM)."""
    _folders.append(tempfile.TemporaryDirectory(prefix="dicomweb_"))
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)
    return Path(_folders[-1].name)


def _end(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)
