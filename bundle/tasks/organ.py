# SPDX-License-Identifier: Apache-2.0
"""Which organ an image shows, or none of ours; without a position prompt it decides what is reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bundle.data.names import find_name
from bundle.geometry import Geometry
from bundle.metrics import Row, class_tables, classification_rows, summarize_classification
from bundle.networks.heads import VectorHead
from bundle.tasks.task import Asked, Target, Task, Widths
from bundle.vocabulary import ANY_POSITION, NO_ORGAN, Organs

_CERTAIN = 0.5
"""Probability from which an organ speaks against the position that a user says."""


class Organ(Task):
    """The organ that an image shows, of the table's, or ``none``: another organ, or no ultrasound.

    It reads the encoder's features before the prompt, which would tell the answer. Without a position prompt and
    without guidance it routes: what the organ found does not show is left out.

    Args:
        organs: the table of what there is to see.
        name: of the task.
        weight: of the loss.
        dropout: rate before the classifier, 0 to 1.
        route: whether it decides what is reported.
    """

    section, group, keys = "organ", "organ", ("label_set",)
    reading = "logits; softmax over axis 1 gives the probability of each organ, the prompt aside"
    schema: Mapping[str, Any] = {
        "organ": {"description": 'the organ in the image; "none" where it is none of the network\'s', "type": "string"}
    }

    def __init__(
        self, organs: Organs, *, name: str = "organ", weight: float = 1.0, dropout: float = 0.0, route: bool = True
    ) -> None:
        self.organs, self.name, self.weight, self.dropout, self.routes = organs, name, weight, dropout, route
        self.names = [*(position for position in organs.positions if position not in ANY_POSITION), NO_ORGAN]

    # -- training ----------------------------------------------------------------------------------------------------

    def has(self, item: Mapping[str, Any]) -> bool:
        """Whether the item says its organ in so many words: images of no organ have nothing else to be drawn for."""
        return bool(item.get("organ"))

    def read(self, item: dict[str, Any], *, where: str) -> dict[str, Any]:
        """``organ`` by its name in the table, whatever its case, spaces and hyphens; ``none`` beside no label."""
        if not item.get("organ"):
            return item
        found = find_name(str(item["organ"]), self.names)
        if found is None:
            raise ValueError(
                f"{where}, key 'organ': expected one of {self.names}, got {item['organ']!r}; correct it, or add the "
                "organ to organs in the config."
            )
        if found == NO_ORGAN and (any(item.get("labeled", ())) or item.get("classes")):
            raise ValueError(
                f"{where}, key 'organ': expected an organ of the network's beside a mask or class of it, got "
                f"{item['organ']!r}; correct it, or remove the labels."
            )
        return {**item, "organ": found}

    def taught(self, items: Sequence[Mapping[str, Any]], known: Sequence[str] = ()) -> Sequence[str] | None:
        """The organs that an item tells by whichever key, or that the weights know; None for one alone.

        A single one would be found in every image.
        """
        told = set(known).union(self.names[index] for item in items if (index := int(self.target(item))) >= 0)
        return [name for name in self.names if name in told] if len(told) > 1 else None

    def target(self, item: Mapping[str, Any]) -> Tensor:
        """Index of the organ, int64: of the item's key ``organ``, else of its position; -1 where neither tells."""
        organ = item.get("organ") or item.get("position")
        return torch.tensor(self.names.index(organ) if organ in self.names else -1)

    def keep(self, rows: Sequence[str]) -> None:
        """Keeps the organs that weights know, in their order."""
        if rows and set(rows) <= set(self.names):
            self.names = list(rows)

    def build(self, widths: Widths) -> nn.Module:
        """A head on the feature vector before the prompt: (B, K)."""
        return VectorHead(widths.feature, self.names, dropout=self.dropout, plain=True)

    def loss(self, logits: Tensor, target: Target) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(logits.float(), target, reduction="sum")

    # -- prediction ----------------------------------------------------------------------------------------------------

    def activate(self, logits: Tensor) -> Tensor:
        """Probabilities (K,)."""
        return logits.float().softmax(0)

    def route(self, values: Mapping[str, Tensor], asked: Asked) -> Asked:
        """The position that was found, where the user says none and guides nothing."""
        if not self.routes or self.name not in values or asked.position not in ANY_POSITION or asked.guided:
            return asked
        return replace(asked, position=self.names[int(values[self.name].argmax())], routed=True)

    def decode(self, values: Mapping[str, Tensor], place: Geometry, asked: Asked) -> dict[str, float]:
        """Organ -> probability."""
        return {name: round(float(p), 6) for name, p in zip(self.names, values[self.name], strict=True)}

    # -- results -------------------------------------------------------------------------------------------------------

    def blank(self) -> dict[str, Any]:
        """The organs without a value."""
        return {"organ": {"predicted": None, "probabilities": dict.fromkeys(self.names)}}

    def record(self, found: dict[str, float] | None, place: Geometry) -> dict[str, Any]:
        """``organ``: the most probable one, and all probabilities."""
        if found is None:
            return self.blank()
        return {"organ": {"predicted": max(found, key=found.__getitem__), "probabilities": found}}

    def notes(self, found: dict[str, float], asked: Asked) -> list[str]:
        """That the image looks like another organ than the user says, or like none; the answers are the user's."""
        best = max(found, key=found.__getitem__)
        if asked.position not in found or best == asked.position or found[best] < _CERTAIN:
            return []
        looks = "none of the organs" if best == NO_ORGAN else best
        return [f"position is {asked.position}, but the image looks like {looks} ({found[best]:.2f})"]

    def scores_for_clients(self, found: dict[str, float]) -> list[tuple[str, float]]:
        """The most probable organ."""
        best = max(found, key=found.__getitem__)
        return [(f"organ: {best}", found[best])]

    def captions(self, found: dict[str, float]) -> list[tuple[str, int]]:
        """The most probable organ with its probability."""
        best = max(found, key=found.__getitem__)
        return [(f"organ: {best} {found[best]:.2f}", 0)]

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def rows(self, found: dict[str, float], item: Mapping[str, Any]) -> list[Row]:
        """See :func:`bundle.metrics.classification_rows`."""
        truth, probabilities = int(item["targets"][self.name]), [found[name] for name in self.names]
        return classification_rows(item, truth, probabilities, label_set="organ", classes=self.names)

    def scores(self, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
        """``organ``: share of the images whose organ is right."""
        return {"organ": {"accuracy": sum(row["correct"] for row in rows) / len(rows)}} if rows else {}

    def summary(self, rows: Sequence[Row], *, resamples: int, seed: int) -> list[dict[str, Any]]:
        """See :func:`bundle.metrics.summarize_classification`; of the organs that occur or were found."""
        seen = {row[key] for row in rows for key in ("truth", "prediction")}
        names = [name for name in self.names if name in seen]
        if len(names) < 2:
            return []
        kept = [{**row, "probabilities": _among(row["probabilities"], names)} for row in rows]
        return summarize_classification(kept, label_sets={"organ": names}, resamples=resamples, seed=seed)

    def tables(self, entries: Sequence[Mapping[str, Any]]) -> list[str]:
        """Scores and the confusion matrix."""
        return class_tables(entries)


def _among(probabilities: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """The probabilities of some names, which then sum to one."""
    total = max(sum(probabilities[name] for name in names), 1e-12)
    return {name: probabilities[name] / total for name in names}
