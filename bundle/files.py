# SPDX-License-Identifier: Apache-2.0
"""Files: suffixes of images, hashes, the one atomic write, and the one check that nothing of others is replaced."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

NIFTI_SUFFIXES = (".nii", ".nii.gz")
NRRD_SUFFIXES = (".nrrd", ".nhdr")
METAIMAGE_SUFFIXES = (".mha", ".mhd")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2")
IMAGE_SUFFIXES = PICTURE_SUFFIXES + NIFTI_SUFFIXES + NRRD_SUFFIXES + METAIMAGE_SUFFIXES + DICOM_SUFFIXES
"""What the readers take, in lower case; DICOM also without a suffix."""

LEDGER = ".ultrasound_uperconvnext_outputs"
"""File beside the outputs that lists them, a line of JSON each: path below its folder, and SHA-256 or null."""


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, as hexadecimal text."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def writable_folder(path: str) -> str:
    """``path``, a folder that is made if need be and can be written to.

    Raises:
        OSError: when it cannot.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as e:
        raise OSError(
            f"{path} must be a writable folder, got: {e}; choose others with --output_dir and --ckpt_dir."
        ) from e
    return path


class OutputFolder:
    """Writes the outputs of a run below one folder, and replaces only what an earlier run wrote.

    What was written stands in ``LEDGER`` in that folder, with its hash: a file that is not listed there, or in a folder
    above, or that was changed since, is somebody's own. Several threads and processes may share a folder, as long as
    they write different files. No library does this: they replace whatever has the name.

    Args:
        folder: of the outputs; made when the first one is written.
        option: that names the folder, for messages.
        sources: files that the run reads; no output may be one of them, under any name.
    """

    def __init__(self, folder: str | Path, *, option: str = "--output_dir", sources: Iterable[str | Path] = ()) -> None:
        self.folder, self.option = Path(folder), option
        self.sources = [Path(source) for source in sources]
        self._ledgers: dict[Path, dict[str, set[str | None]]] = {}
        self._lock = threading.Lock()

    def check(self, names: Iterable[str | Path]) -> None:
        """Refuses outputs that would replace what no earlier run wrote; to be called before any is written.

        Args:
            names: paths below the folder.

        Raises:
            FileExistsError: with the first of those files and their number.
        """
        refused = [(path, reason) for path in (self.folder / name for name in names) if (reason := self._foreign(path))]
        if refused:
            path, reason = refused[0]
            more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
            raise FileExistsError(
                f"{path}{more}: expected a free name or an unchanged file of an earlier run, got {reason}; it is kept."
                f" Move it, or choose another {self.option}."
            )

    def write(self, name: str | Path, content: bytes | Callable[[Path], Any], *, sync: bool = False) -> Path:
        """Writes a file so that an interruption leaves the old one or the new one, never a part.

        Args:
            name: path below the folder; folders on the way are made.
            content: its bytes, or what makes the file at the path that it is given.
            sync: wait until the disk has it.

        Returns:
            The file's path.

        Raises:
            FileExistsError: when it would replace what no earlier run wrote.
            OSError: when it cannot be written.
        """
        path = self.folder / name
        self.check([name])
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            if isinstance(content, bytes):
                temporary.write_bytes(content)
                digest = hashlib.sha256(content).hexdigest()
            else:
                content(temporary)
                digest = sha256(temporary)
            if sync:
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
            self._note(name, digest)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return path

    def grow(self, name: str | Path) -> Path:
        """Path of a file that grows while the run goes on, such as a video; whatever it will hold is the run's own.

        Raises:
            FileExistsError: when it would replace what no earlier run wrote.
        """
        self.check([name])
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._note(name, None)
        return path

    def finish(self, name: str | Path) -> None:
        """Lists what a grown file holds now that it is complete."""
        self._note(name, sha256(self.folder / name))

    def _note(self, name: str | Path, digest: str | None) -> None:
        """Lists a file before it is there: a kill between the two leaves no file that nobody knows."""
        key, folder = Path(name).as_posix(), Path(os.path.abspath(self.folder))
        with self._lock:
            listed = self._ledger(folder)
            with (folder / LEDGER).open("a", encoding="ascii") as file:  # a short line is appended as a whole
                file.write(json.dumps([key, digest]) + "\n")
            _list(listed, key, digest)

    def _ledger(self, folder: Path) -> dict[str, set[str | None]]:
        """All hashes that a folder's ledger lists, by name; a broken line is passed over."""
        if folder not in self._ledgers:
            listed: dict[str, set[str | None]] = {}
            try:
                lines = (folder / LEDGER).read_text(encoding="ascii", errors="replace").splitlines()
            except OSError:
                lines = []
            for line in lines:
                try:
                    name, digest = json.loads(line)
                except (ValueError, TypeError):
                    continue
                _list(listed, str(name), digest)
            self._ledgers[folder] = listed
        return self._ledgers[folder]

    def _foreign(self, path: Path) -> str:
        """Why ``path`` is not to be replaced; empty where nothing stands there or an earlier run wrote it."""
        if not os.path.lexists(path):
            return ""
        if any(_same(path, source) for source in self.sources):
            return "a file that this run reads"
        if path.is_symlink() or not path.is_file():
            return "a link" if path.is_symlink() else "no plain file"
        absolute = Path(os.path.abspath(path))
        for folder in absolute.parents:
            with self._lock:
                listed = self._ledger(folder)
            name = absolute.relative_to(folder).as_posix()
            if name in listed:
                known = None in listed[name] or sha256(path) in listed[name]
                return "" if known else "a file that was changed since"
        return "a file that no earlier run wrote"


def _list(listed: dict[str, set[str | None]], name: str, digest: str | None) -> None:
    """Adds a hash of a file; an earlier one may still be what the disk holds. None means any, until there is one."""
    digests = listed.setdefault(name, set())
    digests.discard(None)
    digests.add(digest)


def _same(path: Path, other: Path) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False
