# SPDX-License-Identifier: Apache-2.0
"""From tissue to a grey picture: probe geometry, speckle, attenuation, log compression, scan conversion.

Fields are sampled along the beams, (samples, beams): axis 0 runs away from the probe, so that shadows and enhancement
are running sums of the attenuation along axis 0. Lengths are in units of the imaged depth.

Reference: Burckhardt, "Speckle in ultrasound B-mode scans", IEEE Trans. Sonics Ultrason. 25(1), 1978.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d, map_coordinates

Field = NDArray[np.float32]

BEAMS = 200
"""Beams of a curved probe; a linear one has one per column."""


@dataclass(frozen=True)
class Grid:
    """Where each sample lies: ``x`` sideways from the middle, ``z`` down, ``depth`` along the beam from the probe."""

    x: Field
    z: Field
    depth: Field
    half_width: float

    def moved(self, view: Generator, *, angle: float, shift: float, zoom: float) -> Grid:
        """The same anatomy seen by a probe that is turned (radians), shifted and pressed a little differently."""
        turn, right, down, scale = view.uniform(-1, 1, 4) * (angle, shift, shift, zoom)
        x, z = self.x + np.float32(right), self.z - np.float32(0.5 - down)
        cos, sin = np.float32(math.cos(turn) * math.exp(scale)), np.float32(math.sin(turn) * math.exp(scale))
        return Grid(
            x=cos * x + sin * z, z=cos * z - sin * x + np.float32(0.5), depth=self.depth, half_width=self.half_width
        )


@dataclass
class Tissue:
    """What the beams meet: ``echo`` in dB, extra ``attenuation`` in dB per imaged depth, and the true structures.

    A structure's level is negative inside of it and positive outside.
    """

    echo: Field
    attenuation: Field
    levels: dict[int, Field] = field(default_factory=dict)

    def paint(self, weight: Field, echo: Field | float, attenuation: float = 0.0) -> None:
        """Replace the echo where ``weight``, in [0, 1], is 1, and add to the attenuation there."""
        self.echo += weight * (echo - self.echo)
        if attenuation:
            self.attenuation += weight * np.float32(attenuation)


@dataclass(frozen=True)
class Probe:
    """A probe and the scanner's settings, the same for all images of one patient."""

    height: int
    width: int
    spacing: float
    """mm per pixel, the same both ways."""
    radius: float
    """Of a curved probe, in imaged depths; 0 for a linear one."""
    half_angle: float
    psf: tuple[float, float]
    """Standard deviation of the point spread, in samples and beams."""
    dynamic_range: float
    gain: float
    gamma: float
    smoothing: float
    tgc: tuple[float, float, float]
    """What the time gain compensation leaves over, in dB: slope, amplitude and phase of a wave."""

    @staticmethod
    def draw(body: Generator, *, sector: bool, depth_mm: tuple[float, float]) -> Probe:
        """A probe with settings drawn from ``body``, for a depth in the range ``depth_mm``."""
        short = int(body.integers(200, 257))
        long = short + int(body.integers(16, 65))
        height, width = (short, long) if body.random() < 0.75 else (long, short)
        return Probe(
            height=height,
            width=width,
            spacing=round(float(body.uniform(*depth_mm)) / height, 4),
            radius=float(body.uniform(0.35, 0.8)) if sector else 0.0,
            half_angle=float(body.uniform(0.5, 0.68)),
            psf=(float(body.uniform(0.7, 1.2)), float(body.uniform(1.2, 2.4))),
            dynamic_range=float(body.uniform(46, 64)),
            gain=float(body.uniform(-7, 5)),
            gamma=float(body.uniform(0.8, 1.3)),
            smoothing=float(body.choice([0.5, 0.8, 1.1])),
            tgc=(float(body.uniform(-9, 7)), float(body.uniform(0, 2.5)), float(body.uniform(0, 6.28))),
        )

    @property
    def _lift(self) -> float:
        """How much higher the ends of a curved probe lie than its middle."""
        return self.radius * (1 - math.cos(self.half_angle)) if self.radius else 0.0

    def grid(self) -> Grid:
        """The places of all samples of all beams."""
        half_width = self.width / (2 * self.height) * (1 + self._lift)
        if not self.radius:
            depth, x = np.meshgrid(
                _centers(self.height, unit=1 / self.height),
                _centers(self.width, unit=1 / self.height) - np.float32(self.width / (2 * self.height)),
                indexing="ij",
            )
            return Grid(x=x, z=depth, depth=depth, half_width=half_width)
        samples = round(self.height / (1 + self._lift))
        depth, angle = np.meshgrid(
            (np.arange(samples, dtype=np.float32) + 0.5) / samples,
            np.linspace(-self.half_angle, self.half_angle, BEAMS, dtype=np.float32),
            indexing="ij",
        )
        r = depth + np.float32(self.radius)
        return Grid(
            x=r * np.sin(angle), z=r * np.cos(angle) - np.float32(self.radius), depth=depth, half_width=half_width
        )

    def scan(self, tissue: Tissue, view: Generator) -> tuple[Field, NDArray[np.uint8]]:
        """The grey picture in [0, 1] and the mask of structure values, both (height, width)."""
        grey = self._beams_to_grey(tissue, view)
        mask = np.zeros((self.height, self.width), dtype=np.uint8)
        if not self.radius:
            for value, level in tissue.levels.items():
                mask[level < 0] = value
            return grey, mask
        pixels, seen = self._pixels_in_beams(grey.shape)
        for value, level in tissue.levels.items():
            mask[seen & (map_coordinates(level, pixels, order=1, mode="nearest") < 0)] = value
        return np.where(seen, map_coordinates(grey, pixels, order=1, mode="nearest"), np.float32(0)), mask

    def _beams_to_grey(self, tissue: Tissue, view: Generator) -> Field:
        amplitude = np.power(np.float32(10), tissue.echo / np.float32(20))
        waves = view.standard_normal((2, *amplitude.shape), dtype=np.float32) * amplitude
        waves = gaussian_filter(waves, (0, *self.psf), truncate=3)
        power = np.float32(2 * math.pi * self.psf[0] * self.psf[1]) * (waves**2).sum(axis=0)
        samples = len(power)
        loss = gaussian_filter1d(np.cumsum(tissue.attenuation, axis=0) / np.float32(samples), 1.5, axis=1)
        depth = _centers(samples, unit=1 / samples)[:, None]
        floor = np.float32(10) ** (-4.2 + 1.6 * depth + view.uniform(-0.3, 0.3))
        decibel = 10 * np.log10(power * np.float32(10) ** (-loss / 10) + floor.astype(np.float32))
        slope, height, phase = self.tgc
        decibel += slope * (depth - 0.4) + height * np.sin(7 * depth + phase) + self.gain + view.uniform(-2, 2)
        grey = np.clip(0.56 + decibel / self.dynamic_range, 0, 1) ** self.gamma
        return (
            np.asarray(gaussian_filter(grey, self.smoothing), dtype=np.float32)
            if self.smoothing
            else grey.astype(np.float32)
        )

    def _pixels_in_beams(self, shape: tuple[int, ...]) -> tuple[Field, NDArray[np.bool_]]:
        """For every pixel its (sample, beam), shape (2, height, width), and whether a beam reaches it."""
        unit = (1 + self._lift) / self.height
        z, x = np.meshgrid(
            _centers(self.height, unit=unit) + np.float32(self.radius - self._lift),
            _centers(self.width, unit=unit) - np.float32(self.width / 2 * unit),
            indexing="ij",
        )
        depth, angle = np.hypot(x, z) - self.radius, np.arctan2(x, z)
        seen = (depth >= 0) & (depth <= 1) & (np.abs(angle) <= self.half_angle)
        sample = depth * shape[0] - 0.5
        beam = (angle / self.half_angle + 1) / 2 * (shape[1] - 1)
        return np.stack([sample, beam]).astype(np.float32), seen


def _centers(count: int, *, unit: float) -> Field:
    """The middles of ``count`` cells that are ``unit`` wide, from 0 on."""
    return np.asarray((np.arange(count) + 0.5) * unit, dtype=np.float32)
