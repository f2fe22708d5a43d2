# SPDX-License-Identifier: Apache-2.0
"""The folder of one training: what an earlier one left there is moved aside before a new one starts."""

from __future__ import annotations

import logging
import re
import shutil
import time
from pathlib import Path

import ignite.distributed as idist

from bundle.engines.checkpoints import BEST, LAST, read_state
from bundle.engines.running import probe
from bundle.files import LEDGER, OutputFolder, writable_folder
from bundle.vocabulary import switch

logger = logging.getLogger(__name__)

PREVIOUS = "previous"
KEPT = 3
"""Earlier runs that are kept; the oldest beyond goes."""

_PARTS = (LAST, BEST, "metrics.csv", "contact_sheet.png", "tensorboard")
"""Of a run, in the order in which they move: without ``last.pt`` nothing resumes a run of which a part is gone."""

_STAMP = re.compile(r"\d{4}-\d\d-\d\d_\d{6}(_\d+)?")


def run_folder(path: str, *, resume: bool | str, start_weights: str | None = None) -> str:
    """``path``, a folder that can be written to and holds no other run than this one.

    The files of an earlier run move to ``previous/<date>_<time>/`` in it, which is a run's folder too; the last
    ``KEPT`` of them stay. What a run left that did not complete an epoch is removed. A resumed run keeps its files.

    Args:
        path: folder of the run, made if need be.
        resume: whether the run there goes on.
        start_weights: file that the training starts from; it must not be one of those that move.

    Raises:
        OSError: when the folder cannot be made or written to, holds files of these names that are of no run, or
            another training runs in it; one that a MONAI Label client asks for waits instead.
        ValueError: when ``start_weights`` is the earlier run's own file.
    """
    folder = Path(writable_folder(path))
    if idist.get_rank() == 0:
        probe(folder)
    if switch(resume, "resume"):
        return path
    if start_weights is not None and Path(start_weights).resolve() in [(folder / n).resolve() for n in (BEST, LAST)]:
        raise ValueError(
            f"start_weights {start_weights} is a file of the run in {folder}, which a new run there moves aside; choose"
            " another --output_dir for the new run."
        )
    if idist.get_rank() == 0 and any((folder / name).exists() for name in _PARTS):
        epochs = _epochs(folder)
        if epochs is None:  # no run is known by its checkpoint
            OutputFolder(folder).check(name for name in _PARTS if not (folder / name).is_dir())
        if epochs == 0 and not any((folder / name).exists() for name in (BEST, "metrics.csv")):
            _remove(folder)
        else:
            _move_aside(folder)
    return path


def earlier_runs(folder: Path) -> list[Path]:
    """Folders of the runs that were moved aside, the oldest first."""
    found = (folder / PREVIOUS).iterdir() if (folder / PREVIOUS).is_dir() else ()
    return sorted(path for path in found if path.is_dir() and _STAMP.fullmatch(path.name))


def _epochs(folder: Path) -> int | None:
    """Complete epochs of the run in a folder; None where there is no checkpoint that says."""
    try:
        return int(read_state(folder / LAST)["epoch"])
    except (ValueError, TypeError):
        return None


def _move_aside(folder: Path) -> None:
    folder = folder.resolve()  # a link of MONAI Label's to the bundle is gone when a user follows the message
    written = max((folder / name).stat().st_mtime for name in _PARTS if (folder / name).exists())
    stamp = time.strftime("%Y-%m-%d_%H%M%S", time.localtime(written))
    target, number = folder / PREVIOUS / stamp, 1
    while target.exists():
        number += 1
        target = folder / PREVIOUS / f"{stamp}_{number}"
    target.mkdir(parents=True)
    if (folder / LEDGER).is_file():
        shutil.copy2(folder / LEDGER, target)
    for name in _PARTS:
        if (folder / name).exists():
            (folder / name).rename(target / name)
    logger.warning(
        f"{folder} held an earlier run, which was moved to {target}: this run starts anew. To continue that run "
        f"instead, stop now and add --resume true --output_dir '{target}' to its command."
    )
    for oldest in earlier_runs(folder)[:-KEPT]:
        _remove(oldest)
        (oldest / LEDGER).unlink(missing_ok=True)
        if not any(oldest.iterdir()):
            oldest.rmdir()
        logger.warning(f"removed {oldest}: the last {KEPT} earlier runs are kept.")


def _remove(folder: Path) -> None:
    """Removes a run's own files."""
    for name in _PARTS:
        if (folder / name).is_dir():
            for log in (folder / name).glob("events.out.tfevents.*"):
                log.unlink()
            if not any((folder / name).iterdir()):
                (folder / name).rmdir()
        else:
            (folder / name).unlink(missing_ok=True)
