# SPDX-License-Identifier: Apache-2.0
import io
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from bundle.sinks import png
from bundle.sinks.png import encode_png


@pytest.mark.parametrize("deflate", [zlib.compress, png.deflate], ids=["zlib", "isal"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 8), (1, 300), (300, 1), (4, 6, 3)])
def test_png_files_hold_the_pixels(
    shape: tuple[int, ...], deflate: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(png, "deflate", deflate)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with Image.open(io.BytesIO(encode_png(pixels))) as read:
        read.verify()
    with Image.open(io.BytesIO(encode_png(pixels))) as read:
        assert read.mode == ("RGB" if len(shape) == 3 else "L")
        np.testing.assert_array_equal(np.asarray(read), pixels)
    turned = np.swapaxes(pixels, 0, 1)  # not contiguous, as masks come
    with Image.open(io.BytesIO(encode_png(turned))) as read:
        np.testing.assert_array_equal(np.asarray(read), turned)
