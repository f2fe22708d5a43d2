# SPDX-License-Identifier: Apache-2.0
"""Hashes of files, the one atomic write, and folders that can be written to."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, as hexadecimal text."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def whole_file(path: str | Path, *, temporary: str | Path, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """A new file to fill under another name in the same folder; then it takes the place of ``path`` in one step.

    An interruption leaves the old file or the new one, never a part.

    Args:
        path: name that it gets at the end.
        temporary: name until then; what stands there, of a killed run, is replaced.
        mode: permissions, before the umask.
    """
    made = Path(temporary)
    try:
        made.unlink(missing_ok=True)  # it may be a link
        with open(made, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
        os.replace(made, path)
    except BaseException:
        made.unlink(missing_ok=True)
        raise


def grows_elsewhere(path: Path, file: IO[bytes] | None) -> bool:
    """Whether another process holds a growing file; else this one holds it until it closes it.

    Args:
        path: of the file, which need not be there.
        file: the same, open for writing; None only asks.
    """
    try:
        with contextlib.ExitStack() as opened:
            held = file or opened.enter_context(path.open("r+b"))
            if fcntl is not None:
                fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return not os.path.samestat(os.fstat(held.fileno()), path.stat())  # another one made it anew meanwhile
    except BlockingIOError:
        return True
    except OSError:  # no such file, or a file system without locks
        return False


def writable_folder(path: str, *, options: str = "--output_dir and --ckpt_dir") -> str:
    """``path``, a folder that is made if need be and can be written to; ``options`` are for the message.

    Raises:
        OSError: when it cannot, or the path is empty, as an unset variable of a shell is.
    """
    try:
        if not path:
            raise OSError("an empty name")
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as e:
        raise OSError(f"{path or repr(path)} must be a writable folder, got: {e}; choose others with {options}.") from e
    return path
