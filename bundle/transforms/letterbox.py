# SPDX-License-Identifier: Apache-2.0
"""Any image, or each of its windows, into a square: longest side to a given length, filtered, black round it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils.enums import TraceKeys

from bundle.geometry import Geometry, longest_to


def is_gray(image: torch.Tensor) -> bool:
    """Whether all channels of an image (C, H, W) are equal, which one channel shown C times is."""
    return image.stride(0) == 0 or all(torch.equal(image[0], channel) for channel in image[1:])


def shrink(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Images (B, C, H, W) at another size (H', W'), float32, bilinear with an anti-aliasing filter."""
    if size[1] == 1:  # PyTorch 2.14 fills a result of one column with its first value
        return shrink(images.transpose(2, 3), (size[1], size[0])).transpose(2, 3) if size[0] > 1 else _mean(images)
    return F.interpolate(images.float(), size, mode="bilinear", antialias=True)


def _mean(images: torch.Tensor) -> torch.Tensor:
    return images.float().mean((2, 3), keepdim=True)


def highest_positive(margins: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """The highest of K maps (K, h, w), stretched to ``shape`` (H, W): (H, W) uint8, 1 to K, 0 if none is positive."""
    indices = torch.zeros(shape, dtype=torch.uint8, device=margins.device)
    highest = torch.zeros(shape, device=margins.device)
    for place in (margins.amax((1, 2)) > 0).nonzero()[:, 0].tolist():
        window, margin = stretch_positive(margins[place], shape)
        wins = (margin > highest[window]).to(torch.uint8)
        # places ascend, so the last to win is kept
        indices[window] = torch.maximum(indices[window], wins.mul_(place + 1))
        highest[window] = torch.maximum(highest[window], margin)
    return indices


def stretch_positive(values: torch.Tensor, shape: Sequence[int]) -> tuple[tuple[slice, slice], torch.Tensor]:
    """Values (h, w) at another size (H, W), bilinear: rows and columns that hold all positive ones, and those values.

    The places are those of ``torch.nn.functional.interpolate`` without ``align_corners``, which computes all of them.

    Args:
        values: at least one is positive.
        shape: H and W.
    """
    positive = values > 0
    window, weights = [], []
    for axis, (native, small) in enumerate(zip(shape, positive.shape, strict=True)):
        hit = positive.any(1 - axis).nonzero()
        first, last, scale = int(hit[0]), int(hit[-1]), native / small
        start = max(0, math.floor((first - 0.5) * scale - 0.5))
        stop = min(native, math.ceil((last + 1.5) * scale - 0.5) + 1)
        window.append(slice(start, stop))
        needed = slice(max(0, first - 1), min(small, last + 2))
        values = values.narrow(axis, needed.start, needed.stop - needed.start)
        places = ((torch.arange(start, stop, device=values.device) + 0.5) / scale - 0.5).clamp_(0, small - 1)
        distance = places[:, None] - torch.arange(needed.start, needed.stop, device=values.device)
        weights.append((1 - distance.abs_()).clamp_(min=0))
    return (window[0], window[1]), weights[0] @ values @ weights[1].T


WINDOWS = "windows"
"""Key of an image's meta: what is seen of it, boxes of first row, first column, last row + 1 and last column + 1."""


class Letterboxd(MapTransform, InvertibleTransform):
    """Images (C, H, W) into the middle of a square (C, S, S): longest side scaled to S, zeros round it; float32.

    Where an image's meta has ``windows``, only these boxes of it, each in a square of its own, one below the other:
    (C, N * S, S). Their way back leaves zeros beside them. The affine is that of the first one.

    A triangle filter as wide as the scaling asks for (``torch.nn.functional.interpolate`` with ``antialias``), which is
    what Pillow's bilinear does. MONAI's ``Resized`` smooths with a Gaussian instead, which takes thirty times as long
    on an image of 600 x 800 and a minute on one of 6000 x 8000. The square is part of it because the way back, which
    every predicted mask takes, is then one step: a cut and a bilinear interpolation.

    Args:
        keys: images.
        spatial_size: S, in pixels.
    """

    def __init__(self, keys: KeysCollection, spatial_size: int) -> None:
        super().__init__(keys)
        self.side = spatial_size

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """The item with its images in squares; the affine of a MetaTensor follows."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self._box(item[key])
        return item

    def inverse(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """The item with squares back at the native size (C, H, W) of the image whose history they bear."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self._unbox(item[key])
        return item

    def native(self, image: MetaTensor) -> tuple[tuple[int, int], torch.Tensor]:
        """Size (H, W) and affine (4, 4) that an image had before it came into its square."""
        place = self.places(image)[0]
        back = torch.linalg.inv(to_affine_nd(len(image.affine) - 1, place.matrix()))
        return place.shape, image.affine @ back.to(image.affine)

    def places(self, image: MetaTensor) -> list[Geometry]:
        """Where in its image each square of a boxed one is."""
        step = self.get_most_recent_transform(image)
        height, width = step[TraceKeys.ORIG_SIZE]
        windows = step[TraceKeys.EXTRA_INFO][WINDOWS]
        return self._places((int(height), int(width)), windows)

    def _places(self, shape: tuple[int, int], windows: Sequence[Sequence[int]]) -> list[Geometry]:
        boxes = [(int(top), int(left), int(bottom), int(right)) for top, left, bottom, right in windows]
        return [Geometry(shape, self.side, part=box) for box in boxes] or [Geometry(shape, self.side)]

    def _box(self, image: torch.Tensor) -> torch.Tensor:
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        shape = (int(plain.shape[1]), int(plain.shape[2]))
        shown = plain[:1] if is_gray(plain) else plain
        windows = image.meta.get(WINDOWS) or [] if isinstance(image, MetaTensor) else []
        places = self._places(shape, windows)
        square = torch.zeros(len(plain), len(places) * self.side, self.side, device=plain.device)
        for one, place in zip(torch.split(square, self.side, 1), places, strict=True):
            (down, across), (rows, columns) = place.seen, place.window
            one[:, rows, columns] = shrink(shown[None, :, down, across], longest_to(place.extent, self.side))[0]
        if not isinstance(image, MetaTensor):
            return square
        history = self.track_transform_meta(
            image,
            sp_size=square.shape[1:],
            affine=places[0].matrix(),
            extra_info={"mode": "bilinear", WINDOWS: windows},  # MONAI's Invertd changes the mode for masks
            orig_size=shape,
            transform_info=self.get_transform_info(),
        )
        boxed: torch.Tensor = MetaTensor(square).copy_meta_from(history)
        return boxed

    def _unbox(self, image: MetaTensor) -> MetaTensor:
        shape, affine = self.native(image)
        places = self.places(image)
        mode = self.pop_transform(image)[TraceKeys.EXTRA_INFO]["mode"]
        native = torch.zeros(len(image), *shape, device=image.device)
        for one, place in zip(torch.split(image.as_tensor(), self.side, 1), places, strict=True):
            (down, across), (rows, columns) = place.seen, place.window
            native[:, down, across] = F.interpolate(one[None, :, rows, columns].float(), place.extent, mode=mode)[0]
        out: MetaTensor = MetaTensor(native).copy_meta_from(image)
        out.affine = affine
        return out
