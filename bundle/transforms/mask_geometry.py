# SPDX-License-Identifier: Apache-2.0
"""Masks on the pixels of their image, by what both files say of where they lie.

MONAI's ``Orientationd`` turns to named axes of the body, which rounds an oblique plane, and asks for a spatial array of
a file that tells a geometry; ``ResampleToMatchd`` would blur a contradiction over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from bundle.transforms.readers import Raw
from bundle.transforms.readers.raw import PLACE

DIRECTION = 1e-2
"""Most by which a direction cosine may differ."""

SIZE = 0.01
"""Most by which the size of a pixel may differ, as a share."""

STORED, TURNED = 1.0, 0.5
"""Most pixels between the first ones of image and mask, as stored and after a turn."""

SLACK = 1e-3  # pixels; headers hold float32


def same_proportions(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Whether one size (H, W) is the other one scaled, as far as whole pixels allow."""
    scale = max(shape) / max(other)
    return all(abs(a - b * scale) <= max(1.0, scale) for a, b in zip(shape, other, strict=True))


def scaled(mask: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Mask (H, W) of any type at another size, nearest neighbor by pixel centers."""
    rows, columns = (((np.arange(n) + 0.5) * m / n).astype(np.intp) for n, m in zip(shape, mask.shape, strict=True))
    picked: np.ndarray = mask[np.ix_(rows, columns)]
    return picked


def on_image(stored: np.ndarray, raw: Raw, path: str, image: Mapping[str, Any]) -> np.ndarray:
    """The values of a mask along the axes of its image; as they are where one of the files tells no geometry.

    Args:
        stored: (H, W), of ``raw``.
        raw: the mask's file.
        path: of the mask.
        image: meta of the image, of ``LoadUltrasoundd``: its ``geometry`` and ``study_affine``.

    Returns:
        (H, W), flipped and transposed; of another size where that of the mask is another.

    Raises:
        ValueError: when the mask lies elsewhere than the image, or its pixels have another size; it is named.
    """
    told = image.get("geometry", "")
    if not told or not raw.geometry:
        return stored
    target, affine, changed = np.asarray(image["study_affine"], float), raw.affine, False
    if directed := told == raw.geometry == PLACE:
        stored, affine, changed = _turned(stored, affine, target, where=_where(path, image))
    shape = tuple(int(n) for n in image["spatial_shape"])
    if stored.shape != shape and not same_proportions(stored.shape, shape):
        return stored  # its size is the fault
    affine = _in_units(_at_size(affine, stored.shape, shape), target)
    rounding = 0.0 if stored.shape == shape else 1 / min(*stored.shape, *shape)  # to whole pixels
    _check_sizes(affine, target, where=_where(path, image), most=SIZE + rounding)
    if directed and raw.affine[:3, 3].any() and target[:3, 3].any():  # an origin of 0 is mostly none
        _check_origin(affine, target, where=_where(path, image), most=TURNED if changed else STORED)
    return stored


def _where(path: str, image: Mapping[str, Any]) -> str:
    return f"{path}: mask must lie on its image {image['filename_or_obj']}"


def _sizes(affine: np.ndarray) -> np.ndarray:
    """Of a pixel along x and y."""
    sizes: np.ndarray = np.linalg.norm(affine[:3, :2], axis=0)
    return sizes


def _directions(affine: np.ndarray) -> np.ndarray:
    """Unit vectors of x and y, (3, 2)."""
    directions: np.ndarray = affine[:3, :2] / _sizes(affine)
    return directions


def _turns(stored: np.ndarray, affine: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """The mask along each choice of its axes, as stored first, and whether it was turned."""
    for swapped, *flips in product((False, True), repeat=3):
        pixels = stored.T if swapped else stored
        turned = affine[:, [1, 0, 2, 3]] if swapped else affine.copy()
        for axis in (axis for axis in (0, 1) if flips[axis]):
            turned[:, 3] += turned[:, axis] * (pixels.shape[1 - axis] - 1)
            turned[:, axis] *= -1
            pixels = np.flip(pixels, 1 - axis)
        yield pixels, turned, swapped or any(flips)


def _turned(
    stored: np.ndarray, affine: np.ndarray, target: np.ndarray, *, where: str
) -> tuple[np.ndarray, np.ndarray, bool]:
    """The choice of axes that run as those of the image."""
    wanted = _directions(target)
    for turn in _turns(stored, affine):
        if np.allclose(_directions(turn[1]), wanted, rtol=0, atol=DIRECTION):
            return turn
    expected, got = (
        " and ".join(f"[{' '.join(f'{value + 0.0:.2f}' for value in axis)}]" for axis in directions.round(2).T)
        for directions in (wanted, _directions(affine))
    )
    raise ValueError(f"{where}, expected axes along {expected}, got {got}; resample it to its image.")


def _at_size(affine: np.ndarray, shape: Sequence[int], other: Sequence[int]) -> np.ndarray:
    """The affine after a scaling from one size (H, W) to another, by pixel centers."""
    scales = np.array([shape[1] / other[1], shape[0] / other[0]])
    result: np.ndarray = affine.copy()
    result[:, 3] += affine[:, :2] @ ((scales - 1) / 2)
    result[:, :2] *= scales
    return result


def _in_units(affine: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The affine in the unit of the other: NIfTI has lengths in m, mm or microns, and writers drop the unit."""
    power = math.log(_sizes(target).mean() / _sizes(affine).mean(), 1000)
    if round(power) == 0 or abs(power - round(power)) > SIZE:
        return affine
    result: np.ndarray = np.diag([1000.0 ** round(power)] * 3 + [1.0]) @ affine
    return result


def _check_sizes(affine: np.ndarray, target: np.ndarray, *, where: str, most: float) -> None:
    sizes, wanted = _sizes(affine), _sizes(target)
    if not np.allclose(sizes, wanted, rtol=most, atol=0):
        expected, got = (f"{x:.4g} x {y:.4g}" for x, y in (wanted, sizes))
        raise ValueError(f"{where}, expected pixels of {expected} mm, got {got}; resample it to its image.")


def _check_origin(affine: np.ndarray, target: np.ndarray, *, where: str, most: float) -> None:
    """Compares places in the plane; of files that tell both."""
    away = np.linalg.pinv(target[:3, :2]) @ (affine[:3, 3] - target[:3, 3])
    if np.abs(away).max() > most + SLACK:
        expected, got = (f"[{' '.join(f'{value + 0.0:.4g}' for value in a[:3, 3])}]" for a in (target, affine))
        raise ValueError(f"{where}, expected the first pixel at {expected} mm, got {got}; resample it to its image.")
