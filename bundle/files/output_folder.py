# SPDX-License-Identifier: Apache-2.0
"""The one check that nothing of others is replaced."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from bundle.files.writing import grows_elsewhere, sha256, whole_file

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LEDGER = ".ultrasound_uperconvnext_outputs"
"""File beside the outputs that lists them, a line of JSON each: path below its folder, and SHA-256.

In place of the hash stands "growing" and the hashes before and after what is added next while a file grows, and "" when
it is removed: a killed run's file is known by what it holds, as its name and place may be another file's by now.
"""

_GROWING = "growing"
_GROWS = bytes(32)  # stands before the two hashes of a growing file


class OutputFolder:
    """Writes the outputs of a run below one folder, and replaces only what an earlier run wrote.

    What was written stands in ``LEDGER`` in that folder, with its hash: a file that is neither listed there nor in a
    folder above, or that was changed since, is somebody's own. Files are made under another name and renamed, so that
    other names of a former file (hard links, targets of links) keep what it held. Several threads and processes may
    share a folder, as long as they write different files. No library does this: they replace whatever has the name.

    Args:
        folder: of the outputs; made when the first one is written.
        option: that names the folder, for messages.
        sources: files that the run reads; no output may be one of them, under any name.
    """

    def __init__(self, folder: str | Path, *, option: str = "--output_dir", sources: Iterable[str | Path] = ()) -> None:
        self.folder, self.option = Path(folder), option
        self.sources = [Path(source) for source in sources]
        self._read: set[tuple[int, int]] | None = None  # device and inode of the sources
        self._ledgers: dict[str, dict[str, bytes]] = {}  # folder -> name -> hashes in a row, 32 bytes each
        self._real: dict[str, str] = {}  # folder -> the same without links
        self._passed: dict[str, int] = {}  # name -> hash of inode, size and time when it was found unchanged
        self._growing: dict[str, tuple[IO[bytes], Any]] = {}  # name -> open file, hash of what it holds
        self._lock = threading.RLock()

    def check(self, names: Iterable[str | Path]) -> None:
        """Refuses outputs that would replace what no earlier run wrote; to be called before any is written.

        Args:
            names: paths below the folder.

        Raises:
            FileExistsError: with the first of those files and their number.
        """
        refused = [(name, reason) for name in names if (reason := self._foreign(str(name)))]
        if refused:
            name, reason = refused[0]
            more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
            raise FileExistsError(
                f"{self.folder / name}{more}: expected a free name or an unchanged file of an earlier run, got"
                f" {reason}; nothing is replaced. Move it, or choose another {self.option}."
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
        self.check([name])
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # No longer than the name, which may be as long as the system allows; a killed run's is taken over.
        temporary = path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.tmp")
        with whole_file(path, temporary=temporary) as file:
            file.write(content if isinstance(content, bytes) else b"")
            file.close()
            if callable(content):
                content(temporary)
            if sync:
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
            digest = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256(temporary)
            self._note(name, digest, sync=sync)  # before: a kill between the two leaves no file that nobody knows
        return path

    def grow(self, name: str | Path) -> Path:
        """Begins a new, empty file to which :meth:`append` adds while the run goes on.

        Raises:
            FileExistsError: when it would replace what no earlier run wrote, or another process grows it now.
            OSError: when it cannot be written.
        """
        path = self.folder / name
        self._taken(path, None)
        self.check([name])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        file, held = path.open("xb", buffering=0), hashlib.sha256()
        self._taken(path, file)
        try:
            self._note(name, f"{_GROWING} {held.hexdigest()} {held.hexdigest()}")
        except OSError:
            file.close()
            path.unlink()
            raise
        self._growing[_key(name)] = (file, held)
        return path

    def append(self, name: str | Path, content: bytes) -> None:
        """Adds to a file that this run began to grow, even if its name is another file's by now.

        Raises:
            OSError: when it cannot be written as a whole; nothing is added then.
        """
        with self._lock:
            file, held = self._growing[_key(name)]
            longer = held.copy()
            longer.update(content)
            self._note(name, f"{_GROWING} {held.hexdigest()} {longer.hexdigest()}")  # before: see write
            start = file.tell()
            try:
                if file.write(content) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder / name))
            except OSError:
                file.seek(start)
                file.truncate()
                raise
            self._growing[_key(name)] = (file, longer)

    def finish(self, name: str | Path) -> None:
        """Lists what a grown file was given now that it is complete."""
        file, held = self._growing.pop(_key(name))
        file.close()
        self._note(name, held.hexdigest())

    def remove(self, name: str | Path) -> None:
        """Removes a file of this run or an earlier one, if it is there.

        Raises:
            FileExistsError: when no earlier run wrote it.
        """
        self.check([name])
        if _key(name) in self._growing:
            self._growing.pop(_key(name))[0].close()
        if os.path.lexists(self.folder / name):
            (self.folder / name).unlink()
            self._note(name, "")

    def wrote(self, name: str | Path) -> bool:
        """Whether a file is there that an earlier run wrote and nobody changed."""
        return os.path.lexists(self.folder / name) and not self._foreign(str(name))

    def adopt(self, name: str | Path) -> None:
        """Lists a file as it is, if it is there: the user lets the run replace it, or it is kept under another name."""
        if (self.folder / name).is_file():
            self._note(name, sha256(self.folder / name))

    def _note(self, name: str | Path, digest: str, *, sync: bool = False) -> None:
        folder, key = self._without_links(str(self.folder)), _key(name)
        # It begins with the line's end, so that a line that a full disk cut does not spoil this one.
        line = f"\n{json.dumps([key, digest])}".encode("ascii")
        with self._lock:
            listed = self._ledger(folder)
            # A stranger's folder may hold a link of this name.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            ledger = os.open(os.path.join(folder, LEDGER), flags, 0o666)
            try:
                if fcntl is not None:
                    with contextlib.suppress(OSError):  # a file system without locks
                        fcntl.lockf(ledger, fcntl.LOCK_EX)  # network file systems do not append as a whole
                if os.write(ledger, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.path.join(folder, LEDGER))
                if sync:
                    os.fsync(ledger)
            finally:
                os.close(ledger)
            _list(listed, key, digest)
            self._passed.pop(key, None)

    def _ledger(self, folder: str) -> dict[str, bytes]:
        """All hashes that a folder's ledger lists, by name; a broken line is passed over."""
        with self._lock:
            if folder not in self._ledgers:
                listed: dict[str, bytes] = {}
                with contextlib.suppress(OSError), open(os.path.join(folder, LEDGER), "rb") as lines:
                    for line in lines:
                        with contextlib.suppress(ValueError, TypeError, AttributeError, OverflowError, RecursionError):
                            name, digest = json.loads(line)
                            _list(listed, str(name), digest)
                self._ledgers[folder] = listed
            return self._ledgers[folder]

    def _without_links(self, folder: str) -> str:
        if folder not in self._real:
            self._real[folder] = os.path.realpath(folder)
        return self._real[folder]

    def _foreign(self, name: str) -> str:
        """Why a file is not to be replaced; empty where nothing stands there or an earlier run wrote it."""
        path = self.folder / name
        if not os.path.lexists(path):
            return self._in_the_way(path.parent)
        if not path.is_file():
            return "no plain file"
        status = path.stat()
        if self._reads(status):
            return "a file that this run reads"
        stamp, key = hash((status.st_ino, status.st_size, status.st_mtime_ns)), _key(name)
        if self._passed.get(key) == stamp:
            return ""
        known = self._known(path, key)
        if not known:
            return "a file that no earlier run lists (another run writes here now, or a version up to 0.5.2 wrote it)"
        hashes = [known[start : start + 32] for start in range(0, len(known), 32)]
        if bytes.fromhex(sha256(path)) not in hashes:
            return "a file that was changed since an earlier run wrote it"
        self._passed[key] = stamp
        return ""

    def _taken(self, path: Path, file: IO[bytes] | None) -> None:
        if grows_elsewhere(path, file):
            raise FileExistsError(
                f"{path}: another run writes to this folder now; wait for it, or choose another {self.option}."
            )

    def _known(self, path: Path, key: str) -> bytes:
        """Hashes in a row that this folder's ledger, or one in a folder between, above or behind a link, lists."""
        known = self._ledger(self._without_links(str(self.folder))).get(key, b"")
        place = Path(self._without_links(str(path.parent)), path.name)
        for folder in place.parents:
            if listed := self._ledger(str(folder)):
                known += listed.get(place.relative_to(folder).as_posix(), b"")
        return known

    def _reads(self, status: os.stat_result) -> bool:
        if self._read is None:
            self._read = set()
            for source in self.sources:
                with contextlib.suppress(OSError):
                    found = source.stat()
                    self._read.add((found.st_dev, found.st_ino))
        return (status.st_dev, status.st_ino) in self._read

    def _in_the_way(self, folder: Path) -> str:
        """Why a folder that is not there cannot be made; empty where it can."""
        while not os.path.lexists(folder) and folder != folder.parent:
            folder = folder.parent
        return "" if folder.is_dir() else f"no folder at {folder}"


def _key(name: str | Path) -> str:
    return Path(os.path.normpath(name)).as_posix()


def _mark(digest: str) -> bytes:
    """A hash in 32 bytes; those of a growing file, in 96; nothing for a removed file.

    Raises:
        ValueError: when it is none of them.
    """
    if digest.startswith(_GROWING):
        before, after = digest.split()[1:]
        return _GROWS + _mark(before) + _mark(after)
    mark = bytes.fromhex(digest)
    if len(mark) not in (0, 32):
        raise ValueError(f"expected a SHA-256, got {digest}")
    return mark


def _list(listed: dict[str, bytes], name: str, digest: str) -> None:
    """Adds a hash of a file; an earlier one may still be what the disk holds."""
    mark, known = _mark(digest), listed.get(name, b"")
    known = known[:-96] if known[-96:-64] == _GROWS else known
    hashes = [known[start : start + 32] for start in range(0, len(known), 32)]
    listed[name] = known if mark in hashes else known + mark
