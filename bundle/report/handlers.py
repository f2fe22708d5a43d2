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
from bundle.files import OutputFolder, sha256, writable_folder
from bundle.metrics import MultiTaskScore, merged_items, summarize_classification, summarize_segmentation
from bundle.metrics.score import gather_rows
from bundle.metrics.segmentation import item_name
from bundle.report.pictures import Case, draw_cases, make_case
from bundle.report.tables import (
    common_folder,
    end_with,
    flat_probabilities,
    results_markdown,
    without_folder,
)
from bundle.tables import csv_table

logger = logging.getLogger(__name__)

OUTPUTS = ("results.md", "summary.json", "per_image.csv", "per_image_classification.csv", "worst_cases.png")
"""Files of an evaluation."""


class EvaluationReport:
    """Writes what an evaluation found, and logs the table and the paths.

    To ``output_dir``: ``per_image.csv`` (a row per image, structure and protocol), ``per_image_classification.csv``,
    ``summary.json`` (everything, with intervals), ``results.md`` (tables) and ``worst_cases.png`` (per data set and
    structure the lowest Dice among the images that hold it). Images are named relative to the folder that they share.

    Args:
        score: the evaluator's metric; its rows are reported.
        output_dir: folder to write to.
        weights: the evaluated checkpoint, whose hash is noted.
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

    def attach(self, engine: Engine) -> None:
        """Registers the handler with an evaluator to which ``score`` is attached already."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._keep_worst)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self) -> None:
        self.scored = 0
        self.cases: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        writable_folder(str(self.output_dir))
        self.folder = OutputFolder(self.output_dir)
        self.folder.check(OUTPUTS)

    def _keep_worst(self, engine: Engine) -> None:
        items = {item_name(item): item for item in merged_items(engine)}
        self.images += [
            {"image": name, "patient": item.get("patient") or name, "group": item.get("group") or name}
            for name, item in items.items()
            if not item.get("error")
        ]
        for row in self.score.rows[self.scored :]:
            if row["present"]:
                title = f"{row['dataset']} · {row['structure']} · Dice {row['dice']:.3f}"
                case = make_case(items[row["image"]], title=title, caption=Path(row["image"]).stem)
                key = {k: row[k] for k in ("dataset", "structure", "image", "dice")}
                self.cases = _worst([*self.cases, {**key, "case": case}], self.worst)
        self.scored = len(self.score.rows)

    def _write(self, engine: Engine) -> None:
        images = gather_rows(self.images, keys=("image",))
        cases = _worst(gather_rows(self.cases, keys=("image", "structure")), self.worst)
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
        segmentation = without_folder(self.score.rows + self.score.paper_rows, folder)
        classification = without_folder(flat_probabilities(self.score.classification_rows), folder)
        markdown = results_markdown(summary)
        worst = draw_cases(
            [row["case"] for row in cases],
            structures=self.score.structures,
            heading=f"Lowest Dice per data set and structure, {self.split} split",
            columns=self.worst,
        )
        content = (json.dumps(summary, indent=1, allow_nan=False) + "\n").encode()
        contents = (markdown.encode(), content, csv_table(segmentation), csv_table(classification), worst)
        written = [self.folder.write(*pair) for pair in zip(OUTPUTS, contents, strict=True)]
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
            "machine": _machine(getattr(engine.state, "device", None)),
            "nsd_tolerance": {
                "mm": self.score.nsd_tolerance_mm,
                "fraction_of_diagonal": self.score.nsd_tolerance_fraction,
            },
        }

    def _scores(self) -> dict[str, Any]:
        score, options = self.score, {"resamples": self.resamples, "seed": self.seed}
        return {
            "means": {k.removeprefix("val_"): v for k, v in score.parts.items() if k in ("val_dice", "val_auroc")},
            "segmentation": summarize_segmentation(score.rows, **options),
            "segmentation_paper_protocol": summarize_segmentation(score.paper_rows, **options),
            "classification": summarize_classification(
                score.classification_rows, label_sets=score.label_sets, **options
            ),
        }


def _worst(cases: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The ``count`` lowest Dice of each data set and structure."""
    cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for case in sorted(cases, key=lambda c: (c["dataset"], c["structure"], c["dice"], c["image"])):
        cells.setdefault((case["dataset"], case["structure"]), []).append(case)
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
        structures: name of each structure index, background first.
        label_sets: label set -> class names.
        max_images: number of images.
    """

    def __init__(
        self,
        output_path: str,
        structures: Sequence[str],
        label_sets: Mapping[str, Sequence[str]],
        *,
        max_images: int = 12,
    ) -> None:
        self.output_path = Path(output_path)
        self.structures = list(structures)
        self.label_sets = {name: list(classes) for name, classes in label_sets.items()}
        self.max_images = max_images

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
            truth, predicted = self._classes(item)
            cases = self.cases.setdefault(item["dataset"], {}).setdefault(truth, [])
            if len(cases) < self.max_images:
                title = f"{item['dataset']} · {Path(item_name(item)).stem}"
                cases.append(make_case(item, title=title, caption=self._caption(item, truth, predicted)))

    def _classes(self, item: Mapping[str, Any]) -> tuple[str, str]:
        """Names of the true class and of the predicted one with its probability; "" without a true class."""
        for index, (name, classes) in zip(item["cls"], self.label_sets.items(), strict=True):
            if int(index) >= 0:
                probabilities = torch.as_tensor(item["probabilities"][name])
                best = int(probabilities.argmax())
                return classes[int(index)], f"{classes[best]} {float(probabilities[best]):.2f}"
        return "", ""

    def _caption(self, item: Mapping[str, Any], truth: str, predicted: str) -> str:
        parts = [f"{truth}, predicted {predicted}"] if truth else []
        for index in range(1, len(self.structures)):
            label, pred = item["label"] == index, item["pred"] == index
            if item["labeled"][index] and bool(label.any()):
                dice = 2 * int((label & pred).sum()) / int(label.sum() + pred.sum())
                parts.append(f"Dice {self.structures[index]} {dice:.2f}")
        return " · ".join(parts) or "no class and no mask to compare with"

    def _draw(self, engine: Engine) -> None:
        best = getattr(engine.state, "best_metric_epoch", -1)
        if idist.get_rank() != 0 or best not in (-1, engine.state.epoch):
            return
        heading = f"Validation, epoch {engine.state.epoch}"
        content = draw_cases(self._spread(), structures=self.structures, heading=heading)
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
