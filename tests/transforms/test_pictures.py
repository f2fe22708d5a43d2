# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundle.transforms import LoadUltrasoundd
from bundle.transforms.pictures import KeepPictured


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3)])
def test_the_picture_is_the_file_byte_for_byte(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    item = KeepPictured("image")(LoadUltrasoundd("image")({"image": str(tmp_path / "a.png")}))
    assert np.array_equal(item["picture"], pixels.reshape(7, 5, -1))
    assert item["image"].shape == (3, 7, 5)
