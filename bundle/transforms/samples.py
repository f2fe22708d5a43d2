# SPDX-License-Identifier: Apache-2.0
"""A training sample: small enough to be kept, then moved by one random resampling, then in color again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform, Transform
from torch import Tensor

from bundle.geometry import longest_to
from bundle.transforms.letterbox import is_gray, shrink


class ShrinkSampled(Transform):
    """Brings an image and its mask to the form in which they are kept: at most ``longest`` pixels a side, bytes.

    ``image`` (3, H, W) in [0, 1] becomes uint8 (1 or 3, h, w), one channel where all three are equal; ``label``
    (1, H, W) becomes uint8 (1, h, w), nearest neighbor. Images that are small already keep their size. Both lose their
    history: training undoes no sample. MONAI scales images that are smaller up, and keeps float.

    Args:
        longest: of a side, in pixels.
        tasks: the declared tasks; what has a place in the image follows it.
    """

    def __init__(self, longest: int, tasks: Sequence[Any] = ()) -> None:
        self.longest, self.tasks = longest, [task for task in tasks if task.placed]

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with plain tensors ``image`` and ``label``."""
        item = dict(data)
        image, label = _plain(item["image"])[None], _plain(item["label"])[None]
        if is_gray(image[0]):
            image = image[:, :1]
        size = longest_to(image.shape[2:], self.longest)
        before = image.shape[2:]
        if size[0] < image.shape[2] or size[1] < image.shape[3]:
            image = shrink(image, size)
            label = F.interpolate(label, size, mode="nearest-exact")
        else:
            size = (image.shape[2], image.shape[3])
        item["image"] = (image[0] * 255).round().clamp(0, 255).to(torch.uint8).contiguous()
        item["label"] = label[0].to(torch.uint8).contiguous()
        scale = np.linalg.inv(_normalized(size)) @ _normalized(before)
        for task in self.tasks:
            item = task.move(item, torch.from_numpy(scale))
        return item


class RandGeometryd(RandomizableTransform):
    """Crop, flip, rotation, zoom and shift of a sample, and its letterbox, in one resampling.

    ``image`` uint8 (C, h, w) becomes float32 (C, S, S) in [0, 1], bilinear; ``label`` (1, h, w) becomes float32
    (1, S, S), nearest neighbor; zeros beside the image. Without any of the random moves it is the letterbox of
    validation and inference (to half a pixel, where rounding the kept size says otherwise). MONAI's transforms resample
    at each step, and their lazy form mixes up 2D and 3D affine matrices of MetaTensors.

    The crop is a box round one structure of the mask, drawn among those in it, with a random margin on each side.
    Where the mask is empty, it is a box anywhere, so that a crop does not tell that there is something. Either sets the
    prompt ``type`` to "local".

    Args:
        spatial_size: S, in pixels.
        crop_prob: probability of a crop.
        crop_margin: range of each side's margin, as a fraction of the structure's height or width.
        min_margin: least margin, as a fraction of the image's longest side.
        anywhere_prob: probability of a crop where the mask is empty.
        anywhere_range: range of each side of such a crop, as a fraction of the image's height or width.
        flip_prob: probability that left and right change places.
        affine_prob: probability of rotation, zoom and shift.
        rotate_range: largest rotation either way, in radians.
        zoom_range: largest change of the size, as a fraction, either way.
        translate_range: largest shift either way, in pixels of the result.
        rotate_flipped: false: an image that was flipped is not rotated.
        tasks: the declared tasks; what has a place in the image follows it.
    """

    def __init__(
        self,
        spatial_size: int,
        *,
        crop_prob: float = 0.0,
        crop_margin: Sequence[float] = (0.1, 1.0),
        min_margin: float = 0.015,
        anywhere_prob: float = 0.0,
        anywhere_range: Sequence[float] = (0.5, 1.0),
        flip_prob: float = 0.0,
        affine_prob: float = 0.0,
        rotate_range: float = 0.0,
        zoom_range: float = 0.0,
        translate_range: float = 0.0,
        rotate_flipped: bool = True,
        tasks: Sequence[Any] = (),
    ) -> None:
        super().__init__(prob=1.0)
        self.spatial_size, self.tasks = spatial_size, [task for task in tasks if task.placed]
        self.crop_prob, self.crop_margin, self.min_margin = crop_prob, tuple(crop_margin), min_margin
        self.anywhere_prob, self.anywhere_range = anywhere_prob, tuple(anywhere_range)
        self.flip_prob, self.affine_prob, self.rotate_flipped = flip_prob, affine_prob, rotate_flipped
        self.rotate_range, self.zoom_range, self.translate_range = rotate_range, zoom_range, translate_range

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item, moved."""
        item = dict(data)
        image, label = item["image"], item["label"]
        box = self._box(label[0], self.R.uniform())
        if box is not None:
            image, label = image[:, box[0], box[1]], label[:, box[0], box[1]]
            item["type"] = "local"
        theta = self._theta(image.shape[1], image.shape[2])
        grid = self._grid(theta)
        pixels = image[None].float().div_(255)
        item["image"] = F.grid_sample(pixels, grid, mode="bilinear", align_corners=False)[0]
        item["label"] = F.grid_sample(label[None].float(), grid, mode="nearest", align_corners=False)[0]
        for task in self.tasks:
            item = task.move(item, _moved(theta, image.shape[1:], self.spatial_size, box))
        return item

    def _box(self, mask: Tensor, chance: float) -> tuple[slice, slice] | None:
        """Rows and columns of a structure (h, w) with its margins, or of any part; None: no crop."""
        if chance >= max(self.crop_prob, self.anywhere_prob):
            return None
        present = torch.bincount(mask.flatten())[1:].nonzero()[:, 0] + 1
        if chance >= (self.crop_prob if len(present) else self.anywhere_prob):
            return None
        if not len(present):
            return self._part(mask.shape[0]), self._part(mask.shape[1])
        structure = mask == present[self.R.randint(len(present))]
        least = self.min_margin * max(mask.shape)
        sides = []
        for axis in (0, 1):
            hit = structure.any(1 - axis).nonzero()
            low, high = int(hit[0]), int(hit[-1]) + 1
            before, after = (max(least, (high - low) * self.R.uniform(*self.crop_margin)) for _ in range(2))
            sides.append(slice(max(0, round(low - before)), min(mask.shape[axis], round(high + after))))
        return sides[0], sides[1]

    def _part(self, length: int) -> slice:
        """Any part of a side, of a random length."""
        part = max(1, round(length * self.R.uniform(*self.anywhere_range)))
        start = self.R.randint(length - part + 1)
        return slice(start, start + part)

    def _theta(self, height: int, width: int) -> np.ndarray:
        """Result (S, S) to source (h, w): (3, 3) in [-1, 1] coordinates x, y, 1."""
        side = self.spatial_size
        theta = self._matrix()
        for axis, length in enumerate(reversed(longest_to((height, width), side))):
            theta[axis] *= side / length
            if (side - length) % 2:  # the spare pixel of the padding lies behind, as MONAI's does
                theta[axis, 2] += 1 / length
        return theta

    def _grid(self, theta: np.ndarray) -> Tensor:
        """Where each pixel of the result comes from: (1, S, S, 2), x and y in [-1, 1] over the source."""
        center = (torch.arange(self.spatial_size) + 0.5) * 2 / self.spatial_size - 1
        x, y = (float(a) * center + (float(b) * center + float(c))[:, None] for a, b, c in theta[:2])
        return torch.stack([x, y], 2)[None]

    def _matrix(self) -> np.ndarray:
        """Result to letterboxed image, (3, 3) in [-1, 1] coordinates x, y, 1."""
        matrix = np.eye(3)
        flipped = self.R.uniform() < self.flip_prob
        if flipped:
            matrix[0, 0] = -1.0
        if self.R.uniform() < self.affine_prob:
            angle = self.R.uniform(-self.rotate_range, self.rotate_range)
            if flipped and not self.rotate_flipped:
                angle = 0.0
            zoom = 1 + self.R.uniform(-self.zoom_range, self.zoom_range)
            shift = self.R.uniform(-self.translate_range, self.translate_range, 2) * 2 / self.spatial_size
            cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
            matrix = matrix @ np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]], [0, 0, 1]])
        return matrix


class GreyToRGBd(MapTransform):
    """Repeats the channel of images (1, H, W) three times; images (3, H, W) stay. MONAI's repeats whatever comes."""

    def __init__(self, keys: KeysCollection = "image") -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with images (3, H, W)."""
        item = dict(data)
        for key in self.key_iterator(item):
            if len(item[key]) == 1:  # repeated, not expanded: MONAI normalizes each channel in place
                item[key] = item[key].repeat(3, 1, 1)
        return item


def _normalized(shape: Sequence[int]) -> np.ndarray:
    """Points (row, column, 1) of an image (H, W) to x, y, 1 in [-1, 1]: (3, 3)."""
    height, width = shape
    return np.array([[0, 2 / width, 1 / width - 1], [2 / height, 0, 1 / height - 1], [0, 0, 1]])


def _moved(theta: np.ndarray, shape: Sequence[int], side: int, box: tuple[slice, slice] | None) -> Tensor:
    """Points (row, column, 1) of a sample to those of the result: (3, 3) float64.

    Args:
        theta: of ``RandGeometryd``.
        shape: (h, w) of the sample, or of the part of it that was cut out.
        side: of the result.
        box: rows and columns of that part.
    """
    back = np.linalg.inv(_normalized(shape)) @ theta @ _normalized((side, side))
    cut = np.eye(3)
    if box is not None:
        cut[:2, 2] = -box[0].start, -box[1].start
    return torch.from_numpy(np.linalg.inv(back) @ cut)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor
