# SPDX-License-Identifier: Apache-2.0
"""The images that the server serves in tests."""

from pathlib import Path

import nibabel
import nrrd
import numpy as np
from PIL import Image

from tests.monai_label.client import LPS, write_image


def ellipse(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Speckle with a dark ellipse off the middle, (H, W) uint8, and its mask of zeros and ones."""
    rng = np.random.default_rng(seed)
    row, column = rng.uniform(0.35, 0.45) * height, rng.uniform(0.55, 0.65) * width
    y, x = np.mgrid[:height, :width]
    mask = ((y - row) / (height / 5)) ** 2 + ((x - column) / (width / 5)) ** 2 <= 1
    return np.clip(rng.normal(90, 25, mask.shape) - 70 * mask, 0, 255).astype(np.uint8), mask.astype(np.uint8)


COS, SIN = np.cos(0.5), np.sin(0.5)
OBLIQUE = LPS @ np.array([[0.2 * COS, -0.3 * SIN, 0, 5], [0.2 * SIN, 0.3 * COS, 0, -7], [0, 0, 1, 3], [0, 0, 0, 1]])
"""Indices to mm: pixels of 0.2 mm x 0.3 mm, turned by half a radian, away from the origin."""


def write_studies(folder: Path) -> None:
    """One image of each kind that a study can be, 70 rows and 104 columns, and ``many_*`` of several sizes."""
    gray, _ = ellipse(0, 70, 104)
    color = np.stack([gray, gray // 2, 255 - gray], -1)
    for name in ("gray", "breast1"):  # breast1 is docs/monai_label.md's
        write_image(folder / f"{name}.png", gray)
    write_image(folder / "color.png", color)
    Image.fromarray(gray).save(folder / "photo.jpg", quality=95)
    nibabel.save(nibabel.Nifti1Image(gray.T[..., None].astype(np.float32), OBLIQUE), folder / "volume.nii.gz")
    nibabel.save(nibabel.Nifti1Image(gray.T, np.diag([0.2, 0.3, 1, 1])), folder / "plane.nii.gz")
    vectors = color.swapaxes(0, 1)[:, :, None, None]  # what MONAI Label makes of a color DICOM
    nibabel.save(nibabel.Nifti1Image(vectors, OBLIQUE), folder / "vectors.nii.gz")
    axes = {"space": "left-posterior-superior", "space directions": np.diag([0.2, 0.3, 1]), "space origin": [1, 2, 3]}
    nrrd.write(str(folder / "nearly.nrrd"), gray.T[..., None], axes)
    for i in range(20):
        image, _ = ellipse(10 + i, 60 + 7 * (i % 5), 90 + 11 * (i % 3))
        if i % 2:
            write_image(folder / f"many_{i}.nii.gz", image, np.diag([0.1, 0.1, 1, 1]))
        else:
            write_image(folder / f"many_{i}.png", image)
