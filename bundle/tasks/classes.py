# SPDX-License-Identifier: Apache-2.0
"""One class of a label set, such as a diagnosis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bundle.geometry import Geometry
from bundle.metrics import Row, auroc, class_tables, classification_rows, summarize_classification
from bundle.metrics.classification import truth_and_probabilities
from bundle.networks.heads import VectorHead
from bundle.tasks.task import Asked, Target, Task, Widths
from bundle.vocabulary import ANY_POSITION, Organs


class Classes(Task):
    """Which class of one label set an image shows; :func:`class_tasks` makes one for each label set.

    Args:
        organs: the table of what there is to see.
        label_set: one of its label sets; organs that have it are answered, others are not.
        weight: of the loss.
        class_weights: one weight per class; None: all 1.
        dropout: rate before the classifier, 0 to 1.

    Raises:
        ValueError: when the weights are not one per class.
    """

    section, group = "classification", "classification"
    headline, keys = ("auroc",), ("label_set",)
    reading = "logits; softmax over axis 1 gives the probability of each class"

    def __init__(
        self,
        organs: Organs,
        label_set: str,
        *,
        weight: float = 1.0,
        class_weights: Sequence[float] | None = None,
        dropout: float = 0.0,
    ) -> None:
        self.organs, self.label_set, self.weight, self.dropout = organs, label_set, weight, dropout
        self.name = f"cls_{label_set}"
        self.classes = organs.label_sets[label_set]
        self.class_weights = None if class_weights is None else list(class_weights)
        if self.class_weights is not None and len(self.class_weights) != len(self.classes):
            raise ValueError(
                f"class_weights of {label_set!r} must be {len(self.classes)} numbers, one per class of the label set, "
                f"got {self.class_weights}; correct class_weights in the config."
            )

    # -- training ----------------------------------------------------------------------------------------------------

    def target(self, item: Mapping[str, Any]) -> Tensor:
        """Index of the class, int64; -1 without one."""
        return torch.tensor(int(item.get("classes", {}).get(self.label_set, -1)))

    def build(self, widths: Widths) -> nn.Module:
        """A head on the feature vector: (B, K)."""
        return VectorHead(widths.feature, self.classes, dropout=self.dropout)

    def loss(self, logits: Tensor, target: Target) -> Tensor:
        """Cross-entropy."""
        weights = None if self.class_weights is None else logits.new_tensor(self.class_weights, dtype=torch.float32)
        return F.cross_entropy(logits.float(), target, weights, reduction="sum")

    # -- prediction ----------------------------------------------------------------------------------------------------

    def activate(self, logits: Tensor) -> Tensor:
        """Probabilities (K,)."""
        return logits.float().softmax(0)

    def decode(self, values: Mapping[str, Tensor], place: Geometry, asked: Asked) -> dict[str, Any]:
        """``probabilities`` (K,), and whether the organ asked for has this label set."""
        shown = asked.position in ANY_POSITION or self.organs.label_set(asked.position) == self.label_set
        return {"probabilities": values[self.name], "shown": shown, "asked": asked.position not in ANY_POSITION}

    # -- results -------------------------------------------------------------------------------------------------------

    def blank(self) -> dict[str, Any]:
        """The classes without a value."""
        return {"classes": {self.label_set: {"predicted": None, "probabilities": dict.fromkeys(self.classes)}}}

    def record(self, found: dict[str, Any] | None, place: Geometry) -> dict[str, Any]:
        """``classes``: label set -> the most probable class and all probabilities; none of an organ not asked for."""
        if found is None or not found["shown"]:
            return {"classes": {}}
        values = self._values(found)
        best = max(values, key=values.__getitem__)
        return {"classes": {self.label_set: {"predicted": best, "probabilities": values}}}

    def legend(self) -> dict[str, Any]:
        """``label_sets``: name -> classes."""
        return {"label_sets": {self.label_set: self.classes}}

    def _values(self, found: Mapping[str, Any]) -> dict[str, float]:
        return {name: round(float(p), 6) for name, p in zip(self.classes, found["probabilities"], strict=True)}

    def scores_for_clients(self, found: dict[str, Any]) -> list[tuple[str, float]]:
        """The classes of the organ that was asked for."""
        if not found["shown"] or not found["asked"]:
            return []
        return [(f"{self.label_set}: {name}", value) for name, value in self._values(found).items()]

    def captions(self, found: dict[str, Any]) -> list[tuple[str, int]]:
        """The most probable class with its probability."""
        values = self._values(found)
        best = max(values, key=values.__getitem__)
        return [(f"{self.label_set}: {best} {values[best]:.2f}", 0)] if found["shown"] else []

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def rows(self, found: dict[str, Any], item: Mapping[str, Any]) -> list[Row]:
        """See :func:`bundle.metrics.classification_rows`."""
        truth = int(item["targets"][self.name])
        return classification_rows(item, truth, found["probabilities"], label_set=self.label_set, classes=self.classes)

    def remark(self, row: Row) -> str:
        """True and predicted class."""
        return f"{row['truth']}, predicted {row['prediction']} {row['probabilities'][row['prediction']]:.2f}"

    def stratum(self, item: Mapping[str, Any]) -> str:
        """The true class."""
        truth = int(item["targets"][self.name])
        return self.classes[truth] if truth >= 0 else ""

    def scores(self, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
        """``auroc``, where every class occurs, and ``accuracy``."""
        if not rows:
            return {}
        area = auroc(*truth_and_probabilities(rows, self.classes))
        scores = {"auroc": {self.label_set: area}} if math.isfinite(area) else {}
        return {**scores, "accuracy": {self.label_set: sum(row["correct"] for row in rows) / len(rows)}}

    def summary(self, rows: Sequence[Row], *, resamples: int, seed: int) -> list[dict[str, Any]]:
        """See :func:`bundle.metrics.summarize_classification`."""
        tables = {self.label_set: self.classes}
        return summarize_classification(rows, label_sets=tables, resamples=resamples, seed=seed)

    def tables(self, entries: Sequence[Mapping[str, Any]]) -> list[str]:
        """Scores of all label sets, and a confusion matrix of each."""
        return class_tables(entries)


def class_tasks(
    organs: Organs,
    *,
    weight: float = 1.0,
    class_weights: Mapping[str, Sequence[float]] | None = None,
    dropout: float = 0.0,
) -> list[Classes]:
    """A task for each label set.

    Args:
        organs: the table of what there is to see.
        weight: of the loss.
        class_weights: label set -> one weight per class; absent ones are 1.
        dropout: rate before the classifiers, 0 to 1.

    Raises:
        ValueError: when weights are for no label set, or not one per class.
    """
    given = dict(class_weights or {})
    if unknown := set(given) - set(organs.label_sets):
        raise ValueError(
            f"class_weights must name label sets {list(organs.label_sets)}, got {sorted(unknown)}; correct the config."
        )
    return [
        Classes(organs, name, weight=weight, class_weights=given.get(name), dropout=dropout)
        for name in organs.label_sets
    ]
