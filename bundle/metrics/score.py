# SPDX-License-Identifier: Apache-2.0
"""The score that validation compares and evaluation reports: one pass over the images, every image once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine
from ignite.metrics import Metric

from bundle.metrics.classification import auroc, classification_rows, truth_and_probabilities
from bundle.metrics.segmentation import PROTOCOLS, Row, item_name, mean_dice, segmentation_rows


def identity(output: Any) -> Any:
    """The output as it is."""
    return output


def merged_items(engine: Engine) -> list[dict[str, Any]]:
    """The images of the evaluator's last iteration: what was loaded, updated by what was predicted.

    MONAI's evaluators leave loaded keys in ``state.batch`` and put predicted ones into ``state.output``.

    Raises:
        TypeError: when the output is not a list of dictionaries (``decollate=False``).
    """
    batch, output = engine.state.batch, engine.state.output
    if not isinstance(output, list) or not all(isinstance(item, Mapping) for item in output):
        raise TypeError(
            f"evaluator output must be a list of dictionaries, one per image, got {type(output).__name__}; "
            "leave decollate=True in the evaluator."
        )
    loaded = batch if isinstance(batch, list) and len(batch) == len(output) else [{}] * len(output)
    return [{**before, **after} for before, after in zip(loaded, output, strict=True)]


def unreadable_row(item: Mapping[str, Any]) -> Row:
    """Path of an image that could not be read, and the reason without that path."""
    name = item_name(item)
    return {"image": name, "error": item["error"].removeprefix(f"{name}: ").replace(name, Path(name).name)}


class MultiTaskScore(Metric):
    """Mean of the segmentation part and the classification part, each in [0, 1].

    Segmentation part: headline Dice averaged over (data set, structure). Classification part: AUROC averaged over
    label sets; a set in which a class does not occur is left out. With one part only, that is the score. Without any
    scored image the score is 0, with a warning.

    Beside its own name it writes into ``engine.state.metrics``: ``val_dice``, ``val_auroc``,
    ``val_dice_<data set>_<structure>``, ``val_auroc_<label set>`` and ``val_accuracy_<label set>``, as far as they are
    defined. Under torch.distributed the rows of all processes are joined, in the order in which one process would have
    seen the images if they were dealt out one by one, and an image that several saw counts once.

    Args:
        structures: name of each structure index; index 0 is background.
        label_sets: label set -> class names.
        surface: also compute NSD and HD95 per image (slower; the score does not use them).
        protocol: ``native``, or ``paper`` to score in the paper's way as well; the score is always native.
        nsd_tolerance_mm: NSD's tolerance in mm where the spacing is known.
        nsd_tolerance_fraction: NSD's tolerance as a fraction of the diagonal where it is not.
        output_transform: applied to the list of items.

    Attributes:
        rows: segmentation rows of the native protocol, once the epoch is complete.
        paper_rows: segmentation rows of the paper's protocol, likewise; empty unless asked for.
        classification_rows: likewise.
        unreadable: path and reason of each image that could not be read, likewise.

    Raises:
        ValueError: when the protocol is not known.
    """

    def __init__(
        self,
        structures: Sequence[str],
        label_sets: Mapping[str, Sequence[str]],
        *,
        surface: bool = False,
        protocol: str = "native",
        nsd_tolerance_mm: float = 2.0,
        nsd_tolerance_fraction: float = 0.02,
        output_transform: Callable[[Any], Any] = identity,
    ) -> None:
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {list(PROTOCOLS)}, got {protocol!r}; choose one of them.")
        self.structures = list(structures)
        self.label_sets = {name: list(classes) for name, classes in label_sets.items()}
        self.protocol = protocol
        self.surface = surface
        self.nsd_tolerance_mm = nsd_tolerance_mm
        self.nsd_tolerance_fraction = nsd_tolerance_fraction
        self.parts: dict[str, float] = {}
        super().__init__(output_transform=output_transform)

    def reset(self) -> None:
        """Forget all images."""
        self.rows: list[Row] = []
        self.paper_rows: list[Row] = []
        self.classification_rows: list[Row] = []
        self.unreadable: list[Row] = []
        self.images: list[str] = []  # all that came by, in order

    def iteration_completed(self, engine: Engine) -> None:
        """Take the images of this iteration."""
        self.update(self._output_transform(merged_items(engine)))

    def update(self, output: Sequence[Mapping[str, Any]]) -> None:
        """Score images.

        Args:
            output: one mapping per image, as ``segmentation_rows`` and ``classification_rows`` describe, plus
                ``error``: why the image could not be read, else "".
        """
        options: dict[str, Any] = {
            "structures": self.structures,
            "surface": self.surface,
            "nsd_tolerance_mm": self.nsd_tolerance_mm,
            "nsd_tolerance_fraction": self.nsd_tolerance_fraction,
        }
        for item in output:
            self.images.append(item_name(item))
            if item.get("error"):
                self.unreadable.append(unreadable_row(item))
                continue
            self.rows += segmentation_rows(item, **options)
            self.classification_rows += classification_rows(item, label_sets=self.label_sets)
            if self.protocol == "paper":
                self.paper_rows += segmentation_rows(item, **options, protocol="paper")

    def compute(self) -> float:
        """The score in [0, 1]; ``parts`` then holds what it was made of."""
        place = {name: n for n, name in enumerate(dealt_names(self.images))}

        def joined(rows: list[Row], key: str) -> list[Row]:
            return sorted(gather_rows(rows, keys=("image", key)), key=lambda row: place[row["image"]])

        self.rows = joined(self.rows, "structure")
        self.paper_rows = joined(self.paper_rows, "structure")
        self.classification_rows = joined(self.classification_rows, "label_set")
        self.unreadable = joined(self.unreadable, "error")
        dice = {f"val_dice_{dataset}_{structure}": v for (dataset, structure), v in mean_dice(self.rows).items()}
        areas, accuracies = self._class_scores()
        means = {
            name: sum(values.values()) / len(values)
            for name, values in (("val_dice", dice), ("val_auroc", areas))
            if values
        }
        self.parts = {**means, **dice, **areas, **accuracies}
        if not means:
            warnings.warn("no image with a structure or with all classes was scored; the score is 0.", stacklevel=2)
            return 0.0
        return sum(means.values()) / len(means)

    def completed(self, engine: Engine, name: str) -> None:
        """Write the score and its parts into the engine's metrics."""
        super().completed(engine, name)
        engine.state.metrics.update(self.parts)

    def _class_scores(self) -> tuple[dict[str, float], dict[str, float]]:
        """AUROC (where defined) and accuracy, keyed by metric name."""
        areas, accuracies = {}, {}
        for name, classes in self.label_sets.items():
            rows = [r for r in self.classification_rows if r["label_set"] == name]
            if not rows:
                continue
            accuracies[f"val_accuracy_{name}"] = sum(r["correct"] for r in rows) / len(rows)
            area = auroc(*truth_and_probabilities(rows, classes))
            if math.isfinite(area):
                areas[f"val_auroc_{name}"] = area
        return areas, accuracies


def _shares(values: list[Any]) -> list[list[Any]]:
    """The values of each process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [values]
    shares: list[list[Any]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(shares, values)
    return shares


def dealt_names(names: list[str]) -> list[str]:
    """The names that all processes saw: the first of each, then the second of each, and so on; each name once."""
    shares = _shares(names)
    longest = max(len(share) for share in shares)
    return list(dict.fromkeys(share[n] for n in range(longest) for share in shares if n < len(share)))


def gather_rows(rows: list[Row], *, keys: tuple[str, ...]) -> list[Row]:
    """The rows of all processes, in the same order on each, equal keys once.

    Samplers repeat images to give every process as many; a repeated image must not count twice.
    """
    return list({tuple(row[k] for k in keys): row for share in _shares(rows) for row in share}.values())
