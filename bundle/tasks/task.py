# SPDX-License-Identifier: Apache-2.0
"""One kind of answer: what a task is. Everything else loops over the declared tasks and knows none of them by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from bundle.geometry import Geometry
from bundle.metrics import Row
from bundle.vocabulary import UNKNOWN

Target: TypeAlias = Any
"""What a task is trained on: a tensor whose first axis is the sample, or several of them by name."""


@dataclass(frozen=True)
class Widths:
    """What heads are built on.

    Attributes:
        fine: channels of the decoder's map.
        feature: length of the feature vector.
    """

    fine: int
    feature: int


@dataclass(frozen=True)
class Asked:
    """What a user says of an image.

    Attributes:
        position: the position prompt; ``unknown`` where there is none.
        guidance: slot -> what is wanted there and what is not, see ``bundle.transforms.ReadRequestd``.
        clicks: slot -> number of clicks that counted, wanted and unwanted.
        routed: whether the position is not the user's, but what a task found.
    """

    position: str = UNKNOWN
    guidance: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    clicks: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    routed: bool = False

    @property
    def guided(self) -> set[int]:
        """Slots with guidance that counts: a box, a former mask, or a click within the image."""
        return {
            slot
            for slot, said in self.guidance.items()
            if said.get("box") or said.get("mask") is not None or any(self.clicks.get(slot, {}).values())
        }


class Task(ABC):
    """One question that the network answers about an image.

    Attributes:
        name: its key in targets, outputs and results.
        section: of an evaluation's report, which tasks of one kind share.
        group: tasks whose losses share one mean, and which ``task_weights`` draws samples for; where it is a value of
            the prompt ``task``, samples are trained with that prompt.
        weight: factor of its group's mean loss.
        reads_map: whether its head reads the decoder's map, which then is computed for its samples.
        guided: whether it takes clicks, boxes and former masks.
        headline: metrics of its ``scores`` that count in the score which validation compares.
        keys: of its rows, in which rows of one image differ.
        worst_by: key of its rows by which the worst cases are shown; "" shows none.
        reading: what its logits mean, for users of exported models.
        schema: key that it adds to an item of the manifest -> JSON schema of the value.
    """

    name: str
    section: str
    group: str
    weight: float = 1.0
    reads_map: bool = False
    guided: bool = False
    headline: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    worst_by: str = ""
    reading: str = "logits"
    schema: Mapping[str, Any] = {}

    # -- training ----------------------------------------------------------------------------------------------------

    def has(self, item: Mapping[str, Any]) -> bool:
        """Whether an item of the manifest is labeled for this task."""
        target = self.target(item)
        return bool(self.labeled(target[None])[0])

    def taught(self, items: Sequence[Mapping[str, Any]], known: Sequence[str] = ()) -> Sequence[str] | None:
        """What a training on items of the manifest teaches, so that no head answers at random.

        Args:
            items: of the training split.
            known: names of the logits of its head in the weights that the training starts from.

        Returns:
            Names of the logits to have, empty for all of them; None where nothing teaches the task.
        """
        return () if known or any(self.has(item) for item in items) else None

    def read(self, item: dict[str, Any], *, where: str) -> dict[str, Any]:
        """An item of the manifest with the task's keys as the task names things; all others stay.

        Args:
            item: joined with the network's tables.
            where: file and number of the item, for messages.

        Raises:
            ValueError: when a value is none that the task knows.
        """
        return item

    def passed_over(self, item: Mapping[str, Any]) -> set[str]:
        """Names in its keys of an item of the manifest that the task does not have, so that nothing learns them."""
        return set()

    def untaught(self, items: Sequence[Mapping[str, Any]], known: Sequence[str] = ()) -> Sequence[str]:
        """Names of logits that weights keep though neither the items nor what they start from teach them.

        Args:
            items: of the training split.
            known: as in ``taught``.
        """
        return ()

    def told(self) -> dict[str, Any]:
        """What checkpoints say of this task beside the names of its logits: ids of the config -> plain values."""
        return {}

    @abstractmethod
    def target(self, item: Mapping[str, Any]) -> Target:
        """What one sample is trained on; sentinels where it is not labeled."""

    def labeled(self, target: Target) -> Tensor:
        """Which samples are labeled, (B,) bool: numbers that are finite, indices that are not negative."""
        valid: Tensor = target.isfinite() if target.is_floating_point() else target >= 0
        return valid.flatten(1).any(1) if target.dim() > 1 else valid

    def without(self, target: Target) -> Target:
        """Sentinels in place of the values: nan for numbers, -1 for indices."""
        return torch.full_like(target, torch.nan if target.is_floating_point() else -1)

    @property
    def placed(self) -> bool:
        """Whether items hold what has a place in the image, so that ``move`` is called."""
        return type(self).move is not Task.move

    def move(self, item: dict[str, Any], matrix: Tensor) -> dict[str, Any]:
        """The item whose image was resampled: what has a place in it follows.

        Args:
            item: of a training split; ``image`` and ``label`` have moved already.
            matrix: (3, 3), points (row, column, 1) of the image before to points of the image now.
        """
        return item

    def shrink(self, target: Target, factor: float, size: tuple[int, int]) -> Target:
        """The target of a batch whose images were scaled by a factor to a size (H, W)."""
        return target

    def cut(self, target: Target, others: Target, inside: Tensor) -> Target:
        """The target where a box, ``inside`` (H, W) bool, shows other images; the loss weighs both whole answers."""
        return self.without(target) if self.reads_map else target

    def keep(self, rows: Sequence[str]) -> None:  # noqa: B027 (most tasks leave nothing out)
        """Keeps to what weights answer, as far as the task can leave something out.

        Args:
            rows: names of their logits; empty where that is not known.
        """

    @abstractmethod
    def build(self, widths: Widths) -> nn.Module:
        """The head: ``forward(fine, feature, plain)`` gives logits (B, ...), see ``bundle.networks.heads``."""

    @abstractmethod
    def loss(self, logits: Tensor, target: Target) -> Tensor:
        """Sum of the losses of samples that are all labeled: scalar."""

    # -- prediction ----------------------------------------------------------------------------------------------------

    def restrict(self, logits: Tensor, positions: Sequence[str]) -> Tensor:
        """Logits (B, ...) as the prompted positions of B images allow them."""
        return logits

    def activate(self, logits: Tensor) -> Tensor:
        """Values that can be averaged over frames, such as probabilities, of the logits of one image."""
        return logits.float()

    def route(self, values: Mapping[str, Tensor], asked: Asked) -> Asked:
        """What is taken for asked, with what this task finds where the user does not say."""
        return asked

    @abstractmethod
    def decode(self, values: Mapping[str, Tensor], place: Geometry, asked: Asked) -> Any:
        """What was found, on the image's own grid and in its own units.

        Args:
            values: task -> activated outputs of one image; this task's own, and those of others that it may read.
            place: of the image in the square.
            asked: what the user says.
        """

    def pooled(self, values: Tensor) -> Tensor:
        """Values of one image of those of its P panels (P, ...), of a task that reads no map: their mean."""
        return values.mean(0)

    def joined(self, found: Sequence[Any]) -> Any:
        """What was found in an image of what was found in each of its panels, of a task that reads the map."""
        return found[0]

    def confirmed(self, found: Any, others: Mapping[str, Any]) -> Any:
        """What was found, without what ``others``, task -> what was found, speak against."""
        return found

    def withheld(self, place: Geometry) -> Any:
        """What stands for the answer on an image that cannot be ultrasound."""
        return None

    # -- results -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def blank(self) -> dict[str, Any]:
        """A record with all keys and no value, which the columns of the tables come from."""

    @abstractmethod
    def record(self, found: Any, place: Geometry) -> dict[str, Any]:
        """Plain values with units; keys that tasks share are joined.

        Args:
            found: of ``decode``, ``place`` the image's; None where it could not be read or shows no ultrasound.
        """

    def legend(self) -> dict[str, Any]:
        """What explains the names and values of all records, as plain values."""
        return {}

    def notes(self, found: Any, asked: Asked) -> list[str]:
        """Sentences on this result for the user."""
        return []

    def scores_for_clients(self, found: Any) -> list[tuple[str, float]]:
        """Names and scores in [0, 1] for MONAI Label's clients, which show the highest one as the finding."""
        return []

    def captions(self, found: Any) -> list[tuple[str, int]]:
        """Lines on a picture of the result, each with the index of its color; 0 is plain."""
        return []

    def regions(self, found: Any) -> Tensor | None:
        """What is shown as regions: (H, W) uint8, 0 being none and other values indices of colors."""
        return None

    def maps_of(self, found: Any) -> tuple[list[str], Tensor] | None:
        """Names and probabilities (C, H, W) of what each pixel may be; None where they are not kept."""
        return None

    def points(self, found: Any) -> list[tuple[str, float, float]]:
        """What is shown as points: name, row and column."""
        return []

    # -- evaluation ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def rows(self, found: Any, item: Mapping[str, Any]) -> list[Row]:
        """Scores of one image, rows of plain values that begin with ``item_origin``; none where it is not labeled.

        Args:
            found: of ``decode``.
            item: the image's labels: ``targets``, and ``label`` and ``labeled`` on the image's own grid.
        """

    def remark(self, row: Row) -> str:
        """A row in a few words, for a picture."""
        return ""

    def stratum(self, item: Mapping[str, Any]) -> str:
        """What kind of image this is by its label, an item as in ``rows``, so that pictures show all kinds; or ""."""
        return ""

    @abstractmethod
    def scores(self, rows: Sequence[Row]) -> dict[str, dict[str, float]]:
        """Metric -> part -> value over all rows, higher being better; such as dice -> BUSI_lesion -> 0.8."""

    @abstractmethod
    def summary(self, rows: Sequence[Row], *, resamples: int, seed: int) -> list[dict[str, Any]]:
        """Values with 95 % intervals by group, for the report."""

    @abstractmethod
    def tables(self, entries: Sequence[Mapping[str, Any]]) -> list[str]:
        """Lines of Markdown of the summaries of all tasks of this section."""
