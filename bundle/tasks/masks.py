# SPDX-License-Identifier: Apache-2.0
"""Masks of structures, guided by clicks, boxes and former masks where a user gives them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bundle.geometry import Geometry
from bundle.losses import PartialLabelLoss
from bundle.metrics import Row, Tolerance, mean_dice, segmentation_rows, segmentation_tables, summarize_segmentation
from bundle.metrics.segmentation import PROTOCOLS
from bundle.networks.heads import MaskHead
from bundle.palette import hex_color
from bundle.tasks.measured import Measures
from bundle.tasks.presence import thresholds
from bundle.tasks.task import Asked, Target, Task, Widths
from bundle.transforms.guidance import hold_to_guidance
from bundle.transforms.letterbox import highest_positive
from bundle.transforms.requests import UNNAMED
from bundle.vocabulary import ANY_POSITION, Organs, switch

PRESENCE = "presence"
"""Name of the task that the gate reads."""

NO_STRUCTURE = -1e4
"""Logit of a structure that the prompted organ does not have: its softmax is exactly 0 in float32, and unlike -inf it
survives interpolation."""


@dataclass(frozen=True)
class FoundMasks:
    """What was found.

    Attributes:
        label_map: (H, W) uint8 structure indices on the image's own grid, on the CPU.
        maps: makes the probabilities (C, H, W) float32 on that grid; None where they were not asked for.
    """

    label_map: Tensor
    maps: Callable[[], Tensor] | None = None


class Masks(Task):
    """The structure of each pixel.

    A data set labels some structures; the others are unknown in it, not absent. What the prompted organ cannot show has
    no probability.

    Args:
        organs: the table of what there is to see.
        name: of the task.
        criterion: loss of (logits (N, K, H, W), label (N, 1, H, W)) that averages over N, such as MONAI's
            ``DiceCELoss(softmax=True, to_onehot_y=True)`` with ``batch=False``; None where nothing is trained.
        absent: whether structures of organs that are not in sight are trained to be absent.
        weight: of the loss.
        dropout: rate before the classifier, 0 to 1.
        gate: structure -> probability below which it is left out, by the task ``presence``; None: no gate.
        maps: keep probability maps.
        measures: what is measured in them; None: all but a fetal head.
        tolerance: also scores NSD, with this tolerance, and HD95; None: neither.
        protocol: ``native``; ``paper`` scores in the paper's way as well.

    Raises:
        ValueError: when the protocol is not known, or the gate names another structure or is no probability.
    """

    section, group = "segmentation", "segmentation"
    headline, keys, worst_by = ("dice",), ("structure", "protocol"), "dice"
    reads_map = guided = True
    reading = "logits; softmax over axis 1 gives each pixel's probabilities; organs and gate tell what to leave out"

    def __init__(
        self,
        organs: Organs,
        *,
        name: str = "seg",
        criterion: nn.Module | None = None,
        absent: bool = True,
        weight: float = 1.0,
        dropout: float = 0.0,
        gate: Mapping[str, float] | None = None,
        maps: bool | str = False,
        measures: Measures | None = None,
        tolerance: Tolerance | None = None,
        protocol: str = "native",
    ) -> None:
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {list(PROTOCOLS)}, got {protocol!r}; choose one of them.")
        self.organs, self.name, self.weight, self.dropout = organs, name, weight, dropout
        self.structures, self.maps = organs.structures, switch(maps, "probabilities")
        shown = [organs.shows(position) for position in organs.positions if position not in ANY_POSITION]
        self.criterion = None if criterion is None else PartialLabelLoss(criterion, shown if absent else ())
        self.gate = thresholds(gate, self.structures)
        self.protocols = list(dict.fromkeys(["native", protocol]))
        self.tolerance, self.measures = tolerance, measures or Measures()

    # -- training ----------------------------------------------------------------------------------------------------

    def has(self, item: Mapping[str, Any]) -> bool:
        """Whether the item has a mask; one without a table of its structures labels all of them."""
        return any(item["labeled"]) if "labeled" in item else bool(item.get("label"))

    def untaught(self, items: Sequence[Mapping[str, Any]], known: Sequence[str] = ()) -> Sequence[str]:
        """Structures without a mask: the values of a mask, and clicks, count through the whole table."""
        tables = [item.get("labeled") or [self.has(item)] * len(self.structures) for item in items]
        told = {*known, *(name for table in tables for name, one in zip(self.structures, table, strict=True) if one)}
        return [name for name in self.structures[1:] if name not in told]

    def target(self, item: Mapping[str, Any]) -> Target:
        """``label`` (1, H, W) structure indices and ``labeled`` (C,) bool, which of them the data set labels."""
        return {"label": item["label"], "labeled": torch.as_tensor(item["labeled"], dtype=torch.bool)}

    def labeled(self, target: Target) -> Tensor:
        """Samples with a mask, (B,) bool."""
        return torch.any(target["labeled"], 1)

    def without(self, target: Target) -> Target:
        """Empty masks of no structure."""
        return {name: torch.zeros_like(value) for name, value in target.items()}

    def shrink(self, target: Target, factor: float, size: tuple[int, int]) -> Target:
        """The masks at another size, nearest neighbor."""
        return {**target, "label": F.interpolate(target["label"], size, mode="nearest-exact")}

    def cut(self, target: Target, others: Target, inside: Tensor) -> Target:
        """The masks with the box of the others'; structures count that both data sets label."""
        label = torch.where(inside, others["label"], target["label"])
        return {"label": label, "labeled": target["labeled"] & others["labeled"]}

    def build(self, widths: Widths) -> nn.Module:
        """A head on the decoder's map: (B, C, 4 H, 4 W)."""
        return MaskHead(widths.fine, self.structures, dropout=self.dropout)

    def loss(self, logits: Tensor, target: Target) -> Tensor:
        """See :class:`bundle.losses.PartialLabelLoss`."""
        assert self.criterion is not None
        total: Tensor = self.criterion(logits, target["label"], target["labeled"])
        return total

    # -- prediction ----------------------------------------------------------------------------------------------------

    def restrict(self, logits: Tensor, positions: Sequence[str]) -> Tensor:
        """Logits (B, C, H, W) in which no structure is left that an image's position does not show."""
        allowed = torch.stack([self.allowed(position) for position in positions]).to(logits.device)
        return logits.masked_fill(~allowed[:, :, None, None], NO_STRUCTURE)

    @functools.cache  # noqa: B019 (tasks live as long as the process)
    def allowed(self, position: str) -> Tensor:
        """Structures that a position can show, background first: (C,) bool."""
        allowed = torch.zeros(len(self.structures), dtype=torch.bool)
        allowed[[0, *self.organs.shows(position)]] = True
        return allowed

    def beside(self, structure: int) -> Tensor:
        """Structures of the organs that show one, background first: (C,) bool."""
        together = torch.zeros(len(self.structures), dtype=torch.bool)
        together[[0, structure]] = True
        for position in self.organs.positions:
            if position not in ANY_POSITION and structure in self.organs.shows(position):
                together |= self.allowed(position)
        return together

    def activate(self, logits: Tensor) -> Tensor:
        """Probabilities (C, S, S), their sum over the structures being 1."""
        return logits.float().softmax(0)

    def decode(self, values: Mapping[str, Tensor], place: Geometry, asked: Asked) -> FoundMasks:
        """The most probable structure of each pixel; what the user said holds to the pixel.

        What the gate leaves out is background. Resamples each structure's margin over the background bilinearly, and
        only where it can be positive.
        """
        probabilities = values[self.name]
        if asked.routed:
            allowed = self.allowed(asked.position).to(probabilities.device)
            probabilities = probabilities * allowed[:, None, None]
            probabilities = probabilities / probabilities.sum(0)
        inside = probabilities[:, place.window[0], place.window[1]]
        if gated := self._gated(values, asked):  # as background: nothing else takes its place
            inside = inside.clone()
            inside[0] += inside[gated].sum(0)
            inside[gated] = 0.0
        indices = place.on_image(highest_positive(inside[1:] - inside[0], place.extent).cpu())
        if asked.guidance:
            hold_to_guidance(indices.numpy(), asked.guidance, inside[1:].float().cpu().numpy())
        return FoundMasks(indices, functools.partial(_stretched, inside, place) if self.maps else None)

    def joined(self, found: Sequence[FoundMasks]) -> FoundMasks:
        """The masks of all panels: they do not overlap."""
        label_map = torch.stack([one.label_map for one in found]).amax(0)
        return FoundMasks(label_map, functools.partial(_joined, found) if self.maps else None)

    def _gated(self, values: Mapping[str, Tensor], asked: Asked) -> list[int]:
        """Structures that are not there, by the task ``presence``; none that a user guides."""
        if PRESENCE not in values or UNNAMED in asked.guided:
            return []
        present = values[PRESENCE].tolist()
        return [s for s, least in self.gate.items() if present[s - 1] < least and s not in asked.guided]

    def withheld(self, place: Geometry) -> FoundMasks:
        """Background throughout."""
        return FoundMasks(torch.zeros(place.shape, dtype=torch.uint8))

    # -- results -------------------------------------------------------------------------------------------------------

    def blank(self) -> dict[str, Any]:
        """What is measured, without values."""
        return self.measures.blank(self.structures)

    def record(self, found: FoundMasks | None, place: Geometry) -> dict[str, Any]:
        """See :class:`bundle.tasks.measured.Measures`."""
        return self.blank() if found is None else self.measures.record(found.label_map.numpy(), self.structures, place)

    def legend(self) -> dict[str, Any]:
        """``structures``: value in the mask, name and color; and how they are measured."""
        colors = [hex_color(i) if i else None for i in range(len(self.structures))]
        named = enumerate(zip(self.structures, colors, strict=True))
        structures = [{"value": i, "name": name, "color": color} for i, (name, color) in named]
        return {"structures": structures, **self.measures.legend(self.structures)}

    def notes(self, found: FoundMasks, asked: Asked) -> list[str]:
        """What of the user's guidance was not followed, or found nothing."""
        notes = []
        counts = torch.bincount(found.label_map.flatten(), minlength=len(self.structures)).tolist()
        for slot, said in asked.guidance.items():
            name = self.slot_name(slot)
            given, counted = len(said["wanted"]), asked.clicks[slot]["wanted"]
            if counted < given:
                notes.append(f"{name}: {given - counted} of {given} clicks lie outside the image or the box")
            # who names no structure gets one that no other guidance names
            others = sum(n for i, n in enumerate(counts) if i and i not in asked.guidance)
            if said["box"] is not None and not (others if slot == UNNAMED else counts[slot]):
                notes.append(f"{name}: nothing was found in the box")
        return notes

    def slot_name(self, slot: int) -> str:
        """A structure's name, or that the user named none."""
        return self.structures[slot] if slot != UNNAMED else "unnamed"

    def captions(self, found: FoundMasks) -> list[tuple[str, int]]:
        """Structures that were found, in their colors."""
        return [(self.structures[i], i) for i in torch.unique(found.label_map).tolist() if i]

    def regions(self, found: FoundMasks) -> Tensor:
        """The label map."""
        return found.label_map

    def maps_of(self, found: FoundMasks) -> tuple[list[str], Tensor] | None:
        """Structures and their probabilities, where they were asked for."""
        return None if found.maps is None else (self.structures, found.maps())

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def rows(self, found: FoundMasks, item: Mapping[str, Any]) -> list[Row]:
        """See :func:`bundle.metrics.segmentation_rows`; for each protocol."""
        scored = {**item, "pred": found.label_map[None]}
        return [
            row
            for protocol in self.protocols
            for row in segmentation_rows(
                scored, structures=self.structures, protocol=protocol, tolerance=self.tolerance
            )
        ]

    def remark(self, row: Row) -> str:
        """Dice of a structure that is there."""
        return f"Dice {row['structure']} {row['dice']:.2f}" if row["present"] and row["protocol"] == "native" else ""

    def scores(self, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
        """Dice per data set and structure, over the images that hold it."""
        native = [row for row in rows if row["protocol"] == "native"]
        return {"dice": {f"{dataset}_{structure}": v for (dataset, structure), v in mean_dice(native).items()}}

    def summary(self, rows: Sequence[Row], *, resamples: int, seed: int) -> list[dict[str, Any]]:
        """See :func:`bundle.metrics.summarize_segmentation`; the native protocol first."""
        parts = [[row for row in rows if row["protocol"] == protocol] for protocol in self.protocols]
        return [entry for part in parts for entry in summarize_segmentation(part, resamples=resamples, seed=seed)]

    def tables(self, entries: Sequence[Mapping[str, Any]]) -> list[str]:
        """Overlap, surfaces, and the paper's protocol in a section of its own."""
        return segmentation_tables(entries, self.tolerance)


def _stretched(inside: Tensor, place: Geometry) -> Tensor:
    maps = place.on_image(F.interpolate(inside[None], place.extent, mode="bilinear")[0].cpu())
    maps[0] = 1 - maps[1:].sum(0)
    return maps


def _joined(found: Sequence[FoundMasks]) -> Tensor:
    maps = torch.stack([one.maps() for one in found if one.maps is not None]).sum(0)
    maps[0] -= len(found) - 1  # background beside a panel
    return maps
