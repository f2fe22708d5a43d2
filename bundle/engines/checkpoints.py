# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training: resumable state, best weights, and the weights that are served."""

from __future__ import annotations

import logging
import shutil
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.optim.swa_utils import AveragedModel

from bundle import __version__
from bundle.described import NotPlain, described_network, plain_values
from bundle.engines.identity import refusal
from bundle.engines.running import hold, model_place, release
from bundle.files import OutputFolder, sha256, writable_folder
from bundle.vocabulary import switch

logger = logging.getLogger(__name__)

BEST, LAST = "best.pt", "last.pt"
_PARTS = ("network", "average", "optimizer", "lr_scheduler")


class Guard(Protocol):
    """Says whether the weights of a training shall be served."""

    def attach(self, engine: Engine) -> None:
        """Registers it with a trainer."""

    def accept(self, best: Path) -> bool:
        """Whether the weights in the file ``best`` shall be served; every process asks."""


class Checkpoints:
    """Saves what a resumed run needs at the start and after every epoch, and the best weights, served when it ends.

    ``last.pt`` (all state) and ``best.pt`` (weights by the evaluator's key metric; the newest where nothing is
    validated) are written to ``output_dir``, each to a temporary file first and then renamed over the old one. When
    the training completes, ``best.pt`` becomes ``model_path``; the file that was there moves to ``previous/`` beside
    it. ``last.pt`` says which run it is of, and no other run resumes from it. Files that no earlier run wrote are not
    replaced; the files of a run that is resumed are its own. MONAI's ``CheckpointSaver`` forgets the best score when a
    run is resumed and writes served weights at once.

    Args:
        network: the plain network that is trained; its ``network_config()`` is saved beside the weights.
        average: moving average of it (``torch.optim.swa_utils.AveragedModel``), whose weights are served.
        optimizer: saved and restored.
        lr_scheduler: saved and restored.
        evaluator: engine with the key metric, or None.
        output_dir: folder of the run.
        model_path: where inference and MONAI Label look for weights.
        resume: continue the run in ``output_dir`` from its last completed epoch.
        guard: decides at the end whether the best weights shall be served; None: always.
        others: names of files that other handlers write to ``output_dir``.
        described: what else the checkpoint says of itself, plain values that inference takes from there.
        identity: of :func:`bundle.engines.identity.run_identity`; None: the network and the number of processes alone.
        part: (averaged network, its config) -> ``model``, ``network_config`` and what else the best weights hold.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        average: AveragedModel,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: Any,
        evaluator: Engine | None,
        output_dir: str,
        model_path: str,
        resume: bool = False,
        guard: Guard | None = None,
        others: Sequence[str] = (),
        identity: Mapping[str, Any] | None = None,
        described: Mapping[str, Any] | None = None,
        part: Callable[[nn.Module, dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.guard, self.identity = guard, identity
        self.part = part or (lambda network, config: {"model": network.state_dict(), "network_config": config})
        self.parts: dict[str, Any] = dict(zip(_PARTS, (network, average, optimizer, lr_scheduler), strict=True))
        self.network, self.average, self.evaluator = network, average, evaluator
        self.output_dir, self.resume = Path(output_dir).resolve(), switch(resume, "resume")
        self.model_path = Path(model_path).parent.resolve() / Path(model_path).name  # MONAI Label's links do not last
        self.folder, self.files = OutputFolder(self.output_dir), [BEST, LAST, *others]
        self.described = described_network(dict(described or {}), path="described in the config")  # as readers will
        self.saved = 0  # epochs of this run in last.pt

    def attach(self, engine: Engine) -> None:
        """Registers the handler with a trainer, after the validation handler in the list."""
        if self.guard is not None:
            self.guard.attach(engine)
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save_epoch)
        engine.add_event_handler(Events.COMPLETED, self._serve)
        engine.add_event_handler(Events.COMPLETED, lambda: release(self.output_dir))
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._interrupted)

    def _start(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            hold(self.output_dir)
        last = self.output_dir / LAST
        writable_folder(str(self.output_dir))
        model_place(self.model_path)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _exit_on_signal)
        if self.resume:
            self._restore(engine, last)
            for name in self.files if idist.get_rank() == 0 else ():
                self.folder.adopt(name)  # the user may have brought them back
            return
        self.folder.check(self.files)
        self._save(self._state(epoch=0, best=(-1.0, -1)), LAST)

    def _restore(self, engine: Engine, last: Path) -> None:
        if not last.is_file():
            raise FileNotFoundError(
                f"{last} expected to resume from, found none; start without --resume, or name the run's folder with "
                "--output_dir, which may be one in previous/ there."
            )
        state = read_state(last)
        self._check_identity(state, last)
        if state["epoch"] and not (self.output_dir / BEST).is_file():
            raise FileNotFoundError(
                f"{self.output_dir / BEST} expected beside {LAST}, found none: the best weights so far are lost; put "
                "it back, or start anew in another --output_dir."
            )
        for name, part in self.parts.items():
            try:
                part.load_state_dict(state[name])
            except Exception as error:  # a part of another shape or kind, whatever it does to PyTorch
                raise ValueError(
                    f"{last} must hold the state of this run's {name}, got one that does not fit "
                    f"({type(error).__name__}); start anew in another --output_dir."
                ) from error
        engine.state.epoch, engine.state.iteration = state["epoch"], state["epoch"] * engine.state.epoch_length
        if self.evaluator is not None:
            self.evaluator.state.best_metric, self.evaluator.state.best_metric_epoch = state["best"]
        self.saved = state["epoch"]
        logger.info(f"resumed {last} after epoch {state['epoch']} of {engine.state.max_epochs}")

    def _check_identity(self, state: Mapping[str, Any], last: Path) -> None:
        saved, own = state["identity"], self._identity()
        if "processes" not in saved["options"]:
            raise ValueError(
                f"{last} must say what the run was trained with, got a file of version 0.5.2 or older, which did not "
                "note it; finish the run with that version, or start a new one in another --output_dir, from its "
                f"weights with --start_weights '{self.output_dir / BEST}'."
            )
        if self.identity is None:
            saved = {**own, "options": {name: saved["options"].get(name) for name in own["options"]}}
        if reason := refusal(saved, own):
            raise ValueError(
                f"{last} must be of the run that is resumed, got another: {reason}, or start anew in another "
                "--output_dir."
            )
        for name, version in own["versions"].items():
            if (former := saved["versions"].get(name, version)) != version:
                logger.warning(f"the run was started with {name} {former}; its other epochs follow {name} {version}.")

    def _identity(self) -> dict[str, Any]:
        """What the run is: the config's identity, the network and the processes."""
        identity = {"versions": {}, "data": {}, "options": {}, "components": {}, **(self.identity or {})}
        network = self.network_config()
        parts = {"network": {name: network.pop(name) for name in ("heads", "parts") if name in network}}
        options = {**identity["options"], **network, "processes": idist.get_world_size()}
        return {**identity, "options": options, "components": {**identity["components"], **parts}}

    def network_config(self) -> dict[str, Any]:
        """What the network was built with, as plain values."""
        return dict(self.network.network_config())  # type: ignore[operator]

    def _save_epoch(self, engine: Engine) -> None:
        best = (-1.0, -1) if self.evaluator is None else _best(self.evaluator)
        if best[1] in (-1, engine.state.epoch):
            held = self.part(self.average.module, self.network_config())
            held["network_config"] = {**held["network_config"], **self.described, "version": __version__}
            self._save(held, BEST)
        self._save(self._state(epoch=engine.state.epoch, best=best), LAST)
        self.saved = engine.state.epoch

    def _state(self, *, epoch: int, best: tuple[float, int]) -> dict[str, Any]:
        state: dict[str, Any] = {name: part.state_dict() for name, part in self.parts.items()}
        return {**state, "epoch": epoch, "best": best, "identity": self._identity()}

    def _save(self, state: dict[str, Any], name: str) -> None:
        def write(new: Path) -> None:
            with new.open("wb") as file:
                torch.save(state, file)

        if idist.get_rank() == 0:
            write_epoch_file(self.folder, name, write)

    def _serve(self, engine: Engine) -> None:
        best = self.output_dir / BEST
        accepted = self.guard is None or self.guard.accept(best)
        if idist.get_rank() != 0 or not accepted or not best.is_file():
            return
        name, folder = self.model_path.name, OutputFolder(self.model_path.parent, option="--ckpt_dir")
        if self.model_path.is_file():
            if (digest := sha256(self.model_path)) == sha256(best):  # a finished run that was resumed
                return
            kept = Path("previous", f"{self.model_path.stem}_{digest[:8]}{self.model_path.suffix}")
            if not (folder.folder / kept).is_file() or sha256(folder.folder / kept) != digest:
                write_epoch_file(folder, str(kept), lambda new: shutil.copy2(self.model_path, new))
            folder.adopt(name)
            logger.info(
                f"moved the former {self.model_path} to {folder.folder / kept}; to bring it back:"
                f" cp '{folder.folder / kept}' '{self.model_path}'"
            )
        write_epoch_file(folder, name, lambda new: shutil.copyfile(best, new))

    def _interrupted(self, engine: Engine, error: BaseException) -> NoReturn:
        if isinstance(error, (KeyboardInterrupt, SystemExit)) and idist.get_rank() == 0:
            remedy = "no epoch is saved yet. To train, run the same command again."
            if self.saved:
                remedy = (
                    f"{self.saved} epochs are saved in {self.output_dir}. To continue, run the same command with "
                    "--resume true."
                )
            logger.warning(f"interrupted in epoch {engine.state.epoch} of {engine.state.max_epochs}; {remedy}")
        release(self.output_dir)
        raise error


def read_state(path: Path) -> dict[str, Any]:
    """The state in ``last.pt``; only tensors and plain values are read, no pickled code runs.

    Files of version 0.5.2 and older have an ``identity`` that holds the network alone.

    Raises:
        ValueError: when it is damaged, or no checkpoint of a training.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if "network_config" in state:
            config = described_network(state["network_config"], path=path)
            state["identity"] = {"versions": {}, "options": config}
        state["identity"] = _tables(plain_values(state["identity"], path=path, name="identity"))
        _check_progress(state)
        return {key: state[key] for key in ("identity", "epoch", "best", *_PARTS)}
    except NotPlain:
        raise
    except Exception as e:  # PyTorch raises nine kinds for damaged files
        raise ValueError(
            f"{path} must be the checkpoint of a training, got a damaged or different file ({type(e).__name__}), of "
            "which nothing was executed; start anew without --resume."
        ) from e


def _tables(identity: Any) -> dict[str, Any]:
    """An identity with all its tables, as far as it is one."""
    found = {"versions": {}, "data": {}, "options": {}, "components": {}, **identity}
    if strange := [name for name, table in found.items() if not isinstance(table, dict)]:
        raise TypeError(f"tables expected, got others: {strange}")
    return found


def _check_progress(state: Mapping[str, Any]) -> None:
    """Raises a TypeError where epoch or best score are no numbers, or a part has no table."""
    score, best = state["best"]
    numbers = isinstance(score, (int, float)) and all(type(epoch) is int for epoch in (state["epoch"], best))
    if not numbers or state["epoch"] < 0 or not all(isinstance(state[name], dict) for name in _PARTS):
        raise TypeError("numbers and tables expected, got others")


def write_epoch_file(folder: OutputFolder, name: str, content: bytes | Callable[[Path], Any]) -> None:
    """Writes what a training keeps of an epoch, see :meth:`bundle.files.OutputFolder.write`.

    ignite's ``DiskSaver`` leaves its half-written file on a full disk, and one more with every killed process.

    Raises:
        FileExistsError: when it would replace what no earlier run wrote.
        OSError: when it cannot be written, for example on a full disk.
    """
    try:
        folder.write(name, content, sync=True)
    except FileExistsError:
        raise
    except (OSError, RuntimeError) as e:
        reason = e if isinstance(e, OSError) else e.__context__ or e  # PyTorch hides what the disk said
        raise OSError(
            f"{folder.folder / name} could not be written ({reason}); the files of the epoch before are kept. Free"
            " disk space, then continue with --resume true."
        ) from e


def _best(evaluator: Engine) -> tuple[float, int]:
    return float(evaluator.state.best_metric), int(evaluator.state.best_metric_epoch)


def _exit_on_signal(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)
