# SPDX-License-Identifier: Apache-2.0
"""Whether there is anything of a structure to find."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bundle.geometry import Geometry
from bundle.metrics import Row, auroc, item_origin, mean_estimate, number, table
from bundle.networks.heads import VectorHead
from bundle.tasks.task import Asked, Target, Task, Widths
from bundle.vocabulary import Organs


def thresholds(gate: Mapping[str, float] | None, structures: Sequence[str]) -> dict[int, float]:
    """Index of a structure -> probability of its presence, 0 to 1, below which it is left out.

    Args:
        gate: structure -> probability; None: none is left out.
        structures: all of them, background first.

    Raises:
        ValueError: when the gate is no table, names no structure, or has another value than a number from 0 to 1.
    """
    if gate is None:
        return {}
    wrong: Any = gate
    if isinstance(gate, Mapping):
        wrong = {name: least for name, least in gate.items() if name not in structures[1:] or not _share(least)}
        if not wrong:
            return {structures.index(name): float(least) for name, least in gate.items()}
    raise ValueError(
        f"gate must be a table of structures ({', '.join(structures[1:])}) and numbers from 0 to 1, or none, got"
        f" {shorten(repr(wrong), 80)}; correct --gate."
    )


def _share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


class Presence(Task):
    """The probability that an image shows anything of each structure.

    Trained from masks, and from classes where they tell. ``bundle.tasks.Masks`` reads it as a gate.

    Args:
        organs: the table of what there is to see.
        name: of the task.
        weight: of the loss.
        dropout: rate before the classifier, 0 to 1.
        absent_classes: label set -> {class: structures that an image of this class does not show}, for images without
            a mask; what the table of organs does not have tells nothing.
    """

    section, group, keys = "presence", "presence", ("structure",)
    reading = "logits; the sigmoid of each is the probability that the image shows anything of the structure"

    def __init__(
        self,
        organs: Organs,
        *,
        name: str = "presence",
        weight: float = 1.0,
        dropout: float = 0.0,
        absent_classes: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    ) -> None:
        self.organs, self.name, self.weight, self.dropout = organs, name, weight, dropout
        self.structures = organs.structures[1:]
        self.names = list(self.structures)
        self.absent = {
            (label_set, organs.label_sets[label_set].index(label)): [self.structures.index(s) for s in structures]
            for label_set, classes in (absent_classes or {}).items()
            for label, structures in classes.items()
            if label in organs.label_sets.get(label_set, ()) and set(structures) <= set(self.structures)
        }

    # -- training ----------------------------------------------------------------------------------------------------

    def has(self, item: Mapping[str, Any]) -> bool:
        """Whether a mask or a class tells."""
        return any(item["labeled"]) or any(pair in self.absent for pair in item["classes"].items())

    def taught(self, items: Sequence[Mapping[str, Any]], known: Sequence[str] = ()) -> Sequence[str] | None:
        """The structures that masks or classes tell of, or that the weights know."""
        told = set(known)
        for item in items:
            told.update(name for name, labeled in zip(self.structures, item["labeled"][1:], strict=True) if labeled)
            told.update(self.structures[i] for pair in item["classes"].items() for i in self.absent.get(pair, []))
        return [name for name in self.names if name in told] or None

    def target(self, item: Mapping[str, Any]) -> Tensor:
        """1 where the structure is there, 0 where it is not, nan where that is not known: (names,) float32."""
        found = torch.full((len(self.structures),), math.nan)
        for pair in item["classes"].items():
            found[self.absent.get(pair, [])] = 0.0
        label = torch.as_tensor(item["label"])
        present = torch.bincount(label.flatten().long(), minlength=len(self.structures) + 1)[1:] > 0
        labeled = torch.as_tensor(item["labeled"], dtype=torch.bool)[1:]
        return torch.where(labeled, present.float(), found)[self._places]

    @property
    def _places(self) -> list[int]:
        return [self.structures.index(name) for name in self.names]

    def keep(self, rows: Sequence[str]) -> None:
        """Keeps the structures that weights know, in their order."""
        if rows and set(rows) <= set(self.names):
            self.names = list(rows)

    def build(self, widths: Widths) -> nn.Module:
        """A head on the feature vector: (B, names)."""
        return VectorHead(widths.feature, self.names, dropout=self.dropout)

    def loss(self, logits: Tensor, target: Target) -> Tensor:
        """Binary cross-entropy, averaged over the structures that a sample tells of."""
        known = target.isfinite()
        values = F.binary_cross_entropy_with_logits(logits.float(), target.nan_to_num(0.0), reduction="none")
        total: Tensor = ((values * known).sum(1) / known.sum(1).clamp(min=1)).sum()
        return total

    # -- prediction ----------------------------------------------------------------------------------------------------

    def activate(self, logits: Tensor) -> Tensor:
        """Probabilities (structures,); nan for those that the weights do not know."""
        values = logits.new_full((len(self.structures),), math.nan, dtype=torch.float32)
        values[self._places] = logits.float().sigmoid()
        return values

    def pooled(self, values: Tensor) -> Tensor:
        """What is in one of the panels is there: the highest probability of P panels."""
        return values.amax(0)

    def decode(self, values: Mapping[str, Tensor], place: Geometry, asked: Asked) -> dict[str, float]:
        """Structure -> probability, of the structures that the position shows and the weights know."""
        probabilities = values[self.name].tolist()
        shown = [self.structures[index - 1] for index in self.organs.shows(asked.position)]
        return {s: round(probabilities[self.structures.index(s)], 6) for s in shown if s in self.names}

    # -- results -------------------------------------------------------------------------------------------------------

    def blank(self) -> dict[str, Any]:
        """The structures without a value."""
        return {"presence": dict.fromkeys(self.structures)}

    def record(self, found: dict[str, float] | None, place: Geometry) -> dict[str, Any]:
        """``presence``: structure -> probability that it is there; None for one that the organ does not show."""
        return {"presence": {**dict.fromkeys(self.structures), **(found or {})}}

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def rows(self, found: dict[str, float], item: Mapping[str, Any]) -> list[Row]:
        """One row for each structure of which the image tells whether it is there."""
        target = torch.as_tensor(item["targets"][self.name])
        return [
            {**item_origin(item), "structure": name, "truth": bool(target[i]), "probability": found[name]}
            for i, name in enumerate(self.names)
            if name in found and bool(torch.isfinite(target[i]))
        ]

    def scores(self, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
        """``presence``: data set and structure -> AUROC, where both kinds of images occur."""
        areas = {f"{dataset}_{name}": _area(cell) for (dataset, name), cell in _cells(rows).items()}
        return {"presence": {part: area for part, area in areas.items() if math.isfinite(area)}}

    def summary(self, rows: Sequence[Row], *, resamples: int, seed: int) -> list[dict[str, Any]]:
        """Per data set and structure: images, AUROC, and the shares that are taken for present at 0.5."""
        entries = []
        for (dataset, name), cell in _cells(rows).items():
            area = _area(cell)
            entry: dict[str, Any] = {"dataset": dataset, "structure": name, "images": len(cell)}
            entry["auroc"] = area if math.isfinite(area) else None
            for key, truth in (("sensitivity", True), ("false_alarms", False)):
                members = [row for row in cell if row["truth"] == truth]
                found, groups = [row["probability"] >= 0.5 for row in members], [row["group"] for row in members]
                entry[key] = mean_estimate(found, groups, resamples=resamples, seed=seed)
            entries.append(entry)
        return entries

    def tables(self, entries: Sequence[Mapping[str, Any]]) -> list[str]:
        """One table."""
        head = ["Data set", "Structure", "Images", "AUROC", "Sensitivity at 0.5", "False alarms at 0.5"]
        rows = [
            [
                *(str(entry[key]) for key in ("dataset", "structure", "images")),
                "-" if entry["auroc"] is None else f"{entry['auroc']:.3f}",
                number(entry["sensitivity"]),
                number(entry["false_alarms"]),
            ]
            for entry in entries
        ]
        return table(head, rows)


def _cells(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["dataset"], row["structure"]), []).append(row)
    return dict(sorted(cells.items()))


def _area(cell: Sequence[Row]) -> float:
    truth = torch.tensor([int(row["truth"]) for row in cell]).numpy()
    positive = torch.tensor([row["probability"] for row in cell], dtype=torch.float64).numpy()
    return auroc(truth, torch.stack([1 - torch.from_numpy(positive), torch.from_numpy(positive)], 1).numpy())
