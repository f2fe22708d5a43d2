# SPDX-License-Identifier: Apache-2.0
"""What a user says about one structure (clicks, a box, a former mask), as two image channels; and a simulated user.

The channels are *wanted here* and *not wanted here*, float in [0, 1]: a click is a disk of ones in one of them, a box
is ones in the second outside the box, a former mask is a half in the first inside the mask. MONAI's
``AddGuidanceSignald`` knows clicks alone and scales them together; its simulated clicks (``AddRandomGuidanced``) fall
anywhere in all errors at once, not in the middle of the largest one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

GUIDANCE_CHANNELS = ("wanted", "unwanted")
FORMER_MASK = 0.5  # value of a former mask, which is weaker than a click

Point = tuple[float, float]  # row, column
Box = tuple[float, float, float, float]  # first row, first column, last row, last column


def draw_guidance(
    size: Sequence[int],
    *,
    wanted: Sequence[Point] = (),
    unwanted: Sequence[Point] = (),
    box: Box | None = None,
    mask: Tensor | None = None,
    radius: float,
) -> Tensor:
    """The two guidance channels (2, H, W), float32 in [0, 1].

    Args:
        size: H and W in pixels.
        wanted: clicks on the structure, in pixels of the drawn image; what lies outside it draws what reaches in.
        unwanted: clicks on what is not the structure.
        box: the structure lies inside, its border included.
        mask: former mask (H, W), values above 0.5 are the structure.
        radius: of a click's disk, in pixels.
    """
    channels = torch.zeros(2, *size)
    if mask is not None:
        channels[0] = FORMER_MASK * (mask > 0.5)
    if box is not None:
        rows = torch.arange(size[0], dtype=torch.float32)[:, None]
        columns = torch.arange(size[1], dtype=torch.float32)
        inside = (rows >= box[0]) & (rows <= box[2]) & (columns >= box[1]) & (columns <= box[3])
        channels[1] = (~inside).float()
    for channel, points in zip(channels, (wanted, unwanted), strict=True):
        _draw_disks(channel, points, radius)
    return channels


def _draw_disks(channel: Tensor, points: Sequence[Point], radius: float) -> None:
    """Ones in the pixels (H, W) within ``radius`` of a point; all points at once, each in a window of its own."""
    if not points:
        return
    middles = torch.tensor(points, dtype=torch.float32)  # (N, 2)
    reach = math.ceil(radius) + 1
    window = torch.arange(-reach, reach + 1)
    places = middles.round().long()[:, :, None] + window  # (N, 2, K): rows and columns of each window
    distances = (places - middles[:, :, None]) ** 2
    hit, row, column = (distances[:, 0, :, None] + distances[:, 1, None, :] <= radius**2).nonzero(as_tuple=True)
    rows, columns = places[hit, 0, row], places[hit, 1, column]
    inside = (rows >= 0) & (rows < channel.shape[0]) & (columns >= 0) & (columns < channel.shape[1])
    channel[rows[inside], columns[inside]] = 1.0


def middle(region: np.ndarray, rng: np.random.Generator | None = None) -> tuple[int, int]:
    """Row and column of the pixel of a region that is farthest from its border; the image's border counts as one.

    Args:
        region: (H, W) bool with at least one True.
        rng: draws a pixel instead, those far from the border being likelier (by the square of the distance).
    """
    depth = ndimage.distance_transform_cdt(np.pad(region, 1), metric="taxicab")[1:-1, 1:-1].astype(np.float64)
    if rng is None:
        place = int(depth.argmax())
    else:
        weights = (depth**2).ravel()
        place = int(rng.choice(weights.size, p=weights / weights.sum()))
    row, column = np.unravel_index(place, region.shape)
    return int(row), int(column)


def largest_region(region: np.ndarray) -> np.ndarray:
    """The largest connected part (H, W) of a region (H, W) bool; the region itself where it is empty."""
    parts, count = ndimage.label(region)
    if count < 2:
        return region
    largest: np.ndarray = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    return largest


@dataclass
class SimulatedUser:
    """Clicks on one structure as a person would who sees the truth and the current prediction.

    Args:
        truth: (H, W) bool, the structure, not empty.
        rng: draws the first click's place, the box's jitter and the wrong clicks; None: the first click is in the
            middle, nothing is wrong.
        wrong_prob: probability that a click goes beside the structure instead.

    Attributes:
        wanted, unwanted, box: what the user has said so far, in pixels of ``truth``.
    """

    truth: np.ndarray
    rng: np.random.Generator | None = None
    wrong_prob: float = 0.0
    wanted: list[Point] = field(default_factory=list)
    unwanted: list[Point] = field(default_factory=list)
    box: Box | None = None

    def draw_box(self, jitter: float = 0.0) -> None:
        """Draws a box round the structure, each side moved by up to ``jitter`` of the box's height or width."""
        rows, columns = np.flatnonzero(self.truth.any(1)), np.flatnonzero(self.truth.any(0))
        exact = np.array([rows[0], columns[0], rows[-1], columns[-1]], np.float64)
        size = np.array([rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1] * 2)
        # whole pixels: moved by a part of one, a box round a structure of one or two pixels could hold none
        moved = exact if self.rng is None else exact + np.rint(self.rng.uniform(-jitter, jitter, 4) * size)
        self.box = (float(moved[0]), float(moved[1]), float(moved[2]), float(moved[3]))

    def click(self, pred: np.ndarray | None = None) -> bool:
        """Adds a click: inside the structure without a prediction, else in the middle of the largest error.

        Args:
            pred: (H, W) bool, the current prediction.

        Returns:
            False when there was no error to click at.
        """
        if pred is None:
            self._say(middle(largest_region(self.truth), self.rng), wanted=True)
            return True
        missed, surplus = largest_region(self.truth & ~pred), largest_region(pred & ~self.truth)
        if not missed.any() and not surplus.any():
            return False
        wanted = bool(missed.sum() >= surplus.sum())
        self._say(middle(missed if wanted else surplus), wanted=wanted)
        return True

    def click_wrong(self) -> None:
        """Adds a click that calls a place beside the structure wanted, at most as far off as the structure is large."""
        distance = ndimage.distance_transform_cdt(~self.truth, metric="taxicab")
        near = np.flatnonzero((distance > 0) & (distance <= max(2.0, np.sqrt(self.truth.sum()))))
        if near.size:
            rng = self.rng or np.random.default_rng(0)
            row, column = np.unravel_index(int(rng.choice(near)), self.truth.shape)
            self.wanted.append((int(row), int(column)))

    def _say(self, place: tuple[int, int], *, wanted: bool) -> None:
        if self.rng is not None and self.rng.random() < self.wrong_prob:
            self.click_wrong()
        else:
            (self.wanted if wanted else self.unwanted).append(place)
