# SPDX-License-Identifier: Apache-2.0
"""Small image files of every format, as tests of the loading make them."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from monai.data import MetaTensor
from PIL import Image

from bundle.transforms.loading import LoadUltrasoundd

# 3 rows, 5 columns, no symmetry: any swap or flip changes it
GREY = np.array([[0, 10, 20, 30, 40], [50, 60, 70, 80, 90], [100, 110, 120, 130, 255]], np.uint8)
RGB = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)


def load(path: Path, **item: Any) -> MetaTensor:
    return LoadUltrasoundd("image")({"image": str(path), **item})["image"]


def save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def save_nifti(path: Path, stored: np.ndarray, zooms: tuple[float, ...] = (), unit: str = "mm") -> Path:
    image = nibabel.Nifti1Image(stored, np.eye(4))
    if zooms:
        image.header.set_zooms(zooms)
        image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return path


def geometry(path: Path) -> tuple[np.ndarray, bool]:
    image = load(path)
    return image.meta["study_affine"].numpy(), image.meta["turned"]


def in_two_parts(path: Path, pixels: np.ndarray) -> Path:
    """A header (.mhd or .nhdr), the same for all images of a size and name, with the values (H, W) uint8 beside it."""
    height, width = pixels.shape
    if path.suffix == ".mhd":
        text = f"NDims = 2\nDimSize = {width} {height}\nElementType = MET_UCHAR\nElementDataFile = {path.stem}.raw\n"
    else:
        text = (
            f"NRRD0004\ntype: uchar\ndimension: 2\nsizes: {width} {height}\nencoding: raw\ndata file: {path.stem}.raw\n"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.with_suffix(".raw").write_bytes(pixels.astype(np.uint8).tobytes())
    return path
