# SPDX-License-Identifier: Apache-2.0
"""The folder of one training: what an earlier one left there is moved aside before a new one starts."""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Mapping, Sequence
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

TENSORBOARD = "tensorboard"
_RUN = (LAST, BEST, "metrics.csv")
"""What only a run leaves that completed an epoch, or began one."""

_PARTS = (*_RUN, "contact_sheet.png", TENSORBOARD)
"""Of a run, in the order in which they move: without ``last.pt`` nothing resumes a run of which a part is gone."""

_MARK = ".ultrasound_uperconvnext_run"
"""File in a run's folder of logs, which tells that a run made it."""

_STAMP = re.compile(r"\d{4}-\d\d-\d\d_\d{6}(_\d+)?")


def run_folder(
    path: str, *, resume: bool | str, start_weights: str | None = None, encoder_weights: str | None = None
) -> str:
    """``path``, a folder that can be written to and holds no other run than this one.

    The files of an earlier run move to ``previous/<date>_<time>/`` in it, which is a run's folder too; the last
    ``KEPT`` of them stay. What a run left that did not complete an epoch is removed. A resumed run keeps its files.

    Args:
        path: folder of the run, made if need be.
        resume: whether the run there goes on.
        start_weights: file that the training starts from; it must not be one of those that move.
        encoder_weights: the same of its encoder.

    Raises:
        OSError: when the folder cannot be made or written to, holds files of these names that are of no run, or
            another training runs in it; one that a MONAI Label client asks for waits instead.
        FileNotFoundError: when a file that the training starts from is not there.
        ValueError: when one is the earlier run's own file.
    """
    folder = Path(writable_folder(path))
    if idist.get_rank() == 0:
        probe(folder)
    if switch(resume, "resume"):
        return path
    given = {"start_weights": start_weights, "encoder_weights": encoder_weights}
    starts = {option: Path(file) for option, file in given.items() if file is not None}
    _check_starts(folder, starts)
    if idist.get_rank() == 0:
        _check_tensorboard(folder)
        if any((folder / name).exists() for name in _RUN):
            _clear(folder, keep=[start.resolve() for start in starts.values()])
        elif (folder / TENSORBOARD).exists():  # of a command that ended before its first epoch
            _remove_tensorboard(folder / TENSORBOARD)
        OutputFolder(folder).check(name for name in _PARTS if name != TENSORBOARD)
        (folder / TENSORBOARD).mkdir(exist_ok=True)
        (folder / TENSORBOARD / _MARK).touch()
    return path


def _check_starts(folder: Path, starts: Mapping[str, Path]) -> None:
    for option, file in starts.items():
        if not file.resolve().is_file():
            raise FileNotFoundError(f"{option} {file}: expected a file of weights, got none; correct --{option}.")
        if file.resolve() in [(folder / name).resolve() for name in (BEST, LAST)]:
            raise ValueError(
                f"{option} {file} is a file of the run in {folder}, which a new run there moves aside; choose another"
                " --output_dir for the new run."
            )


def _check_tensorboard(folder: Path) -> None:
    """Refuses a folder of logs that no run of ours made: it would move, and go with the run in time."""
    logs = folder / TENSORBOARD
    ours = (logs / _MARK).is_file() or any((folder / name).exists() for name in _RUN)
    if logs.is_symlink():
        got = "a link"
    elif logs.is_file():
        got = "a file"
    else:
        got = "logs that no run wrote" if not ours and logs.is_dir() and any(logs.iterdir()) else ""
    if got:
        raise FileExistsError(
            f"{logs}: expected a free name for this run's logs, got {got}; move it, or choose another --output_dir."
        )


def _clear(folder: Path, *, keep: Sequence[Path]) -> None:
    """Moves an earlier run aside, or removes what never completed an epoch."""
    epochs = _epochs(folder)
    if epochs is None:  # no run is known by its checkpoint
        OutputFolder(folder).check(name for name in _PARTS if not (folder / name).is_dir())
    if epochs == 0 and not any((folder / name).exists() for name in (BEST, "metrics.csv")):
        _remove(folder)
    else:
        _move_aside(folder, keep=keep)


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


def _move_aside(folder: Path, *, keep: Sequence[Path]) -> None:
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
        if any(path.is_relative_to(oldest.resolve()) for path in keep):
            logger.info(f"{oldest} stays: this training starts from its weights.")
            continue
        _remove(oldest)
        (oldest / LEDGER).unlink(missing_ok=True)
        if not any(oldest.iterdir()):
            oldest.rmdir()
        logger.warning(f"removed {oldest}: the last {KEPT} earlier runs are kept.")


def _remove(folder: Path) -> None:
    """Removes a run's own files."""
    for name in _PARTS:
        if name == TENSORBOARD:
            _remove_tensorboard(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def _remove_tensorboard(logs: Path) -> None:
    """Removes a run's logs; other files there stay, and the folder with them."""
    if not logs.is_dir() or logs.is_symlink():
        return
    for log in [*logs.glob("events.out.tfevents.*"), logs / _MARK]:
        log.unlink(missing_ok=True)
    if not any(logs.iterdir()):
        logs.rmdir()
