# SPDX-License-Identifier: Apache-2.0
"""Handlers that MONAI and ignite lack: clipping, averaging, history, progress and the summary of a run."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.engines.utils import IterationEvents
from torch import nn
from torch.optim.swa_utils import AveragedModel

from bundle.engines.checkpoints import write_epoch_file
from bundle.files import OutputFolder
from bundle.tables import csv_table, read_table

logger = logging.getLogger(__name__)

SCORE_NAMES = {"val_dice": "Dice", "val_auroc": "AUROC"}
"""Metrics of a validation -> names that people know."""


class NamedHandlers:
    """Attaches handlers in the order of their table, so that configs can address each by its name.

    Args:
        handlers: name -> handler, or None for one that is off; a disabled component of a config is not among them.
    """

    def __init__(self, handlers: Mapping[str, Any]) -> None:
        self.handlers = {name: handler for name, handler in handlers.items() if handler is not None}

    def attach(self, engine: Engine) -> None:
        """Registers all with an engine."""
        for handler in self.handlers.values():
            handler.attach(engine)


class GradientClipping:
    """Clips the norm of all gradients together before each optimizer step, and stops on a loss that is not finite.

    MONAI's trainer has the event but no clipping.

    Args:
        network: its parameters' gradients are clipped.
        max_norm: largest 2-norm.
    """

    def __init__(self, network: nn.Module, max_norm: float) -> None:
        self.network = network
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Registers the handler with a MONAI trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Clips; raises FloatingPointError on gradients that are not finite."""
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"gradient norm must be finite, got {float(norm)} in epoch {engine.state.epoch}, iteration "
                f"{engine.state.iteration}; lower the learning rate (--learning_rate) or switch --amp false."
            )


def ema_model(network: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of a network's weights, with a start that follows the young network closely.

    The decay of update n is ``min(decay, (1 + n) / (10 + n))``, so that the random start is soon forgotten. Buffers
    (batch-norm statistics) are copied.
    """

    def average(mean: torch.Tensor, new: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
        return torch.lerp(mean, new, 1.0 - min(decay, (1.0 + int(count)) / (10.0 + int(count))))

    return AveragedModel(network, avg_fn=average)


class UpdateAverage:
    """Takes the network's weights into their moving average after every iteration."""

    def __init__(self, network: nn.Module, average: AveragedModel) -> None:
        self.network = network
        self.average = average

    def attach(self, engine: Engine) -> None:
        """Registers the handler with a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: self.average.update_parameters(self.network))


class SeededEpochs:
    """Seeds PyTorch at the start of every epoch, so that dropout repeats exactly in a resumed run.

    Before the first iteration rather than when the epoch starts: between the two, the first epoch of a run makes the
    loader's worker processes, which draws a random number.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Registers the handler with a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seeds PyTorch from (seed, epoch, process) in the first iteration of an epoch."""
        if (engine.state.iteration - 1) % engine.state.epoch_length == 0:
            torch.manual_seed(self.seed + 1_000_003 * engine.state.epoch + idist.get_rank())


class TrainingProgress(ProgressBar):
    """Progress bar of the epoch with the loss, images per second, and the last validation's Dice and AUROC.

    Args:
        evaluator: engine whose ``val_dice`` and ``val_auroc`` are shown; None shows the loss alone.
    """

    def __init__(self, evaluator: Engine | None = None) -> None:
        super().__init__(persist=True)
        self.evaluator = evaluator
        self.images, self.started = 0, time.monotonic()

    def attach(self, engine: Engine) -> None:
        """Registers the bar with a trainer, on the first process alone."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.EPOCH_STARTED, self._start)
            super().attach(engine, output_transform=self._shown)

    def _start(self) -> None:
        self.images, self.started = 0, time.monotonic()

    def _shown(self, output: Mapping[str, Any]) -> dict[str, float]:
        metrics = {} if self.evaluator is None else self.evaluator.state.metrics
        self.images += len(output.get("image", ())) * idist.get_world_size()
        speed = self.images / max(time.monotonic() - self.started, 1e-9)
        return {"loss": output["loss"].item()} | _named(metrics) | {"images/s": float(f"{speed:.3g}")}


class MetricsHistory:
    """Appends one row per epoch to a CSV: epoch, mean loss, learning rate, seconds, and all metrics of both engines.

    A resumed run drops the rows of epochs that it repeats. MONAI's ``MetricsSaver`` keeps the last epoch only.

    Args:
        path: the CSV file.
        optimizer: its learning rate is noted.
        evaluator: engine whose metrics are noted; None notes the loss alone.
    """

    def __init__(self, path: str, *, optimizer: torch.optim.Optimizer, evaluator: Engine | None = None) -> None:
        self.path = Path(path)
        self.optimizer = optimizer
        self.evaluator = evaluator
        self.losses: list[torch.Tensor] = []
        self.started = time.monotonic()

    def attach(self, engine: Engine) -> None:
        """Registers the handler with a trainer, after the validation handler in the list."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _start(self) -> None:
        self.losses.clear()
        self.started = time.monotonic()

    def _note(self, engine: Engine) -> None:
        self.losses.append(engine.state.output["loss"].detach())

    def _write(self, engine: Engine) -> None:
        loss = idist.all_reduce(float(torch.stack(self.losses).mean()), op="SUM") / idist.get_world_size()
        row = {
            "epoch": engine.state.epoch,
            "loss": f"{loss:.6f}",
            "learning_rate": f"{max(group['lr'] for group in self.optimizer.param_groups):.3g}",
            "seconds": f"{time.monotonic() - self.started:.1f}",
        }
        metrics = dict(engine.state.metrics)
        if self.evaluator is not None and self.evaluator.state.epoch == engine.state.epoch:
            metrics |= self.evaluator.state.metrics
        row |= {k: f"{v:.4f}" for k, v in metrics.items() if isinstance(v, (int, float))}
        if idist.get_rank() != 0:
            return
        shown = ("loss", "val_score", "val_dice", "val_auroc")
        text = ", ".join(f"{k} {row[k]}" for k in shown if k in row)
        logger.info(f"epoch {engine.state.epoch}/{engine.state.max_epochs}: {text}")
        rows = [r for r in self._read() if int(r["epoch"]) < engine.state.epoch] + [row]
        write_epoch_file(OutputFolder(self.path.parent), self.path.name, csv_table(rows))

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        return [{k: v for k, v in row.items() if v} for row in read_table(self.path)]


class RunSummary:
    """Logs, when a run completes, its time, its best score and where its files lie; the last handler of the list.

    Args:
        files: what it is -> path.
        evaluator: engine with the best key metric, or None.
    """

    def __init__(self, files: Mapping[str, str], evaluator: Engine | None = None) -> None:
        self.files = dict(files)
        self.evaluator = evaluator
        self.best: dict[str, float] = {}

    def attach(self, engine: Engine) -> None:
        """Registers the handler with an engine."""
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, self._remember)
        engine.add_event_handler(Events.COMPLETED, self)

    def _remember(self, evaluator: Engine) -> None:
        """Keeps Dice and AUROC of the best validation."""
        if evaluator.state.best_metric_epoch == evaluator.state.epoch:
            self.best = _named(evaluator.state.metrics)

    def __call__(self, engine: Engine) -> None:
        """Logs the summary."""
        if idist.get_rank() != 0:
            return
        minutes, seconds = divmod(round(engine.state.times[Events.COMPLETED.name] or 0), 60)
        logger.info(f"trained for {minutes} min {seconds} s")
        if self.evaluator is not None and self.evaluator.state.best_metric_epoch > 0:
            state = self.evaluator.state
            scores = "".join(f", {name} {value:.4f}" for name, value in self.best.items())
            logger.info(
                f"best {state.key_metric_name} {state.best_metric:.4f} in epoch {state.best_metric_epoch}{scores}"
            )
        for name, path in self.files.items():
            logger.info(f"{name}: {path}" if Path(path).exists() else f"{name}: {path} (not written)")


def _named(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Mean Dice and AUROC among a validation's metrics, under the names that people know."""
    return {name: float(metrics[key]) for key, name in SCORE_NAMES.items() if key in metrics}
