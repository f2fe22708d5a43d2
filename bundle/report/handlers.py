# SPDX-License-Identifier: Apache-2.0
"""Handlers of an evaluator: the report of an evaluation, and the contact sheet of a validation."""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import monai
import torch
from ignite.engine import Engine, Events

from bundle import __version__
from bundle.engines.score import MultiTaskScore, gather_rows, merged_items
from bundle.files import OutputFolder, sha256, writable_folder
from bundle.metrics import item_name
from bundle.networks.weights import tensors_sha256
from bundle.report.pictures import Case, draw_cases, make_case
from bundle.report.tables import (
    common_folder,
    end_with,
    flat_probabilities,
    results_markdown,
    without_folder,
)
from bundle.tables import csv_table
from bundle.tasks import Task
from bundle.vocabulary import BACKGROUND

logger = logging.getLogger(__name__)

OUTPUTS = ("results.md", "summary.json", "worst_cases.png")
"""Files of an evaluation, beside the tables of its sections."""


class EvaluationReport:
    """Writes what an evaluation found, and logs the table and the paths.

    To ``output_dir``: ``per_image.csv`` (rows of the tasks of the first section, such as one per image, structure and
    protocol), ``per_image_<section>.csv`` for the others, ``summary.json`` (everything, with intervals), ``results.md``
    (tables) and ``worst_cases.png`` (per data set and structure the lowest Dice among the images that hold it). Images
    are named relative to the folder that they share.

    Args:
        score: the evaluator's metric; its rows are reported.
        output_dir: folder to write to.
        weights: the evaluated checkpoint, whose hashes are noted: of the file, and of its tensors.
        split: name of the evaluated split.
        seed: of the bootstrap.
        resamples: number of bootstrap resamples.
        worst: worst cases per data set and structure.

    Raises:
        FileExistsError: at the start, when a file that no earlier run wrote would be replaced.
    """

    def __init__(
        self,
        score: MultiTaskScore,
        *,
        output_dir: str,
        weights: str,
        split: str,
        seed: int = 0,
        resamples: int = 1000,
        worst: int = 4,
    ) -> None:
        self.score = score
        self.output_dir, self.weights = Path(output_dir), Path(weights)
        self.split, self.seed, self.resamples, self.worst = split, seed, resamples, worst
        self.sections: dict[str, list[Task]] = {}
        for task in score.tasks:
            self.sections.setdefault(task.section, []).append(task)
        self.tables = {
            section: f"per_image_{section}.csv" if n else "per_image.csv" for n, section in enumerate(self.sections)
        }

    def attach(self, engine: Engine) -> None:
        """Registers the handler with an evaluator to which ``score`` is attached already."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._keep_worst)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self) -> None:
        self.scored = {task.name: 0 for task in self.score.tasks}
        self.cases: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        writable_folder(str(self.output_dir))
        self.folder = OutputFolder(self.output_dir)
        self.folder.check([*OUTPUTS, *self.tables.values()])

    def _keep_worst(self, engine: Engine) -> None:
        items = {item_name(item): item for item in merged_items(engine)}
        self.images += [
            {"image": name, "patient": item.get("patient") or name, "group": item.get("group") or name}
            for name, item in items.items()
            if not item.get("error")
        ]
        for task in self.score.tasks:
            rows = self.score.rows[task.name]
            for row in rows[self.scored[task.name] :] if task.worst_by else ():
                if row.get("present", True):
                    self._keep(task, row, items[row["image"]])
            self.scored[task.name] = len(rows)

    def _keep(self, task: Task, row: Mapping[str, Any], item: Mapping[str, Any]) -> None:
        part, value = row[task.keys[0]], row[task.worst_by]
        title = f"{row['dataset']} · {part} · {task.worst_by.capitalize()} {value:.3f}"
        case = make_case(item, title=title, caption=Path(row["image"]).stem)
        key = {"dataset": row["dataset"], "part": part, "image": row["image"], "value": value}
        self.cases = _worst([*self.cases, {**key, "case": case}], self.worst)

    def _write(self, engine: Engine) -> None:
        images = gather_rows(self.images, keys=("image",))
        cases = _worst(gather_rows(self.cases, keys=("image", "part")), self.worst)
        if idist.get_rank() != 0:
            return
        folder = common_folder([row["image"] for row in [*images, *self.score.unreadable]])
        summary = {
            **self._facts(engine),
            "images": len(images),
            **{f"{key}s": len({row[key] for row in images}) for key in ("patient", "group")},
            "unreadable": without_folder(self.score.unreadable, folder),
            **self._scores(),
        }
        sections = {
            section: tasks[0].tables(summary[section]) for section, tasks in self.sections.items() if summary[section]
        }
        markdown = results_markdown(summary, sections)
        worst = draw_cases(
            [row["case"] for row in cases],
            structures=mask_names(self.score.tasks),
            heading=f"Lowest Dice per data set and structure, {self.split} split",
            columns=self.worst,
        )
        content = (json.dumps(summary, indent=1, allow_nan=False) + "\n").encode()
        written = [self.folder.write(*pair) for pair in zip(OUTPUTS, (markdown.encode(), content, worst), strict=True)]
        for section, tasks in self.sections.items():
            rows = [row for task in tasks for row in self.score.rows[task.name]]
            table = csv_table(without_folder(flat_probabilities(rows), folder))
            written.append(self.folder.write(self.tables[section], table))
        paths = "\n".join(map(str, written))
        logger.info(f"evaluation finished\n\n{markdown}\nwritten:\n{paths}")
        end_with(summary["unreadable"])

    def _facts(self, engine: Engine) -> dict[str, Any]:
        """What was evaluated, how and where."""
        return {
            "version": __version__,
            "date": datetime.now(timezone.utc).date().isoformat(),
            "split": self.split,
            "protocol": "native",
            "seed": self.seed,
            "resamples": self.resamples,
            "interval": "95 %, percentile bootstrap by group",
            "weights_sha256": sha256(self.weights),
            "tensors_sha256": tensors_sha256(self.weights),  # stays the same when the file tells another gate
            "gate": _gate(self.score.tasks),
            "machine": _machine(getattr(engine.state, "device", None)),
        }

    def _scores(self) -> dict[str, Any]:
        score, options = self.score, {"resamples": self.resamples, "seed": self.seed}
        headline = {f"val_{metric}" for task in score.tasks for metric in task.headline}
        return {
            "means": {k.removeprefix("val_"): v for k, v in score.parts.items() if k in headline},
            **{
                section: [entry for task in tasks for entry in task.summary(score.rows[task.name], **options)]
                for section, tasks in self.sections.items()
            },
        }


def mask_names(tasks: Sequence[Task]) -> list[str]:
    """Names of the label map's values, background first; only that where no task makes one."""
    return next((task.structures for task in tasks if task.guided), [BACKGROUND])  # type: ignore[attr-defined]


def _gate(tasks: Sequence[Task]) -> dict[str, float]:
    """Structure -> probability of its presence below which the masks left it out."""
    masks: Any = next((task for task in tasks if task.guided), None)
    return {masks.structures[index]: least for index, least in masks.gate.items()} if masks else {}


def _worst(cases: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The ``count`` lowest values of each data set and part."""
    cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for case in sorted(cases, key=lambda c: (c["dataset"], c["part"], c["value"], c["image"])):
        cells.setdefault((case["dataset"], case["part"]), []).append(case)
    return [case for members in cells.values() for case in members[:count]]


def _machine(device: torch.device | None) -> dict[str, Any]:
    """Processor, cores and versions; nothing that names a computer or a person."""
    processor = platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        processor = models[0] if models else processor
    if device is not None and device.type == "cuda":
        processor += f", {torch.cuda.get_device_name(device)}"
    versions = {"python": platform.python_version(), "torch": torch.__version__, "monai": monai.__version__}
    return {"processor": processor, "cores": os.cpu_count(), **versions}


class ContactSheet:
    """Draws some validation images with truth and prediction, each time that the key metric reaches a new best.

    So the sheet shows what the saved weights do. The images are spread over data sets and classes, the same in each
    epoch, and those that cannot be read are passed over.

    Args:
        output_path: of the PNG; an earlier run's is replaced.
        tasks: the declared tasks.
        max_images: number of images.
    """

    def __init__(self, output_path: str, tasks: Sequence[Task], *, max_images: int = 12) -> None:
        self.output_path, self.tasks, self.max_images = Path(output_path), list(tasks), max_images

    def attach(self, engine: Engine) -> None:
        """Registers the handler with an evaluator, after its metrics."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._draw)

    def _start(self) -> None:
        self.cases: dict[str, dict[str, list[Case]]] = {}

    def _collect(self, engine: Engine) -> None:
        for item in merged_items(engine):
            if item.get("error"):
                continue
            stratum = next(filter(None, (task.stratum(item) for task in self.tasks)), "")
            cases = self.cases.setdefault(item["dataset"], {}).setdefault(stratum, [])
            if len(cases) < self.max_images:
                title = f"{item['dataset']} · {Path(item_name(item)).stem}"
                cases.append(make_case(item, title=title, caption=self._caption(item)))

    def _caption(self, item: Mapping[str, Any]) -> str:
        remarks = [
            task.remark(row)
            for task in self.tasks
            if task.name in item["found"]
            for row in task.rows(item["found"][task.name], item)
        ]
        return " · ".join(filter(None, remarks)) or "no class and no mask to compare with"

    def _draw(self, engine: Engine) -> None:
        best = getattr(engine.state, "best_metric_epoch", -1)
        if idist.get_rank() != 0 or best not in (-1, engine.state.epoch):
            return
        heading = f"Validation, epoch {engine.state.epoch}"
        content = draw_cases(self._spread(), structures=mask_names(self.tasks), heading=heading)
        OutputFolder(self.output_path.parent).write(self.output_path.name, content)

    def _spread(self) -> list[Case]:
        """As many images of each data set as of any other, and within it of each class."""
        orders = [_interleave(list(classes.values())) for classes in self.cases.values()]
        chosen = {id(case) for case in _interleave(orders)[: self.max_images]}
        return [case for order in orders for case in order if id(case) in chosen]


def _interleave(lists: Sequence[Sequence[Case]]) -> list[Case]:
    """First of each list, then second of each, and so on."""
    longest = max((len(members) for members in lists), default=0)
    return [members[i] for i in range(longest) for members in lists if i < len(members)]
