# SPDX-License-Identifier: Apache-2.0
"""Where a frame shows ultrasound: the fan or the rectangle that holds echoes, without text, scales and bars beside it.

Thresholds, morphology and convex hulls of SciPy and scikit-image, without training. Two images side by side are two
sectors: a dark gap parts them, or a seam, a column at which the speckle breaks off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from skimage.morphology import convex_hull_image, disk
from torch import Tensor

from bundle.transforms.letterbox import shrink

# Values are gray values in [0, 1]. Lengths are in pixels of the small picture that is looked at, if not said otherwise.
LONGEST = 256  # longest side of the small picture: one scale for all sizes
DARK = 2.0  # percentile of the values that is taken for black
LIT = 5.0 / 255  # above black: an echo, and more than the noise of lossy formats
FAINT = 0.5 / 255  # above black: an echo too, where the sector is so solid that it cannot be noise
SOLID = 0.95  # share of a hull from which on it is
PAINTED = 12.0 / 255  # above black: painted by a program, if its 3 x 3 neighbors have
FLAT = 2.5 / 255  # no greater range of values than this
DENSE = 0.5  # share of a small pixel that is lit in tissue, and not in a line of text
EMPTY = 0.005  # share of a row or a column that is lit at most in a gap
BRIDGED = 3  # radius of dark spots that are closed
THIN = 5  # radius of what is removed: lines of text, bars, scales
LEAST = 0.04  # share of the frame that a sector has at least
HOLLOW = 0.35  # share of its hull that holds echoes at least
ALIGNED = 0.06  # of a sector's width, by which ends of a part above or below it may differ, such as of a skin line
WITHIN = 0.9  # share of the columns of a part above or below a sector that are the sector's, at least, to belong to it
SIZABLE = 0.1  # and its share of the sector's size at least: text and bars have less
SIMILAR = 0.6  # ratio of heights, and of widths, from which on sectors with a gap between them are panels

SPECKLE = 5  # side of the square, in pixels of the frame, over which echoes are told from a grain of noise

TREND = 15  # rows of the frame over which a column's mean and deviation are taken off, so that its speckle is left
SMALLEST = 128  # side of a sector, in pixels of the frame, in which a seam is looked for at least
LARGEST = 16_000_000  # pixels of one at most: it is looked at in full, which takes memory
STRETCHES = 6  # of a column that are correlated each
AGREED = 60  # percentile of their correlations that counts: graphics cross some stretches
GRAINY = 2.0 / 255  # deviation from which on there is speckle
BROKEN = 0.45  # correlation of a seam's two columns at most; elsewhere: 0.8 to 0.95
WHOLE = 0.6  # correlation of all but one in fifty of the other columns at least
ALONE = 0.25  # by which each of them is higher: at blocks of a film's format all break off
BESIDE = 4  # columns on each side of the seam that do not count as others: a line may be drawn there
MIDDLE = (0.3, 0.7)  # part of the sector's width in which a seam is looked for


Box: TypeAlias = tuple[int, int, int, int]
"""First row, first column, last row + 1 and last column + 1."""


@dataclass(frozen=True)
class Sector:
    """What was found.

    Attributes:
        mask: (H, W) bool, the inside of the outline; convex.
        box: around it.
        confidence: share of the inside that holds echoes, 0 to 1.
    """

    mask: np.ndarray
    box: Box
    confidence: float


def find_sectors(image: Tensor) -> list[Sector]:
    """The sectors of a frame from left to right: one, two that lie side by side, or none that is believed.

    Args:
        image: (C, H, W) float32 in [0, 1].
    """
    gray = (image[:1] if image.stride(0) == 0 else image.mean(0, keepdim=True)).float()
    black = float(np.percentile(gray[0, ::3, ::3].numpy(), DARK))
    spread = F.max_pool2d(gray, 3, 1, 1) + F.max_pool2d(-gray, 3, 1, 1)
    painted = (spread < FLAT) & (gray > black + PAINTED)
    parts = _parts((gray > black + LIT)[0], painted[0], filled=True)
    faint = _parts((gray > black + FAINT)[0], painted[0], filled=False)
    if faint and min(share for _, share in faint) > SOLID and _area(faint) > _area(parts):
        parts = faint
    sectors = [_sector(hull, share, gray.shape[1:]) for hull, share in parts if share >= HOLLOW]
    if len(sectors) == 1 and (seam := _seam(gray[0].numpy(), sectors[0].box)):
        sectors = [_cut(sectors[0], slice(0, seam)), _cut(sectors[0], slice(seam, None))]
    return sectors if sum(float(sector.mask.mean()) for sector in sectors) >= LEAST else []


def skin_line(picture: np.ndarray) -> np.ndarray:
    """Row in which the sector begins in each column of a frame, (W,) float, where the probe touches the skin.

    nan in columns beside the sector, and everywhere if none is found.

    Args:
        picture: (H, W) or (H, W, C) uint8.
    """
    planes = torch.from_numpy(np.ascontiguousarray(picture)).float() / 255
    image = planes[None] if planes.ndim == 2 else planes.permute(2, 0, 1)
    gray = image.mean(0).numpy()
    lit = gray > np.percentile(gray[::3, ::3], DARK) + LIT
    echoes = (
        ndimage.uniform_filter(lit.astype(np.float32), SPECKLE) > DENSE
    )  # the outline is straight where a fan is not
    first = np.full(gray.shape[1], np.nan)
    for sector in find_sectors(image):
        seen = sector.mask & echoes
        columns = seen.any(0)
        first[columns] = seen.argmax(0)[columns]
    return first


def _area(parts: list[tuple[np.ndarray, float]]) -> int:
    return sum(int(hull.sum()) for hull, _ in parts)


def _parts(lit: Tensor, painted: Tensor, *, filled: bool) -> list[tuple[np.ndarray, float]]:
    """Hulls of the largest dense part, and of what is like it beside a gap; with the share of each that is dense."""
    height, width = lit.shape
    scale = min(1.0, LONGEST / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = (shrink((lit & ~painted)[None, None].float(), size)[0, 0] > DENSE).numpy()
    closed = ndimage.binary_closing(np.pad(small, 2 * THIN, mode="edge"), disk(BRIDGED))
    inner = (slice(2 * THIN, -2 * THIN),) * 2
    closed[inner][_gaps(lit, 1) * size[0] // height] = False  # what is closed must not bridge text and sector
    if filled:
        closed = ndimage.binary_fill_holes(closed)
    opened = ndimage.binary_opening(closed, disk(THIN))
    if (rows := _rows_of_largest(opened[inner])) is not None:
        high = lit[rows.start * height // size[0] : rows.stop * height // size[0]]
        closed[inner][rows, _gaps(high, 0) * size[1] // width] = False  # or two sectors
        opened = ndimage.binary_opening(closed, disk(THIN))
    return _hulls(closed[inner], opened[inner])


def _gaps(lit: Tensor, axis: int) -> np.ndarray:
    """Rows (axis 1) or columns (axis 0) without echoes."""
    return np.flatnonzero(lit.float().mean(axis).numpy() < EMPTY)


def _rows_of_largest(parts: np.ndarray) -> slice | None:
    labels, count = ndimage.label(parts)
    if not count:
        return None
    place: slice = ndimage.find_objects(labels)[int(np.bincount(labels.ravel())[1:].argmax())][0]
    return place


def _hulls(closed: np.ndarray, opened: np.ndarray) -> list[tuple[np.ndarray, float]]:
    labels, count = ndimage.label(opened)
    if not count:
        return []
    places = ndimage.find_objects(labels)
    largest = int(np.bincount(labels.ravel())[1:].argmax())
    beside = [n for n in range(count) if n != largest and _alike(places[n], places[largest])]
    found = []
    for number in sorted([largest, *beside], key=lambda n: places[n][1].start):
        part = labels == number + 1
        part |= _aligned(closed & ~opened, places[number]) | _aligned(opened & ~part, places[number])
        for other, place in enumerate(places):
            size = (labels[place] == other + 1).sum()
            if _is_under(place, places[number]) and size >= SIZABLE * (labels == number + 1).sum():
                part |= labels == other + 1
        hull = convex_hull_image(part)
        found.append((hull, float(part[hull].mean())))
    return found


def _alike(one: tuple[slice, slice], other: tuple[slice, slice]) -> bool:
    """Whether two parts lie side by side and are as high and as wide as panels of one frame."""
    heights, widths = ([place[axis].stop - place[axis].start for place in (one, other)] for axis in (0, 1))
    common = min(one[0].stop, other[0].stop) - max(one[0].start, other[0].start)
    apart = one[1].stop <= other[1].start or other[1].stop <= one[1].start
    alike = min(heights) >= SIMILAR * max(heights) and min(widths) >= SIMILAR * max(widths)
    return bool(apart and alike and common >= SIMILAR * min(heights))


def _is_under(one: tuple[slice, slice], other: tuple[slice, slice]) -> bool:
    """Whether the columns of one part are columns of the other, which are parted by dark rows or shadows."""
    common = min(one[1].stop, other[1].stop) - max(one[1].start, other[1].start)
    return bool(common >= WITHIN * (one[1].stop - one[1].start))


def _aligned(others: np.ndarray, place: tuple[slice, slice]) -> np.ndarray:
    """Parts as wide as a sector and above or below it, such as a skin line over water."""
    slack = ALIGNED * (place[1].stop - place[1].start)
    labels, _ = ndimage.label(others, np.ones((3, 3)))
    kept = [
        number + 1
        for number, other in enumerate(ndimage.find_objects(labels))
        if max(abs(other[1].start - place[1].start), abs(other[1].stop - place[1].stop)) <= slack
    ]
    return np.isin(labels, kept)


def _sector(hull: np.ndarray, share: float, shape: tuple[int, ...]) -> Sector:
    stretched = F.interpolate(torch.from_numpy(hull)[None, None].float(), tuple(shape), mode="bilinear")
    return _framed((stretched[0, 0] > 0.5).numpy(), share)


def _framed(mask: np.ndarray, share: float) -> Sector:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return Sector(mask, (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1), share)


def _cut(sector: Sector, columns: slice) -> Sector:
    mask = np.zeros_like(sector.mask)
    mask[:, columns] = sector.mask[:, columns]
    return _framed(mask, sector.confidence)


def _seam(gray: np.ndarray, box: Box) -> int | None:
    """The first column of the right one of two images that touch; None where all is one image.

    Neighboring columns of an image are of one beam or of two that overlap: their speckle correlates.
    """
    detail = gray[box[0] : box[2], box[1] : box[3]]
    if min(detail.shape) < SMALLEST or detail.size > LARGEST:
        return None
    detail = detail - ndimage.uniform_filter1d(detail, TREND, axis=0)
    deviation = np.sqrt(np.maximum(ndimage.uniform_filter(detail**2, TREND), 1e-10))
    seen = (deviation > GRAINY).astype(np.float32)
    detail = np.clip(detail / deviation, -2, 2) * seen
    left, right = detail[:, :-1], detail[:, 1:]
    edges = np.linspace(0, len(detail), STRETCHES, endpoint=False).astype(int)
    products, squares, share = (np.add.reduceat(v, edges) for v in (left * right, detail**2, seen[:, 1:]))
    stretches = products / np.sqrt(np.maximum(squares[:, :-1] * squares[:, 1:], 1e-6))
    stretches[share < np.diff([*edges, len(detail)])[:, None] / 2] = 1.0  # too dark to say
    correlations = np.percentile(stretches, AGREED, axis=0)
    first, last = (int(part * len(correlations)) for part in MIDDLE)
    seam = first + int(correlations[first:last].argmin())
    others = np.delete(correlations[first:last], slice(max(0, seam - first - BESIDE), seam - first + BESIDE + 1))
    broken = correlations[seam] <= min(BROKEN, others.min() - ALONE) and np.percentile(others, 2) >= WHOLE
    return box[1] + seam + 1 if broken else None
