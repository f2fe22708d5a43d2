# SPDX-License-Identifier: Apache-2.0
"""Between an image's own pixels and the square that the network sees: sizes, places and points, there and back.

Pixels are counted from the middle of the first one, as (row, column).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

UNKNOWN_SPACING = (math.nan, math.nan)


def known_spacing(spacing: Sequence[float]) -> bool:
    """Whether a spacing of rows and columns is told: two numbers above 0."""
    return len(spacing) == 2 and all(math.isfinite(s) and s > 0 for s in spacing)


@dataclass(frozen=True)
class Zone:
    """A part of an image whose pixels have a spacing of their own.

    Attributes:
        place: rows and columns.
        spacing: row and column spacing in mm.
    """

    place: tuple[slice, slice]
    spacing: tuple[float, float]

    def holds(self, box: tuple[slice, slice]) -> bool:
        """Whether all of a box lies in it."""
        return all(
            zone.start <= part.start and part.stop <= zone.stop for zone, part in zip(self.place, box, strict=True)
        )

    def touches(self, box: tuple[slice, slice]) -> bool:
        """Whether a part of a box lies in it."""
        return all(
            part.start < zone.stop and zone.start < part.stop for zone, part in zip(self.place, box, strict=True)
        )


def longest_to(shape: Sequence[int], side: int) -> tuple[int, int]:
    """Size (H', W') of an image (H, W) whose longest side becomes ``side`` pixels; no side falls below one."""
    scale = side / max(shape)
    height, width = (max(1, round(n * scale)) for n in shape)
    return height, width


@dataclass(frozen=True)
class Geometry:
    """An image and its place in the square that the network sees: scaled to its longest side, in the middle.

    Attributes:
        shape: (H, W) of the image, in pixels.
        side: of the square, in pixels.
        spacing: row and column spacing of the image in mm; nan where it is not known.
        source: where the spacing is from; "" where it is not known.
        zones: parts with a spacing of their own, where there is none for the whole image.
        part: of the image that is in the square: first row, first column, last row + 1, last column + 1; None: all.
        picture: the image, (H, W) or (H, W, C) uint8, for what is measured in it; None where it is not at hand.
    """

    shape: tuple[int, int]
    side: int
    spacing: tuple[float, float] = UNKNOWN_SPACING
    source: str = ""
    zones: tuple[Zone, ...] = ()
    part: tuple[int, int, int, int] | None = None
    picture: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def seen(self) -> tuple[slice, slice]:
        """Rows and columns of the image that are in the square."""
        top, left, bottom, right = self.part or (0, 0, *self.shape)
        return slice(top, bottom), slice(left, right)

    @property
    def extent(self) -> tuple[int, int]:
        """(H, W) of what is in the square, in pixels of the image."""
        rows, columns = self.seen
        return rows.stop - rows.start, columns.stop - columns.start

    @property
    def known(self) -> bool:
        """Whether lengths in mm can be told."""
        return known_spacing(self.spacing)

    def spacing_of(self, box: tuple[slice, slice]) -> tuple[float, float]:
        """Row and column spacing in mm of what lies within these rows and columns; nan where it is not known.

        That of the zone that holds the box; none where it reaches out of a zone, or into one of another spacing.
        """
        touched = [zone for zone in self.zones if zone.touches(box)]
        if not touched:
            return self.spacing
        held = any(zone.holds(box) for zone in touched)
        return touched[0].spacing if held and len({zone.spacing for zone in touched}) == 1 else UNKNOWN_SPACING

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the square that the image fills; an odd line of padding comes last."""
        rows, columns = (slice((self.side - n) // 2, (self.side - n) // 2 + n) for n in self._size)
        return rows, columns

    @property
    def _size(self) -> tuple[int, int]:
        return longest_to(self.extent, self.side)

    def matrix(self) -> Tensor:
        """Points of the square to those of the image, (3, 3) float64."""
        matrix = torch.eye(3, dtype=torch.float64)
        for axis, (place, native) in enumerate(zip(self.window, self.seen, strict=True)):
            scale = (native.stop - native.start) / (place.stop - place.start)
            matrix[axis, axis], matrix[axis, 2] = scale, native.start + (scale - 1) / 2 - scale * place.start
        return matrix

    def nearest_seen(self, points: Tensor) -> Tensor:
        """Points (N, 2) of the image, or the nearest ones of what is in the square."""
        first, last = (torch.tensor([n - 0.5 for n in ends]).to(points) for ends in zip(*self._ends, strict=True))
        return torch.minimum(torch.maximum(points, first), last)

    @property
    def _ends(self) -> list[tuple[int, int]]:
        return [(place.start, place.stop) for place in self.seen]

    def on_image(self, values: Tensor) -> Tensor:
        """Values (..., h, w) of what is in the square on the whole image (..., H, W), zeros beside it."""
        if self.part is None:
            return values
        whole = values.new_zeros(*values.shape[:-2], *self.shape)
        rows, columns = self.seen
        whole[..., rows, columns] = values
        return whole

    def to_native(self, points: Tensor) -> Tensor:
        """Points (N, 2) of the square on the image."""
        return transformed(points, self.matrix())

    def to_square(self, points: Tensor) -> Tensor:
        """Points (N, 2) of the image in the square."""
        return transformed(points, torch.linalg.inv(self.matrix()))

    def millimeters(self, steps: Tensor) -> Tensor:
        """Lengths in mm of steps (N, 2) in pixels of the image; nan where the spacing is not known."""
        lengths: Tensor = torch.linalg.vector_norm(steps * torch.tensor(self.spacing, dtype=steps.dtype), dim=-1)
        return lengths


def transformed(points: Tensor, matrix: Tensor) -> Tensor:
    """Points (N, 2), row and column, under an affine matrix (3, 3)."""
    return points @ matrix[:2, :2].T.to(points) + matrix[:2, 2].to(points)
