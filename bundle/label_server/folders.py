# SPDX-License-Identifier: Apache-2.0
"""Folders of a run: MONAI Label's app with this bundle in it, and a private one that goes when the run ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from bundle.files import LEDGER, OutputFolder

PREFIX = "ultrasound_label_"  # of private folders, in the system's temporary folder


def app_folder(folder: Path, *, sample: Path, bundle: Path, name: str) -> Path:
    """Makes or renews an app folder: the sample app, and the bundle under the names of its two models.

    Args:
        folder: of the app; new, empty or made by an earlier call.
        sample: folder of MONAI Label's ``monaibundle`` app.
        bundle: folder of the bundle.
        name: of the model without clicks; the one with clicks is ``NAME_deepedit``.

    Raises:
        FileExistsError: when the folder, or a model in it, is not of an earlier call.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / LEDGER).is_file():
        raise FileExistsError(
            f"{folder} must be new, empty, or an app folder of an earlier start, got a folder with other files;"
            " choose another --app."
        )
    output = OutputFolder(folder, option="--app")
    files = [path for path in sample.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    for path in files:
        output.write(path.relative_to(sample), path.read_bytes())
    folder.chmod(0o700)
    models = folder / "model"
    models.mkdir(exist_ok=True)
    for link, target in ((models / name, str(bundle)), (models / f"{name}_deepedit", name)):
        if link.is_symlink():
            link.unlink()
        elif link.exists():
            raise FileExistsError(f"{link} must be a link to the bundle, got a folder or file; choose another --app.")
        link.symlink_to(target, target_is_directory=True)
    return folder


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only this user can read, removed at the end with all that is in it.

    Also removes those of runs that were killed.
    """
    parent = Path(tempfile.gettempdir())
    for left in parent.glob(f"{PREFIX}*"):
        _remove_if_left(left)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()  # mode 0700
    with FileLock(folder / "lock"):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_if_left(folder: Path) -> None:
    """Removes a private folder whose run holds its lock no longer."""
    lock = folder / "lock"
    if not lock.is_file() or folder.is_symlink() or folder.stat().st_uid != os.getuid():
        return
    try:
        with FileLock(lock, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
    except (Timeout, OSError):
        return


def links_out(folder: Path, root: Path) -> Iterator[Path]:
    """Links in a folder, not below it, that lead out of ``root``, a path without links."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(root):
                yield Path(entry.path)
