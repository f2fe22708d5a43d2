# SPDX-License-Identifier: Apache-2.0
"""Clicks, boxes and former masks: from a MONAI Label request to channels of the image, and drawn for training."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import ApplyTransformToPoints, RandomizableTransform, Transform
from PIL import Image, UnidentifiedImageError

from bundle.guidance import Box, Point, draw_guidance
from bundle.vocabulary import BACKGROUND, UNKNOWN

REQUESTED_PROMPTS = ("position", "nature", "task")
UNNAMED = 0
"""Slot of guidance whose structure the user did not name; the other slots are those structures' indices."""


def _points(value: Any, key: str) -> list[Point]:
    """Clicks [[x, y], ...] or [[x, y, z], ...], in index order of the study, as (row, column)."""
    try:
        return [(float(p[1]), float(p[0])) for p in value or []]
    except (TypeError, ValueError, IndexError) as e:
        raise ValueError(f"{key} must be a list of clicks [x, y] or [x, y, z], got {value!r}; correct it.") from e


def _box(value: Any, key: str) -> Box:
    """A box in index order of the study, as (first row, first column, last row, last column).

    It comes as [x, y, x, y], or as 3D Slicer's [x, x, y, y, z, z].
    """
    try:
        numbers = [float(v) for v in value]
        x0, y0, x1, y1 = (numbers[i] for i in (0, 2, 1, 3)) if len(numbers) == 6 else numbers
    except (TypeError, ValueError) as e:
        raise ValueError(f"{key} must be four numbers [x, y, x, y], got {value!r}; correct it.") from e
    return min(y0, y1), min(x0, x1), max(y0, y1), max(x0, x1)


def _mask(value: Any, key: str) -> np.ndarray:
    """A former mask, base64 text of a PNG as large as the study, as (H, W) bool."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(value, validate=True))) as image:
            pixels = np.asarray(image.convert("L") if image.mode != "P" else image)
    except (TypeError, ValueError, binascii.Error, OSError, UnidentifiedImageError) as e:
        raise ValueError(f"{key} must be a PNG in base64, got something else ({e}); encode the mask's file.") from e
    found: np.ndarray = pixels > 0
    return found


class ReadRequestd(Transform):
    """Gathers what a MONAI Label client says about an image: one value per prompt, and ``guidance``.

    Reads the dialects of 3D Slicer and OHIF (``{structure: [[x, y, z], ...], "background": [...]}``), of deepgrow
    clients and CVAT (``foreground`` and ``background`` lists, ``label`` names the structure or is absent), boxes
    (``box`` or ``roi``, [x, y, x, y] or 3D Slicer's [x, x, y, y, z, z], of ``label``) and former masks (``mask``, a
    base64 PNG, of ``label``). Absent and empty keys are no guidance. A click on one structure is a click against every
    other one that is guided.
    MONAI Label's own click transforms take 3D clicks on 3D images, and 2D clicks on 2D images, alone.

    ``guidance`` maps a slot (a structure's index, or 0 where none was named) to ``wanted`` and ``unwanted``, lists of
    (row, column), ``box`` and ``mask``, in pixels of the upright image; it is empty without clicks. A prompt that comes
    as the list of its choices becomes the first of them.

    Args:
        structures: names of the segmentation channels, background first.

    Raises:
        ValueError: in the call, when clicks, a box or a mask are no such thing; says which key.
    """

    def __init__(self, structures: Sequence[str]) -> None:
        self.slots = {name.lower(): i for i, name in enumerate(structures) if name != BACKGROUND}

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with ``guidance``."""
        item = dict(data)
        for name in REQUESTED_PROMPTS:
            if isinstance(item.get(name), (list, tuple)):
                item[name] = item[name][0] if item[name] else UNKNOWN
        named = self.slots.get(str(item.get("label")).lower(), UNNAMED)
        wanted = {slot: _points(item.get(name), name) for name, slot in self.slots.items()}
        wanted[named] = wanted.get(named, []) + _points(item.get("foreground"), "foreground")
        unwanted = _points(item.get(BACKGROUND), BACKGROUND)
        key = "box" if item.get("box") else "roi"
        boxes = {named: _box(item[key], key)} if item.get(key) else {}
        masks = {named: _mask(item["mask"], "mask")} if item.get("mask") else {}
        guided = {slot for slot, points in wanted.items() if points} | set(boxes) | set(masks)
        if unwanted and not guided:
            guided = {named}
        item["guidance"] = {
            slot: {
                "wanted": wanted.get(slot, []),
                "unwanted": unwanted + [p for other in guided - {slot} for p in wanted.get(other, [])],
                "box": boxes.get(slot),
                "mask": masks.get(slot),
            }
            for slot in sorted(guided)
        }
        return item


class DrawGuidanced(Transform):
    """Appends ``guidance`` to the letterboxed image: two channels for each slot; none where there is no guidance.

    The image (3, H, W) becomes (3 + 2 * number of structures, H, W), the slots in order. What lies outside the native
    image is dropped. ``clicks`` says how many clicks count, per slot; it is absent without guidance.

    Args:
        structures: names of the segmentation channels, background first.
        radius: of a click's disk, in pixels of the letterboxed image.

    Raises:
        ValueError: in the call, when a former mask is not as large as its image; the file is named.
    """

    def __init__(self, structures: Sequence[str], radius: float) -> None:
        self.num_slots = len(structures)
        self.radius = radius

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with the guidance in its image."""
        item = dict(data)
        guidance, image = item.pop("guidance", {}), item["image"]
        if not guidance:
            return item
        item["clicks"] = {}
        channels = torch.zeros(self.num_slots, 2, *image.shape[1:])
        for slot, said in guidance.items():
            points = {key: _within(said[key], image.meta["spatial_shape"]) for key in ("wanted", "unwanted")}
            item["clicks"][slot] = {key: len(found) for key, found in points.items()}
            channels[slot] = draw_guidance(
                image.shape[1:],
                wanted=_to_grid(points["wanted"], image),
                unwanted=_to_grid(points["unwanted"], image),
                box=said["box"] and _box_to_grid(said["box"], image),
                mask=None if said["mask"] is None else _mask_to_grid(said["mask"], image),
                radius=self.radius,
            )
        item["image"] = torch.cat([image, channels.flatten(0, 1).to(image)])
        return item


def _within(points: Sequence[Point], shape: Sequence[int]) -> list[Point]:
    return [p for p in points if -0.5 <= p[0] < shape[0] - 0.5 and -0.5 <= p[1] < shape[1] - 0.5]


def _to_grid(points: Sequence[Point], image: MetaTensor) -> list[Point]:
    """Points in pixels of the native image, in pixels of the letterboxed one."""
    if not points:
        return []
    transform = ApplyTransformToPoints(dtype=torch.float64, affine=image.affine)
    rows = transform(torch.tensor(points, dtype=torch.float64)[None])[0]
    return [(float(row), float(column)) for row, column in rows[:, :2]]


def _box_to_grid(box: Box, image: MetaTensor) -> Box:
    """A box in pixels of the native image, in pixels of the letterboxed one, of which it holds one at least."""
    (top, left), (bottom, right) = _to_grid([box[:2], box[2:]], image)
    if math.ceil(top) > math.floor(bottom):
        top = bottom = round((top + bottom) / 2)
    if math.ceil(left) > math.floor(right):
        left = right = round((left + right) / 2)
    return top, left, bottom, right


def _mask_to_grid(mask: np.ndarray, image: MetaTensor) -> torch.Tensor:
    """A native mask (H, W) on the letterboxed grid, nearest neighbor, zero beside the image."""
    native = tuple(int(n) for n in image.meta["spatial_shape"])
    if mask.shape != native:
        raise ValueError(
            f"{image.meta['filename_or_obj']}: mask must have the size of the image, {native[0]}x{native[1]} (rows x"
            f" columns), got {mask.shape[0]}x{mask.shape[1]}; send the mask of this image."
        )
    affine = image.affine.numpy()
    places = [np.rint(affine[i, i] * np.arange(n) + affine[i, -1]).astype(int) for i, n in enumerate(image.shape[1:])]
    inside = [(p >= 0) & (p < n) for p, n in zip(places, native, strict=True)]
    grid = np.zeros(image.shape[1:], np.float32)
    grid[np.ix_(*inside)] = mask[np.ix_(*(p[i] for p, i in zip(places, inside, strict=True)))]
    return torch.from_numpy(grid)


class PlanInteractiond(RandomizableTransform):
    """Draws how a user will interact with a training sample: ``interaction``, long tensor (4,).

    Its values: number of clicks; whether a box comes first; whether the last prediction is given back as former mask;
    the seed of the user's hand. No clicks and no box: the sample is segmented automatically.

    Args:
        prob: probability that there is a user at all.
        max_clicks: most clicks; fewer are likelier (each further one with ``more_prob``).
        more_prob: probability of one more click.
        box_prob: probability that the user starts with a box; then there may be no click.
        mask_prob: probability that the last prediction is given back.
    """

    def __init__(
        self,
        prob: float = 0.5,
        *,
        max_clicks: int = 10,
        more_prob: float = 0.55,
        box_prob: float = 0.25,
        mask_prob: float = 0.25,
    ) -> None:
        super().__init__(prob)
        self.max_clicks, self.more_prob = max_clicks, more_prob
        self.box_prob, self.mask_prob = box_prob, mask_prob

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with its ``interaction``."""
        item = dict(data)
        self.randomize(None)
        box, former = self.R.rand() < self.box_prob, self.R.rand() < self.mask_prob
        clicks = int(not box)
        while self.R.rand() < self.more_prob and clicks < self.max_clicks:
            clicks += 1
        plan = [clicks, int(box), int(former), int(self.R.randint(2**31))] if self._do_transform else [0, 0, 0, 0]
        item["interaction"] = torch.tensor(plan)
        return item
