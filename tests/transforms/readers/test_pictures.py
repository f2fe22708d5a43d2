# SPDX-License-Identifier: Apache-2.0
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundle.transforms.loading import LoadMaskd, LoadUltrasoundd, to_unit
from bundle.transforms.readers import read_file

GREY = np.array([[0, 10, 20, 30, 40], [50, 60, 70, 80, 90], [100, 110, 120, 130, 255]], np.uint8)
INDICES = np.array([[0, 0, 1, 1, 2], [0, 1, 1, 2, 2], [0, 0, 0, 0, 2]], np.uint8)
COLORS = [0, 0, 0, 255, 0, 0, 0, 255, 0]


def chunks(content: bytes) -> list[tuple[int, bytes]]:
    """Start and kind of each chunk of a PNG."""
    found, at = [], 8
    while at < len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        found.append((at, kind))
        at += 12 + length
    return found


def png(image: Image.Image | None = None) -> bytes:
    buffer = io.BytesIO()
    (image or Image.fromarray(GREY)).save(buffer, "PNG")
    return buffer.getvalue()


def palette_image(colors: list[int] = COLORS) -> Image.Image:
    image = Image.fromarray(INDICES, "P")
    image.putpalette(colors)
    return image


@pytest.mark.parametrize("as_mask", [False, True])
@pytest.mark.parametrize("kind", ["IHDR", "PLTE", "IDAT", "IEND"])
def test_every_checksum_that_the_picture_needs_is_verified(tmp_path: Path, kind: str, as_mask: bool) -> None:
    content = bytearray(png(palette_image()))
    start = next(start for start, name in chunks(bytes(content)) if name.decode() == kind)
    length = struct.unpack_from(">I", content, start)[0]
    content[start + 8 + length] ^= 1  # of the checksum
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(OSError, match=rf"a\.png: cannot be decoded: the PNG is damaged, chunk {kind} must have"):
        read_file(str(tmp_path / "a.png"), as_mask=as_mask)


@pytest.mark.parametrize(("left", "message"), [(12, "end chunk IEND"), (6, "end chunk"), (20, "chunk IDAT must")])
def test_a_png_cut_behind_its_pixels_is_refused(tmp_path: Path, left: int, message: str) -> None:
    (tmp_path / "a.png").write_bytes(png()[:-left])
    with pytest.raises(OSError, match=rf"a\.png: cannot be decoded: the PNG is cut, .*{message}"):
        read_file(str(tmp_path / "a.png"))


def marked(kind: bytes) -> bytes:
    """A PNG with an ancillary chunk of a wrong checksum before its pixels."""
    content = png()
    at = next(start for start, name in chunks(content) if name == b"IDAT")
    return content[:at] + struct.pack(">I4s9sI", 9, kind, bytes(9), 1) + content[at:]


@pytest.mark.parametrize("as_mask", [False, True])
def test_a_damaged_chunk_that_the_picture_does_not_need_is_left_out(tmp_path: Path, as_mask: bool) -> None:
    (tmp_path / "a.png").write_bytes(marked(b"pHYs"))
    raw = read_file(str(tmp_path / "a.png"), as_mask=as_mask)
    assert np.array_equal(raw.pixels, GREY)
    assert raw.notes == ("chunk pHYs of the PNG is damaged (checksum) and left out",)
    for kind in ("tRNS", "eXIf"):
        (tmp_path / "a.png").write_bytes(marked(kind.encode()))
        with pytest.raises(OSError, match=rf"a\.png: .*the PNG is damaged, chunk {kind} must have checksum"):
            read_file(str(tmp_path / "a.png"), as_mask=as_mask)


def of_rows(rows: bytes, *, width: int, height: int, depth: int = 8, interlaced: int = 0) -> bytes:
    """A PNG of grey with these rows, whole or not, in its stream."""
    head = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, interlaced)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return content


@pytest.mark.parametrize(("form", "size"), [
    ({"width": 40, "height": 50}, 50 * 41), ({"width": 9, "height": 7, "depth": 1}, 7 * 3),
    ({"width": 1, "height": 1, "interlaced": 1}, 2), ({"width": 3, "height": 5, "interlaced": 1}, 25),
    ({"width": 8, "height": 8, "interlaced": 1, "depth": 16}, 143),
])  # fmt: skip
def test_a_png_whose_stream_holds_fewer_rows_is_refused(tmp_path: Path, form: dict[str, int], size: int) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(of_rows(bytes(size), **form))
    assert read_file(str(path)).pixels.shape == (form["height"], form["width"])
    for left in {size - 1, size // 2, 0}:
        path.write_bytes(of_rows(bytes(left), **form))
        with pytest.raises(OSError, match=rf"a\.png: .*cut, its pixels must unpack to {size} bytes, got {left}"):
            read_file(str(path))


def test_what_stands_behind_a_png_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png() + b"more")
    assert np.array_equal(read_file(str(tmp_path / "a.png")).pixels, GREY)


def test_pixels_under_another_checksum_are_refused(tmp_path: Path) -> None:
    """The deflate stream is valid: the chunk's checksum alone tells."""
    rows = b"".join(b"\0" + row.tobytes() for row in GREY)
    head = struct.pack(">IIBBBBB", 5, 3, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data, of in ((b"IHDR", head, head), (b"IDAT", zlib.compress(rows), b"x"), (b"IEND", b"", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + of))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(OSError, match="the PNG is damaged, chunk IDAT must have checksum"):
        LoadUltrasoundd("image")({"image": str(tmp_path / "a.png")})


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".jp2", ".png", ".bmp", ".tif"])
def test_picture_formats_give_the_same_image(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(GREY).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    np.testing.assert_allclose(to_unit(read_file(str(path)))[0].numpy(), GREY / np.float32(255), atol=1e-6)
    rgb = np.stack([GREY, 255 - GREY, GREY // 2], -1)
    if suffix != ".gif":
        Image.fromarray(rgb).save(path, **({"lossless": True} if suffix == ".webp" else {}))
        assert np.array_equal(read_file(str(path)).pixels, rgb)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".tif", ".png"])
def test_several_frames_are_refused_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(GREY).save(path, save_all=True, append_images=[Image.fromarray(255 - GREY)])
    for as_mask in (False, True):
        with pytest.raises(ValueError, match=rf"a\{suffix}: image must be single-frame, got 2 frames"):
            read_file(str(path), as_mask=as_mask)


def test_a_phones_several_pictures_are_the_first(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("L", (16, 8), 200).convert("RGB").save(
        path, "MPO", save_all=True, append_images=[Image.new("RGB", (16, 8))]
    )
    raw = read_file(str(path))
    assert raw.pixels.shape == (8, 16, 3)
    assert raw.pixels.min() > 190
    assert raw.notes == ("the first of 2 pictures in the file is read",)


def alpha(value: int) -> np.ndarray:
    opacity = np.full(GREY.shape, 255, np.uint8)
    opacity[1:] = value
    return opacity


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_pixels_of_an_image_are_shown_on_black(tmp_path: Path, mode: str) -> None:
    channels = [GREY] * (1 if mode == "LA" else 3)
    for value in (0, 128, 255):
        Image.fromarray(np.stack([*channels, alpha(value)], -1), mode).save(tmp_path / "a.png")
        raw = read_file(str(tmp_path / "a.png"))
        expected = np.vstack([GREY[:1], (GREY[1:] * (value / 255)).round()])
        assert np.array_equal(raw.pixels if mode == "LA" else raw.pixels[..., 1], expected)
        assert raw.notes == (() if value == 255 else ("transparent pixels are shown on black",))
    unused = np.stack([*channels, np.zeros_like(GREY)], -1)
    Image.fromarray(unused, mode).save(tmp_path / "a.png")
    raw = read_file(str(tmp_path / "a.png"))
    assert np.array_equal(raw.pixels if mode == "LA" else raw.pixels[..., 2], GREY)
    assert raw.notes == ("all pixels are transparent: opacity is left out",)


def transparent_index() -> Image.Image:
    image = palette_image()
    image.info["transparency"] = 2
    return image


def white(mode: str) -> Image.Image:
    """White, opaque where the index is 2."""
    channels = [np.full_like(INDICES, 255)] * (1 if mode == "LA" else 3)
    return Image.fromarray(np.stack([*channels, (INDICES > 1) * np.uint8(255)], -1), mode)


MASKS: dict[str, tuple[Callable[[], Image.Image], np.ndarray]] = {
    "white RGBA": (lambda: white("RGBA"), (INDICES > 1) * 255),
    "white LA": (lambda: white("LA"), (INDICES > 1) * 255),
    "palette": (palette_image, INDICES),
    "palette with a transparent index": (transparent_index, INDICES % 2),
}


@pytest.mark.parametrize("name", MASKS)
def test_transparent_pixels_of_a_mask_are_background(tmp_path: Path, name: str) -> None:
    make, expected = MASKS[name]
    make().save(tmp_path / "m.png")
    Image.fromarray(GREY).save(tmp_path / "a.png")
    item = {
        "image": str(tmp_path / "a.png"),
        "label": str(tmp_path / "m.png"),
        "mask_values": {0: 0, 1: 1, 2: 2, 255: 3},
    }
    mask = LoadMaskd("label", num_structures=4)(item)["label"][0].numpy()
    assert np.array_equal(mask, np.where(expected == 255, 3, expected)), name


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_mask_that_is_half_transparent_is_refused(tmp_path: Path, mode: str) -> None:
    channels = [GREY] * (1 if mode == "LA" else 3)
    Image.fromarray(np.stack([*channels, alpha(128)], -1), mode).save(tmp_path / "m.png")
    with pytest.raises(ValueError, match=r"m\.png: mask must be opaque or transparent in each pixel, got 10 pixels"):
        read_file(str(tmp_path / "m.png"), as_mask=True)


def sixteen_bits(kind: int, values: np.ndarray) -> bytes:
    """A PNG of 16 bits of grey (kind 0) or colors (2), with opacity (4 and 6), from values (H, W, channels)."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in (
        (b"IHDR", struct.pack(">IIBBBBB", 5, 3, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return content


@pytest.mark.parametrize("kind", [2, 4, 6])
def test_sixteen_bits_of_colors_are_read_in_full(tmp_path: Path, kind: int) -> None:
    colors = 1 if kind == 4 else 3
    values = np.stack([GREY.astype(np.uint16) * 16 + n for n in range(1, 1 + colors)], -1)
    opaque = np.full((*GREY.shape, 1), 65535, np.uint16)
    (tmp_path / "a.png").write_bytes(sixteen_bits(kind, values if kind == 2 else np.concatenate([values, opaque], -1)))
    raw = read_file(str(tmp_path / "a.png"))
    assert np.array_equal(raw.pixels, values if colors == 3 else values[..., 0])
    assert raw.notes == ("of 16 bits a color the greatest value is shown as white",)
    assert float(to_unit(raw).max()) == 1
    with pytest.raises(ValueError, match=r"a\.png: mask must have 8 bits or be grey, got 16 bits with"):
        read_file(str(tmp_path / "a.png"), as_mask=True)


def test_gif_masks_keep_indices_and_grey_levels(tmp_path: Path) -> None:
    palette_image().save(tmp_path / "p.gif")
    assert np.array_equal(read_file(str(tmp_path / "p.gif"), as_mask=True).pixels, INDICES)
    for values in (np.array([0, 128, 255], np.uint8), np.array([0, 1, 2], np.uint8)):
        Image.fromarray(values[INDICES]).save(tmp_path / "g.gif")
        assert np.array_equal(read_file(str(tmp_path / "g.gif"), as_mask=True).pixels, values[INDICES])
    Image.fromarray(np.where(INDICES > 0, np.uint8(255), np.uint8(0))).save(tmp_path / "b.gif")
    Image.fromarray(GREY).save(tmp_path / "a.png")
    for value in (1, 255):
        item = {"image": str(tmp_path / "a.png"), "label": str(tmp_path / "b.gif"), "mask_values": {0: 0, value: 1}}
        assert np.array_equal(LoadMaskd("label", num_structures=2)(item)["label"][0].numpy(), INDICES > 0)


def test_a_header_of_huge_size_is_refused_before_decoding(tmp_path: Path) -> None:
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in (
        (b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(99))),
        (b"IEND", b""),
    ):
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png: image must have at most 89478485 pixels, got more; crop"):
        read_file(str(tmp_path / "a.png"))


def test_tiled_and_fax_tiff_and_cmyk_jpeg(tmp_path: Path) -> None:
    Image.fromarray(GREY > 60).save(tmp_path / "fax.tif", compression="group4")
    assert np.array_equal(read_file(str(tmp_path / "fax.tif")).pixels, GREY > 60)
    Image.new("RGB", (16, 16), (200, 30, 30)).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert abs(read_file(str(tmp_path / "cmyk.jpg")).pixels[4, 4].astype(int) - (200, 30, 30)).max() < 8
