# SPDX-License-Identifier: Apache-2.0
"""The anatomy: breast with or without a lesion, a fetal-like head, a limb with nerve and vessel.

Each organ is a function of the probe's grid, of ``body`` (the patient's random numbers: the same numbers for each of
the patient's images) and of ``view`` (this image's own). Echoes are in dB over gland or muscle; lengths are in imaged
depths.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from scipy.special import expit

from bundle.data.phantom.scan import Field, Grid, Tissue


def breast(grid: Grid, body: Generator, view: Generator, *, variant: str) -> Tissue:
    """Skin, fat, gland and muscle, fat lobules, shadows; ``benign`` and ``malignant`` have a lesion (value 255)."""
    near = grid.moved(view, angle=0.14, shift=0.05, zoom=0.08)
    tissue = _layers(grid, near, body, fat=(0.12, 0.26), bottom=(0.76, 0.96))
    for _ in range(body.integers(2, 5)):
        _lobule(tissue, near, body)
    for _ in range(body.binomial(2, {"normal": 0.55, "benign": 0.4, "malignant": 0.15}[variant])):
        _shadowing_ligament(tissue, near, body)
    if variant != "normal":
        _lesion(tissue, near, body, malignant=variant == "malignant")
    _poor_contact(tissue, grid, view)
    return tissue


def head(grid: Grid, body: Generator, view: Generator, *, variant: str) -> Tissue:
    """A skull that is bright where the beam meets it squarely, brain inside (value 255), uterus and fluid outside."""
    del variant
    near = grid.moved(view, angle=0.4, shift=0.05, zoom=0.1)
    tissue = _layers(grid, near, body, fat=(0.06, 0.14), bottom=(0.9, 1.2))
    fluid = expit((_waves(near, body, wavelength=0.7) + body.uniform(-1.4, -0.2)) / 0.15)
    tissue.paint(fluid * expit((grid.depth - 0.16) / 0.02), -24.0, -8.0)
    for _ in range(body.integers(0, 3)):
        _bright_arc(tissue, near, body)
    length = body.uniform(0.29, 0.4)
    axes = (length, length * body.uniform(0.7, 0.85))
    center = (body.uniform(-0.25, 0.25) * grid.half_width, body.uniform(0.5, 0.58))
    angle = body.uniform(-0.6, 0.6)
    rho, phi = _polar(near, center=center, axes=axes, angle=angle)
    level = rho - _outline(phi, body, roughness=0.015)
    tissue.paint(expit(-level / 0.02), -13.0 + 2.5 * _waves(near, body, wavelength=0.15))
    _brain(tissue, rho, phi, body)
    # A specular wall answers by the angle between beam and wall: strong above and below, weak at the sides.
    facing = np.abs(np.sin(phi + angle)) ** np.float32(body.uniform(0.6, 1.6))
    gaps = expit((_waves(near, view, wavelength=0.35) + 1.2) / 0.2)
    wall = np.exp(-((level / np.float32(body.uniform(0.06, 0.1))) ** 2))
    tissue.paint(wall * gaps * (0.15 + 0.85 * facing), body.uniform(12.0, 17.0), body.uniform(20.0, 90.0))
    tissue.levels[255] = level - np.float32(0.03)
    _poor_contact(tissue, grid, view)
    return tissue


def limb(grid: Grid, body: Generator, view: Generator, *, variant: str) -> Tissue:
    """Muscle with fascia, tendon and bone; a honeycombed nerve (value 1) and a vessel (value 2).

    The variants ``no nerve`` and ``no vessel`` lack one of them; now and then the probe misses one as well.
    """
    near = grid.moved(view, angle=0.2, shift=0.05, zoom=0.1)
    tissue = _layers(grid, near, body, fat=(0.06, 0.18), bottom=(0.8, 1.1))
    fibers = np.sin(
        body.uniform(60, 110) * (near.z + body.uniform(-0.4, 0.4) * near.x + 0.02 * _waves(near, body, wavelength=0.5))
    )
    tissue.echo += np.where(tissue.echo > -6, 2.5, 1.0).astype(np.float32) * fibers - 4
    for _ in range(body.integers(1, 3)):
        _bright_arc(tissue, near, body)
    side = body.choice([-1.0, 1.0])
    places = [
        (place * side * grid.half_width, body.uniform(0.34, 0.66)) for place in body.uniform(0.34, 0.52, 2) * (-1, 1)
    ]
    missed = view.random(2) < 0.07
    _oval(tissue, near, body)
    for_vessel, for_nerve = body.spawn(2)  # so that a view without the one does not change the other
    if variant != "no vessel" and not missed[1]:
        _vessel(tissue, near, for_vessel, center=places[1], pulse=view.uniform(0.88, 1.1))
    if variant == "no nerve" or missed[0]:
        _tendon(tissue, near, for_nerve, center=places[0])
    else:
        _nerve(tissue, near, for_nerve, center=places[0])
    _poor_contact(tissue, grid, view)
    return tissue


def _waves(grid: Grid, rng: Generator, *, wavelength: float, count: int = 9) -> Field:
    """A smooth random field with mean 0 and variance 1: a sum of plane waves."""
    total: Field = np.zeros_like(grid.x)
    for angle, phase, stretch in rng.uniform((0, 0, 0.7), (math.pi, 2 * math.pi, 1.6), (count, 3)):
        k = 2 * math.pi / (wavelength * stretch)
        total += np.cos(
            np.float32(k * math.cos(angle)) * grid.x + np.float32(k * math.sin(angle)) * grid.z + np.float32(phase)
        )
    total *= np.float32(math.sqrt(2 / count))
    return total


def _polar(grid: Grid, *, center: tuple[float, float], axes: tuple[float, float], angle: float) -> tuple[Field, Field]:
    """Polar coordinates in which the ellipse is the unit circle; the angle is 0 along the first axis."""
    x, z = grid.x - np.float32(center[0]), grid.z - np.float32(center[1])
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    u, v = (cos * x + sin * z) / np.float32(axes[0]), (cos * z - sin * x) / np.float32(axes[1])
    return np.hypot(u, v), np.arctan2(v, u)


def _outline(phi: Field, rng: Generator, *, roughness: float) -> Field:
    """Radius over angle of a closed curve around the unit circle: low harmonics of random phase."""
    radius = np.ones_like(phi)
    for order, phase in enumerate(rng.uniform(0, 2 * math.pi, 4), start=2):
        radius += np.float32(roughness * 2 / order) * np.cos(order * phi + np.float32(phase))
    return radius


def _layers(
    grid: Grid, near: Grid, body: Generator, *, fat: tuple[float, float], bottom: tuple[float, float]
) -> Tissue:
    """Skin, subcutaneous fat with septa, the organ's own tissue, and a darker, striped layer below."""
    tissue = Tissue(echo=body.uniform(2, 3.5) * _waves(near, body, wavelength=0.22), attenuation=np.zeros_like(grid.x))
    septa = np.exp(-((_waves(near, body, wavelength=0.2) / np.float32(0.12)) ** 2))
    edge = grid.depth - np.float32(body.uniform(*fat)) - np.float32(0.02) * _waves(near, body, wavelength=0.45)
    tissue.paint(expit(-edge / 0.01), body.uniform(-11, -7) + 7 * septa)
    deep = near.z - np.float32(body.uniform(*bottom)) - np.float32(0.02) * _waves(near, body, wavelength=0.6)
    tissue.paint(expit(deep / 0.01), -8 + 3 * np.sin(np.float32(body.uniform(70, 120)) * deep))
    tissue.paint(np.exp(-((deep / np.float32(0.012)) ** 2)), 4.0)
    tissue.paint(expit((np.float32(body.uniform(0.02, 0.045)) - grid.depth) / 0.004), body.uniform(3, 9))
    return tissue


def _lobule(tissue: Tissue, grid: Grid, body: Generator) -> None:
    """A flat, moderately dark fat lobule with a bright capsule: looks like a lesion at first sight."""
    center = (body.uniform(-0.9, 0.9) * grid.half_width, body.uniform(0.25, 0.85))
    height = body.uniform(0.03, 0.06)
    rho, phi = _polar(grid, center=center, axes=(height * body.uniform(2.3, 4), height), angle=body.uniform(-0.3, 0.3))
    level = rho - _outline(phi, body, roughness=0.05)
    tissue.paint(expit(-level / 0.05), body.uniform(-7, -4))
    tissue.paint(np.exp(-((level / np.float32(0.1)) ** 2)), body.uniform(0, 4))


def _shadowing_ligament(tissue: Tissue, grid: Grid, body: Generator) -> None:
    """A dark band below a small bright ligament: a shadow without a mass."""
    center = (body.uniform(-0.6, 0.6) * grid.half_width, body.uniform(0.2, 0.4))
    rho, _ = _polar(grid, center=center, axes=(body.uniform(0.05, 0.16), 0.02), angle=body.uniform(-0.4, 0.4))
    tissue.paint(np.exp(-(rho**2)), 5.0, body.uniform(200, 500))


def _poor_contact(tissue: Tissue, grid: Grid, view: Generator) -> None:
    """Beams that are weak from the skin on, in some images."""
    beams = grid.x[-1] / np.abs(grid.x[-1]).max()
    for _ in range(view.integers(0, 3)):
        band = np.exp(-(((beams - view.uniform(-1.1, 1.1)) / view.uniform(0.05, 0.15)) ** 2)).astype(np.float32)
        tissue.attenuation += np.where(grid.depth < 0.05, np.float32(view.uniform(50, 200)), np.float32(0)) * band


def _lesion(tissue: Tissue, grid: Grid, body: Generator, *, malignant: bool) -> None:
    """A mass, each of its signs drawn for itself, so that single signs overlap between the classes."""

    def sign(benign: float, cancer: float, spread: float) -> float:
        return float((cancer if malignant else benign) + spread * body.standard_normal())

    size, tall = body.uniform(0.135, 0.21), math.exp(sign(-0.4, 0.16, 0.15) / 2)
    center = (body.uniform(-0.5, 0.5) * grid.half_width, body.uniform(0.36, 0.6))
    rho, phi = _polar(grid, center=center, axes=(size / tall, size * tall), angle=body.uniform(-0.25, 0.25))
    radius = _outline(phi, body, roughness=max(0.02, sign(0.04, 0.1, 0.02)))
    spike = max(0.0, sign(0.02, 0.32, 0.07))
    for place in np.linspace(0, 2 * math.pi, int(body.integers(7, 14)), endpoint=False) + body.uniform(0, 6.28):
        sharp, long = body.uniform(20, 70), spike * body.uniform(0.3, 1.4)
        radius += np.float32(long) * np.exp(
            np.float32(sharp) * (np.cos(phi - np.float32(place + body.uniform(-0.2, 0.2))) - 1)
        )
    level = rho / radius - 1
    blur = max(0.02, sign(0.03, 0.08, 0.02))
    inner = sign(-14.0, -14.5, 2.5) + max(0.5, sign(1.2, 2.5, 0.6)) * _waves(grid, body, wavelength=0.1)
    rim = np.exp(-(((level - np.float32(blur)) / np.float32(blur * 2)) ** 2))
    tissue.paint(rim * 0.7, sign(3.0, 4.0, 1.5))
    tissue.paint(expit(-level / np.float32(blur)), inner, sign(-14.0, 34.0, 16.0) * 0.17 / size)
    if body.random() < (0.5 if malignant else 0.15):
        _calcifications(tissue, grid, body, center=center, reach=size * 0.6)
    tissue.levels[255] = level


def _calcifications(tissue: Tissue, grid: Grid, body: Generator, *, center: tuple[float, float], reach: float) -> None:
    for _ in range(body.integers(3, 7)):
        place = (center[0] + body.uniform(-reach, reach), center[1] + body.uniform(-reach, reach))
        rho, _ = _polar(grid, center=place, axes=(0.009, 0.007), angle=0.0)
        tissue.paint(np.exp(-(rho**2)), 8.0)


def _brain(tissue: Tissue, rho: Field, phi: Field, body: Generator) -> None:
    """Midline echo, two dark ventricles, bright choroid."""
    u, v = rho * np.cos(phi), rho * np.sin(phi)
    tissue.paint(np.exp(-((v / np.float32(0.03)) ** 2)) * expit((0.75 - np.abs(u)) / 0.03), body.uniform(-4, 5))
    for side in (-1, 1):
        place = (body.uniform(0.1, 0.35) * body.choice([-1, 1]), side * body.uniform(0.25, 0.4))
        far = np.hypot((u - np.float32(place[0])) / np.float32(0.3), (v - np.float32(place[1])) / np.float32(0.11))
        tissue.paint(expit((1 - far) / 0.1), body.uniform(-22, -12))
        tissue.paint(expit((0.5 - far) / 0.1), body.uniform(-4, 3))


def _bright_arc(tissue: Tissue, grid: Grid, body: Generator) -> None:
    """A piece of a bright, curved surface: fascia, uterine wall or bone, with a shadow below when it is strong."""
    center = (body.uniform(-1, 1) * grid.half_width, body.uniform(0.3, 1.0))
    rho, phi = _polar(
        grid, center=center, axes=(body.uniform(0.2, 0.6), body.uniform(0.08, 0.3)), angle=body.uniform(-0.5, 0.5)
    )
    part = expit((np.cos(phi + np.float32(1.57 + body.uniform(-0.5, 0.5))) - np.float32(body.uniform(0.3, 0.8))) / 0.05)
    strength = body.uniform(3, 11)
    tissue.paint(part * np.exp(-(((rho - 1) / np.float32(0.06)) ** 2)), strength, 25 * max(0.0, strength - 6))


def _oval(tissue: Tissue, grid: Grid, body: Generator) -> None:
    """A muscle in cross-section: dark and round, yet without a vessel's wall."""
    center = (body.uniform(-0.9, 0.9) * grid.half_width, body.uniform(0.3, 0.8))
    size = body.uniform(0.07, 0.14)
    rho, phi = _polar(grid, center=center, axes=(size * body.uniform(1, 1.8), size), angle=body.uniform(-0.5, 0.5))
    level = rho - _outline(phi, body, roughness=0.06)
    tissue.paint(expit(-level / 0.12), body.uniform(-11, -8) + 2.5 * _waves(grid, body, wavelength=0.06))


def _nerve(tissue: Tissue, grid: Grid, body: Generator, *, center: tuple[float, float]) -> None:
    """Value 1: dark fascicles in bright connective tissue, a honeycomb, within a bright sheath."""
    size, angle = body.uniform(0.125, 0.165), body.uniform(-0.5, 0.5)
    rho, phi = _polar(grid, center=center, axes=(size * body.uniform(1.3, 1.8), size), angle=angle)
    level = rho - _outline(phi, body, roughness=0.04)
    k, turn = 2 * math.pi / body.uniform(0.05, 0.07), body.uniform(0, 1)
    comb = np.zeros_like(rho)
    for third in range(3):
        direction = turn + third * 2 * math.pi / 3
        comb += np.cos(np.float32(k * math.cos(direction)) * grid.x + np.float32(k * math.sin(direction)) * grid.z)
    tissue.paint(expit(-level / 0.05), body.uniform(6, 10) - 10 * expit((comb - 0.4) / 0.3))
    tissue.paint(np.exp(-(((level + 0.03) / np.float32(0.08)) ** 2)), body.uniform(6, 10))
    tissue.levels[1] = level - np.float32(0.04)


def _tendon(tissue: Tissue, grid: Grid, body: Generator, *, center: tuple[float, float]) -> None:
    """In a nerve's place: as bright and oval, but of fine parallel lines."""
    size, angle = body.uniform(0.08, 0.13), body.uniform(-0.4, 0.4)
    rho, phi = _polar(grid, center=center, axes=(size * body.uniform(1.3, 2), size), angle=angle)
    level = rho - _outline(phi, body, roughness=0.04)
    lines = np.sin(
        np.float32(body.uniform(150, 220))
        * (np.float32(math.cos(angle)) * grid.z - np.float32(math.sin(angle)) * grid.x)
    )
    tissue.paint(expit(-level / 0.05), body.uniform(0, 4) + 5 * lines)


def _vessel(tissue: Tissue, grid: Grid, body: Generator, *, center: tuple[float, float], pulse: float) -> None:
    """Value 2: free of echoes but for clutter, with a bright wall and enhancement below."""
    size = body.uniform(0.105, 0.15) * pulse
    rho, phi = _polar(grid, center=center, axes=(size * body.uniform(0.95, 1.3), size), angle=body.uniform(-0.5, 0.5))
    level = rho - _outline(phi, body, roughness=0.03)
    tissue.paint(np.exp(-(((level - 0.08) / np.float32(0.1)) ** 2)), body.uniform(1, 7))
    tissue.paint(expit(-level / 0.05), body.uniform(-28, -18), body.uniform(-26, -6))
    tissue.levels[2] = level
