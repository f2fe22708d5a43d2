# SPDX-License-Identifier: Apache-2.0
"""From the network's outputs to what was found, and from there to the user's record: loops over the tasks."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, InvertibleTransform, Transform
from torch import Tensor

from bundle.geometry import Geometry
from bundle.tasks.task import Asked, Task
from bundle.transforms.items import add_note
from bundle.transforms.letterbox import Letterboxd
from bundle.vocabulary import ANY_POSITION, REQUESTED_PROMPTS, UNKNOWN

_SPACING = ("row", "column", "source")


def activated(tasks: Sequence[Task], logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Task -> values of one image's logits; outputs of no task are left out.

    Raises:
        ValueError: when a logit is not finite.
    """
    for name, values in logits.items():
        if not torch.isfinite(values.sum(dtype=torch.float32)):
            raise ValueError(
                f"the model must give finite numbers, got NaN or infinity in {name}; use other weights, or export the"
                " model again."
            )
    return {task.name: task.activate(logits[task.name]) for task in tasks if task.name in logits}


def decoded(
    tasks: Sequence[Task], values: Sequence[Mapping[str, Tensor]], places: Sequence[Geometry], asked: Asked
) -> dict[str, Any]:
    """Task -> what was found in an image.

    Args:
        tasks: the declared tasks.
        values: of each panel of the image, task -> activated outputs; one for most images.
        places: of each panel in its square.
        asked: what the user says.
    """
    told = [task for task in tasks if task.name in values[0]]
    pooled = {
        task.name: task.pooled(torch.stack([one[task.name] for one in values]))
        for task in told
        if len(values) > 1 and not task.reads_map
    }
    panels = [{**one, **pooled} for one in values]
    for task in tasks:
        asked = task.route(panels[0], asked)
    found = {
        task.name: task.joined([task.decode(one, place, asked) for one, place in zip(panels, places, strict=True)])
        for task in told
    }
    return {task.name: task.confirmed(found[task.name], found) for task in tasks if task.name in found}


def joined(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One record of several: tables under the same key are joined."""
    record: dict[str, Any] = {}
    for one in records:
        for key, value in one.items():
            record[key] = {**record.get(key, {}), **value} if isinstance(value, Mapping) else value
    return record


class Decoded(Invertd):
    """Adds ``found``, task -> what was found on the image's own grid, of ``pred``, task -> logits.

    ``pred`` becomes the label map of the task that takes clicks: a MetaTensor (1, H, W) uint8, on the CPU; where there
    is no such task, zeros. MONAI Label looks for an ``Invertd``. MONAI's own takes all channels back everywhere, after
    a copy of the whole history, and its ``AsDiscrete`` then takes ``torch.argmax``: twenty times as long together.

    Args:
        keys: the outputs.
        transform: what was applied to the image, a ``Compose``.
        tasks: the declared tasks.
        orig_keys: the image.

    Raises:
        ValueError: when ``transform`` moves pixels by other means than one ``Letterboxd``; in the call, when a logit is
            not finite.
    """

    def __init__(
        self, keys: KeysCollection, transform: Compose, tasks: Sequence[Task], orig_keys: str = "image"
    ) -> None:
        super().__init__(keys, transform, orig_keys, nearest_interp=False)
        self.letterbox = _letterbox(transform)
        self.tasks = list(tasks)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with what was found in place of the outputs."""
        item = dict(data)
        for key, orig_key in self.key_iterator(item, self.orig_keys):
            image = item[orig_key]
            shape, affine = self.letterbox.native(image)
            spacing = item.get("spacing", (torch.nan, torch.nan))
            meta = getattr(image, "meta", {})
            source, zones = str(meta.get("spacing_source", "")), meta.get("zones", ())
            spaced = (float(spacing[0]), float(spacing[1]))
            place = Geometry(shape, self.letterbox.side, spaced, source, zones, picture=item.get("picture"))
            places = [replace(place, part=one.part) for one in self.letterbox.places(image)]
            asked = Asked(str(item.get("position") or UNKNOWN), item.get("guidance") or {}, item.get("clicks") or {})
            outputs = item[key] if isinstance(item[key], Mapping) else {"seg": item[key]}
            plain = {name: torch.as_tensor(v).as_subclass(torch.Tensor) for name, v in outputs.items()}
            panels = [plain] if len(places) == 1 else [{k: v[n] for k, v in plain.items()} for n in range(len(places))]
            item["found"] = decoded(self.tasks, [activated(self.tasks, one) for one in panels], places, asked)
            item["geometry"], item["asked"] = place, asked
            item[key] = MetaTensor(_label_map(self.tasks, item["found"], shape)).copy_meta_from(image, keys=["meta"])
            item[key].affine = affine
        return item


def _label_map(tasks: Sequence[Task], found: Mapping[str, Any], shape: tuple[int, int]) -> Tensor:
    for task in tasks:
        if task.guided and task.name in found:
            label_map: Tensor = found[task.name].label_map
            return label_map[None]
    return torch.zeros(1, *shape, dtype=torch.uint8)


def _letterbox(transform: Compose) -> Letterboxd:
    """The one step that moves pixels.

    Raises:
        ValueError: when there is another one, or none.
    """
    moving = [t for t in transform.flatten().transforms if isinstance(t, InvertibleTransform)]
    letterboxes = [t for t in moving if isinstance(t, Letterboxd)]
    if len(moving) != 1 or not letterboxes:
        raise ValueError(
            "transform must hold one Letterboxd and no other transform to be undone, got"
            f" {[type(t).__name__ for t in moving]}; change the transforms before the network."
        )
    return letterboxes[0]


class Records(Transform):
    """Adds ``result``: what was found in the image, as plain values that go into a JSON.

    ``prompts``, ``spacing_mm`` (row, column, and its source), the tasks' records, ``notes`` (see ``items.add_note``),
    with clicks also ``clicks`` (structure -> number of clicks that counted). ``prediction`` lists names and scores in
    the form that MONAI Label's clients read. They take its first entry or its highest score for the finding, so without
    a position its one entry is ``position unknown`` with score 0.

    Where the image is ``withheld``, nothing is reported: no areas, no classes, a mask of background.

    An item without ``found`` gets no result, and as ``pred`` the values of the task that takes clicks, or of the first:
    MONAI Label's scoring leaves out the step before, an ``Invertd``, and measures the uncertainty of probabilities.

    Args:
        tasks: the declared tasks.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks = list(tasks)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with its ``result``."""
        item = dict(data)
        if "found" not in item:
            scored = next((task for task in self.tasks if task.guided), self.tasks[0])
            item["pred"] = activated([scored], item["pred"])[scored.name]
            return item
        if item.get("withheld"):
            item["found"] = {task.name: task.withheld(item["geometry"]) for task in self.tasks}
            item["pred"] = torch.zeros_like(item["pred"])
        item["result"] = self.result(item)
        return item

    def result(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """The result of an item with ``found``, ``geometry`` and ``asked``."""
        place, asked, found = item["geometry"], item["asked"], item["found"]
        hidden = bool(item.get("withheld"))
        notes = self._noted(item)
        records = [task.record(None if hidden else found.get(task.name), place) for task in self.tasks]
        result = {
            "prompts": {name: item.get(name) or UNKNOWN for name in REQUESTED_PROMPTS},
            "spacing_mm": dict(
                zip(_SPACING, (*(float(f"{mm:.6g}") for mm in place.spacing), place.source), strict=True)
            )
            if place.known
            else {**dict.fromkeys(_SPACING), "source": place.source if place.zones else None},
            **joined(records),
            "notes": notes,
        }
        if asked.clicks:
            guided = next(task for task in self.tasks if task.guided)
            result["clicks"] = {guided.slot_name(slot): clicks for slot, clicks in asked.clicks.items()}  # type: ignore[attr-defined]
        result["prediction"] = [] if hidden else self._prediction(found, asked)
        return result

    @property
    def legend(self) -> dict[str, Any]:
        """What explains the names and values of all results."""
        return joined([task.legend() for task in self.tasks])

    @property
    def complete(self) -> dict[str, Any]:
        """A result with every key that one may have, without values: what the columns of a table come from."""
        return self._blank({}, [task.blank() for task in self.tasks])

    def empty(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """The result of an image of which only the prompts are known."""
        nowhere = Geometry((1, 1), 1)
        return self._blank(item, [task.record(None, nowhere) for task in self.tasks])

    def _blank(self, item: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "notes": "",
            "prompts": {name: item.get(name) or UNKNOWN for name in REQUESTED_PROMPTS},
            "spacing_mm": dict.fromkeys(_SPACING),
            **joined(records),
        }

    def _noted(self, item: Mapping[str, Any]) -> str:
        """All notes on an image, to which those of the tasks are added; frames of a film have no image to keep them."""
        notes = [] if item.get("withheld") else list(self._notes(item))
        if "image" not in item:
            return "; ".join(notes)
        for note in notes:
            add_note(item["image"], note)
        return str(getattr(item["image"], "meta", {}).get("notes", ""))

    def _notes(self, item: Mapping[str, Any]) -> Iterator[str]:
        yield from item.get("guidance_notes") or ()
        for task in self.tasks:
            if task.name in item["found"]:
                yield from task.notes(item["found"][task.name], item["asked"])

    def _prediction(self, found: Mapping[str, Any], asked: Asked) -> list[dict[str, Any]]:
        scores = [task.scores_for_clients(found[task.name]) for task in self.tasks if task.name in found]
        listed = [
            {"idx": i, "label": label, "score": score} for task in scores for i, (label, score) in enumerate(task)
        ]
        if not listed and asked.position in ANY_POSITION:
            return [{"idx": 0, "label": "position unknown", "score": 0.0}]
        return listed
