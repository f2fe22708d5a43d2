# SPDX-License-Identifier: Apache-2.0
"""An engine that is one of several processes, on one computer or more."""

from __future__ import annotations

import ctypes
import logging
import signal
import sys

import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1  # of prctl(2)
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt(3)


class ShareEvaluator(SupervisedEvaluator):
    """MONAI's evaluator for a process that may have no share of the images.

    There may be fewer images than processes. Then the process takes part in what all do together at the start and at
    the end; ignite refuses to run on no data.
    """

    def run(self, global_epoch: int = 1) -> None:
        """Runs on this process's share; ``global_epoch`` is the trainer's epoch."""
        if len(self.data_loader):
            super().run(global_epoch=global_epoch)
        else:
            self.state.epoch = self.state.max_epochs = global_epoch
            take_part(self)


def take_part(engine: Engine) -> None:
    """Fires the events at which processes do something together, of an engine without data."""
    for event in (Events.STARTED, Events.EPOCH_STARTED, Events.EPOCH_COMPLETED, Events.COMPLETED):
        engine.fire_event(event)


def run_share(engine: Engine, *, remedy: str) -> None:
    """Runs an engine on this process's share of the data, and says what to do when another process is lost.

    Without a share of its own (fewer images than processes) the process takes part in what all do together.

    Args:
        engine: a trainer or an evaluator of MONAI.
        remedy: what the user shall do when another process is lost.

    Raises:
        SystemExit: status 1, when another process is lost.
    """
    try:
        if len(engine.data_loader):
            engine.run()
        else:
            take_part(engine)
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        reason = str(error).splitlines()[0].partition(". ")[0]
        logger.error(
            f"process {dist.get_rank()} of {dist.get_world_size()}: another process ended, or could not be reached"
            f" ({reason}); its own message, if it left one, says why. {remedy}"
        )
        raise SystemExit(1) from error


def _is_lost(error: BaseException | None) -> bool:
    """Whether an error comes from a process that does not answer: NCCL's have a type of their own, gloo's a text."""
    while error is not None:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            return True
        error = error.__cause__
    return False


def end_with_parent(worker_id: int) -> None:
    """For a loader's processes: asks Linux to end this one when the process that started it is killed.

    PyTorch's own watch does not see it while a batch waits to be fetched. A process left behind keeps the connections
    open that it inherited, so that other computers do not notice the loss.

    Args:
        worker_id: not used.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def keep_freed_memory() -> None:
    """Keeps what the process frees for what it needs next; without glibc nothing happens.

    By default glibc gives large blocks back to the system and takes them again, page by page, in every layer of a
    network, which costs several milliseconds an image. The peak of the memory stays, only it does not fall.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
