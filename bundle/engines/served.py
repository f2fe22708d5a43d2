# SPDX-License-Identifier: Apache-2.0
"""Training on a MONAI Label server's labels: once for equal requests, and only better weights are served."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import ignite.distributed as idist
from filelock import FileLock, Timeout
from ignite.engine import Engine, Events

from bundle.engines.checkpoints import BEST
from bundle.engines.folder import earlier_runs
from bundle.engines.running import label_request
from bundle.failures import clause
from bundle.files import OutputFolder, sha256

logger = logging.getLogger(__name__)

RECORD = "saved_labels.json"
"""File of the run's folder: what the last training was made of, which weights were served then, and what it said."""

LISTED = 6
"""Left-out labels in the last lines of a training; MONAI Label shows 20 lines in all."""


class Labels(Protocol):
    """What ``bundle.data.labels.divide`` gives."""

    @property
    def saved(self) -> bool: ...  # noqa: D102
    @property
    def aside(self) -> Sequence[Any]: ...  # noqa: D102
    @property
    def left_out(self) -> list[str]: ...  # noqa: D102
    @property
    def notes(self) -> list[str]: ...  # noqa: D102
    @property
    def digest(self) -> str: ...  # noqa: D102
    def summary(self) -> str: ...  # noqa: D102


def image_dice(rows: Sequence[Mapping[str, Any]]) -> float:
    """Mean over images of the mean Dice of the structures that an image's truth or prediction shows, in [0, 1].

    An image in which neither shows any scores 1: a false alarm costs as much as a miss.

    Args:
        rows: of ``bundle.metrics.segmentation.segmentation_rows``; one image at least.
    """
    images: dict[str, list[float]] = {}
    for row in rows:
        shown = images.setdefault(row["image"], [])
        if row["truth_pixels"] or row["pred_pixels"]:
            shown.append(row["dice"])
    return sum(sum(dice) / len(dice) if dice else 1.0 for dice in images.values()) / len(images)


class SavedLabelTraining:
    """Guards a training on saved labels; trainings on a manifest pass unchanged.

    When it starts: waits for another training in the same folder, and ends at once when the last one there had the same
    labels and request, and its outcome is still served. When it ends: compares the weights that are served with the new
    ones on the labels kept aside; what is better is served. Its last lines say which, and which labels were left out.
    No handler of MONAI's knows former weights.

    Args:
        labels: of :func:`bundle.data.labels.divide`.
        evaluator: over the labels kept aside, with the network that ``load`` fills.
        score: metric of the evaluator, whose ``rows`` are compared.
        load: takes the path of a checkpoint into the evaluator's network; ValueError where it is of another one.
        output_dir: folder of the run.
        model_path: the weights that are served.
    """

    def __init__(
        self,
        *,
        labels: Labels,
        evaluator: Engine,
        score: Any,
        load: Callable[..., Any],
        output_dir: str,
        model_path: str,
    ) -> None:
        self.labels, self.evaluator, self.score, self.load = labels, evaluator, score, load
        self.output_dir, self.model_path = Path(output_dir), Path(model_path)
        self.lock = FileLock(self.output_dir / ".saved_labels.lock")
        self.identity, self.outcome, self.repeated = "", "", False
        self.refused: Path | None = None  # new weights that are not served

    def attach(self, engine: Engine) -> None:
        """Registers it with a trainer, before ``Checkpoints``, whose handler of errors raises them."""
        if self.labels.saved:
            engine.add_event_handler(Events.STARTED, self._start)
            engine.add_event_handler(Events.EXCEPTION_RAISED, self._failed)

    def _start(self, engine: Engine) -> None:
        if not self.labels.digest:
            wrong = self.labels.left_out
            reasons = (
                f"{len(wrong)} that cannot: {'; '.join(map(clause, wrong[:LISTED]))}"
                if wrong
                else "none; save them in the client"
            )
            raise ValueError(f"training needs saved labels that can be used, got {reasons}.")
        engine.add_event_handler(Events.COMPLETED, self._finish)  # after all other handlers
        options = {"request": label_request(), "max_epochs": engine.state.max_epochs, "labels": self.labels.digest}
        options["learning_rates"] = [group["lr"] for group in engine.optimizer.param_groups]
        self.identity = hashlib.sha256(json.dumps(options, sort_keys=True, default=str).encode()).hexdigest()
        record = self._wait() if idist.get_rank() == 0 else {}
        self.repeated = bool(idist.broadcast(float(record.get("identity") == self.identity), src=0))
        if self.repeated:
            self.outcome = f"nothing has changed since the last training, which is not repeated: {self._again(record)}"
            engine.terminate()

    def _failed(self, error: BaseException) -> None:
        self.lock.release()
        if not self.labels.digest and label_request():
            raise SystemExit(
                str(error)
            )  # the last line of MONAI Label's process: of a traceback it shows the end alone

    def _wait(self) -> dict[str, Any]:
        """The record of the last training, once no other one runs; empty where its outcome is not what is served."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            logger.info(f"another training on saved labels runs in {self.output_dir}; this one waits until it ends")
            self.lock.acquire()
        try:
            record: dict[str, Any] = json.loads((self.output_dir / RECORD).read_text(encoding="utf-8"))
            return record if record["served"] == sha256(self.model_path) else {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}

    def accept(self, best: Path) -> bool:
        """Whether new weights shall be served; all processes must ask.

        Args:
            best: checkpoint of the new weights.
        """
        if not self.labels.saved:
            return True
        if self.repeated or not best.is_file():
            return False
        better, self.outcome = self._compare(best)
        if not better and idist.get_rank() == 0:
            self.refused = best
            os.utime(self.model_path)  # compared anew: to MONAI Label and its clients the file's time says so
        return better

    def _again(self, record: Mapping[str, Any]) -> str:
        """What the last training said, and where its weights are now: this run has moved them aside."""
        if not record.get("best"):
            return str(record["outcome"])
        for folder in (self.output_dir, *reversed(earlier_runs(self.output_dir))):
            if (folder / BEST).is_file() and sha256(folder / BEST) == record["best"]:
                return f"{record['outcome']}{self._remedy(folder / BEST)}"
        return f"{record['outcome']}, the file of the new ones is gone"

    def _remedy(self, best: Path) -> str:
        files = [path.resolve() for path in (best, self.model_path)]  # links to the bundle may go with the server
        command = " ".join(shlex.quote(str(path)) for path in files)
        return f", the new ones are in {files[0]}, until the next training; to serve them: cp {command}"

    def _compare(self, best: Path) -> tuple[bool, str]:
        count = len(self.labels.aside)
        if not self.model_path.is_file():
            return True, "no weights were served so far: the new weights are served"
        if not count:
            return (
                False,
                "one label alone, none to compare weights on (save two or more): the former weights stay served",
            )
        try:
            self.load(path=self.model_path)
        except ValueError as error:
            return True, f"the former weights cannot be compared ({clause(str(error))}): the new weights are served"
        before, after = self._dice(), (self.load(path=best), self._dice())[1]
        scores = f"mean Dice on the labels kept aside ({count}): former weights {before:.3f}, new weights {after:.3f}"
        if after > before:
            return True, f"{scores}: the new weights are served"
        return False, f"{scores}: the former weights stay served"

    def _dice(self) -> float:
        self.evaluator.run()
        return image_dice([row for task in self.score.tasks if task.guided for row in self.score.rows[task.name]])

    def _finish(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            left_out = self.labels.left_out
            more = [f"{len(left_out) - LISTED} more labels left out, see the log"] if len(left_out) > LISTED else []
            named = [f"label left out: {line}" for line in left_out[:LISTED]]
            outcome = self.outcome + (self._remedy(self.refused) if self.refused else "")
            for line in (*named, *more, self.labels.summary(), *self.labels.notes[:2], outcome):
                logger.info(line)
            if not self.repeated:
                record = {"identity": self.identity, "served": sha256(self.model_path), "outcome": self.outcome}
                record["best"] = sha256(self.refused) if self.refused else ""
                OutputFolder(self.output_dir).write(RECORD, json.dumps(record).encode())
        self.lock.release()
