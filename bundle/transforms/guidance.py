# SPDX-License-Identifier: Apache-2.0
"""Clicks, boxes and former masks: drawn as channels of the image, and held to in the label map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import ApplyTransformToPoints, RandomizableTransform, Transform
from scipy import ndimage

from bundle.guidance import GUIDANCE_CHANNELS, Box, Point, draw_guidance
from bundle.transforms.requests import UNNAMED

Guidance = Mapping[int, Mapping[str, Any]]
"""What ``ReadRequestd`` makes: slot -> wanted, unwanted, box, mask."""


class DrawGuidanced(Transform):
    """Appends ``guidance`` to the letterboxed image: two channels for each slot; none where there is no guidance.

    The image (3, H, W) becomes (3 + 2 * number of structures, H, W), the slots in order. Clicks outside the native
    image, and on a structure outside its box, do not count. ``clicks`` says how many do, per slot; it is absent without
    guidance, as is ``guidance`` then.

    Args:
        structures: names of the segmentation channels, background first.
        radius: of a click's disk, in pixels of the letterboxed image.

    Raises:
        ValueError: in the call, when a box lies beside its image, or a former mask is not as large; the file is named.
    """

    def __init__(self, structures: Sequence[str], radius: float) -> None:
        self.num_slots = len(structures)
        self.radius = radius

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with the guidance in its image."""
        item = dict(data)
        guidance, image = item.get("guidance", {}), item["image"]
        if not guidance:
            item.pop("guidance", None)
            return item
        item["clicks"] = {}
        channels = torch.zeros(self.num_slots, 2, *image.shape[1:])
        try:
            for slot, said in guidance.items():
                item["clicks"][slot], channels[slot] = self._draw(said, image)
        except ValueError as e:
            raise ValueError(f"{image.meta['filename_or_obj']}: {e}") from e
        item["image"] = torch.cat([image, channels.flatten(0, 1).to(image)])
        return item

    def _draw(self, said: Mapping[str, Any], image: MetaTensor) -> tuple[dict[str, int], torch.Tensor]:
        """How many clicks of a slot count, and its channels (2, H, W)."""
        shape = image.meta["spatial_shape"]
        points = counting_points(said, shape)
        channels = draw_guidance(
            image.shape[1:],
            wanted=_to_grid(points["wanted"], image),
            unwanted=_to_grid(points["unwanted"], image),
            box=said["box"] and _box_to_grid(said["box"], image),
            mask=None if said["mask"] is None else _mask_to_grid(said["mask"], image),
            radius=self.radius,
        )
        return {key: len(found) for key, found in points.items()}, channels


def counting_points(said: Mapping[str, Any], shape: Sequence[int]) -> dict[str, list[Point]]:
    """A slot's clicks inside the native image (H, W), those that want the structure also inside its box."""
    rows, columns = _box_pixels(said["box"] or (0, 0, *shape), shape)

    def boxed(point: Point) -> bool:
        row, column = _pixel(point)
        return row in range(rows.start, rows.stop) and column in range(columns.start, columns.stop)

    inside = {key: _within(said[key], shape) for key in GUIDANCE_CHANNELS}
    return {**inside, "wanted": [point for point in inside["wanted"] if boxed(point)]}


def _within(points: Sequence[Point], shape: Sequence[int]) -> list[Point]:
    return [p for p in points if -0.5 <= p[0] < shape[0] - 0.5 and -0.5 <= p[1] < shape[1] - 0.5]


def _pixel(point: Point) -> tuple[int, int]:
    """The native pixel, row and column, that a click within the image lies in."""
    return math.floor(point[0] + 0.5), math.floor(point[1] + 0.5)


def _box_pixels(box: Box, shape: Sequence[int]) -> tuple[slice, slice]:
    """Rows and columns of the native pixels whose middle lies in a box, one at least.

    Raises:
        ValueError: when the box lies beside the image.
    """
    if box[2] < -0.5 or box[3] < -0.5 or box[0] > shape[0] - 0.5 or box[1] > shape[1] - 0.5:
        corners = [round(v, 2) for v in (box[1], box[0], box[3], box[2])]
        raise ValueError(
            f"box or roi must overlap the image, {shape[1]} x {shape[0]} pixels (x, y), got {corners}; correct it."
        )
    found = []
    for low, high, size in zip(box[:2], box[2:], shape, strict=True):
        first, last = _whole(max(low, 0), min(high, size - 1))
        found.append(slice(math.ceil(first), math.floor(last) + 1))
    return found[0], found[1]


def _whole(low: float, high: float) -> tuple[float, float]:
    """An interval that holds a whole number: the given one, or the number that is nearest to its middle."""
    if math.ceil(low) <= math.floor(high):
        return low, high
    middle = round((low + high) / 2)
    return middle, middle


def hold_to_guidance(mask: np.ndarray, guidance: Guidance, seen: np.ndarray) -> None:
    """Makes a label map say what the user said, to the pixel; in place.

    Nothing of a structure stays outside its box. Where nothing is wanted nothing stays, of a structure that was not
    guided the whole connected part. Where a structure is wanted it stands, whatever was said against; of two that are
    wanted in one pixel the later one of the table.

    Args:
        mask: (H, W) uint8, structure indices on the native grid.
        guidance: in pixels of ``mask``.
        seen: (C - 1, h, w) probabilities of the structures over the same field, on any grid.
    """
    named = [slot for slot in guidance if slot != UNNAMED]
    for slot, said in guidance.items():
        if said["box"] is not None:
            outside = mask == slot if slot != UNNAMED else ~np.isin(mask, [0, *named])
            outside[_box_pixels(said["box"], mask.shape)] = False
            mask[outside] = 0
    points = {slot: counting_points(said, mask.shape) for slot, said in guidance.items()}
    wanted = {slot: [_pixel(p) for p in found["wanted"]] for slot, found in points.items()}
    against = {_pixel(p) for found in points.values() for p in found["unwanted"]}
    for place in against.difference(*wanted.values()):
        if mask[place] == 0 or mask[place] in named or UNNAMED in guidance:
            mask[place] = 0
        else:
            parts = ndimage.label(mask == mask[place])[0]
            mask[parts == parts[place]] = 0
    for slot in sorted(wanted):
        for place in wanted[slot]:
            if slot != UNNAMED:
                mask[place] = slot
            elif mask[place] == 0:
                near = [int((i + 0.5) * n / m) for i, n, m in zip(place, seen.shape[1:], mask.shape, strict=True)]
                mask[place] = 1 + int(seen[:, near[0], near[1]].argmax())


def _to_grid(points: Sequence[Point], image: MetaTensor) -> list[Point]:
    """Points in pixels of the native image, in pixels of the letterboxed one."""
    if not points:
        return []
    transform = ApplyTransformToPoints(dtype=torch.float64, affine=image.affine)
    rows = transform(torch.tensor(points, dtype=torch.float64)[None])[0]
    return [(float(row), float(column)) for row, column in rows[:, :2]]


def _box_to_grid(box: Box, image: MetaTensor) -> Box:
    """A box in pixels of the native image, in pixels of the letterboxed one, of which it holds one at least."""
    height, width = image.meta["spatial_shape"]
    _box_pixels(box, (height, width))  # raises where it lies beside the image
    ends = [(max(box[0], -height), max(box[1], -width)), (min(box[2], 2 * height), min(box[3], 2 * width))]
    (top, left), (bottom, right) = _to_grid(ends, image)
    (top, bottom), (left, right) = _whole(top, bottom), _whole(left, right)
    return top, left, bottom, right


def _mask_to_grid(mask: np.ndarray, image: MetaTensor) -> torch.Tensor:
    """A native mask (H, W) on the letterboxed grid, nearest neighbor, zero beside the image.

    Raises:
        ValueError: when the mask is not as large as the image.
    """
    native = tuple(int(n) for n in image.meta["spatial_shape"])
    if mask.shape != native:
        raise ValueError(
            f"mask must have the size of the image, {native[0]}x{native[1]} (rows x columns), got"
            f" {mask.shape[0]}x{mask.shape[1]}; send the mask of this image."
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
