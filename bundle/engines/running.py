# SPDX-License-Identifier: Apache-2.0
"""One training in a folder at a time: each would take the other's files for its own, and both would end."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bundle.files import writable_folder

logger = logging.getLogger(__name__)

LOCK = ".training.lock"
"""File in a run's folder that is locked while its training runs."""

PATIENCE = 10.0
"""Seconds that the loader processes of a killed training may keep the lock."""

MODEL_SUFFIXES = (".pt", ".pth", ".ckpt")
"""Of files that count as weights, whatever is in them, such as a pointer of Git LFS."""

_held: dict[tuple[int, int], FileLock] = {}  # device and inode of the file -> lock of this process


def hold(folder: Path) -> None:
    """Keeps the trainings of other processes out of a folder, until :func:`release` or the end of this process.

    Raises:
        OSError: when one runs in it; a training that a MONAI Label client asks for waits instead.
    """
    lock = FileLock(folder / LOCK)
    if (folder / LOCK).exists() and _place(folder) in _held:
        return
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        if not label_request():
            raise OSError(
                f"{folder}: another training runs in this folder; wait until it ends, or choose another --output_dir."
            ) from None
        logger.info(f"another training runs in {folder}; this one waits until it ends")
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        logger.warning(f"{folder} cannot be locked ({error}): start no second training in it.")
        return
    _held[_place(folder)] = lock


def model_place(path: Path) -> Path:
    """``path``, where a model of ours may go: a free name, or that of another model, which is moved aside then.

    Raises:
        FileExistsError: when another file is there.
        OSError: when its folder cannot be written to.
    """
    writable_folder(str(path.parent))
    if path.is_file() and path.suffix not in MODEL_SUFFIXES:
        with open(path, "rb") as file:
            start = file.read(2)
        if start not in (b"PK", b"\x80\x02"):  # archives of torch.save, and its files before PyTorch 1.6
            raise FileExistsError(f"{path}: expected a checkpoint or no file, got another one; correct --ckpt_path.")
    return path


def probe(folder: Path) -> None:
    """Looks whether another process trains in a folder; raises and waits as :func:`hold` does, keeps nothing.

    For configs that are resolved and may never train.
    """
    mine = (folder / LOCK).exists() and _place(folder) in _held
    hold(folder)
    if not mine:
        release(folder)


def release(folder: Path) -> None:
    """Lets others train in a folder, if this process kept them out."""
    if (folder / LOCK).exists() and (lock := _held.pop(_place(folder), None)):
        lock.release()


def _place(folder: Path) -> tuple[int, int]:
    status = (folder / LOCK).stat()
    return status.st_dev, status.st_ino


def label_request() -> Mapping[str, Any]:
    """What a MONAI Label client asked for, but for the model's name; its training gets the request as ``-r``."""
    try:
        request: dict[str, Any] = json.loads(sys.argv[sys.argv.index("-r") + 1])
        return {key: value for key, value in request.items() if key not in ("model", "bundle_path", "local_rank")}
    except (ValueError, IndexError, AttributeError):
        return {}
