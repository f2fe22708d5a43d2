# SPDX-License-Identifier: Apache-2.0
"""TIFF beyond what Pillow saves and reads."""

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile  # scikit-image needs it
from PIL import Image

from bundle.transforms.loading import to_unit
from bundle.transforms.readers import read_file
from tests.transforms.made_files import GREY

WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1


def tiff(path: Path, stored: np.ndarray, photometric: int) -> str:
    """Writes values (H, W) of any type, of bool as 1 bit, or (H, W, 3), uncompressed."""
    height, width = stored.shape[:2]
    samples = stored.shape[2] if stored.ndim == 3 else 1
    content = np.packbits(stored, axis=1).tobytes() if stored.dtype == bool else stored.tobytes()
    bits = 1 if stored.dtype == bool else 8 * stored.itemsize
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 0, 277: samples, 278: height}
    tags |= {279: len(content), 339: 3 if stored.dtype.kind == "f" else 1}
    start = 8 + 2 + 12 * len(tags) + 4
    file = b"II*\0" + struct.pack("<IH", 8, len(tags))
    for tag, value in tags.items():
        if tag == 258 and samples == 3:
            file += struct.pack("<HHII", tag, 3, 3, start)  # three bits a sample, before the values
        else:
            file += struct.pack("<HHII", tag, 4, 1, start + 6 if tag == 273 else value)
    path.write_bytes(file + bytes(4) + struct.pack("<3H", bits, bits, bits) + content)
    return str(path)


@pytest.mark.parametrize("kind", ["bool", "uint8", "uint16"])
def test_white_is_zero_is_turned(tmp_path: Path, kind: str) -> None:
    stored = GREY > 60 if kind == "bool" else GREY.astype(kind)
    turned = tiff(tmp_path / "w.tif", ~stored, WHITE_IS_ZERO)
    plain = tiff(tmp_path / "b.tif", stored, BLACK_IS_ZERO)
    for as_mask in (False, True):
        assert np.array_equal(read_file(turned, as_mask=as_mask).pixels, read_file(plain, as_mask=as_mask).pixels)


def test_white_is_zero_of_twelve_bits_keeps_its_contrast(tmp_path: Path) -> None:
    stored = GREY.astype(np.uint16) * 16
    raw = read_file(tiff(tmp_path / "w.tif", 4095 - stored, WHITE_IS_ZERO))
    assert np.array_equal(raw.pixels, stored)
    assert raw.notes == ("values of 12 bits, of which 0 is white, are turned",)


@pytest.mark.parametrize("as_mask", [False, True])
@pytest.mark.parametrize("kind", ["float32", "uint32", "float64"])
def test_white_is_zero_of_other_types_is_refused(tmp_path: Path, kind: str, as_mask: bool) -> None:
    with pytest.raises((OSError, ValueError), match=r"w\.tif: (TIFF of fractions must|must be a read)"):
        read_file(tiff(tmp_path / "w.tif", GREY.astype(kind), WHITE_IS_ZERO), as_mask=as_mask)


def test_types_of_black_is_zero_are_as_stored(tmp_path: Path) -> None:
    for kind in ("uint16", "int32", "float32"):
        path = tiff(tmp_path / "b.tif", GREY.astype(kind), BLACK_IS_ZERO)
        np.testing.assert_allclose(to_unit(read_file(path))[0].numpy(), GREY / np.float32(255), atol=1e-6)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_sixteen_bits_of_colors_are_read_in_full(tmp_path: Path, compression: str | None) -> None:
    values = np.stack([GREY.astype(np.uint16) * 16 + channel for channel in range(3)], -1)
    path = tiff(tmp_path / "a.tif", values, 2)
    if compression:
        tifffile.imwrite(path, values, compression=compression, photometric="rgb", planarconfig="contig")
    raw = read_file(path)
    assert np.array_equal(raw.pixels, values)
    assert raw.notes == ("of 16 bits a color the greatest value is shown as white",)
    with pytest.raises(ValueError, match=r"a\.tif: mask must have 8 bits or be grey, got 16 bits with colors"):
        read_file(path, as_mask=True)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_sixteen_bits_in_planes_are_refused(tmp_path: Path, compression: str | None) -> None:
    values, path = np.arange(60, dtype=np.uint16).reshape(3, 4, 5), str(tmp_path / "a.tif")
    tifffile.imwrite(path, values, compression=compression, photometric="rgb", planarconfig="separate")
    with pytest.raises(ValueError, match=r"a\.tif: TIFF of 16 bits must hold .* together, got planes"):
        read_file(path)


def test_damaged_compression_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8)).save(path, compression="tiff_lzw")
    content = bytearray(path.read_bytes())
    content[200:240] = bytes([255] * 40)
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"a\.tif: cannot be decoded: its compressed pixels are damaged or cut \(decoder"):
        read_file(str(path))
