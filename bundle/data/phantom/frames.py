# SPDX-License-Identifier: Apache-2.0
"""Whole screens of a scanner with known truth: sectors of speckle, text, scales, bars, an ECG, calipers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from bundle.data.phantom.overlay import WORDS

KINDS = ("linear", "convex", "phased", "panels", "touching", "cropped")
"""Rectangle; fan of a curved probe; of a point; two rectangles with a gap; two that touch; an image, no screen."""


@dataclass(frozen=True)
class Screen:
    """What a scanner shows.

    Attributes:
        pixels: (H, W, 3) uint8.
        sectors: (H, W) bool each, from left to right.
        text: (H, W) bool, pixels of letters.
        calipers: (H, W) bool, pixels of crosses.
    """

    pixels: NDArray[np.uint8]
    sectors: list[NDArray[np.bool_]]
    text: NDArray[np.bool_]
    calipers: NDArray[np.bool_]


def make_screen(kind: str, view: Generator) -> Screen:
    """A screen of 480 to 720 by 640 to 960 pixels, its sides and contents drawn at random.

    Args:
        kind: one of :data:`KINDS`.
        view: the random numbers.
    """
    height = int(view.integers(480, 721))
    shape = (height, int(height * view.uniform(1.25, 1.4)))
    sectors = _sectors(kind, shape, view)
    gray = np.zeros(shape, np.float32)
    for sector in sectors:
        gray[sector] = _tissue(shape, sector, view)[sector]
    picture = Image.fromarray(np.repeat((gray * 255).astype(np.uint8)[..., None], 3, 2))
    if kind != "cropped":
        _draw_beside(picture, np.logical_or.reduce(sectors), view)
    text, calipers = (Image.new("L", picture.size) for _ in range(2))
    _write(text, sectors, view, beside=kind != "cropped")
    _draw_calipers(calipers, sectors[0], view)
    masks = [np.asarray(layer) > 127 for layer in (text, calipers)]
    pixels = np.asarray(picture).copy()
    for mask, color in zip(masks, ((235, 235, 235), (250, 250, 250)), strict=True):
        pixels[mask] = color
    return Screen(pixels, sectors, *masks)


def _sectors(kind: str, shape: tuple[int, int], view: Generator) -> list[NDArray[np.bool_]]:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    top, bottom = (int(part * shape[0]) for part in (view.uniform(0.1, 0.16), view.uniform(0.78, 0.88)))
    middle = shape[1] / 2
    if kind == "cropped":
        return [np.ones(shape, bool)]
    if kind == "linear":
        half = view.uniform(0.2, 0.32) * shape[1]
        return [(rows >= top) & (rows < bottom) & (abs(columns - middle) <= half)]
    if kind in ("panels", "touching"):
        half, gap = int(view.uniform(0.2, 0.3) * shape[1]), int(view.integers(8, 20)) if kind == "panels" else 0
        first = int(middle) - gap // 2 - half
        starts = (first, first + half + gap)
        return [(rows >= top) & (rows < bottom) & (columns >= s) & (columns < s + half) for s in starts]
    inner = view.uniform(0.25, 0.4) if kind == "convex" else 0.02
    depth = bottom - top
    distance = np.hypot(rows - top + inner * depth * np.cos(0.6), columns - middle)
    angle = np.abs(np.arctan2(columns - middle, rows - top + inner * depth * np.cos(0.6)))
    return [(distance >= inner * depth) & (distance <= depth * (0.98 + inner * np.cos(0.6))) & (angle <= 0.6)]


def _tissue(shape: tuple[int, int], sector: NDArray[np.bool_], view: Generator) -> NDArray[np.float32]:
    """Speckle (Rayleigh, log compressed) that darkens with depth, a skin line, a cyst and a bright layer; in [0, 1]."""
    waves = gaussian_filter(view.standard_normal((2, *shape), dtype=np.float32), (0, 1.0, 1.8))
    level = np.log10(np.maximum((waves**2).sum(0) / (waves**2).sum(0).mean(), 1e-3))
    place = np.argwhere(sector)
    (top, left), (bottom, right) = place.min(0), place.max(0)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    depth = (rows - top) / (bottom - top)
    gray = view.uniform(0.35, 0.5) + 0.14 * level - view.uniform(0.1, 0.25) * depth
    gray += 0.15 * np.exp(-(((depth - view.uniform(0.3, 0.6)) / 0.02) ** 2)) + 0.2 * (depth < 0.02)
    center = (top + 0.5 * (bottom - top), left + view.uniform(0.45, 0.55) * (right - left))
    radius = view.uniform(0.08, 0.2) * (bottom - top)
    gray[np.hypot(rows - center[0], columns - center[1]) < radius] -= 0.5
    return np.asarray(np.clip(gray, 0.0, 1.0), np.float32)


def _draw_beside(picture: Image.Image, sector: NDArray[np.bool_], view: Generator) -> None:
    """A gray bar, a color bar, a depth scale and an ECG, where there is room beside the sector."""
    draw, (width, height) = ImageDraw.Draw(picture), picture.size
    for step in range(120):
        draw.line([(width - 24, 60 + step), (width - 12, 60 + step)], fill=(255 - 2 * step,) * 3)
        draw.line([(12, 90 + step), (22, 90 + step)], fill=(255 - 2 * step, 2 * step, abs(120 - 2 * step)))
    rows = np.flatnonzero(sector.any(1))
    for tick in np.linspace(rows[0], rows[-1], 9).astype(int).tolist():
        draw.line([(width - 44, tick), (width - 36, tick)], fill=(200, 200, 200))
    beats = np.arange(0, width, 4)
    pulse = np.exp(-(((beats % 90) - 45) ** 2) / 20) * 20
    if view.random() < 0.7 and rows[-1] < 0.9 * height - 8:
        draw.line([(int(x), int(0.95 * height - y)) for x, y in zip(beats, pulse, strict=True)], fill=(60, 220, 90))


def _write(layer: Image.Image, sectors: list[NDArray[np.bool_]], view: Generator, *, beside: bool) -> None:
    """Lines of text beside the sectors, and one on the first of them."""
    draw, font = ImageDraw.Draw(layer), ImageFont.load_default(size=int(view.integers(14, 20)))
    if beside:
        draw.text((6, 4), "GENERAL HOSPITAL  DOE^JANE  1970-01-01", fill=255, font=font)
        for line in range(3):
            draw.text((6, layer.height - 70 + 20 * line), str(view.choice(WORDS)), fill=255, font=font)
    place = np.argwhere(sectors[0])
    row, column = (place.min(0) + (0.72, 0.4) * (place.max(0) - place.min(0))).astype(int).tolist()
    draw.text((column, row), " ".join(view.choice(WORDS[6:10], 2)), fill=255, font=font)


def _draw_calipers(layer: Image.Image, sector: NDArray[np.bool_], view: Generator) -> None:
    draw, place = ImageDraw.Draw(layer), np.argwhere(sector)
    for part in (0.4, 0.6):
        row, column = (place.min(0) + (0.5, part) * (place.max(0) - place.min(0))).astype(int).tolist()
        draw.line([(column - 6, row), (column + 6, row)], fill=255)
        draw.line([(column, row - 6), (column, row + 6)], fill=255)
