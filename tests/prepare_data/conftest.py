# SPDX-License-Identifier: Apache-2.0
"""Folders of images with masks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.prepare_data.command import picture


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """USGRA with ten images, of which 0 and 9 are mirror images, and lists that put them apart."""
    folder = tmp_path / "root/segmentation/USGRA"
    for i in range(9):
        picture(folder / f"imgs/u{i}.png", seed=i)
    with Image.open(folder / "imgs/u0.png") as first:
        first.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "imgs/u9.png")
    (folder / "masks").mkdir()
    for i in range(10):
        Image.new("L", (80, 60)).save(folder / f"masks/u{i}.png")
    (folder / "config.yaml").write_text("0:background:0\n1:nerve:1\n2:vessel:2\n")
    (folder / "train.txt").write_text("".join(f"u{i}.png\n" for i in range(7)))
    (folder / "val.txt").write_text("u7.png\nu8.png\n")
    (folder / "test.txt").write_text("u9.png\n")
    return tmp_path / "root"


@pytest.fixture
def jpeg(tmp_path: Path) -> Path:
    """A set S of four images, with masks saved as JPEG."""
    folder = tmp_path / "root/segmentation/S"
    (folder / "masks").mkdir(parents=True)
    mask = np.zeros((60, 80), np.uint8)
    mask[20:41, 30:61] = 255
    for i in range(4):
        picture(folder / f"images/a{i}.png", seed=i)
        Image.fromarray(mask).save(folder / f"masks/a{i}.jpg", quality=70)
    return tmp_path / "root"
