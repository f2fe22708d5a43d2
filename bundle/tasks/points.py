# SPDX-License-Identifier: Apache-2.0
"""Key points: where they are, to a fraction of a pixel, and whether they are there at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bundle.geometry import Geometry, transformed
from bundle.metrics import Row, item_origin, point_tables, summarize_points
from bundle.networks.heads import MASKS
from bundle.networks.heatmaps import PointHead
from bundle.tasks.task import Asked, Target, Task, Widths
from bundle.vocabulary import ANY_POSITION, Organs

STEP = 4
"""Pixels of the square between two places of the map."""

_SPREAD = 1.0  # standard deviation of the target round a point, in places of the map
_WINDOW = 2  # places on each side of the highest one whose mean is the point


class Points(Task):
    """Named points of organs.

    The target is a Gaussian round the point, or nowhere; the point found is the mean place round the most probable one.

    Args:
        organs: the table of what there is to see.
        points: organ -> names of its points; those of the neutral organ may be in any image.
        name: of the task.
        weight: of the loss.
        dropout: rate before the classifier, 0 to 1.
        least: probability of its being there from which a point is reported.
        pairs: pairs of points that look alike, the first one being left of the second; where two lie within half of
            their distance of one column, above it. Without an order, flips and rotations would contradict it. Pairs of
            which neither point is declared are left out.

    Raises:
        ValueError: when an organ is not in the table, a name stands twice, or a pair is not of two declared points.
    """

    section, group, keys = "points", "points", ("point",)
    reading = (
        "logits of places, row and column (4 i + 1.5, 4 j + 1.5) in pixels of the square; softmax over the places of "
        "axes 2 and 3 and one more logit, 0, for nowhere in the image; the sum without it is the probability of the "
        "point, and the mean of the 5 x 5 places round the most probable one is where it is"
    )
    reads_map = True
    schema: Mapping[str, Any] = {
        "points": {
            "description": "an object from the name of a point to [row, column] in pixels of the image, counted from "
            "the middle of the first one, or null for a point that is not in it",
            "type": "object",
            "additionalProperties": {
                "description": "two numbers, or null",
                "type": ["array", "null"],
                "minItems": 2,
                "maxItems": 2,
                "items": {"description": "a number", "type": "number"},
            },
        }
    }

    def __init__(
        self,
        organs: Organs,
        points: Mapping[str, Sequence[str]],
        *,
        name: str = "points",
        weight: float = 1.0,
        dropout: float = 0.0,
        least: float = 0.5,
        pairs: Sequence[Sequence[str]] = (),
    ) -> None:
        self.organs, self.name, self.weight, self.dropout, self.least = organs, name, weight, dropout, least
        if text := [organ for organ, names in points.items() if isinstance(names, str)]:
            raise ValueError(f"points must map organs to lists, got {text[0]}: {points[text[0]]!r}; correct them.")
        self.organ_points = {organ: list(names) for organ, names in points.items()}
        self.names = [point for names in self.organ_points.values() for point in names]
        self.alike = self._known(pairs)

    def _known(self, pairs: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
        if unknown := set(self.organ_points) - set(self.organs.positions):
            raise ValueError(f"points must name organs {self.organs.positions}, got {sorted(unknown)}; correct them.")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"points must have names of their own, got {self.names}; rename the repeated ones.")
        own = [pair for pair in pairs if set(pair) & set(self.names) or len(pair) != 2]
        for pair in own:
            if len(pair) != 2 or not set(pair) <= set(self.names):
                raise ValueError(
                    f"pairs must be two points of {self.names} each, got {list(pair)}; correct point_pairs."
                )
        return [(pair[0], pair[1]) for pair in own]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Indices of the pairs."""
        return [(self.names.index(one), self.names.index(other)) for one, other in self.alike]

    def keep(self, rows: Sequence[str]) -> None:
        """Keeps the points that weights know, in their order."""
        if rows and set(rows) <= set(self.names):
            self.names = list(rows)
            self.alike = [pair for pair in self.alike if set(pair) <= set(rows)]

    def shown(self, position: str) -> list[int]:
        """Indices of the points that an image of a position can have."""
        wanted = {
            name
            for organ, names in self.organ_points.items()
            if organ in ANY_POSITION or position in (organ, *ANY_POSITION)
            for name in names
        }
        return [index for index, name in enumerate(self.names) if name in wanted]

    # -- training ----------------------------------------------------------------------------------------------------

    def told(self) -> dict[str, Any]:
        """``organ_points`` and ``point_pairs``."""
        return {"organ_points": self.organ_points, "point_pairs": [list(pair) for pair in self.alike]}

    def has(self, item: Mapping[str, Any]) -> bool:
        """Whether the item tells of a point."""
        return bool(set(item.get("points") or ()) & set(self.names))

    def taught(self, items: Sequence[Mapping[str, Any]], known: Sequence[str] = ()) -> Sequence[str] | None:
        """The points that an item tells of, or that the weights know."""
        told = set(known).union(*(item.get("points") or () for item in items))
        return [name for name in self.names if name in told] or None

    def passed_over(self, item: Mapping[str, Any]) -> set[str]:
        """Points of the item that are not declared."""
        return set(item.get("points") or ()) - set(self.names)

    def target(self, item: Mapping[str, Any]) -> Tensor:
        """Row, column and 1 for a point that is there, 0 for one that is not; nan where it is not known: (K, 3).

        A point that has moved out of the image is not there.
        """
        target = torch.full((len(self.names), 3), math.nan)
        height, width = item["label"].shape[-2:]  # in training that of the image, else its own grid
        for index, name in enumerate(self.names):
            if name not in (item.get("points") or {}):
                continue
            place = item["points"][name]
            inside = place is not None and -0.5 <= place[0] < height - 0.5 and -0.5 <= place[1] < width - 0.5
            target[index] = torch.tensor([*place, 1.0]) if inside else torch.zeros(3)
        for one, other in self.pairs:
            if bool((target[[one, other], 2] == 1).all()) and _swapped(target[one], target[other]):
                target[[one, other]] = target[[other, one]]
        return target

    def labeled(self, target: Target) -> Tensor:
        """Samples that tell of a point, (B,) bool."""
        known: Tensor = target[:, :, 2].isfinite().any(1)
        return known

    def move(self, item: dict[str, Any], matrix: Tensor) -> dict[str, Any]:
        """The item with its points where the image has moved."""
        points = item.get("points")
        if not points:
            return item
        places = {name: torch.tensor([place], dtype=torch.float64) for name, place in points.items() if place}
        moved = {name: transformed(place, matrix)[0].tolist() for name, place in places.items()}
        return {**item, "points": {**points, **moved}}

    def shrink(self, target: Target, factor: float, size: tuple[int, int]) -> Target:
        """The points where the scaled image has them."""
        scaled: Tensor = target.clone()
        scaled[..., :2] = torch.where(target[..., 2:] == 1, (target[..., :2] + 0.5) * factor - 0.5, target[..., :2])
        return scaled

    def build(self, widths: Widths) -> nn.Module:
        """A head on the decoder's map: (B, K, H/4, W/4)."""
        return PointHead(widths.fine, self.names, dropout=self.dropout)

    def loss(self, logits: Tensor, target: Target) -> Tensor:
        """Cross-entropy of the places and nowhere against the Gaussian, averaged over the points that are known."""
        rows, columns = (torch.arange(n, device=logits.device) for n in logits.shape[2:])
        place = (target[..., :2] + 0.5) / STEP - 0.5  # in places of the map
        near = (rows[:, None] - place[..., 0, None, None]) ** 2 + (columns - place[..., 1, None, None]) ** 2
        there = torch.exp(-near / (2 * _SPREAD**2)).flatten(2).nan_to_num(0.0)
        there = there / there.sum(2, keepdim=True).clamp(min=1e-6)
        log = F.pad(logits.float().flatten(2), (0, 1)).log_softmax(2)  # the last one is nowhere
        present, known = target[..., 2] == 1, target[..., 2].isfinite()
        losses = torch.where(present, -(there * log[..., :-1]).sum(2), -log[..., -1])
        total: Tensor = ((losses * known).sum(1) / known.sum(1).clamp(min=1)).sum()
        return total

    # -- prediction ----------------------------------------------------------------------------------------------------

    def activate(self, logits: Tensor) -> Tensor:
        """Probabilities of the places (K, h, w); what is missing to a sum of one is that of nowhere."""
        probabilities = F.pad(logits.float().flatten(1), (0, 1)).softmax(1)
        return probabilities[:, :-1].reshape(logits.shape)

    def decode(self, values: Mapping[str, Tensor], place: Geometry, asked: Asked) -> dict[str, dict[str, float]]:
        """Point -> row and column on the image, in pixels and fractions, and probability; only what is there."""
        found = {}
        for index in self.shown(asked.position):
            probabilities = values[self.name][index]
            probability = float(probabilities.sum())
            if probability >= self.least:
                row, column = place.nearest_seen(place.to_native(_mean_place(probabilities)[None]))[0].tolist()
                found[self.names[index]] = {"row": row, "column": column, "probability": probability}
        return found

    def joined(self, found: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
        """The points of all panels; of one that several show, the most probable."""
        return dict(sorted((p for one in found for p in one.items()), key=lambda p: p[1]["probability"]))

    def confirmed(self, found: dict[str, dict[str, float]], others: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        """The points without those of organs that show structures of which the masks have none."""
        if MASKS not in others:
            return found
        seen = set(others[MASKS].label_map.unique().tolist())
        absent = {
            name
            for organ, names in self.organ_points.items()
            if organ not in ANY_POSITION and (shown := self.organs.shows(organ)) and not seen & set(shown)
            for name in names
        }
        return {name: point for name, point in found.items() if name not in absent}

    # -- results -------------------------------------------------------------------------------------------------------

    def blank(self) -> dict[str, Any]:
        """All points without a place."""
        return {"points": {name: dict.fromkeys(("row", "column", "probability")) for name in self.names}}

    def record(self, found: dict[str, dict[str, float]] | None, place: Geometry) -> dict[str, Any]:
        """``points``: name -> row and column in pixels of the image, and probability; None where there is none."""
        told = {
            name: {
                "row": round(point["row"], 2),
                "column": round(point["column"], 2),
                "probability": round(point["probability"], 4),
            }
            for name, point in (found or {}).items()
        }
        return {"points": {**self.blank()["points"], **told}}

    def points(self, found: dict[str, dict[str, float]]) -> list[tuple[str, float, float]]:
        """What was found, as points."""
        return [(name, point["row"], point["column"]) for name, point in found.items()]

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def rows(self, found: dict[str, dict[str, float]], item: Mapping[str, Any]) -> list[Row]:
        """One row for each point that the image tells of: whether it is there and found, its error in pixels and mm."""
        target = torch.as_tensor(item["targets"][self.name])
        rows = []
        for index, name in enumerate(self.names):
            if not bool(torch.isfinite(target[index, 2])):
                continue
            present, point = bool(target[index, 2]), found.get(name)
            row = {**item_origin(item), "point": name, "present": present, "found": point is not None}
            row |= {"error_px": None, "error_mm": None}
            if present and point is not None:
                steps = torch.tensor([point["row"], point["column"]]) - target[index, :2]
                geometry: Geometry = item["geometry"]
                row["error_px"] = float(torch.linalg.vector_norm(steps))
                row["error_mm"] = float(geometry.millimeters(steps)) if geometry.known else None
            rows.append(row)
        return rows

    def scores(self, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
        """``points_found``: share of the points that are found where they are, and not where they are not."""
        return {"points": {"found": sum(r["present"] == r["found"] for r in rows) / len(rows)}} if rows else {}

    def summary(self, rows: Sequence[Row], *, resamples: int, seed: int) -> list[dict[str, Any]]:
        """See :func:`bundle.metrics.summarize_points`."""
        return summarize_points(rows, resamples=resamples, seed=seed)

    def tables(self, entries: Sequence[Mapping[str, Any]]) -> list[str]:
        """One table."""
        return point_tables(entries)


def _swapped(one: Tensor, other: Tensor) -> bool:
    """Whether the first of a pair lies right of the second, or below it where they are more above each other."""
    down, right = (other - one)[:2].tolist()
    return bool(down < 0 if abs(down) > abs(right) * 2 else right < 0)


def _mean_place(probabilities: Tensor) -> Tensor:
    """Mean place (row, column) in the square, in pixels, round the most probable one of (h, w)."""
    height, width = probabilities.shape
    row, column = divmod(int(probabilities.argmax()), width)
    rows = torch.arange(max(0, row - _WINDOW), min(height, row + _WINDOW + 1))
    columns = torch.arange(max(0, column - _WINDOW), min(width, column + _WINDOW + 1))
    part = probabilities[rows][:, columns].double().cpu()
    mean = torch.stack([(part.sum(1) * rows).sum(), (part.sum(0) * columns).sum()]) / part.sum()
    return (mean + 0.5) * STEP - 0.5
